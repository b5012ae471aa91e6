"""What the embedded model is before it has learned: its sizes, its tokenizer, its first weights,
and the code of its vision features.

Same modules and key names as LLaVA-3D-7B. The vision tower is taught to write, into the feature
space that the projector reads, how likely each category and colour is at a patch's corner
(`feature_code`); so the decoder can learn from true labels first (`oracle`).
"""

from __future__ import annotations

import dataclasses
import math
import random

import torch
from torch import nn

from ada3d_ros.lab.train.packing import prompt_text
from ada3d_ros.lab.world.graph import graphs
from ada3d_ros.lab.world.questions import KINDS, make_questions
from ada3d_ros.lab.world.rooms import CATEGORIES, COLORS, make_rooms
from ada3d_ros.model.config import DecoderConfig, LlavaConfig, VisionConfig
from ada3d_ros.model.grounding_head import GroundingHead
from ada3d_ros.model.llava3d import Llava3D
from ada3d_ros.model.prompt import SYSTEM_PROMPTS, Tokenizer
from ada3d_ros.model.vision import VisionTower

NUM_LABELS = len(CATEGORIES) + 1 + len(COLORS) + 1
CODE_SCALE = 3.0
CORPUS_ROOMS = 400

EMBEDDED_CONFIG = LlavaConfig(
    decoder=DecoderConfig(
        vocab_size=1024,
        hidden_size=192,
        intermediate_size=512,
        num_layers=4,
        num_heads=3,
        num_kv_heads=3,
        max_positions=4096,
    ),
    vision=VisionConfig(
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=6,
        num_attention_heads=4,
        patch_size=8,
        image_size=96,
    ),
    voxel_size_m=0.4,
)


def corpus() -> list[str]:
    """What the tokenizer is trained on: questions and answers of some training rooms, so that every
    word becomes a piece.
    """
    texts = [system + " USER: \n ASSISTANT: </s>" for system in SYSTEM_PROMPTS.values()] * 20
    texts += [
        "Please look here. At where Is What Which How Do The here not seen Do you see it? I have"
        " not seen it. Where is it? Please describe the scene concisely. yes no"
    ] * 20
    draw = random.Random(0)
    for graph in graphs(make_rooms("train", torch.arange(CORPUS_ROOMS))):
        for question in make_questions(graph, draw.randrange(2**30), tuple(KINDS), 44):
            texts.append(f"USER: {prompt_text(question)} ASSISTANT: {question.answer}")
    return texts


def feature_code(width: int) -> torch.Tensor:
    """(NUM_LABELS, width) float32: orthogonal rows of length CODE_SCALE, categories (background
    last) before colours (none last).
    """
    generator = torch.Generator().manual_seed(20)
    rows = torch.linalg.qr(torch.randn(width, NUM_LABELS, generator=generator)).Q.T
    return CODE_SCALE * rows.contiguous()


def new_model(tokenizer: Tokenizer, seed: int = 0) -> tuple[Llava3D, GroundingHead]:
    """The untrained model and its grounding head, float32."""
    decoder = dataclasses.replace(
        EMBEDDED_CONFIG.decoder,
        vocab_size=tokenizer.vocab_size,
        bos_id=tokenizer.bos_id,
        eos_id=tokenizer.eos_id,
    )
    torch.manual_seed(seed)
    model = Llava3D(dataclasses.replace(EMBEDDED_CONFIG, decoder=decoder))
    for name, parameter in model.named_parameters():
        _start(name, parameter, decoder.num_layers)
    _start_local(model.vision)
    return model, GroundingHead(decoder.hidden_size)


def _start(name: str, parameter: nn.Parameter, layers: int) -> None:
    with torch.no_grad():
        if parameter.ndim == 1:
            if name.endswith(".0.bias") and (
                "position_embedding." in name or "click_encoder." in name
            ):
                parameter.normal_(
                    0.0, 1.0
                )  # points of many offsets, or all see the same side of the ReLU
            elif name.endswith("bias"):
                parameter.zero_()
            elif "class_embedding" not in name:
                parameter.fill_(1.0)
        elif "embed_tokens" in name:
            parameter.normal_(0.0, 0.7)
        elif "position_embedding.weight" in name:
            parameter.normal_(0.0, 0.3)
        elif name.endswith(("o_proj.weight", "down_proj.weight", "out_proj.weight", "fc2.weight")):
            parameter.normal_(0.0, 1.0 / math.sqrt(parameter[0].numel() * 2 * layers))
        else:
            parameter.normal_(0.0, 1.0 / math.sqrt(parameter[0].numel()))


def _start_local(tower: VisionTower) -> None:
    """A tower whose patches first look at their neighbours: 2D sine and cosine places, keys like
    queries.

    From random places and keys category was hardly learned (docs/log.md).
    """
    side, width = (
        tower.embeddings.position_embedding.num_embeddings,
        tower.embeddings.position_embedding.embedding_dim,
    )
    patches = math.isqrt(side - 1)
    rates = torch.pi / torch.logspace(math.log10(2 * patches), math.log10(2.0), width // 4)
    row, column = torch.meshgrid(torch.arange(patches), torch.arange(patches), indexing="ij")
    angles = torch.cat((row.reshape(-1, 1) * rates, column.reshape(-1, 1) * rates), dim=-1)
    with torch.no_grad():
        tower.embeddings.position_embedding.weight[1:] = (
            torch.cat((angles.sin(), angles.cos()), dim=-1) * 0.7
        )
        for name, parameter in tower.named_parameters():
            if name.endswith("k_proj.weight"):
                query = tower.get_parameter(name.replace("k_proj", "q_proj"))
                query.mul_(1.4)
                parameter.copy_(query)
