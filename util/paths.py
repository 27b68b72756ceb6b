"""The one way to files: local paths, URLs through iopath's PathManager, and writing that is all or nothing."""

from __future__ import annotations

import base64
import errno
import functools
import hashlib
import json
import os
import re
import string
import tempfile
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import IO, Any, Literal
from urllib.parse import quote, unquote, urlsplit

from iopath.common.file_io import HTTPURLHandler, PathManager, file_lock, get_cache_dir
from tqdm import tqdm

from util.errors import InputError

TIMEOUT_SECONDS = 60.0
CHUNK_BYTES = 1 << 20
_ENDLESS = "multipart/x-mixed-replace"  # what MJPEG cameras call their stream
_TEMPORARY = re.compile(r"\.[0-9a-f]{32}\.tmp(\..*)?")  # what `atomic_path` leaves behind at kill -9
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
# User and password: up to the last @ of the authority, or of the whole URL where they hold an unescaped / ? or #.
_USER = re.compile(rf"({_SCHEME.pattern})([^/?#]*|[^/?#@:\[]*:(?!\d*([/?#]|$)).*)@", re.DOTALL)
_SECRET = re.compile(r"(?<=[?&;#])([^?&;#=]*(?:pass|pwd|token|key|secret|auth)[^?&;#=]*=)[^&#]*", re.IGNORECASE)


class EndlessError(InputError):
    """The server of an address sends without end, which is no file."""


class _UrlHandler(HTTPURLHandler):
    """http(s) URLs, cached under a folder of their own (the hash of the whole URL) with the file name of the URL."""

    def _get_supported_prefixes(self) -> list[str]:
        return ["http://", "https://"]

    def _get_local_path(self, path: str, force: bool = False, cache_dir: str | None = None, **kwargs: Any) -> str:
        self._check_kwargs(kwargs)
        name = unquote(urlsplit(_without_user(path)[0]).path).rsplit("/", 1)[-1]
        name = re.sub(r"[^\w.-]", "_", name, flags=re.ASCII)[-100:] or "file"
        cached = Path(get_cache_dir(cache_dir)) / hashlib.sha256(path.encode()).hexdigest()[:20] / name
        cached.parent.mkdir(parents=True, exist_ok=True)
        with file_lock(str(cached)):
            if force or not cached.is_file():
                _download(path, cached)
        return str(cached)


def _download(url: str, target: Path) -> None:
    with _open_url(url) as response, atomic_write(target) as handle:
        if str(response.headers.get("Content-Type", "")).lower().startswith(_ENDLESS):
            raise EndlessError(f"{hide_secrets(url)}: expected a file, found a stream without end")
        length = response.headers.get("Content-Length")
        total = int(length) if length is not None else None
        with tqdm(total=total, unit="B", unit_scale=True, unit_divisor=1024, desc=target.name) as bar:
            while chunk := response.read(CHUNK_BYTES):
                handle.write(chunk)
                bar.update(len(chunk))
        if total is not None and bar.n != total:
            raise OSError(f"the connection closed after {bar.n} of {total} bytes")


def _open_url(url: str) -> HTTPResponse:
    """Ask for an http(s) URL. A user and password in it go to its host alone, as Basic authentication (RFC 7617).

    Raises:
        OSError, HTTPException, ValueError: of urllib; their messages hold no password but one in the query.
    """
    address, user = _without_user(url)
    parts = urlsplit(address)  # as they are typed, with spaces and letters of any script
    path, query = (quote(part, safe=string.punctuation) for part in (parts.path, parts.query))
    request = urllib.request.Request(parts._replace(path=path, query=query).geturl())
    if user is not None:
        pair = ":".join(unquote(part) for part in user.split(":", 1))
        token = base64.b64encode(pair.encode()).decode("ascii")
        request.add_unredirected_header("Authorization", f"Basic {token}")
    response: HTTPResponse = urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)
    return response


def hide_secrets(path: str) -> str:
    """A path or URL as it may be shown: without user and password, and without secret values in its query."""
    return _SECRET.sub(r"\1***", _USER.sub(r"\1***@", path)) if is_url(path) else path


def _without_user(url: str) -> tuple[str, str | None]:
    """The URL without `user:password@`, and what stood before the @."""
    found = _USER.match(url)
    if found is None:
        return url, None
    if re.search("[/?#]", found[2]):
        raise ValueError("in a user name or password, write %2F for /, %3F for ? and %23 for #")
    return found[1] + url[found.end() :], found[2]


@functools.cache
def path_manager() -> PathManager:
    """The project's PathManager: local files, and http(s) URLs that are downloaded once into a cache.

    The cache is iopath's: `$FVCORE_CACHE`, or `~/.torch/iopath_cache`.
    """
    manager = PathManager()
    manager.register_handler(_UrlHandler())
    return manager


def is_url(path: str | Path) -> bool:
    """True for a string that starts with a scheme (`https://...`)."""
    return isinstance(path, str) and _SCHEME.match(path) is not None


def local_path(path: str | Path, cache_dir: str | Path | None = None) -> Path:
    """The local file or folder that `path` means; a URL is downloaded on its first use.

    Args:
        path: a path (returned as it is, existing or not), or an http(s) URL.
        cache_dir: where downloads are kept, instead of the cache that `path_manager` describes.

    Raises:
        InputError: the URL cannot be downloaded, or its scheme is not http or https; an `EndlessError` for a stream.
        OSError: there is no room for it on the disk.
    """
    if not is_url(path):
        return Path(path)
    url = str(path)
    if not url.lower().startswith(("http://", "https://")):
        raise InputError(
            f"{hide_secrets(url)}: only http:// and https:// URLs can be read; download the file and give its path"
        )
    options = {} if cache_dir is None else {"cache_dir": str(cache_dir)}
    try:
        return Path(path_manager().get_local_path(url, **options))
    except EndlessError:
        raise
    except (OSError, HTTPException, ValueError) as error:  # an incomplete read, a refused host, a malformed URL
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        shown, reason = hide_secrets(url), _SECRET.sub(r"\1***", str(error))
        raise InputError(f"{shown} cannot be downloaded ({reason}); check the address and the connection") from error


@contextmanager
def kept_if_usable(path: str | Path, file: Path) -> Iterator[None]:
    """Forget a download that the block refuses, a page that asks for a password perhaps: the next run asks again.

    Args:
        path: of a file or a URL of one.
        file: what `local_path` made of it.
    """
    try:
        yield
    except InputError:
        if is_url(path):
            file.unlink(missing_ok=True)
        raise


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` (same suffix); on success the file written there replaces `path`.

    Parent folders are created. On an exception nothing is left, and an older `path` stays as it was. What the operating
    system says of the temporary file, it says of `path` here, which is the name that the user knows.

    Raises:
        InputError: `path` exists and is not a regular file.
    """
    target = Path(path).resolve()
    if target.exists() and not target.is_file():
        raise InputError(f"{path} cannot be written: it exists and is not a regular file; give another path")
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{uuid.uuid4().hex}.tmp{target.suffix}")
    try:
        yield temporary
        with temporary.open("r+b") as handle:
            os.fsync(handle.fileno())
        temporary.replace(target)
    except BaseException as error:
        with suppress(OSError):  # a read-only file system refuses also to remove what is not there
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename == str(temporary):
            error.filename = str(path)
        raise


@contextmanager
def atomic_write(path: str | Path, mode: Literal["wb", "w"] = "wb") -> Iterator[IO[Any]]:
    """Open a file that appears under `path` only when the block ends without an exception (see `atomic_path`).

    Args:
        path: the file to write.
        mode: "wb", or "w" for UTF-8 text with "\\n" line ends.
    """
    text: dict[str, str] = {"encoding": "utf-8", "newline": "\n"} if mode == "w" else {}
    with atomic_path(path) as temporary, temporary.open(mode, **text) as handle:  # type: ignore[call-overload]
        yield handle


def is_text(value: str) -> bool:
    """Whether `value` can be encoded as UTF-8: JSON and file names can hold halves of characters."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def atomic_write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented UTF-8 JSON, atomically.

    File names that are no UTF-8 hold half characters (PEP 383), which only an escaped form can stand for.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False)
    if not is_text(text):
        text = json.dumps(value, indent=2)
    with atomic_write(path, "w") as handle:
        handle.write(text + "\n")


def sha256_of(path: str | Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as handle:
        while chunk := handle.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def files_below(folder: Path) -> Iterator[str]:
    """All files in and below `folder`, relative to it, with "/" between names; links to folders are followed."""
    for parent, _, names in os.walk(folder, followlinks=True):
        for name in names:
            yield (Path(parent) / name).relative_to(folder).as_posix()


def remove_temporary_files(folder: Path) -> None:
    """Remove files that a killed process was writing in `folder` (not below it)."""
    if folder.is_dir():
        for file in folder.iterdir():
            if _TEMPORARY.fullmatch(file.name):
                file.unlink(missing_ok=True)


def read_json_object(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file; None without a file, empty if it holds something else."""
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def writable_folder(path: str | Path, flag: str = "--output_dir") -> Path:
    """Make a folder of results and try whether files can be made in it, before anything takes long.

    Args:
        path: the folder.
        flag: with which another one can be given, for the message.

    Raises:
        InputError: they cannot.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        raise InputError(f"{folder} cannot be written to ({error.strerror}): choose another folder ({flag})") from error
