"""SAMWISE (arXiv 2411.17646): the stateless network. What is remembered between frames is an argument, `Session`.

Axes: V clips, B samples (a sample is one clip with one sentence; several samples may share a clip), T frames, L text
tokens, D text channels, N = H * W tokens of the stride-16 map, C width, S side of the network input.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from configs.schema import ModelConfig
from models.cmt_adapter import CMTAdapter
from models.conditional_memory_encoder import ConditionalMemoryEncoder, switched_logits
from models.hub import HubMixin
from models.padding import Padding
from models.sam2.hiera import PATCH_STRIDE
from models.sam2.layers import band_rows, in_bands
from models.sam2.mask_decoder import DecodedMask
from models.sam2.prompt_encoder import SENTENCE_TOKENS
from models.sam2.sam2 import FEATURE_STRIDE, SAM2
from models.session import Session
from models.text_encoder import TextEncoder
from models.tokenizer import TokenBatch, Tokenizer

Prompts = tuple[Tensor, Tensor | None]


@dataclass(frozen=True)
class FrameFeatures:
    """One frame of a clip, encoded.

    Attributes:
        map: (B, N, C) the stride-16 feature map.
        fine: (B, C / 8, S / 4, S / 4) and (B, C / 4, S / 8, S / 8), high-resolution features of the decoder.
        prompts: (B, P, C) prompt tokens, and (B, P) bool that is False for padding, or None.
    """

    map: Tensor
    fine: tuple[Tensor, Tensor]
    prompts: Prompts

    def of(self, samples: list[int]) -> FrameFeatures:
        """The same for some of the samples."""
        if len(samples) == self.map.shape[0]:
            return self
        sparse, keep = self.prompts
        fine = (self.fine[0][samples], self.fine[1][samples])
        return FrameFeatures(self.map[samples], fine, (sparse[samples], None if keep is None else keep[samples]))

    def packed(self) -> FrameFeatures:
        """The same where the strides do not tell the length of the clip."""
        sparse, keep = self.prompts
        fine = (_packed(self.fine[0]), _packed(self.fine[1]))
        return FrameFeatures(_packed(self.map), fine, (_packed(sparse), keep))


@dataclass(frozen=True)
class ClipFeatures:
    """A clip, encoded with its sentences.

    Attributes:
        map: (B, T, N, C).
        fine: two tensors (V, T, channels, rows, columns) or (B, ...), see `fused`.
        fused: for each of the two, whether text has entered it: only then it is there for every sample.
        clip_of: (B,) int64, the clip of each sample.
        sentence: (B, D), the sentence token after the last text layer.
        prompts: (B, P, C) prompt tokens, and (B, P) bool that is False for padding, or None.
    """

    map: Tensor
    fine: tuple[Tensor, Tensor]
    fused: tuple[bool, bool]
    clip_of: Tensor
    sentence: Tensor
    prompts: Prompts

    def clone(self) -> ClipFeatures:
        """The same in memory of its own."""
        (first, second), (sparse, keep) = self.fine, self.prompts
        return replace(
            self,
            map=self.map.clone(),
            fine=(first.clone(), second.clone()),
            clip_of=self.clip_of.clone(),
            sentence=self.sentence.clone(),
            prompts=(sparse.clone(), None if keep is None else keep.clone()),
        )

    def frame(self, t: int) -> FrameFeatures:
        """The features of frame t."""
        first, second = (
            x[:, t] if fused else _spread(x[:, t], self.clip_of) for x, fused in zip(self.fine, self.fused, strict=True)
        )
        return FrameFeatures(self.map[:, t], (first, second), self.prompts)


@dataclass(frozen=True)
class MemoryCheck:
    """What CME saw in one frame.

    Attributes:
        samples: the k samples that it looked at.
        logits: (k, 2); class 1 means another object.
        memoryless: the frame decoded without memory.
    """

    samples: list[int]
    logits: Tensor
    memoryless: DecodedMask


@dataclass(frozen=True)
class FramePrediction:
    """The result of one frame.

    Attributes:
        decoded: the mask and what comes with it.
        pointer: (B, C) object pointer.
        check: what CME saw, None where it did not look.
    """

    decoded: DecodedMask
    pointer: Tensor
    check: MemoryCheck | None


def _packed(x: Tensor) -> Tensor:
    """`x.contiguous()` whose strides follow from its shape: that leaves the stride of an axis of length 1 as it is."""
    return x.contiguous().flatten().view(x.shape)


def _spread(x: Tensor, clip_of: Tensor) -> Tensor:
    """Give every sample its clip: (V, ...) -> (B, ...), without a copy where there is one clip."""
    if x.shape[0] == 1:
        return x.expand(clip_of.shape[0], *x.shape[1:])
    return x[clip_of]


class SAMWISE(nn.Module, HubMixin):
    """See the module's first line.

    Args:
        config: what the parts below were built from; read for where text enters, sizes, and what CME does.
        sam: SAM 2.
        text_encoder: RoBERTa.
        adapters: one per fusion stage.
        conditional_memory_encoder: CME, or None.
        tokenizer: of the text encoder, or None if only token ids will be given.
    """

    def __init__(
        self,
        config: ModelConfig,
        sam: SAM2,
        text_encoder: TextEncoder,
        adapters: list[CMTAdapter],
        conditional_memory_encoder: ConditionalMemoryEncoder | None,
        tokenizer: Tokenizer | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.tokenizer = tokenizer
        self.sam = sam
        self.text_encoder = text_encoder
        self.cmt_adapters = nn.ModuleList(adapters)
        self.conditional_memory_encoder = conditional_memory_encoder

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.sam.no_mem_embed.device

    def new_session(self) -> Session:
        """An empty session for one video (or, in training, one clip)."""
        return Session(self.config.sam2.max_memories, self.config.sam2.max_pointers)

    def encode(
        self,
        frames: Tensor,
        tokens: TokenBatch,
        clip_of: Tensor | None = None,
        outputs: list[Tensor] | None = None,
        padding: Padding | None = None,
    ) -> ClipFeatures:
        """Encode clips together with their sentences.

        Stages before the first adapter run once per clip, whatever the number of its sentences.

        Args:
            frames: (V, T, 3, S, S), normalised and padded.
            tokens: B sentences.
            clip_of: (B,) int64, the clip of each sentence; by default all belong to the only clip, or each to its own.
            outputs: gets the output of every stage of the trunk, (V * T, H, W, channels) or from the first adapter on
                (B * T, ...), for losses on them.
            padding: what the same sentences' clips before this one, of the same size and length, left for it.

        Returns:
            The features of B samples.
        """
        clips, length = frames.shape[:2]
        samples = tokens.ids.shape[0]
        if clip_of is None:
            assert clips in (1, samples), (clips, samples)
            clip_of = torch.arange(samples, device=frames.device) % clips
        assert padding is None or outputs is None
        padding = padding or Padding((frames.shape[-2], frames.shape[-1]))
        words, text, layers_run = tokens.words, self.text_encoder.embeddings(tokens), 0
        first, x = self.config.fusion_stages[0], self._embed(frames, padding)
        levels: list[Tensor] = []
        for stage in range(len(self.sam.image_encoder.trunk.stage_ends)):
            x = self._run_stage(stage, x, padding, shared=stage <= first)
            if stage in self.config.fusion_stages:
                number = self.config.fusion_stages.index(stage)
                text = self.text_encoder.run_layers(text, words, layers_run, self.config.fusion_stages_txt[number])
                layers_run = self.config.fusion_stages_txt[number]
                x, text = self._fuse(number, x.unflatten(0, (-1, length)), text, words, clip_of, padding)
            if outputs is not None:
                outputs.append(x)
            levels.append(self._level(stage, x, padding, shared=stage < first).unflatten(0, (-1, length)))
        padding.leave()
        text = self.text_encoder.run_layers(text, words, layers_run, self.config.text.layers)
        coarse = [x if stage >= first else _spread(x, clip_of) for stage, x in enumerate(levels[2:], start=2)]
        feature_map = self.sam.image_encoder.neck.feature_map(*(x.flatten(0, 1) for x in coarse))
        return ClipFeatures(
            feature_map.unflatten(0, (-1, length)),
            (levels[0].permute(0, 1, 4, 2, 3), levels[1].permute(0, 1, 4, 2, 3)),
            (False, first <= 1),
            clip_of,
            text[:, 0],
            self._prompts(text, tokens),
        )

    def _embed(self, frames: Tensor, padding: Padding) -> Tensor:
        """Patches with their position: (V, T, 3, S, S) -> (V * T, H, W, channels), without the known padding."""
        trunk = self.sam.image_encoder.trunk
        position = trunk.position(frames.shape[-2] // PATCH_STRIDE, frames.shape[-1] // PATCH_STRIDE)
        frames = padding.enter(frames, trunk.stage_blocks(0)[0].attn.window)
        position = position[:, : frames.shape[-2] // PATCH_STRIDE, : frames.shape[-1] // PATCH_STRIDE]
        pixels = frames.flatten(0, 1).to(self.sam.no_mem_embed.dtype)
        return self._by_frame(lambda part: trunk.embed(part, position), pixels)

    def _run_stage(self, stage: int, x: Tensor, padding: Padding, shared: bool) -> Tensor:
        """The blocks of a stage: (n, H, W, channels) -> (n, H', W', channels'), with as little padding as they need."""
        trunk = self.sam.image_encoder.trunk
        blocks = trunk.stage_blocks(stage)
        while blocks:
            x = padding.fit(f"stage {stage}, {len(blocks)} blocks left", x, blocks[0].attn.window, shared)
            count = padding.count_until_growth(blocks)
            rows = band_rows(x, x.shape[1], trunk.rows_alone(blocks[:count]), x.shape[2])
            x = self._by_frame(functools.partial(trunk.run_blocks, blocks[:count]), x, rows)
            blocks = blocks[count:]
        return x

    def _fuse(
        self, number: int, visual: Tensor, text: Tensor, words: Tensor, clip_of: Tensor, padding: Padding
    ) -> tuple[Tensor, Tensor]:
        """Run an adapter: (V or B, T, H, W, channels) and (B, L, D) -> (B * T, H, W, channels) and (B, L, D)."""
        adapter = self.cmt_adapters[number]
        assert isinstance(adapter, CMTAdapter)
        unit = 0 if number else adapter.patch or 1  # later text has read the video, and makes the padding depend on it
        shared = number == 0
        visual = padding.fit(f"adapter {number}", visual.flatten(0, 1), unit, shared).unflatten(0, visual.shape[:2])
        attended, mean = adapter.look(visual)
        mean = padding.complete(f"mean of adapter {number}", mean, shared)
        if shared:
            visual, attended, mean = (_spread(y, clip_of) for y in (visual, attended, mean))
        visual_out, text_out = adapter(attended, mean, text, words)
        return (visual + visual_out).flatten(0, 1), text + text_out

    def _level(self, stage: int, x: Tensor, padding: Padding, shared: bool) -> Tensor:
        """What is read of a stage's output (n, H, W, channels) in the end: the whole map (n, H, W, channels')."""
        reductions = (self.sam.sam_mask_decoder.conv_s0, self.sam.sam_mask_decoder.conv_s1)
        if stage < len(reductions):
            x = self.sam.image_encoder.neck.high_resolution(stage, x, reductions[stage])
        return padding.complete(f"level {stage}", x, shared)

    def _by_frame(self, function: Callable[[Tensor], Tensor], x: Tensor, rows: int | None = None) -> Tensor:
        """Apply what treats frames alone, on a CPU outside training one by one: the caches are small there.

        Args:
            function: to (n, H, W, channels).
            x: (n, H, W, channels), or whatever else has n first.
            rows: of a band that `function` may be given alone; by default whole frames.

        Returns:
            (n, H', W', channels').
        """
        if not in_bands(x):
            return function(x)
        bands = [function(band) for frame in x.split(1) for band in frame.split(rows or x.shape[1], dim=1)]
        return torch.cat([band.flatten(0, 1) for band in bands]).unflatten(0, (x.shape[0], -1))

    def _prompts(self, text: Tensor, tokens: TokenBatch) -> Prompts:
        """Prompt tokens (B, P, C) from the text (B, L, D) after its last layer, and which of them count."""
        encoder = self.sam.sam_prompt_encoder
        if tokens.verbs is None:
            return encoder(text[:, 0]), None
        most = tokens.most_verbs
        first = tokens.verbs.long().argsort(dim=1, descending=True, stable=True)[:, :most]
        verbs = torch.take_along_dim(text, first[..., None], dim=1)
        keep = torch.take_along_dim(tokens.verbs, first, dim=1)
        sparse = encoder(text[:, 0], verbs)
        return sparse, torch.cat([keep.new_ones(keep.shape[0], sparse.shape[1] - most), keep], dim=1)

    def step(self, frame: FrameFeatures, session: Session) -> FramePrediction:
        """Segment one frame and remember it.

        Args:
            frame: the encoded frame.
            session: state of the video; is advanced by one frame.
        """
        grid = self._grid()
        conditioned = self.sam.read_memory(frame.map, session.memories, session.pointers, grid)
        decoded = self.sam.decode(conditioned, frame.prompts, frame.fine, grid)
        pointer = self.sam.object_pointer(decoded)
        check = self._check_memory(frame, pointer, session)
        logits = self.sam.enlarge(decoded.logits, self.config.sam2.image_size)
        if check is not None and not self.training:
            logits = self._switch(logits, check, session)
        session.remember(self.sam.memorize(frame.map, logits, decoded.visible, grid), pointer)
        return FramePrediction(decoded, pointer, check)

    def _grid(self) -> tuple[int, int]:
        side = self.config.sam2.image_size // FEATURE_STRIDE
        return side, side

    def _check_memory(self, frame: FrameFeatures, pointer: Tensor, session: Session) -> MemoryCheck | None:
        """Let CME look at the current frame, for those expressions whose turn it is."""
        if self.conditional_memory_encoder is None:
            return None
        samples = session.expressions_to_check(self.config.cme_decision_window)
        if not samples:
            return None
        chosen = frame.of(samples)
        with torch.no_grad():  # CME learns from what the network shows, and does not teach the network
            image = self.sam.without_memory(chosen.map)
            sentence = chosen.prompts[0][:, :SENTENCE_TOKENS]  # without verbs
            memoryless = self.sam.decode(image, (sentence, None), chosen.fine, self._grid())
        logits = self.conditional_memory_encoder(pointer[samples].detach(), memoryless.early_token)
        return MemoryCheck(samples, logits, memoryless)

    def _switch(self, logits: Tensor, check: MemoryCheck, session: Session) -> Tensor:
        """What enters memory after CME looked: (B, S, S) -> (B, S, S)."""
        chosen = (check.logits[:, 1] > check.logits[:, 0]).nonzero().flatten()
        if chosen.numel() == 0:
            return logits
        samples = torch.tensor(check.samples, device=chosen.device)[chosen]
        session.note_switches(samples)
        memoryless = self.sam.enlarge(check.memoryless.logits[chosen], logits.shape[-1])
        logits = logits.clone()
        logits[samples] = switched_logits(self.config.switch_mem, logits[samples], memoryless)
        return logits
