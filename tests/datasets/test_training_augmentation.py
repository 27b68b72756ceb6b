"""The resize in training, colours, and that frames and masks of a clip change alike."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from datasets.augmentation import SHORT_SIDES, ClipTransform, PhotometricDistortion
from datasets.transforms import resize_frame, resize_masks, training_size


@pytest.mark.parametrize(
    ("height", "width", "short", "expected"),
    [
        (480, 854, None, (576, 1024)),  # model.md, section 1
        (854, 480, None, (1024, 576)),
        (540, 960, None, (576, 1024)),
        (500, 500, None, (1024, 1024)),
        (200, 500, None, (410, 1024)),  # the formula alone gives 1025
        (1, 4000, None, (1, 1024)),
        (480, 854, 320, (320, 569)),
        (480, 854, 512, (512, 910)),
        (480, 854, 720, (576, 1024)),  # the long side would be 1281
        (720, 720, 640, (640, 640)),
    ],
)
def test_known_training_sizes(height: int, width: int, short: int | None, expected: tuple[int, int]) -> None:
    assert training_size(height, width, short=short) == expected


@given(st.integers(1, 4000), st.integers(1, 4000), st.sampled_from([64, 256, 1024]), st.sampled_from([None, 20, 320]))
def test_any_frame_fits(height: int, width: int, side: int, short: int | None) -> None:
    size = training_size(height, width, side, short)
    assert min(size) >= 1
    assert max(size) <= side
    assert (size[0] <= size[1]) == (height <= width) or size[0] == size[1]
    if short is None:
        assert max(size) >= side - max(height, width) / min(height, width)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 64), st.integers(1, 64))
def test_masks_are_resized_by_nearest_neighbour(height: int, width: int, rows: int, columns: int) -> None:
    masks = torch.rand(2, height, width, generator=torch.Generator().manual_seed(0)) > 0.5
    resized = resize_masks(masks, (rows, columns))
    assert resized.dtype == torch.bool
    assert torch.equal(resized, F.interpolate(masks[None].float(), (rows, columns), mode="nearest")[0] > 0.5)


def picture(seed: int, size: tuple[int, int] = (24, 32)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def test_without_augmentation_nothing_is_random() -> None:
    frames, masks = [picture(0), picture(1)], np.random.default_rng(2).random((2, 24, 32)) > 0.5
    made, targets = ClipTransform(64)(frames, masks, np.random.default_rng(0))
    again, _ = ClipTransform(64)(frames, masks, np.random.default_rng(1))
    assert made.shape == (2, 3, 48, 64)
    assert made.dtype == torch.uint8
    assert torch.equal(made, again)
    assert torch.equal(targets, resize_masks(torch.from_numpy(masks), (48, 64)))
    expected = np.asarray(Image.fromarray(frames[1]).resize((64, 48), Image.Resampling.BILINEAR))
    assert np.array_equal(made[1].permute(1, 2, 0).numpy(), expected)


@pytest.mark.parametrize("side", [128, 1024])
def test_augmented_clips_get_one_choice_for_all_frames(side: int) -> None:
    frames, masks = [picture(0)] * 3, np.ones((3, 24, 32), bool)
    sizes = set()
    for seed in range(80 if side == 128 else 2):
        made, targets = ClipTransform(side, augment=True)(frames, masks, np.random.default_rng(seed))
        assert made.shape[2:] == targets.shape[1:]
        assert max(made.shape[2:]) <= side
        assert torch.equal(made[0], made[1])
        assert torch.equal(made[0], made[2])
        sizes.add(made.shape[2])
    if side == 128:
        assert sizes == {round(short / 8) for short in SHORT_SIDES}


@pytest.mark.parametrize("size", [(24, 32), (600, 800)], ids=["enlarged", "shrunk"])
def test_colours_change_where_there_are_fewer_pixels(size: tuple[int, int]) -> None:
    frame, seed = picture(0, size), 5
    made, _ = ClipTransform(128, augment=True)([frame], np.ones((1, *size), bool), np.random.default_rng(seed))
    distort = PhotometricDistortion.draw(np.random.default_rng(seed))
    assert distort != PhotometricDistortion()
    target = (made.shape[2], made.shape[3])
    shrunk, enlarged = distort(resize_frame(frame, target)), resize_frame(distort(frame), target)
    assert not np.array_equal(shrunk, enlarged)
    assert np.array_equal(made[0].permute(1, 2, 0).numpy(), shrunk if size[0] == 600 else enlarged)


def test_no_distortion_changes_nothing() -> None:
    assert np.array_equal(PhotometricDistortion()(picture(0)), picture(0))


def test_each_distortion_does_what_it_says() -> None:
    frame = np.array([[[200, 100, 50], [100, 100, 100]]], np.uint8)

    def changed(**values: float) -> list[list[int]]:
        return PhotometricDistortion(**values)(frame)[0].astype(int).tolist()

    assert changed(brightness=20) == [[220, 120, 70], [120, 120, 120]]
    assert changed(brightness=-70.4) == [[130, 30, 0], [30, 30, 30]]
    assert changed(contrast=1.5) == [[255, 150, 75], [150, 150, 150]]
    assert changed(brightness=20, contrast=0.5) == [[110, 60, 35], [60, 60, 60]]
    assert changed(brightness=100, contrast=0.5, contrast_last=True) == [[128, 100, 75], [100, 100, 100]]
    pale, grey = changed(saturation=0.5)
    assert np.abs(np.subtract(pale, [200, 150, 125])).max() <= 2
    assert grey == [100, 100, 100]
    turned, grey = changed(hue=20)  # the hue of the first pixel is 20 degrees, with 18.75 degrees per 50 grey values
    assert np.abs(np.subtract(turned, [200, 150, 50])).max() <= 3
    assert grey == [100, 100, 100]


def test_distortions_that_are_drawn_stay_in_their_limits() -> None:
    drawn = [PhotometricDistortion.draw(np.random.default_rng(seed)) for seed in range(300)]
    assert all(abs(one.brightness) <= 32 and abs(one.hue) <= 18 for one in drawn)
    assert all(0.5 <= one.contrast <= 1.5 and 0.5 <= one.saturation <= 1.5 for one in drawn)
    for name, neutral in (("brightness", 0), ("contrast", 1), ("saturation", 1), ("hue", 0), ("contrast_last", False)):
        assert 100 < sum(getattr(one, name) == neutral for one in drawn) < 200
    assert drawn[7] == PhotometricDistortion.draw(np.random.default_rng(7))
