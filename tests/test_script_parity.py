"""The benchmark scripts with recipe weights at full size: PNGs and scores of runs recorded from the original system.

Nothing between the command line and the files is left out; what the network saw and said on the way is noted, and
compared, too. Axes: T frames, H rows, W columns.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import inference_davis
import inference_mevis
import inference_ytvos
from models.sam2.sam2 import SAM2
from models.samwise import SAMWISE, ClipFeatures, FrameFeatures, FramePrediction
from models.session import Session
from tests.benchmark_files import encode_rle, frame_names, write_json
from tests.recipe import DATA, assert_close, disc, recipe_frames, recipe_state, unpack, write_tokenizer
from util.errors import InputError

SIDE = 1024


@dataclass(frozen=True)
class Clip:
    """A video of a data set: `frames` (T, H, W, 3) uint8, `targets` (T, H, W) bool, and one sentence about it."""

    frames: np.ndarray
    targets: np.ndarray
    sentence: str


@dataclass
class Recording:
    """What the network returned, call by call, and the memory that each frame left."""

    features: list[ClipFeatures] = field(default_factory=list)
    predictions: list[FramePrediction] = field(default_factory=list)
    memories: list[Tensor] = field(default_factory=list)


@pytest.fixture
def recording(monkeypatch: pytest.MonkeyPatch) -> Recording:
    """Notes what passes through the network; changes nothing."""
    notes, encode, step = Recording(), SAMWISE.encode, SAMWISE.step

    def noted_encode(model: SAMWISE, *arguments: Any, **keywords: Any) -> ClipFeatures:
        notes.features.append(encode(model, *arguments, **keywords))
        return notes.features[-1]

    def noted_step(model: SAMWISE, frame: FrameFeatures, session: Session) -> FramePrediction:
        notes.predictions.append(step(model, frame, session))
        notes.memories.append(session.memories[-1])
        return notes.predictions[-1]

    monkeypatch.setattr(SAMWISE, "encode", noted_encode)
    monkeypatch.setattr(SAMWISE, "step", noted_step)
    return notes


def write_frames(folder: Path, frames: np.ndarray) -> None:
    """Frames under the names that benchmarks have, without loss: readers go by content, not by name."""
    folder.mkdir(parents=True)
    for name, frame in zip(frame_names(len(frames)), frames, strict=True):
        Image.fromarray(frame).save(folder / f"{name}.jpg", format="PNG", compress_level=1)


def write_labels(folder: Path, targets: np.ndarray) -> None:
    """Targets as palette PNGs of one object."""
    folder.mkdir(parents=True)
    for name, target in zip(frame_names(len(targets)), targets, strict=True):
        image = Image.fromarray(target.astype(np.uint8)).convert("P")
        image.putpalette([0, 0, 0, 128, 0, 0])
        image.save(folder / f"{name}.png")


def write_mevis(root: Path, clips: Mapping[str, Clip]) -> None:
    """Split valid_u of MeViS."""
    videos, masks = {}, {}
    for number, (name, clip) in enumerate(clips.items()):
        write_frames(root / "valid_u" / "JPEGImages" / name, clip.frames)
        masks[str(number)] = [encode_rle(target) for target in clip.targets]
        expressions = {"0": {"exp": clip.sentence, "obj_id": [0], "anno_id": [number]}}
        videos[name] = {"expressions": expressions, "frames": frame_names(len(clip.frames))}
    write_json(root / "valid_u" / "mask_dict.json", masks)
    write_json(root / "valid_u" / "meta_expressions.json", {"videos": videos})


def write_masked_videos(root: Path, clips: Mapping[str, Clip], sentences: int) -> None:
    """Split valid as Ref-YouTube-VOS and Ref-DAVIS17 have it, with every sentence given `sentences` times."""
    videos = {}
    for name, clip in clips.items():
        write_frames(root / "valid" / "JPEGImages" / name, clip.frames)
        write_labels(root / "valid" / "Annotations" / name, clip.targets)
        expressions = {str(number): {"exp": clip.sentence, "obj_id": "1"} for number in range(sentences)}
        videos[name] = {"expressions": expressions, "frames": frame_names(len(clip.frames))}
    write_json(root / "meta_expressions" / "valid" / "meta_expressions.json", {"videos": videos})


def write_ytvos(root: Path, clips: Mapping[str, Clip]) -> None:
    """Split valid of Ref-YouTube-VOS; no test videos are listed in it."""
    write_masked_videos(root, clips, 1)
    write_json(root / "meta_expressions" / "test" / "meta_expressions.json", {"videos": {}})


def write_davis(root: Path, clips: Mapping[str, Clip]) -> None:
    """Ref-DAVIS17; the four annotators say the same."""
    write_masked_videos(root, clips, 4)
    listing = root / "DAVIS" / "ImageSets" / "2017" / "val.txt"
    listing.parent.mkdir(parents=True)
    listing.write_text("".join(f"{name}\n" for name in clips))


SCRIPTS = {
    "mevis": (write_mevis, inference_mevis.main, ["--split", "valid_u"]),
    "ytvos": (write_ytvos, inference_ytvos.main, ["--allow_partial"]),
    "davis": (write_davis, inference_davis.main, []),
}


def run_script(script: str, folder: Path, clips: Mapping[str, Clip], meta: Mapping[str, Any], *flags: str) -> Path:
    """Run a script on `clips` with a checkpoint file of recipe weights; returns the folder of its results.

    Args:
        script: key of `SCRIPTS`.
        folder: for everything that is written.
        meta: `keys` (a key file), `salt`, `score_bias`, and `ids`: sentence -> its recorded token ids.
        flags: of the model.
    """
    write, main, options = SCRIPTS[script]
    write(folder / script, clips)
    write_tokenizer(folder / "tokenizer", meta["ids"])
    weights = folder / "recipe.pth"
    torch.save({"model": recipe_state(meta["keys"], meta["salt"], meta["score_bias"])}, weights)
    places = [f"--{script}_path={folder / script}", f"--output_dir={folder}", f"--roberta={folder / 'tokenizer'}"]
    run = ["--resume", str(weights), "--device", "cpu", "--num_workers", "0", "--name_exp", "results"]
    main([*run, *places, *options, "--sam2_version", "tiny", *flags])
    weights.unlink()
    return folder / "results"


def read_masks(folder: Path) -> np.ndarray:
    """The PNGs of a folder, in order, as (T, H, W) bool."""
    return np.stack([np.asarray(Image.open(path)) > 0 for path in sorted(folder.glob("*.png"))])


def boundary(mask: np.ndarray) -> np.ndarray:
    """Pixels of (H, W) that differ from their right, lower or lower-right neighbour."""
    found = np.zeros_like(mask)
    found[:, :-1] |= mask[:, :-1] != mask[:, 1:]
    found[:-1] |= mask[:-1] != mask[1:]
    found[:-1, :-1] |= mask[:-1, :-1] != mask[1:, 1:]
    return found


def scores_by_definition(masks: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    """Mean J and F of (T, H, W) masks, with boundaries dilated by a disk."""
    radius = math.ceil(0.008 * math.hypot(*masks.shape[1:]))
    rows, columns = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    disk = (rows**2 + columns**2 <= radius**2).astype(np.uint8)
    j, f = [], []
    for mask, target in zip(masks, targets, strict=True):
        union = (mask | target).sum()
        j.append((mask & target).sum() / union if union else 1.0)
        first, second = boundary(mask), boundary(target)
        if not first.any() or not second.any():
            f.append(float(first.any() == second.any()))
            continue
        near_first, near_second = (cv2.dilate(edge.astype(np.uint8), disk) > 0 for edge in (first, second))
        precision, recall = (first & near_second).sum() / first.sum(), (second & near_first).sum() / second.sum()
        f.append(2 * precision * recall / (precision + recall) if precision + recall else 0.0)
    return {"J": float(np.mean(j)), "F": float(np.mean(f))}


def check_frame(number: int, t: int, features: ClipFeatures, notes: Recording, case: Mapping[str, np.ndarray]) -> None:
    """Compare frame `number` of a video, frame `t` of its clip, with everything that was recorded of it."""
    prediction, memory = notes.predictions[number], notes.memories[number]
    decoded = prediction.decoded
    assert_close(features.map[0, t, ::64, ::8], case[f"{number}/vis"])
    assert_close(features.sentence[0], case[f"{number}/state"])
    assert_close(decoded.logits[0, ::2, ::2], case[f"{number}/low"])
    assert_close(prediction.pointer, case[f"{number}/ptr"])
    assert_close(memory[0].T.unflatten(1, (64, 64))[::8, ::8, ::8], case[f"{number}/mem"])
    assert decoded.score.item() == pytest.approx(case[f"{number}/score"].item(), abs=1e-4)
    assert decoded.iou.item() == pytest.approx(case[f"{number}/iou"].item(), abs=1e-4)
    assert (prediction.check is not None) == (f"{number}/cme" in case)
    if prediction.check is not None:
        memoryless = prediction.check.memoryless
        np.testing.assert_allclose(prediction.check.logits.flatten(), case[f"{number}/cme"], atol=1e-4)
        assert_close(memoryless.early_token, case[f"{number}/early"])
        assert_close(memoryless.logits[0, ::4, ::4], case[f"{number}/low_nomem"])


@pytest.mark.slow
def test_mevis_script_on_a_video_of_two_clips(tmp_path: Path, recording: Recording) -> None:
    """V1: 11 frames in clips of 8 and 3 with HSA and CME; every figure on the way, the decisions, PNGs and scores."""
    case = np.load(DATA / "V1_tiny_recipe.npz")
    meta = json.loads(case["meta"].tobytes())
    masks = unpack(case["mask_bits"], case["mask_shape"])
    rows, columns = np.mgrid[: masks.shape[1], : masks.shape[2]].astype(np.float64)
    targets = np.stack([disc(t, rows, columns) for t in range(meta["count"])])
    clip = Clip(recipe_frames(meta["count"]), targets, meta["caption"])
    weights = {**meta, "keys": "keys_tiny_full.json", "ids": {meta["caption"]: meta["ids"]}}
    results = run_script("mevis", tmp_path, {"shapes": clip}, weights, "--HSA", "--use_cme_head")
    for number in range(meta["count"]):
        check_frame(number, number % 8, recording.features[number // 8], recording, case)
    logits = torch.cat([prediction.decoded.logits for prediction in recording.predictions])
    assert_close(SAM2.enlarge(logits, SIDE)[:, : masks.shape[1] : 16, ::16], case["pred_strided"])
    assert (read_masks(results / "Annotations" / "shapes" / "0") == masks).mean() >= 0.9999
    scores = json.loads((results / "scores.json").read_text())
    for name, value in scores_by_definition(masks, targets).items():
        assert scores["official"][name] == pytest.approx(value, abs=5e-5)
        assert scores["by_text"][name] == pytest.approx(value, abs=5e-5)


@pytest.mark.parametrize(("script", "image"), [("ytvos", 0), ("davis", 1)])
def test_scripts_on_images(script: str, image: int, tmp_path: Path, recording: Recording) -> None:
    """V2: videos of one frame, without HSA, CME and object scores."""
    case = np.load(DATA / "V2_tiny_image.npz")
    meta = json.loads(case["meta"].tobytes())
    masks = unpack(case["bits"], case["shape"])[image][None]
    targets = np.roll(masks, (7, 5), (1, 2))
    sentence = meta["captions"][image]
    weights = {
        "keys": "keys_tiny_ris.json",
        "salt": meta["salt"],
        "score_bias": None,
        "ids": {sentence: meta["ids"][image]},
    }
    clips = {"image": Clip(recipe_frames(2)[image][None], targets, sentence)}
    results = run_script(script, tmp_path, clips, weights, "--disable_pred_obj_score")
    logits = SAM2.enlarge(recording.predictions[0].decoded.logits, SIDE)[:, : masks.shape[1]]
    for own in logits[:, ::4, ::4]:
        assert_close(own, case["pred"][image])
    scores = json.loads((results / "scores.json").read_text())
    expected = scores_by_definition(masks, targets)
    if script == "davis":
        folders = [results / "eval_davis" / "valid" / f"anno_{number}" / "image" for number in range(4)]
        found = [{name: own[f"{name}-Mean"] for name in expected} for own in scores.values()]
        assert len(found) == 5
    else:
        folders, found = [results / "Annotations" / "image" / "0"], [scores["official"]]
    for folder in folders:
        assert (read_masks(folder) == masks).mean() >= 0.9999
    for own in found:
        assert {name: own[name] for name in expected} == pytest.approx(expected, abs=5e-5)


@pytest.mark.parametrize("script", SCRIPTS)
def test_where_results_cannot_be_written_is_found_before_weights_are_read(script: str, tmp_path: Path) -> None:
    write, main, options = SCRIPTS[script]
    write(tmp_path / script, {"black": Clip(np.zeros((1, 8, 9, 3), np.uint8), np.ones((1, 8, 9), bool), "it")})
    (tmp_path / "file").touch()
    places = [f"--{script}_path={tmp_path / script}", f"--output_dir={tmp_path / 'file'}", "--resume=nowhere.pth"]
    with pytest.raises(InputError, match=r"file/default cannot be written to \(Not a directory\)"):
        main([*places, *options])
