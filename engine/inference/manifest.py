"""What is finished: records beside the masks, so that a run can stop at any moment and go on later.

`FOLDER/header.json` says which weights and flags made the masks; `FOLDER/videos/VIDEO.json` holds a hash of every
finished folder of masks. Each file is written atomically, and a video's record only by the process that segments it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from datasets.video_index import MASK_SUFFIX, Video
from util.errors import InputError
from util.locks import exclusive
from util.paths import atomic_write_json, read_json_object, remove_temporary_files

logger = logging.getLogger(__name__)

HEADER_FILE = "header.json"
_SHOWN, _MOST_SHOWN = 24, 5  # characters of a value, and values, in a message

Identity = Mapping[str, Any]


class Manifest:
    """The records of one folder of masks.

    Args:
        folder: of the records.
        masks: below it lie the masks, TARGET/FRAME.png, where a target is a relative path such as "VIDEO/EXPRESSION".
    """

    def __init__(self, folder: Path, masks: Path) -> None:
        self.folder = folder
        self.masks = masks
        self._key = ""

    def start(self, identity: Identity, notes: Mapping[str, Any], overwrite: bool) -> None:
        """Begin a run, or go on with an earlier one. To be called by one process, before `join` by all.

        Warns where the folder of results holds masks of another kind: files of both have the same names.

        Args:
            identity: what decides the masks; the values are plain.
            notes: what else the header shall hold; of an earlier run the notes are kept.
            overwrite: replace the header of a run with another identity.

        Raises:
            InputError: `masks` holds what was made otherwise, or nobody knows how.
        """
        found = {file.parent.name for file in self.folder.parent.glob(f"*/{HEADER_FILE}")}
        others = sorted(found - {self.folder.name})
        if others:
            logger.warning(
                "%s holds the results of another benchmark (%s), too: scores.json, tables and run.json become "
                "those of this one; another --name_exp keeps both",
                self.folder.parents[1],
                ", ".join(others),
            )
        has_masks = self.masks.is_dir() and any(self.masks.iterdir())  # asked first: another shard may begin now
        header = self.header()
        if header is not None and not overwrite:
            if header.get("identity") != identity:
                self._refuse(header, identity)
            return
        if has_masks and not overwrite:
            raise InputError(
                f"{self.masks} holds files of unknown origin (no {self.folder / HEADER_FILE}): choose another "
                "--name_exp, or start anew with --overwrite"
            )
        atomic_write_json(self.folder / HEADER_FILE, {"identity": identity, "notes": notes})

    def join(self, identity: Identity) -> None:
        """Take part in the run that `start` began; raises InputError if `identity` is not that of the header."""
        header = self.header()
        if header is None or header.get("identity") != identity:
            self._refuse(header or {}, identity)
        self._key = _key(identity)

    def resume_any(self) -> Identity:
        """Take the identity of the header, whatever it is, and return it.

        Raises:
            InputError: there is no header.
        """
        header = self.header()
        if header is None or not isinstance(header.get("identity"), dict):
            raise InputError(f"{self.folder / HEADER_FILE} is missing: run the inference (with --shard i/n) first")
        self._key = _key(header["identity"])
        return header["identity"]

    def header(self) -> dict[str, Any] | None:
        """The content of the header file; None if there is none, empty if it is not readable."""
        return read_json_object(self.folder / HEADER_FILE)

    def note(self, name: str, default: Any) -> Any:
        """A note of the header."""
        return ((self.header() or {}).get("notes") or {}).get(name, default)

    def _refuse(self, header: Mapping[str, Any], identity: Identity) -> NoReturn:
        made = header.get("identity")
        earlier = made if isinstance(made, dict) else {}
        differing = [
            f"{name} {_shown(earlier.get(name))} (now {_shown(identity.get(name))})"
            for name in dict.fromkeys((*identity, *earlier))
            if identity.get(name) != earlier.get(name)
        ]
        if len(differing) > _MOST_SHOWN:
            differing[_MOST_SHOWN:] = [f"and {len(differing) - _MOST_SHOWN} more"]
        raise InputError(
            f"{self.masks} holds masks made with other settings: {', '.join(differing)}; choose another --name_exp, "
            "or start anew with --overwrite"
        )

    def finished(self, video: Video, targets: Sequence[str]) -> set[str]:
        """Those of `targets` that are complete, unchanged since they were written, and of this run's identity.

        Temporary files that a killed process left in the targets are removed.
        """
        for target in targets:
            remove_temporary_files(self.masks / target)
        record = read_json_object(self._record(video)) or {}
        digests = record.get("targets")
        if record.get("identity") != self._key or not isinstance(digests, dict):
            return set()
        return {target for target in targets if target in digests and digests[target] == self._digest(target, video)}

    def record(self, video: Video, digests: Mapping[str, str]) -> None:
        """Note that targets are finished, besides those that were noted before.

        Args:
            digests: target -> `digest_of` its files.
        """
        earlier = read_json_object(self._record(video)) or {}
        kept = earlier.get("targets", {}) if earlier.get("identity") == self._key else {}
        atomic_write_json(self._record(video), {"identity": self._key, "targets": {**kept, **digests}})

    def forget(self, video: Video, targets: Sequence[str]) -> None:
        """Delete the record of a video and the masks of `targets`."""
        self._record(video).unlink(missing_ok=True)
        for target in targets:
            remove_temporary_files(self.masks / target)
            for frame in video.frames:
                (self.masks / target / f"{frame}{MASK_SUFFIX}").unlink(missing_ok=True)

    def _record(self, video: Video) -> Path:
        return self.folder / "videos" / f"{video.name}.json"

    def _digest(self, target: str, video: Video) -> str | None:
        """Of the files as they are; None if one is missing."""
        try:
            files = (self.masks / target / f"{frame}{MASK_SUFFIX}" for frame in video.frames)
            return digest_of([hashlib.sha256(file.read_bytes()).hexdigest() for file in files])
        except OSError:
            return None

    @contextlib.contextmanager
    def locked(self, name: str) -> Iterator[None]:
        """Keep a second run with the same `name` out of the folder for the time of the block.

        Raises:
            InputError: it is there already, and does not end soon.
        """
        refusal = f"another run is writing to {self.masks}: wait for it, or choose another --name_exp"
        with exclusive(self.folder / f"{name}.lock", refusal):
            yield


def digest_of(hashes: Iterable[str]) -> str:
    """One hash for a folder of masks: of the SHA-256 hashes of its files, in the order of the frames."""
    return hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def _key(identity: Identity) -> str:
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def _shown(value: Any) -> str:
    text = "missing" if value is None else str(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
