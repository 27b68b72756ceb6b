"""The loop over images: several with all their sentences run together, decoded ahead of and written behind the network.

Axes: V images, B sentences, S side of the network input, h and w of a resized image, H and W of the original.
"""

from __future__ import annotations

import contextlib
import gc
import logging
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from datasets.masks import read_frame
from datasets.refcoco import RefCocoDataset, ReferredObject
from datasets.transforms import prepare_frame, to_network_input
from datasets.validation import shape
from engine.infer import Frame, FrameResult
from engine.inference.batching import is_out_of_memory, partition
from engine.inference.options import InferenceOptions
from engine.inference.segment import CHECK_HINT, Clocks
from engine.inference.sentence_records import Rle, SentenceRecords
from engine.runtime import autocast
from models.sam2.sam2 import SAM2
from models.samwise import SAMWISE
from models.stream import network_for
from util.background import WriteBehind, map_ahead, prefetch
from util.errors import InputError
from util.memory import keep_freed_memory

logger = logging.getLogger(__name__)

AHEAD = 3  # batches that wait before, and behind, the network

Unit = tuple[ReferredObject, ...]


def cut_into_units(dataset: RefCocoDataset, most: int) -> list[Unit]:
    """Sentences that run together, at most `most`: those of an image side by side, and of as many images as fit.

    It depends on the data set alone, whatever is finished and how many processes there are: other neighbours round
    differently.
    """
    units: list[Unit] = []
    for items in dataset.by_image().values():
        for places in partition(len(items), most):
            own = tuple(items[places.start : places.stop])
            if units and len(units[-1]) + len(own) <= most:
                units[-1] += own
            else:
                units.append(own)
    return units


class ImageSegmenter:
    """Segments every image as a video of one frame.

    Args:
        model: the network with its tokenizer, in evaluation mode.
        options: of the run.
        batch: how many sentences run together; halved for good where memory does not suffice.

    Attributes:
        images, sentences: how many were segmented so far.
        write_seconds: spent writing records so far.
    """

    def __init__(self, model: SAMWISE, options: InferenceOptions, batch: int) -> None:
        if model.device.type == "cpu":
            keep_freed_memory()
        self.model = model
        self.network = network_for(model, options.precision)
        self.options = options
        self.batch = batch
        self.clocks = Clocks()
        self.images = 0
        self.sentences = 0
        self.write_seconds = 0.0

    def run(
        self, dataset: RefCocoDataset, units: Sequence[Unit], records: SentenceRecords, bar: tqdm
    ) -> dict[int, Rle]:
        """Segment `units` and wait until all is written to `records`.

        Args:
            bar: is advanced by one for every sentence.

        Returns:
            Their masks by the sentence's id.

        Raises:
            InputError: an image does not decode or has another size than the data set says, or memory does not suffice
                for a single sentence.
            OSError: a record cannot be written.
        """
        found: dict[int, Rle] = {}
        writer = WriteBehind[tuple[Unit, list[NDArray[np.bool_]]]](
            lambda work: found.update(records.add(*work)), lambda: None, AHEAD
        )
        side = self.model.config.sam2.image_size
        source = self.clocks.decode.over(decode_units(dataset, units, side, self.options.num_workers))
        try:
            with contextlib.closing(prefetch(source, AHEAD)) as decoded:
                for unit, images in zip(units, self.clocks.wait.over(decoded), strict=True):
                    writer.submit((unit, self._segment(unit, images)))
                    self.images += len(images)
                    self.sentences += len(unit)
                    bar.update(len(unit))
        finally:
            writer.end()
            writer.join()
            self.write_seconds += writer.seconds
        return found

    def _segment(self, unit: Unit, images: Mapping[str, Frame]) -> list[NDArray[np.bool_]]:
        """The masks (H, W) of a unit, in as few parts as memory allows."""
        while True:
            try:
                parts = partition(len(unit), self.batch)
                return [mask for part in parts for mask in self._run(unit[part.start : part.stop], images)]
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            self._halve(unit)  # outside of the handler: its traceback holds on to tensors

    def _halve(self, unit: Unit) -> None:
        size = min(self.batch, len(unit))
        if size == 1:
            raise InputError(
                f"memory does not suffice for one sentence about {unit[0].file_name}: try --precision bf16, or another "
                "--device"
            )
        self.batch = size // 2
        logger.warning("out of memory with %d sentences at once: going on with %d", size, self.batch)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    @torch.inference_mode()
    def _run(self, items: Unit, images: Mapping[str, Frame]) -> list[NDArray[np.bool_]]:
        """One pass of the network: the masks (H, W) of B sentences about V images."""
        model = self.model
        side, device = model.config.sam2.image_size, model.device
        assert model.tokenizer is not None
        with self.clocks.model, autocast(self.options.precision, device):
            names = list(dict.fromkeys(item.file_name for item in items))
            frames = torch.stack([to_network_input([images[name]], side, device) for name in names])
            clip_of = torch.tensor([names.index(item.file_name) for item in items], device=device)
            tokens = model.tokenizer([item.caption for item in items]).to(device)
            features = self.network.encode(frames, tokens, clip_of)
            decoded = self.network.step(features.frame(0), self.network.new_session()).decoded
            if device.type == "cuda":
                torch.cuda.synchronize(device)
        with self.clocks.postprocess:
            logits = SAM2.enlarge(decoded.logits.float(), side)
            masks = []
            for place, item in enumerate(items):
                height, width = images[item.file_name].shape[:2]
                own = slice(place, place + 1)
                result = FrameResult(
                    0, logits[own, :height, :width], item.size, decoded.score[own].float(), decoded.iou[own].float()
                )
                masks.append(result.masks(self.options.threshold)[0])
        return masks


def decode_units(
    dataset: RefCocoDataset, units: Sequence[Unit], side: int, threads: int = 1
) -> Iterator[dict[str, Frame]]:
    """The images of each unit by their names, (h, w, 3) uint8 RGB after the evaluation resize.

    Raises:
        InputError: an image does not decode, or has another size than the data set says; it is named.
    """

    def decode(unit: Unit) -> dict[str, Frame]:
        return {item.file_name: _decode(dataset, item, side) for item in {own.file_name: own for own in unit}.values()}

    yield from map_ahead(decode, units, threads)


def _decode(dataset: RefCocoDataset, item: ReferredObject, side: int) -> Frame:
    path = dataset.image_path(item)
    frame = prepare_frame(read_frame(path), side)
    if frame.size != item.size:
        raise InputError(
            f"{path}: the image is {shape(frame.size)}, {dataset.path} says {shape(item.size)}; {CHECK_HINT}"
        )
    return frame.pixels
