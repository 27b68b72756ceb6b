"""Bring DAVIS-2017 and the sentences of Ref-DAVIS17 into the layout of Ref-YouTube-VOS.

    python3 tools/data/convert_davis_to_ytvos.py --davis_path data/ref-davis

Reads DAVIS/{JPEGImages,Annotations_unsupervised,ImageSets,davis_semantics.json} and davis_text_annotations/, writes
meta_expressions/{train,valid}/meta_expressions.json and {train,valid}/{JPEGImages,Annotations,meta.json} beside them.
Images are linked (with --copy: copied); the originals stay where they are.
"""

from __future__ import annotations

import difflib
import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if not __package__:  # run as a file: the project's folder has to be found
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tqdm import tqdm

from datasets.ref_davis import ANNOTATORS
from datasets.validation import is_path_component
from datasets.video_index import FRAME_SUFFIX
from util.command_line import Parser
from util.errors import InputError, run_script
from util.paths import atomic_write

IMAGE_SETS = {"train": "train", "valid": "val"}  # our split -> DAVIS's
# The four annotators in the order of expression ids: file, encoding.
TEXT_FILES = (
    ("Davis17_annot1.txt", "utf-8-sig"),
    ("Davis17_annot1_full_video.txt", "utf-8-sig"),
    ("Davis17_annot2.txt", "latin-1"),
    ("Davis17_annot2_full_video.txt", "latin-1"),
)
MISSPELT = {"clasic-car": "classic-car", "dog-scale": "dogs-scale", "motor-bike": "motorbike"}
SOURCE = "see docs/data.md for where it comes from"

Sentences = Mapping[str, Mapping[int, str]]  # sequence -> object -> sentence


def read_sentences(path: Path, encoding: str) -> dict[str, dict[int, str]]:
    """The sentences of one annotator: sequence -> object number -> sentence; known misspelt names are mended.

    Raises:
        InputError: the file is missing, is not text in `encoding`, or a line is not `SEQUENCE OBJECT "SENTENCE"`.
    """
    if not path.is_file():
        raise InputError(f"{path} is missing; {SOURCE}")
    sentences: dict[str, dict[int, str]] = {}
    for number, raw in enumerate(path.read_bytes().split(b"\n"), 1):
        try:
            line = raw.decode(encoding).strip()
        except UnicodeDecodeError as error:
            raise InputError(f"{path}: line {number} is not {encoding} text ({error.reason}); {SOURCE}") from None
        if "\0" in line:
            raise InputError(f"{path}: line {number} holds zero bytes, expected {encoding} text (UTF-16?); {SOURCE}")
        if not line:
            continue
        fields = line.split(maxsplit=2)
        sentence = fields[2].removeprefix('"').removesuffix('"').strip() if len(fields) == 3 else ""
        if not sentence or not (fields[1].isascii() and fields[1].isdigit()):
            raise InputError(f'{path}: line {number} is {line!r}, expected SEQUENCE OBJECT "SENTENCE"')
        objects = sentences.setdefault(MISSPELT.get(fields[0], fields[0]), {})
        if objects.setdefault(int(fields[1]), sentence) != sentence:
            raise InputError(f"{path}: line {number} is a second sentence for object {fields[1]} of {fields[0]}")
    return sentences


def read_image_set(path: Path) -> list[str]:
    """The names of the sequences in one of DAVIS's lists.

    Raises:
        InputError: the file is missing or holds something other than names of folders.
    """
    if not path.is_file():
        raise InputError(f"{path} is missing; {SOURCE}")
    names = path.read_text(encoding="utf-8", errors="replace").split()
    if not all(map(is_path_component, names)):
        raise InputError(f"{path} holds something other than the names of sequences; {SOURCE}")
    return names


def expressions_of(sequence: str, annotators: Sequence[Sentences], files: Sequence[Path]) -> dict[str, dict[str, str]]:
    """The expressions of one sequence, id -> {"exp", "obj_id"}: by object, then by annotator.

    Raises:
        InputError: a file lacks the sequence or one of its objects.
    """
    for sentences, path in zip(annotators, files, strict=True):
        if sequence not in sentences:
            similar = difflib.get_close_matches(sequence, sentences, n=1)
            hint = f"; is {similar[0]!r} a misspelling of it?" if similar else ""
            raise InputError(f"{path} has no sentence about {sequence!r}{hint}")
        if sentences[sequence].keys() != annotators[0][sequence].keys():
            numbers, expected = sorted(sentences[sequence]), sorted(annotators[0][sequence])
            raise InputError(f"{path}: {sequence}: sentences about objects {numbers}, in {files[0].name} {expected}")
    expressions = {}
    for place, number in enumerate(sorted(annotators[0][sequence])):
        for annotator, sentences in enumerate(annotators):
            key = str(ANNOTATORS * place + annotator)
            expressions[key] = {"exp": sentences[sequence][number], "obj_id": str(number)}
    return expressions


def place_folder(source: Path, target: Path, copy: bool) -> None:
    """Make `target` a link to the folder `source`, or a copy of it; a `target` that is there already is kept.

    Copies and links appear in one step: a run that was cut off leaves no half of a folder under `target`.

    Raises:
        InputError: the `target` that is there lacks files of `source`.
    """
    if target.exists():
        lacking = {path.name for path in source.iterdir()} - {path.name for path in target.iterdir()}
        if lacking:
            raise InputError(f"{target} lacks {len(lacking)} files of {source}; remove it, then run this again")
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.tmp")
    if temporary.is_symlink():
        temporary.unlink()
    elif temporary.is_dir():
        shutil.rmtree(temporary)
    if copy:
        shutil.copytree(source, temporary)
    else:
        temporary.symlink_to(os.path.relpath(source.resolve(), target.parent.resolve()), target_is_directory=True)
    temporary.replace(target)


def find_sequence(folders: Sequence[Path], sequence: str) -> Path:
    """The first of `folders`, joined with `sequence`, that exists.

    Raises:
        InputError: none does.
    """
    for folder in folders:
        if (folder / sequence).is_dir():
            return folder / sequence
    raise InputError(f"{folders[0] / sequence} is missing; unzip DAVIS-2017-Unsupervised-trainval-480p.zip ({SOURCE})")


def read_semantics(path: Path) -> dict[str, dict[str, str]]:
    """DAVIS's categories, sequence -> object number -> category; empty if the file is not there."""
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_bytes())
    except ValueError as error:
        raise InputError(f"{path} is not readable as JSON ({error}); {SOURCE}") from None
    if not isinstance(value, dict) or not all(isinstance(objects, dict) for objects in value.values()):
        raise InputError(f"{path}: expected the categories of every sequence's objects; {SOURCE}")
    return value


@dataclass(frozen=True)
class DavisSequence:
    """One sequence and where its files are; `masks` is None if DAVIS's annotations are not there."""

    name: str
    images: Path
    masks: Path | None
    frames: tuple[str, ...]
    expressions: Mapping[str, Mapping[str, str]]


def find_sequences(
    root: Path, split: str, annotators: Sequence[Sentences], files: Sequence[Path]
) -> list[DavisSequence]:
    """Everything that one split consists of.

    Raises:
        InputError: something is missing or malformed.
    """
    davis = root / "DAVIS"
    # Other converters moved the files out of DAVIS's tree, so that they may be in place already.
    image_roots = [davis / "JPEGImages" / "480p", *(root / place / "JPEGImages" for place in IMAGE_SETS)]
    mask_roots = [davis / "Annotations_unsupervised" / "480p", davis / "Annotations" / "480p"]
    mask_roots += [root / place / "Annotations" for place in IMAGE_SETS]
    has_masks = any(folder.is_dir() for folder in mask_roots)
    if not has_masks:
        print(f"notice: {mask_roots[0]} is missing: {split} is converted without masks, which scores need")
    sequences = []
    for name in read_image_set(davis / "ImageSets" / "2017" / f"{IMAGE_SETS[split]}.txt"):
        expressions = expressions_of(name, annotators, files)
        images = find_sequence(image_roots, name)
        masks = find_sequence(mask_roots, name) if has_masks else None
        frames = tuple(sorted(path.stem for path in images.glob(f"*{FRAME_SUFFIX}")))
        if not frames:
            raise InputError(f"{images} has no {FRAME_SUFFIX} files; {SOURCE}")
        sequences.append(DavisSequence(name, images, masks, frames, expressions))
    return sequences


def write_split(root: Path, split: str, sequences: Sequence[DavisSequence], copy: bool) -> None:
    """Place the images and masks of one split and write its metadata."""
    videos: dict[str, Any] = {}
    objects: dict[str, Any] = {}
    semantics = read_semantics(root / "DAVIS" / "davis_semantics.json")
    for sequence in tqdm(sequences, desc=split, unit="sequence"):
        place_folder(sequence.images, root / split / "JPEGImages" / sequence.name, copy)
        if sequence.masks is not None:
            place_folder(sequence.masks, root / split / "Annotations" / sequence.name, copy)
        frames = list(sequence.frames)
        videos[sequence.name] = {"expressions": sequence.expressions, "frames": frames}
        categories = semantics.get(sequence.name, {})
        objects[sequence.name] = {
            "objects": {key: {"category": name, "frames": frames} for key, name in categories.items()}
        }
    write_json(root / "meta_expressions" / split / "meta_expressions.json", {"videos": videos})
    if semantics:
        write_json(root / split / "meta.json", {"videos": objects})


def write_json(path: Path, value: Any) -> None:
    """Write `value` in one line, atomically."""
    with atomic_write(path, "w") as handle:
        handle.write(json.dumps(value))


def main(argv: Sequence[str] | None = None) -> None:
    """Convert both splits."""
    parser = Parser(description=__doc__)
    parser.add_argument("--davis_path", type=Path, default=Path("data/ref-davis"), help="default: data/ref-davis")
    parser.add_argument("--copy", action="store_true", help="copy images instead of linking their folders")
    args = parser.parse_args(argv)
    files = [args.davis_path / "davis_text_annotations" / name for name, _ in TEXT_FILES]
    annotators = [read_sentences(path, encoding) for path, (_, encoding) in zip(files, TEXT_FILES, strict=True)]
    splits = {split: find_sequences(args.davis_path, split, annotators, files) for split in IMAGE_SETS}
    for split, sequences in splits.items():
        write_split(args.davis_path, split, sequences, args.copy)
        count = sum(len(sequence.expressions) for sequence in sequences)
        print(f"{args.davis_path / 'meta_expressions' / split}: {len(sequences)} videos, {count} expressions")


if __name__ == "__main__":
    run_script(main)
