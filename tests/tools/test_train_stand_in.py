"""A stand-in is trained from nothing: images first, then clips from there, and every parameter learns."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from configs import loading
from tests import miniature
from tests.weight_files import save_vocabulary
from tools import train_stand_in
from util.errors import InputError

NETWORK = ["--sam2_version", "tiny", "--adapter_dim", "32", "--fusion_stages_txt", "1", "2", "3"]


def test_images_then_clips(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "CONFIG_DIR", miniature.write_configuration(workplace / "configs"))
    miniature.write_refcoco(workplace / "coco", ["refcoco/train"])
    miniature.write_mevis(workplace / "mevis", "train", {"nine": miniature.VIDEOS["nine"]})
    quick = [*NETWORK, "--roberta", str(save_vocabulary(workplace / "vocabulary")), "--num_workers", "0"]
    quick += ["--device", "cpu", "--max_iterations", "2", "--num_frames"]
    train_stand_in.main([*quick, "1", "--dataset_file", "refcoco", "--coco_path", "coco", "--name_exp", "images"])
    images = workplace / "output" / "images" / "checkpoints" / "last.pth"
    clips = [
        "--dataset_file",
        "mevis",
        "--mevis_path",
        "mevis",
        "--name_exp",
        "clips",
        "--resume",
        str(images),
        "--HSA",
    ]
    train_stand_in.main([*quick, "2", *clips])
    last = workplace / "output" / "clips" / "checkpoints" / "last.pth"
    before, after = (torch.load(path, weights_only=True)["model"] for path in (images, last))
    learned = [key for key, value in before.items() if not torch.equal(value, after[key])]
    for part in ("sam.image_encoder.trunk", "sam.memory_attention", "text_encoder", "cmt_adapters", "sam.sam_mask"):
        assert any(key.startswith(part) for key in learned), part
    assert any("hsa" in key for key in after.keys() - before.keys())


def test_a_tokenizer_has_to_be_given() -> None:
    with pytest.raises(InputError, match=r"tools/train_tokenizer\.py"):
        train_stand_in.main(NETWORK)
