"""Frozen dataclasses for all that configuration can say. Numbers and names only: nothing here builds anything."""

from __future__ import annotations

from dataclasses import dataclass

SWITCH_MODES = ("all_mask", "reweight", "avg")
PROTOCOLS = ("paper", "fixed")
PRECISIONS = ("fp32", "tf32", "bf16")


@dataclass(frozen=True)
class HieraConfig:
    """The image encoder (SAM 2 paper, section 3; Hiera, arXiv 2306.00989).

    Attributes:
        embed_dim: channels of stage 0; they double at every stage.
        num_heads: attention heads of stage 0; they double at every stage.
        stages: blocks per stage.
        global_blocks: indices, over all blocks, of those that attend over the whole image.
        windows: side of the attention window in each stage, in tokens.
        background_grid: side of the learned background position grid.
    """

    embed_dim: int
    num_heads: int
    stages: tuple[int, ...]
    global_blocks: tuple[int, ...]
    windows: tuple[int, ...]
    background_grid: int


@dataclass(frozen=True)
class Sam2Config:
    """One SAM 2 or SAM 2.1 network.

    Attributes:
        name: value of `--sam2_version`.
        checkpoint: name of the official weight file.
        image_size: side of the square network input in pixels.
        hiera: the image encoder.
        model_dim: width of features, prompts, decoder and memory attention.
        memory_dim: channels of one stored memory.
        memory_attention_layers: layers of the memory attention.
        memory_attention_hidden: feed-forward width of the memory attention.
        decoder_hidden: feed-forward width of the two-way transformer.
        max_memories: frames of the past whose encoded memories are read.
        max_pointers: frames of the past whose object pointers are read.
        no_object_memory: SAM 2.1: a learned vector is added to memories of frames without the object.
        pointer_time: SAM 2.1: object pointers carry a projected encoding of their age.
    """

    name: str
    checkpoint: str
    image_size: int
    hiera: HieraConfig
    model_dim: int
    memory_dim: int
    memory_attention_layers: int
    memory_attention_hidden: int
    decoder_hidden: int
    max_memories: int
    max_pointers: int
    no_object_memory: bool
    pointer_time: bool


@dataclass(frozen=True)
class TextConfig:
    """The RoBERTa text encoder.

    Attributes:
        vocab_size: rows of the token embedding.
        hidden_size: width.
        layers: number of transformer layers.
        heads: attention heads per layer.
        intermediate_size: feed-forward width.
        max_positions: rows of the position embedding (two more than the longest sentence in tokens).
    """

    vocab_size: int
    hidden_size: int
    layers: int
    heads: int
    intermediate_size: int
    max_positions: int


@dataclass(frozen=True)
class ModelConfig:
    """The whole network: a SAM 2, a text encoder, and what SAMWISE puts between them.

    Attributes:
        sam2: the frozen SAM 2.
        text: the frozen text encoder.
        adapter_dim: width inside the cross-modal temporal adapters.
        fusion_stages: Hiera stages that end with an adapter.
        fusion_stages_txt: number of text layers that have run when the adapter of the same position reads the text.
        hsa: hierarchical selective attention inside the adapters (`--HSA`).
        hsa_patch_size: side of the HSA patches of each adapter, in tokens.
        use_cme_head: the conditional memory encoder.
        switch_mem: what a positive CME decision writes to memory: one of `SWITCH_MODES`.
        cme_decision_window: least distance in frames, plus one, between two CME switches.
        pred_obj_score: object scores (off with `--disable_pred_obj_score`).
        motion_prompt: verbs of the sentence become further prompt tokens.
    """

    sam2: Sam2Config
    text: TextConfig
    adapter_dim: int
    fusion_stages: tuple[int, ...]
    fusion_stages_txt: tuple[int, ...]
    hsa: bool
    hsa_patch_size: tuple[int, ...]
    use_cme_head: bool
    switch_mem: str
    cme_decision_window: int
    pred_obj_score: bool
    motion_prompt: bool
