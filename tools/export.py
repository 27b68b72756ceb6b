"""Export a network as programs that run without this code base: PyTorch alone loads them.

    python tools/export.py pretrained/nano --out output/exported
    python tools/export.py pretrain/final_model_mevis.pth --out output/compiled --aot --device cuda

OUT gets encoder.pt2 (a clip and its sentences become features), step.pt2 (a frame's features and the state become masks
and the next state), tokenizer.json, interface.json, which names the inputs and outputs with their shapes, types and
meanings, and run.py, a small program that segments a folder of frames with them. The programs take any number of
sentences, and clips of any length, up to the limits given. At the end they are compared with the network itself.

With --aot the programs are compiled by AOTInductor for this kind of processor (that needs a C++ compiler); otherwise
torch.export keeps them as graphs, which torch.compile can compile later.
"""

from __future__ import annotations

import io
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from torch.export import ExportedProgram

from configs.flags import positive_int
from configs.schema import ModelConfig
from datasets.transforms import MEAN, NETWORK_SIDE, SHORT_SIDE, STD
from engine.infer import stream
from engine.runtime import resolve_device
from engine.segmentation import load
from models.checkpoint import read_checkpoint
from models.samwise import SAMWISE
from models.tokenizer import PADDING, TOKENIZER_FILE, tokenizer_text
from tools.checkpoint import infer_config
from tools.exporting import run as runner
from tools.exporting.programs import Limits, export_programs
from util.command_line import Parser, filled_text
from util.errors import InputError, run_script
from util.paths import atomic_path, atomic_write, atomic_write_json, is_url, writable_folder

FORMAT = "samwise-export-1"
SENTENCES = ("the red disc", "the square at the bottom that moves to the left")
CHECKED_FRAMES = 20  # more than there are pointers: the state is full at the end
MOST_DIFFERENCE = 2e-3  # of a logit, relative to the largest


def main(argv: Sequence[str] | None = None) -> None:
    """Export, then check."""
    parser = Parser(description="export a network as programs that run without this code base")
    parser.add_argument("model", type=filled_text, help="model folder, id on the hub, or checkpoint")
    parser.add_argument("--out", type=Path, required=True, help="the folder to write")
    parser.add_argument("--aot", action="store_true", help="compile the programs with AOTInductor")
    parser.add_argument("--device", default="cpu", help="what they run on: cpu or cuda (default: cpu)")
    parser.add_argument("--window", type=positive_int, default=8, help="frames of a clip at most (default: 8)")
    parser.add_argument("--expressions", type=positive_int, default=16, help="sentences at most (default: 16)")
    args = parser.parse_args(argv)
    writable_folder(args.out, "--out")
    model = load(args.model, device=resolve_device(args.device, fall_back=False), config=_published_config(args.model))
    write_export(model, args.out, window=args.window, expressions=args.expressions, aot=args.aot)
    difference = check_export(model, args.out)
    for path in sorted(args.out.iterdir()):
        print(f"{path} ({path.stat().st_size / 1e6:.1f} MB)")
    print(f"largest difference from the network itself over {CHECKED_FRAMES} frames: {difference:.2e} of the logits")
    if difference > MOST_DIFFERENCE:
        raise InputError(f"the programs differ by {difference:.2e}, more than {MOST_DIFFERENCE}: do not use them")


def _published_config(source: str) -> ModelConfig | None:
    """The architecture of a published checkpoint, from its tensors; None for what knows its own."""
    if is_url(source) or not Path(source).is_file():
        return None
    checkpoint = read_checkpoint(source)
    return infer_config(checkpoint) if checkpoint.config is None else None


def write_export(model: SAMWISE, out: Path, *, window: int = 8, expressions: int = 16, aot: bool = False) -> None:
    """Write all files of an export.

    Args:
        model: with its tokenizer, in evaluation mode, on the device that the programs shall run on.
        out: the folder.
        window: frames of a clip at most.
        expressions: sentences at most.
        aot: compile the programs.

    Raises:
        InputError: a network with motion prompts.
    """
    assert model.tokenizer is not None
    limits = Limits(expressions, window, model.tokenizer.max_tokens)
    encoder, step, values = export_programs(model, limits)
    (out / "interface.json").unlink(missing_ok=True)  # written last: without it a folder is not complete
    for name, program in (("encoder", encoder), ("step", step)):
        _save(program, out / f"{name}.pt2", aot)
    with atomic_write(out / TOKENIZER_FILE) as handle:
        handle.write(tokenizer_text(model.tokenizer.tokenizer).encode())
    with atomic_path(out / "run.py") as path:
        shutil.copyfile(Path(runner.__file__), path)
    atomic_write_json(out / "interface.json", _interface(model, limits, values, aot))


def _save(program: ExportedProgram, path: Path, aot: bool) -> None:
    if not aot:
        whole = io.BytesIO()  # where a disk is full, PyTorch's own writing says nothing of it, and may end the process
        torch.export.save(program, whole)
        with atomic_write(path) as handle:
            handle.write(whole.getbuffer())
        return
    if not hasattr(torch._inductor, "aoti_compile_and_package"):
        raise InputError(f"--aot needs PyTorch 2.6 or later, found {torch.__version__}")
    with atomic_path(path) as temporary, torch.no_grad():
        torch._inductor.aoti_compile_and_package(program, package_path=str(temporary))


def _interface(model: SAMWISE, limits: Limits, values: dict[str, Any], aot: bool) -> dict[str, Any]:
    side = model.config.sam2.image_size
    return {
        "format": FORMAT,
        "torch": torch.__version__,
        "device": str(model.device),
        "compiled": aot,
        "image": {
            "side": side,
            "short_side": max(side * SHORT_SIDE // NETWORK_SIDE, 1),
            "window": limits.frames,
            "mean": MEAN,
            "std": STD,
        },
        "text": {"tokenizer": TOKENIZER_FILE, "padding_id": PADDING},
        "axes": {"expressions": limits.expressions, "frames": limits.frames, "tokens": limits.tokens},
        **{
            name: {
                "file": f"{name}.pt2",
                "inputs": values[f"{name} inputs"],
                "outputs": values[f"{name} outputs"],
            }
            for name in ("encoder", "step")
        },
    }


def check_export(model: SAMWISE, out: Path) -> float:
    """The largest difference between a network's logits and those of its export, relative to the largest logit.

    Two sentences and 20 frames of noise with a moving square: the memory fills, and the last clip is shorter.
    """
    exported = runner.Exported(out)
    sentences = SENTENCES[: exported.interface["axes"]["expressions"]]
    frames = np.random.default_rng(0).integers(0, 120, (CHECKED_FRAMES, 54, 96, 3), dtype=np.uint8)
    for t, frame in enumerate(frames):
        frame[10:30, 3 * t : 3 * t + 20] += 130
    expected = stream(model, sentences, frames, window=exported.interface["image"]["window"])
    difference = largest = 0.0
    for result, logits in zip(expected, exported.segment(sentences, frames), strict=True):
        difference = max(difference, float((result.logits - logits).abs().max()))
        largest = max(largest, float(result.logits.abs().max()))
    return difference / largest


if __name__ == "__main__":
    run_script(main)
