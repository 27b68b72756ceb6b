"""Names for files: safe folder names for any text, and the natural order of numbered names."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence

MAX_BYTES = 80  # of a name in UTF-8; file systems allow 255 for the name with its suffix
_WINDOWS_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)", re.IGNORECASE)


def safe_name(text: str) -> str:
    """A file name that reads like `text`: letters, digits and accents of any script, hyphens, and `_` for all else.

    Never empty, never hidden, at most `MAX_BYTES` bytes of UTF-8, and without a dot or a slash.
    """
    kept = (c if unicodedata.category(c)[0] in "LMN" or c == "-" else "_" for c in unicodedata.normalize("NFC", text))
    name = re.sub("_+", "_", "".join(kept)).strip("_-")
    name = name.encode()[:MAX_BYTES].decode(errors="ignore").strip("_-")
    return f"{name}_" if _WINDOWS_DEVICES.fullmatch(name) else name or "prompt"


def safe_names(texts: Sequence[str], reserved: Iterable[str] = ()) -> list[str]:
    """One `safe_name` per text, all different even where case and accents' encodings do not count.

    Args:
        texts: any strings.
        reserved: names that none of the results may equal.
    """
    taken = {_fold(name) for name in reserved}
    names = []
    for text in texts:
        name = base = safe_name(text)
        number = 1
        while _fold(name) in taken:
            number += 1
            name = f"{base}-{number}"
        taken.add(_fold(name))
        names.append(name)
    return names


def natural_key(name: str) -> tuple[list[tuple[int, str]], str]:
    """Sort key under which `frame2` comes before `frame10`; equal only for equal names."""
    parts = re.split(r"(\d+)", name)
    return [(int(part), "") if part.isdecimal() else (-1, part.casefold()) for part in parts], name


def _fold(name: str) -> str:
    return unicodedata.normalize("NFKD", name).casefold()
