"""Segment a folder of frames with the exported programs beside this file, without the code base that made them.

    python run.py FRAMES OUT "the red disc" "the blue square"

FRAMES holds images of one size, whose names give their order, numbers by their value. OUT gets SENTENCE/NAME.png, 0 and
255, with the sentences counted from 0, and masks.json, by which the next run into OUT knows what it may remove. Needs
torch, numpy, Pillow and tokenizers. What goes into the programs and comes out of them is in interface.json.

Axes: E sentences, L tokens, T frames of a clip, S side of the network input, H and W of a frame, h and w resized.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import sys
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from tokenizers import Tokenizer
from torch import Tensor

RECORD = "masks.json"
SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}
_ORIENTATION, _QUARTER_TURNS = 0x0112, (5, 6, 7, 8)  # EXIF


class InputError(ValueError):
    """Something the user gave cannot be used. The message says what was expected, what was found and what to do."""


class Exported:
    """The programs of a folder.

    Args:
        folder: what tools/export.py has written.
    """

    def __init__(self, folder: Path) -> None:
        self.interface: dict[str, Any] = json.loads((folder / "interface.json").read_text("utf-8"))
        self.device = torch.device(self.interface["device"])
        self.encoder = self._load(folder / self.interface["encoder"]["file"])
        self.step = self._load(folder / self.interface["step"]["file"])
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))

    def _load(self, path: Path) -> Callable[..., Sequence[Tensor]]:
        if self.interface["compiled"]:
            return torch._inductor.aoti_load_package(str(path))
        return torch.export.load(path).module()

    def tokens(self, sentences: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Token ids (E, L) int64, and (E, L) bool that is False for padding.

        Raises:
            InputError: a sentence that is empty, too long or no text, or more than the programs were exported for.
        """
        most = self.interface["axes"]
        if len(sentences) > most["expressions"]:
            raise InputError(
                f"expected at most {most['expressions']} sentences, found {len(sentences)}: give fewer, or export "
                f"with --expressions {len(sentences)}"
            )
        for number, text in enumerate(sentences):
            if not text.strip():
                raise InputError(f"sentence {number} is empty: give a few words that describe the object")
            if any("\ud800" <= letter <= "\udfff" for letter in text):
                raise InputError(f"sentence {number} is no valid Unicode text: type it again")
        ids = [torch.tensor(self.tokenizer.encode(" ".join(text.split())).ids) for text in sentences]
        padding = float(self.interface["text"]["padding_id"])
        padded = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=padding).long()
        lengths = torch.tensor([len(own) for own in ids])
        if padded.shape[1] > most["tokens"]:
            raise InputError(
                f"sentence {int(lengths.argmax())} has {padded.shape[1]} tokens, at most {most['tokens']} are "
                "possible: shorten it"
            )
        words = torch.arange(padded.shape[1]) < lengths[:, None]
        return padded.to(self.device), words.to(self.device)

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """The size (h, w) that a frame is resized to: the short side as asked, but the long one at most S."""
        side, short = self.interface["image"]["side"], self.interface["image"]["short_side"]
        long = int(short * max(height, width) / min(height, width))
        if long > side:
            short, long = max(int(side * short / long), 1), side
        return (short, long) if height <= width else (long, short)

    def network_input(self, frames: Sequence[np.ndarray]) -> Tensor:
        """Resized, normalised, padded, contiguous: T frames (H, W, 3) uint8 RGB -> (T, 3, S, S) float32."""
        image, (height, width) = self.interface["image"], self.resized(*frames[0].shape[:2])
        small = [Image.fromarray(frame).resize((width, height), Image.Resampling.BILINEAR) for frame in frames]
        pixels = torch.from_numpy(np.stack([np.asarray(frame) for frame in small])).to(self.device)
        mean, std = (torch.tensor(image[name], device=self.device)[:, None, None] for name in ("mean", "std"))
        normal = (pixels.permute(0, 3, 1, 2).float() / 255 - mean) / std
        return F.pad(normal, (0, image["side"] - width, 0, image["side"] - height)).contiguous()

    def empty_state(self, expressions: int) -> list[Tensor]:
        """The state before a video's first frame: zeros."""
        inputs = [entry for entry in self.interface["step"]["inputs"] if entry["state"]]
        shapes = [[expressions if size == "expressions" else size for size in entry["shape"]] for entry in inputs]
        types = [getattr(torch, entry["dtype"]) for entry in inputs]
        return [torch.zeros(s, dtype=t, device=self.device) for s, t in zip(shapes, types, strict=True)]

    def segment(self, sentences: Sequence[str], frames: Iterable[np.ndarray]) -> Iterator[Tensor]:
        """Segment one video.

        Args:
            sentences: E of them.
            frames: (H, W, 3) uint8 RGB, all of one size.

        Yields:
            For every frame mask logits (E, h, w) at network resolution, the padding cropped away.

        Raises:
            InputError: see `tokens`; or of `frames`, when all frames before it are segmented.
        """
        tokens, state = self.tokens(sentences), self.empty_state(len(sentences))
        clip: list[np.ndarray] = []
        broken: InputError | None = None
        try:
            for frame in frames:
                clip.append(frame)
                if len(clip) == self.interface["image"]["window"]:
                    yield from self._segment_clip(clip, tokens, state)
                    clip = []
        except InputError as error:
            broken = error
        if clip:
            yield from self._segment_clip(clip, tokens, state)
        if broken is not None:
            raise broken

    @torch.inference_mode()
    def _segment_clip(
        self, clip: Sequence[np.ndarray], tokens: tuple[Tensor, Tensor], state: list[Tensor]
    ) -> list[Tensor]:
        """The logits of every frame; `state` is replaced by the one after them."""
        side, (height, width) = self.interface["image"]["side"], self.resized(*clip[0].shape[:2])
        features, fine, middle, prompts = self.encoder(self.network_input(clip), *tokens)
        found = []
        for t in range(len(clip)):
            frame = [x[:, t].contiguous() for x in (features, fine, middle)]
            logits, _, _, *state[:] = self.step(*frame, prompts, *state)
            large = F.interpolate(logits[:, None], (side, side), mode="bilinear", align_corners=False)
            found.append(large[:, 0, :height, :width])
        return found


def find_frames(folder: Path) -> list[Path]:
    """The images of a folder, by name, numbers by their value.

    Raises:
        InputError: no such folder, no images in it, images of several sizes, or two names but for the suffix.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: expected a folder of images, found {'a file' if folder.exists() else 'nothing'}")
    found = [path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")]
    if not found:
        raise InputError(f"{folder}: expected images ({', '.join(sorted(SUFFIXES))}), found none")
    parts = {path: re.split(r"([0-9]+)", path.name) for path in found}
    paths = sorted(found, key=lambda path: [(int(part), part) if part.isdigit() else (0, part) for part in parts[path]])
    first, stems = upright_size(paths[0]), dict[str, Path]()
    for path in paths:
        if (size := upright_size(path)) != first:
            raise InputError(
                f"{folder}: expected frames of one size, but {paths[0].name} has {first[1]}x{first[0]} pixels and "
                f"{path.name} {size[1]}x{size[0]}: give one folder per size"
            )
        if path.stem in stems:
            raise InputError(f"{folder}: {stems[path.stem].name} and {path.name} would make masks of one name")
        stems[path.stem] = path
    return paths


def upright_size(path: Path) -> tuple[int, int]:
    """(H, W) of what `read_frame` returns, from the file's header.

    Raises:
        InputError: damaged or not an image.
    """
    with opened(path) as image:
        turned = image.getexif().get(_ORIENTATION, 1) in _QUARTER_TURNS
        return (image.width, image.height) if turned else (image.height, image.width)


def read_frame(path: Path) -> np.ndarray:
    """(H, W, 3) uint8 RGB, upright (EXIF); 16 bits are scaled to 8, and transparent parts are laid over white.

    Raises:
        InputError: damaged, truncated or not an image.
    """
    with opened(path) as image:
        upright = ImageOps.exif_transpose(image)
        if upright.mode.startswith("I"):
            upright = Image.fromarray(np.rint(np.asarray(upright) / 257).astype(np.uint8))
        if upright.has_transparency_data:
            seen = upright.convert("RGBA")
            upright = Image.alpha_composite(Image.new("RGBA", seen.size, "white"), seen)
        return np.asarray(upright.convert("RGB"))


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """An image; whatever goes wrong while it is read becomes an `InputError`."""
    try:
        with Image.open(path) as image:
            yield image
    except Exception as error:  # Pillow's decoders raise exceptions of many classes on damaged files
        raise InputError(f"{path}: the image cannot be decoded ({error}); is the file complete?") from error


def write_mask(path: Path, mask: np.ndarray) -> None:
    """Write (H, W) bool as 0 and 255, all or nothing; makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        Image.fromarray(mask.astype(np.uint8) * 255).save(temporary, format="PNG")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file to write beside `path`, which it replaces if nothing goes wrong."""
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def earlier_masks(out: Path) -> list[Path]:
    """The masks that the last run into a folder wrote, or would have, by its record; none without one."""
    try:
        record = json.loads((out / RECORD).read_text("utf-8"))
        names, count = [str(name) for name in record["frames"]], len(record["sentences"])
    except (OSError, ValueError, KeyError, TypeError):
        return []
    plain = [name for name in names if Path(name).name == name]
    return [out / str(number) / f"{name}.png" for number in range(count) for name in plain]


def begin(out: Path, sentences: Sequence[str], names: Sequence[str]) -> None:
    """Make the folder of the masks, remove those of the last run, and record what this one writes."""
    out.mkdir(parents=True, exist_ok=True)
    for mask in earlier_masks(out):
        mask.unlink(missing_ok=True)
    with replacing(out / RECORD) as temporary:
        temporary.write_text(json.dumps({"sentences": list(sentences), "frames": list(names)}, indent=2), "utf-8")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """A mistake on the command line is one line."""
        raise InputError(f"{message}; see {self.prog} --help")


def main(argv: Sequence[str] | None = None) -> None:
    """Write a mask per frame and sentence.

    Raises:
        InputError: frames, OUT or sentences that cannot be used; masks that were already written stay.
    """
    parser = _Parser(description="segment a folder of frames by sentences")
    parser.add_argument("frames", type=Path, help="folder of images of one size")
    parser.add_argument("out", type=Path, help="gets SENTENCE/NAME.png")
    parser.add_argument("sentences", nargs="+", help="what to segment, each in quotes")
    args = parser.parse_args(argv)
    paths = find_frames(args.frames)
    if args.out.exists() and not args.out.is_dir():
        raise InputError(f"{args.out}: expected a folder for the masks, found a file; give another path")
    folders = [args.out / str(number) for number in range(len(args.sentences))]
    replaced = {*folders, *(mask.parent for mask in earlier_masks(args.out))}
    if args.frames.resolve() in [folder.resolve() for folder in replaced]:
        raise InputError(f"{args.frames}: masks would replace the frames there; give another folder than {args.out}")
    size = upright_size(paths[0])  # of all of them
    exported = Exported(Path(__file__).resolve().parent)
    exported.tokens(args.sentences)  # refuses what it cannot use before anything is removed
    begin(args.out, args.sentences, [path.stem for path in paths])
    results = exported.segment(args.sentences, map(read_frame, paths))
    for path, logits in zip(paths, results, strict=True):
        large = F.interpolate(logits[:, None], size, mode="bilinear", align_corners=False)[:, 0]
        for folder, mask in zip(folders, (large.sigmoid() > 0.5).cpu().numpy(), strict=True):
            write_mask(folder / f"{path.stem}.png", mask)
    print(f"{len(paths)} frames, {len(args.sentences)} sentences: {args.out}")


def run() -> None:
    """Call `main`; what the user can mend becomes one line and exit status 2, and Ctrl-C one line and 130."""
    try:
        main()
    except KeyboardInterrupt:
        sys.stderr.write("interrupted: what was already written is complete and stays\n")
        sys.exit(130)
    except (InputError, OSError) as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        sys.exit(2)


if __name__ == "__main__":
    run()
