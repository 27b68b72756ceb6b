"""Our SAM 2 and 2.1 against transformers' own implementation, with its random weights under our keys.

Axes: B batch, N = H * W tokens of the map, C width, D memory channels.
"""

from __future__ import annotations

import functools
import re

import pytest
import torch
from transformers import Sam2HieraDetConfig, Sam2VideoConfig, Sam2VideoModel, Sam2VisionConfig
from transformers.models.sam2_video.configuration_sam2_video import (
    Sam2VideoMaskDecoderConfig,
    Sam2VideoPromptEncoderConfig,
)
from transformers.models.sam2_video.modeling_sam2_video import get_1d_sine_pe

from configs.loading import load_model_config
from models.sam2.sam2 import SAM2
from tests.models.sam2.sam2_helpers import difference, noise, random_weights, run_encoder

TOLERANCE = 2e-5
VERSIONS = ("base", "large_2.1")  # SAM 2 and 2.1, with different windows and background grids
DIM, MEMORY_DIM, HIDDEN, TEXT_DIM = 128, 64, 96, 8  # transformers knows no other memory than one of 64 channels
IMAGE_SIZE = 64
STAGES, GLOBAL_BLOCKS, EMBED_DIM = (1, 2, 3, 2), (4,), 16
GRID = (4, 6)  # rows and columns of the memories, not square: shows whether the two are mixed up

MLP_3 = {"layers.0.": "proj_in.", "layers.1.": "layers.0.", "layers.2.": "proj_out."}
# Rules for one of our keys, in order: pattern, and the name in transformers.
RENAMES = (
    (r"^image_encoder\.trunk\.patch_embed\.proj\.", "vision_encoder.backbone.patch_embed.projection."),
    (r"^image_encoder\.trunk\.", "vision_encoder.backbone."),
    (r"^image_encoder\.neck\.convs\.(\d)\.conv\.", r"vision_encoder.neck.convs.\1."),
    (r"^memory_attention\.norm\.", "memory_attention.layer_norm."),
    (r"^memory_encoder\.mask_downsampler\.encoder\.12\.", "memory_encoder.mask_downsampler.final_conv."),
    (r"^memory_encoder\.pix_feat_proj\.", "memory_encoder.feature_projection."),
    (r"^memory_encoder\.out_proj\.", "memory_encoder.projection."),
    (r"^memory_encoder\.fuser\.(.*)\.norm\.", r"memory_encoder.memory_fuser.\1.layer_norm."),
    (r"^memory_encoder\.fuser\.(.*)\.dwconv\.", r"memory_encoder.memory_fuser.\1.depthwise_conv."),
    (r"^memory_encoder\.fuser\.(.*)\.pwconv(\d)\.", r"memory_encoder.memory_fuser.\1.pointwise_conv\2."),
    (r"^memory_encoder\.fuser\.(.*)\.gamma$", r"memory_encoder.memory_fuser.\1.scale"),
    (r"^sam_prompt_encoder\.pe_layer\.positional_.*", "shared_image_embedding.positional_embedding"),
    (r"^sam_prompt_encoder\.", "prompt_encoder."),
    (r"^sam_mask_decoder\.output_upscaling\.0\.", "mask_decoder.upscale_conv1."),
    (r"^sam_mask_decoder\.output_upscaling\.1\.", "mask_decoder.upscale_layer_norm."),
    (r"^sam_mask_decoder\.output_upscaling\.3\.", "mask_decoder.upscale_conv2."),
    (r"^sam_mask_decoder\.transformer\.norm_final_attn\.", "mask_decoder.transformer.layer_norm_final_attn."),
    (r"^sam_mask_decoder\.", "mask_decoder."),
    (r"^obj_ptr_proj\.", "object_pointer_proj."),
    (r"^obj_ptr_tpos_proj\.", "temporal_positional_encoding_projection_layer."),
    (r"^maskmem_tpos_enc$", "memory_temporal_positional_encoding"),
    (r"^no_mem_embed$", "no_memory_embedding"),
    (r"^no_obj_ptr$", "no_object_pointer"),
    (r"^no_obj_embed_spatial$", "occlusion_spatial_embedding_parameter"),
    # Inside the parts.
    (r"(blocks|layers)\.(\d+)\.norm(\d)\.", r"\1.\2.layer_norm\3."),
    (r"\.mlp\.layers\.0\.", ".mlp.proj_in."),
    (r"\.mlp\.layers\.1\.", ".mlp.proj_out."),
    (r"(attn|image|token)\.out_proj\.", r"\1.o_proj."),
)


def transformers_key(key: str) -> str:
    """The name in transformers of one of our keys."""
    if match := re.match(r"memory_encoder\.mask_downsampler\.encoder\.(\d+)\.(.*)", key):
        position = int(match[1])
        if position < 12:  # groups of a convolution, a norm and an activation without parameters
            part = ("conv", "layer_norm")[position % 3]
            return f"memory_encoder.mask_downsampler.layers.{position // 3}.{part}.{match[2]}"
    for pattern, name in RENAMES:
        key = re.sub(pattern, name, key)
    if re.search(r"(hypernetworks_mlps\.0|_head|pointer_proj)\.layers\.", key):
        for ours, theirs in MLP_3.items():
            if ours in key:
                return key.replace(ours, theirs)
    return key


def build_transformers(name: str) -> Sam2VideoModel:
    """A small network of transformers with random weights and the windows, heads and grid of a version."""
    sam2 = load_model_config(name).sam2
    hiera = sam2.hiera
    backbone = Sam2HieraDetConfig(
        hidden_size=EMBED_DIM,
        blocks_per_stage=list(STAGES),
        embed_dim_per_stage=[EMBED_DIM << stage for stage in range(4)],
        num_attention_heads_per_stage=[hiera.num_heads << stage for stage in range(4)],
        window_size_per_stage=list(hiera.windows),
        global_attention_blocks=list(GLOBAL_BLOCKS),
        window_positional_embedding_background_size=[hiera.background_grid] * 2,
    )
    vision = Sam2VisionConfig(
        backbone_config=backbone,
        backbone_channel_list=[EMBED_DIM << stage for stage in (3, 2, 1, 0)],
        fpn_hidden_size=DIM,
    )
    config = Sam2VideoConfig(
        vision_config=vision,
        prompt_encoder_config=Sam2VideoPromptEncoderConfig(hidden_size=DIM, image_size=IMAGE_SIZE),
        mask_decoder_config=Sam2VideoMaskDecoderConfig(
            hidden_size=DIM, mlp_dim=HIDDEN, iou_head_hidden_dim=DIM, dynamic_multimask_via_stability=False
        ),
        enable_occlusion_spatial_embedding=sam2.no_object_memory,
        enable_temporal_pos_encoding_for_object_pointers=sam2.pointer_time,
        memory_attention_hidden_size=DIM,
        memory_attention_num_layers=2,
        memory_attention_feed_forward_hidden_size=HIDDEN,
        memory_attention_rope_feat_sizes=[GRID[1], GRID[0]],
        memory_encoder_hidden_size=DIM,
        memory_encoder_output_channels=MEMORY_DIM,
        mask_downsampler_embed_dim=DIM,
        memory_fuser_embed_dim=DIM,
        memory_fuser_intermediate_dim=4 * DIM,
    )
    torch.manual_seed(0)
    model = Sam2VideoModel(config).eval()
    random_weights(model)
    return model


@functools.cache
def both(name: str) -> tuple[SAM2, Sam2VideoModel]:
    """Our network and that of transformers with the same weights."""
    theirs = build_transformers(name)
    config = load_model_config(
        name,
        sam2__image_size=IMAGE_SIZE,
        sam2__model_dim=DIM,
        sam2__memory_dim=MEMORY_DIM,
        sam2__memory_attention_layers=2,
        sam2__memory_attention_hidden=HIDDEN,
        sam2__decoder_hidden=HIDDEN,
        sam2__hiera__embed_dim=EMBED_DIM,
        sam2__hiera__stages=STAGES,
        sam2__hiera__global_blocks=GLOBAL_BLOCKS,
    ).sam2
    ours = SAM2(config, TEXT_DIM, object_score=True, motion_prompt=False).eval()
    state = theirs.state_dict()
    converted = {key: state[transformers_key(key)] for key in ours.state_dict() if "project_text" not in key}
    missing = ours.load_state_dict(converted, strict=False).missing_keys
    assert all("project_text" in key for key in missing)
    return ours, theirs


@pytest.mark.parametrize("name", VERSIONS)
@pytest.mark.parametrize("size", [(256, 256), (224, 224), (64, 96), (160, 32)], ids=str)
@torch.inference_mode()
def test_image_encoder(name: str, size: tuple[int, int]) -> None:
    """224 fills windows of 14 and 7 exactly; in the others windows hang over the edge, up to a map that is smaller."""
    ours, theirs = both(name)
    frames = noise(2, 3, *size)
    stages, fine, feature_map = run_encoder(ours, frames)
    vision = theirs.vision_encoder
    expected_stages = vision.backbone(frames).intermediate_hidden_states
    for x, expected in zip(stages, expected_stages, strict=True):
        assert difference(x, expected) < TOLERANCE
    levels = vision(frames).fpn_hidden_states  # finest first
    decoder = theirs.mask_decoder
    assert difference(fine[0], decoder.conv_s0(levels[0])) < TOLERANCE
    assert difference(fine[1], decoder.conv_s1(levels[1])) < TOLERANCE
    assert difference(feature_map, levels[2].flatten(2).transpose(1, 2)) < TOLERANCE


@pytest.mark.parametrize("name", VERSIONS)
@torch.inference_mode()
def test_prompts_and_mask_decoder(name: str) -> None:
    ours, theirs = both(name)
    batch, side = 3, IMAGE_SIZE // 16
    features, sentence = noise(batch, side * side, DIM), noise(batch, TEXT_DIM, seed=2)
    fine = (noise(batch, DIM // 8, 4 * side, 4 * side, seed=3), noise(batch, DIM // 4, 2 * side, 2 * side, seed=4))
    prompts = ours.sam_prompt_encoder(sentence)
    decoded = ours.sam_mask_decoder(
        features + ours.sam_prompt_encoder.no_mask_embed.weight,
        ours.sam_prompt_encoder.image_position(side, side),
        (prompts, None),
        fine,
        (side, side),
    )
    no_point = torch.full((batch, 1, 1), -1)
    sparse, dense = theirs.prompt_encoder(torch.zeros(batch, 1, 1, 2), no_point, None, None)
    sparse = torch.cat([sparse, prompts[:, None, 2:]], dim=2)  # the sentence, which transformers knows nothing of
    masks, ious, tokens, scores = theirs.mask_decoder(
        image_embeddings=features.transpose(1, 2).unflatten(2, (side, side)),
        image_positional_embeddings=theirs.get_image_wide_positional_embeddings().expand(batch, -1, -1, -1),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=False,
        high_resolution_features=list(fine),
    )[:4]
    assert difference(decoded.logits, masks[:, 0, 0]) < TOLERANCE
    assert difference(decoded.iou, ious[:, 0, 0]) < TOLERANCE
    assert difference(decoded.score, scores[:, 0, 0]) < TOLERANCE
    assert difference(decoded.mask_token, tokens[:, 0, 0]) < TOLERANCE
    pointer = theirs.object_pointer_proj(tokens[:, 0, 0])
    pointer = torch.where(scores[:, 0] > 0, pointer, theirs.no_object_pointer)
    assert difference(ours.object_pointer(decoded), pointer) < TOLERANCE


@pytest.mark.parametrize("name", VERSIONS)
@torch.inference_mode()
def test_memory_encoder(name: str) -> None:
    ours, theirs = both(name)
    features, logits = noise(2, DIM, *GRID), 5 * noise(2, 16 * GRID[0], 16 * GRID[1], seed=2)
    visible = torch.tensor([True, False])
    memory = ours.memorize(features.flatten(2).transpose(1, 2), logits, visible, GRID)
    expected, _ = theirs.memory_encoder(features, (logits.sigmoid() * 20 - 10)[:, None])
    if (added := theirs.occlusion_spatial_embedding_parameter) is not None:  # SAM 2.1
        expected = expected + (~visible)[:, None, None, None] * added[..., None, None]
    assert difference(memory, expected.flatten(2).transpose(1, 2)) < TOLERANCE


@pytest.mark.parametrize("name", VERSIONS)
@pytest.mark.parametrize("frames", [1, 3, 6, 9, 15])
@torch.inference_mode()
def test_memory_attention(name: str, frames: int) -> None:
    """What is read after a number of frames: at most 6 memories, and a pointer of every frame."""
    ours, theirs = both(name)
    batch, count = 2, GRID[0] * GRID[1]
    features = noise(batch, count, DIM)
    memories = list(noise(min(frames, 6), batch, count, MEMORY_DIM, seed=2))  # oldest first
    pointers = list(noise(frames, batch, DIM, seed=3))  # newest first
    conditioned = ours.read_memory(features, memories, pointers, GRID)

    _, place = theirs.memory_encoder(noise(1, DIM, *GRID), torch.zeros(1, 1, 16 * GRID[0], 16 * GRID[1]))
    place = place.flatten(2).permute(2, 0, 1)
    ages = torch.arange(1, frames + 1)
    memory = [x.transpose(0, 1) for x in memories]
    position = [
        (place + theirs.memory_temporal_positional_encoding[age - 1]).expand(-1, batch, -1)
        for age in range(len(memories), 0, -1)
    ]
    for pointer, age in zip(pointers, ages, strict=True):
        memory.append(pointer.unflatten(1, (-1, MEMORY_DIM)).transpose(0, 1))
        time = torch.zeros(MEMORY_DIM)
        if name.endswith("2.1"):
            time = theirs.temporal_positional_encoding_projection_layer(get_1d_sine_pe(age[None] / 15, dim=DIM)[0])
        position.append(time.expand(DIM // MEMORY_DIM, batch, -1))
    sine = theirs.vision_encoder.neck.position_encoding(torch.Size([1, DIM, *GRID]), features.device, features.dtype)
    expected = theirs.memory_attention(
        current_vision_features=features.transpose(0, 1),
        current_vision_position_embeddings=sine.flatten(2).permute(2, 0, 1),
        memory=torch.cat(memory),
        memory_posision_embeddings=torch.cat(position),
        num_object_pointer_tokens=frames * DIM // MEMORY_DIM,
    )
    assert difference(conditioned, expected.reshape(batch, count, DIM)) < TOLERANCE


@torch.inference_mode()
def test_without_memory() -> None:
    ours, theirs = both("base")
    features = noise(2, GRID[0] * GRID[1], DIM)
    assert torch.equal(ours.read_memory(features, (), (), GRID), features + theirs.no_memory_embedding)
