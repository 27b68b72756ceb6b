"""Binary masks on disk and in numbers."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from util.paths import atomic_write


def save_mask(path: Path, mask: np.ndarray) -> None:
    """Write a binary mask as an 8-bit grey PNG with the values 0 and 255.

    Args:
        path: where to; parent folders are made, the file appears only when it is complete.
        mask: (H, W), bool.

    Raises:
        OSError: the file cannot be written.
    """
    assert mask.ndim == 2, mask.shape
    assert mask.dtype == np.bool_, mask.dtype
    done, data = cv2.imencode(".png", mask.astype(np.uint8) * 255)
    assert done
    with atomic_write(path, "wb") as handle:
        handle.write(data.tobytes())


def mask_area(mask: np.ndarray) -> int:
    """The number of pixels of a (H, W) boolean mask that belong to the object."""
    return int(np.count_nonzero(mask))
