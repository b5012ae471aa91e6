"""The embedded model before training: sizes, tokenizer, first weights, code of the vision features.

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

from ada3d_ros.asking.words import SYNONYMS
from ada3d_ros.lab.train.packing import prompt_text
from ada3d_ros.lab.world.graph import graphs
from ada3d_ros.lab.world.questions import KINDS, make_questions
from ada3d_ros.lab.world.rooms import CATEGORIES, COLORS, make_rooms
from ada3d_ros.lab.world.wordings import reword
from ada3d_ros.model.config import DecoderConfig, LlavaConfig, VisionConfig
from ada3d_ros.model.grounding_head import GroundingHead
from ada3d_ros.model.llava3d import Llava3D
from ada3d_ros.model.prompt import POINT_TOKENS, SYSTEM_PROMPTS, Tokenizer
from ada3d_ros.model.video3dllm.vision import SiglipTower
from ada3d_ros.model.vision import VisionTower

NUM_LABELS = len(CATEGORIES) + 1 + len(COLORS) + 1
CODE_SCALE = 3.0
CORPUS_ROOMS = 400

EMBEDDED_CONFIG = LlavaConfig(
    decoder=DecoderConfig(
        vocab_size=1280,
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
        image_size=128,
    ),
    voxel_size_m=0.3,
)


def corpus() -> list[str]:
    """What the tokenizer is trained on, so that every word becomes a piece.

    Questions and answers of some training rooms.
    """
    texts = [system + " USER: \n ASSISTANT: </s>" for system in SYSTEM_PROMPTS.values()] * 20
    texts += [" ".join(names) for names in SYNONYMS.values()] * 20
    texts += [
        "Please look here. At where Is What Which How Do The here not seen Do you see it? I have"
        " not seen it. Where is it? Please describe the scene concisely. yes no"
    ] * 20
    draw = random.Random(0)
    for graph in graphs(make_rooms("train", torch.arange(CORPUS_ROOMS))):
        for question in make_questions(graph, draw.randrange(2**30), tuple(KINDS), 44):
            asked = reword(question, draw)
            texts.append(f"USER: {prompt_text(asked)} ASSISTANT: {asked.answer}")
    return texts


def feature_code(width: int) -> torch.Tensor:
    """(NUM_LABELS, width) float32: orthogonal rows of length CODE_SCALE.

    Categories (background last) come before colours (none last).
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
        eos_ids=(tokenizer.eos_id,),
    )
    point_id, egocentric_id = map(tokenizer.control_id, POINT_TOKENS)
    config = dataclasses.replace(
        EMBEDDED_CONFIG,
        decoder=decoder,
        point_id=point_id,
        egocentric_point_id=egocentric_id,
        question_kinds=tuple(KINDS),
    )
    torch.manual_seed(seed)
    model = Llava3D(config)
    for name, parameter in model.named_parameters():
        initialise(name, parameter, decoder.num_layers)
    initialise_locally(model.vision)
    return model, GroundingHead(decoder.hidden_size)


@torch.no_grad()
def initialise(name: str, parameter: nn.Parameter, layers: int) -> None:
    """The first value of one parameter, by its name; layers: of the decoder."""
    # Vectors: norms 1, biases 0, but for those of the point encoders: with one offset all points
    # would lie on the same side of the ReLU.
    if parameter.ndim == 1:
        of_points = "position_embedding." in name or "click_encoder." in name
        if name.endswith(".0.bias") and of_points:
            parameter.normal_(0.0, 1.0)
        elif name.endswith("bias"):
            parameter.zero_()
        elif "class_embedding" not in name:
            parameter.fill_(1.0)

    # Matrices: by their inputs, those that write into the residual stream smaller with depth.
    elif "embed_tokens" in name:
        parameter.normal_(0.0, 0.7)
    elif "position_embedding.weight" in name:
        parameter.normal_(0.0, 0.3)
    elif name.endswith(("o_proj.weight", "down_proj.weight", "out_proj.weight", "fc2.weight")):
        parameter.normal_(0.0, 1.0 / math.sqrt(parameter[0].numel() * 2 * layers))
    else:
        parameter.normal_(0.0, 1.0 / math.sqrt(parameter[0].numel()))


@torch.no_grad()
def initialise_locally(tower: VisionTower | SiglipTower) -> None:
    """A tower whose patches first attend to their neighbours.

    2D sine and cosine places, keys like queries: from random places and keys category was hardly
    learned (docs/log.md).
    """
    # Places: sines and cosines of row and column.
    places = tower.embeddings.position_embedding
    patches, width = math.isqrt(places.num_embeddings), places.embedding_dim  # CLIP has one more
    rates = torch.pi / torch.logspace(math.log10(2 * patches), math.log10(2.0), width // 4)
    row, column = torch.meshgrid(torch.arange(patches), torch.arange(patches), indexing="ij")
    angles = torch.cat((row.reshape(-1, 1) * rates, column.reshape(-1, 1) * rates), dim=-1)
    places.weight[-(patches**2) :] = torch.cat((angles.sin(), angles.cos()), dim=-1) * 0.7

    # Keys like queries: like attends to like.
    for name, parameter in tower.named_parameters():
        if name.endswith("k_proj.weight"):
            query = tower.get_parameter(name.replace("k_proj", "q_proj"))
            query.mul_(1.4)
            parameter.copy_(query)
