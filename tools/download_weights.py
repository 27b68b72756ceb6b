"""Download base weights by name into `pretrain/`, and check what is there.

    python tools/download_weights.py tiny roberta-base        (any of: tiny small base large, *_2.1, roberta-base)
    python tools/download_weights.py tiny --check             (verify, download nothing)
    python tools/download_weights.py samwise                  (says where the trained SAMWISE weights are)

An interrupted download continues where it stopped. The SHA-256 of every file is recorded in SHA256SUMS.json when it
is first downloaded and compared from then on.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from configs.loading import load_model_config, sam2_versions
from util.command_line import Parser
from util.errors import InputError, run_script
from util.locks import exclusive
from util.paths import CHUNK_BYTES, TIMEOUT_SECONDS, atomic_write_json, sha256_of

SUMS = "SHA256SUMS.json"
SAM2_URL = "https://dl.fbaipublicfiles.com/segment_anything_2/{release}/{file}"
ROBERTA_URL = "https://huggingface.co/FacebookAI/roberta-base/resolve/main/{file}"
ROBERTA_FILES = (
    "model.safetensors",
    "config.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.json",
    "tokenizer_config.json",
)
DRIVE_URL = "https://drive.google.com/file/d/{file_id}/view"
SAMWISE_PAGE = "https://github.com/ClaudiaCuttano/SAMWISE"
# (what it was trained for, file name, file on the authors' drive, flags it needs)
SAMWISE_FILES = (
    ("MeViS", "final_model_mevis.pth", "1Molt2up2bP41ekeczXWQU-LWTskKJOV2", "--HSA --use_cme_head"),
    (
        "Ref-YouTube-VOS, Ref-DAVIS",
        "final_model_ytvos.pth",
        "17Ei9XU678tCiiV14c-9EB9ZqXVrj4qEw",
        "--HSA --use_cme_head",
    ),
    ("RefCOCO/+/g (images)", "pretrained_model.pth", "1gRGzARDjIisZ3PnCW77Y9TMM_SbV8aaa", "--disable_pred_obj_score"),
)


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line; download or check every named file."""
    names = (*sam2_versions(), "roberta-base", "samwise")
    parser = Parser(description="download base weights")
    parser.add_argument("names", nargs="+", metavar="NAME", help=f"any of: {', '.join(names)}")
    parser.add_argument("--out", type=Path, default=Path("pretrain"), help="folder to download to")
    parser.add_argument("--check", action="store_true", help="verify what is there and download nothing")
    args = parser.parse_args(argv)
    if unknown := [name for name in args.names if name not in names]:
        raise InputError(f"{unknown[0]!r} is no name of weights: expected one of {', '.join(names)}")
    if "samwise" in args.names:
        print(samwise_help(args.out))
    files = {target: url for name in args.names if name != "samwise" for target, url in files_of(name).items()}
    if args.check:
        check(args.out, list(files))
        return
    for target, url in files.items():
        fetch(url, args.out, target)


def files_of(name: str) -> dict[str, str]:
    """The files of one name: path inside the download folder, URL."""
    if name == "roberta-base":
        return {f"{name}/{file}": ROBERTA_URL.format(file=file) for file in ROBERTA_FILES}
    sam2 = load_model_config(name).sam2
    release = "092824" if sam2.no_object_memory else "072824"
    return {sam2.checkpoint: SAM2_URL.format(release=release, file=sam2.checkpoint)}


def samwise_help(folder: Path) -> str:
    """How to get the trained weights, which no program may fetch from their drive without a browser or gdown."""
    lines = [f"The trained SAMWISE weights are on their authors' drive ({SAMWISE_PAGE}, section on results)."]
    lines += ["Open a link in a browser, or `pip install gdown` and run the command below it:"]
    for purpose, file, file_id, flags in SAMWISE_FILES:
        lines += [f"  {purpose}: {DRIVE_URL.format(file_id=file_id)}", f"    gdown {file_id} -O {folder / file}"]
        lines += [f"    use with --resume {folder / file} --sam2_version base {flags}"]
    return "\n".join(lines)


def read_sums(folder: Path) -> dict[str, str]:
    """The recorded SHA-256 of every file in a download folder, by its path inside; empty without a record.

    Raises:
        InputError: a record that is not a JSON object.
    """
    path = folder / SUMS
    if not path.is_file():
        return {}
    try:
        sums = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is damaged ({error}); delete it to record the files anew") from error
    if not isinstance(sums, dict):
        raise InputError(f"{path} is damaged: expected a JSON object; delete it to record the files anew")
    return sums


def check(folder: Path, files: Sequence[str]) -> None:
    """Compare files with their records, printing one line each.

    Raises:
        InputError: one of them is missing, was never recorded, or differs.
    """
    sums, faulty = read_sums(folder), []
    for file in files:
        path = folder / file
        if not path.is_file():
            state = "missing"
        elif file not in sums:
            state = "not recorded"
        else:
            state = "ok" if sha256_of(path) == sums[file] else "DIFFERS from its record"
        print(f"{path}: {state}")
        if state != "ok":
            faulty.append(f"{path} ({state})")
    if faulty:
        raise InputError(f"{len(faulty)} of {len(files)} files are not as recorded: {', '.join(faulty)}; download them")


def fetch(url: str, folder: Path, file: str) -> None:
    """Download one file, continuing an earlier attempt, unless it is there already; record or compare its SHA-256.

    Args:
        url: where it is.
        folder: the download folder, which holds the record.
        file: path inside the folder.

    Raises:
        InputError: the server cannot be reached, refuses, or closes the connection early (what was received stays
            and the next call continues), another process is downloading the file, there is a folder in its place, or it
            differs from its record.
    """
    target = folder / file
    if target.is_dir():
        raise InputError(f"{target} is a folder, where the file belongs: move it away, or give another --out")
    if not target.is_file():
        part = target.with_name(target.name + ".part")
        with exclusive(part.with_name(part.name + ".lock"), f"{target} is being downloaded already", 0, stays=False):
            _fetch(url, folder, file, part)
    else:
        _compare(folder, file, target)
    print(f"{target}: ok, SHA-256 {read_sums(folder)[file]}")


def _fetch(url: str, folder: Path, file: str, part: Path) -> None:
    try:
        _receive(url, part)
    except HTTPError as error:
        raise InputError(f"{url}: the server answers {error.code} {error.reason}") from error
    except (OSError, HTTPException) as error:
        raise InputError(f"{url}: {error}; run the command again, it continues where it stopped") from error
    _compare(folder, file, part)
    part.replace(folder / file)
    part.with_name(part.name + ".etag").unlink(missing_ok=True)


def _compare(folder: Path, file: str, path: Path) -> None:
    """Compare `path` with the record of `file`, or record it if there is none."""
    digest = sha256_of(path)
    if file not in read_sums(folder):
        with exclusive(folder / f"{SUMS}.lock", f"{folder / SUMS} is being written", stays=False):
            atomic_write_json(folder / SUMS, dict(sorted({file: digest, **read_sums(folder)}.items())))
    sums = read_sums(folder)
    if sums[file] != digest:
        if path.suffix == ".part":
            path.unlink()
        raise InputError(
            f"{folder / file} has SHA-256 {digest}, but {sums[file]} is recorded in {folder / SUMS}: delete it (and "
            "the record, if the new file is what you want) and download it again"
        )


def _receive(url: str, part: Path) -> None:
    """Bring `part` to the full length of what `url` holds, asking only for what it lacks."""
    tag_file = part.with_name(part.name + ".etag")
    offset = part.stat().st_size if part.is_file() else 0
    headers = {"User-Agent": "samwise", "Accept-Encoding": "identity"}
    if offset:
        headers["Range"] = f"bytes={offset}-"
        if tag_file.is_file():  # another version of the file is sent from its start
            headers["If-Range"] = tag_file.read_text(encoding="utf-8")
    try:
        response: HTTPResponse = urlopen(Request(url, headers=headers), timeout=TIMEOUT_SECONDS)
    except HTTPError as error:
        if error.code != 416:  # nothing lies behind `offset`: complete, or of another version
            raise
        if _total(error.headers.get("Content-Range"), None) != offset:
            part.unlink()
            _receive(url, part)
        return
    with response:
        if response.status != 206:
            offset = 0
        total = _total(response.headers.get("Content-Range"), response.headers.get("Content-Length"))
        tag = response.headers.get("ETag")
        if tag and not tag.startswith("W/"):
            tag_file.write_text(tag, encoding="utf-8")
        with (
            part.open("ab" if offset else "wb") as handle,
            tqdm(total=total, initial=offset, unit="B", unit_scale=True, unit_divisor=1024, desc=part.stem) as bar,
        ):
            while chunk := response.read(CHUNK_BYTES):
                handle.write(chunk)
                bar.update(len(chunk))
    size = part.stat().st_size
    if total is not None and size != total:
        raise OSError(f"the connection closed after {size} of {total} bytes")


def _total(content_range: str | None, length: str | None) -> int | None:
    """Full size of a file, from the headers of a partial or a full answer."""
    if content_range is not None and (match := re.fullmatch(r"bytes (?:\d+-\d+|\*)/(\d+)", content_range.strip())):
        return int(match[1])
    return int(length) if length is not None and content_range is None else None


if __name__ == "__main__":
    run_script(main)
