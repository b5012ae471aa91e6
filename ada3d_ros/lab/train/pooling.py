"""Trains the pooling of `condensed_grid` for a model that stays as it is.

Rooms are rendered and pass the tower once; then steps of random budgets: the columns of each room
are pooled by the network's shares, the frozen model answers questions about them, and the losses
of training (`objective.losses`) move the network alone.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from ada3d_ros.lab.train.gallery import Gallery, normalise
from ada3d_ros.lab.train.objective import losses, run_packed
from ada3d_ros.lab.train.packing import Packer
from ada3d_ros.lab.train.stages import MIX
from ada3d_ros.lab.train.tokens import Points, RoomTokens, room_tokens
from ada3d_ros.lab.world.graph import Graph, graphs
from ada3d_ros.lab.world.questions import make_questions
from ada3d_ros.lab.world.rooms import make_rooms
from ada3d_ros.lab.world.wordings import reword
from ada3d_ros.model.checkpoint import inspect_checkpoint, load_inspected
from ada3d_ros.model.grounding_head import GroundingHead
from ada3d_ros.model.llava3d import Llava3D
from ada3d_ros.pruning.baselines.condensed_grid import columns, condense, score
from ada3d_ros.pruning.strategy import Candidates
from ada3d_ros.types import SpatialTokens

HIDDEN = 32
RATIOS = (0.05, 0.1, 0.2)  # what is kept while it learns, in turn at random
ROOMS_A_STEP, QUESTIONS = 4, 16
LEARNING_RATE = 5e-3
REPORT_EVERY = 25  # steps


@dataclass(frozen=True, eq=False, slots=True)
class Learner:
    """The frozen model and head, and the pooling that learns."""

    model: Llava3D
    head: GroundingHead
    packer: Packer
    pooling: dict[str, torch.Tensor]


def new_pooling(width: int, seed: int) -> dict[str, torch.Tensor]:
    """A network that pools evenly at first."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "in.weight": torch.randn(HIDDEN, width, generator=generator) * width**-0.5,
        "in.bias": torch.zeros(HIDDEN),
        "out.weight": torch.zeros(1, HIDDEN),
    }


def open_learner(checkpoint: Path, seed: int) -> Learner:
    """Raises CheckpointError as for `ada3d train --from`."""
    loaded = load_inspected(inspect_checkpoint(checkpoint))
    model, head = loaded.llava3d.requires_grad_(False), loaded.head
    assert head is not None, "the questions that point need a grounding head"
    ids = model.config.point_id, model.config.egocentric_point_id
    packer = Packer(loaded.tokenizer, point_ids=ids)
    pooling = new_pooling(model.config.vision.hidden_size, seed)
    return Learner(model, head.head.requires_grad_(False), packer, pooling)


@torch.no_grad()
def rooms_of(model: Llava3D, gallery: Gallery) -> Iterator[tuple[Graph, RoomTokens, int]]:
    """Each room's graph, its spatial tokens and how many objects a token can belong to."""
    for index in tqdm(range(len(gallery)), desc="tokens", mininterval=10):
        rooms = make_rooms(gallery.split, gallery.seeds[index : index + 1], gallery.level)
        pixels = normalise(torch.from_numpy(gallery.rgb[index]), model.config.vision)
        features = model.encode_views(pixels).flatten(0, 1)
        xyz, owners = (torch.from_numpy(x[index].copy()) for x in (gallery.xyz_m, gallery.owners))
        points = [Points(xyz, owners.long(), features)]
        code = torch.zeros(0, features.shape[1])
        tokens = room_tokens(model, rooms, points, code, model.config.voxel_size_m)
        yield graphs(rooms)[0], tokens[0], rooms.category.shape[1]


def pooled(room: RoomTokens, ratio: float, pooling: dict[str, torch.Tensor]) -> RoomTokens:
    """The room as `condensed_grid` gives it at this keep ratio, with gradients to the network; in
    the order of the places that stand for the columns, as a sorted choice is.
    """
    tokens = room.tokens
    budget = max(1, int(ratio * len(tokens.features)))
    candidates = Candidates(tokens.features, tokens.xyz_m, tokens.num_patches, tokens.voxel_size_m)
    scores = score(tokens.features, pooling)
    chosen = condense(columns(candidates, budget), scores, budget).in_order()
    patches = torch.zeros(budget, dtype=torch.int64)
    patches.index_add_(0, chosen.groups, tokens.num_patches)
    condensed = SpatialTokens(
        chosen.merge(tokens.features),
        chosen.merge(tokens.xyz_m).detach(),  # as the engine has it (decision 0179)
        patches,
        tokens.voxel_size_m,
    )
    return RoomTokens(condensed, chosen.merge(room.owner).detach())


def step_loss(
    learner: Learner,
    rooms: Sequence[tuple[Graph, RoomTokens, int]],
    draw: random.Random,
    ratio: float,
) -> tuple[torch.Tensor, dict[str, float]]:
    """The losses of questions about rooms condensed to this ratio."""
    known = [graph for graph, _, _ in rooms]
    asked = []
    for graph in known:
        kinds = tuple(MIX[draw.randrange(len(MIX))] for _ in range(QUESTIONS))
        made = make_questions(graph, draw.randrange(2**40), kinds, QUESTIONS)
        asked.append([reword(question, draw) for question in made])
    packed = learner.packer.pack(known, asked, rooms[0][2], draw.randrange(2**40))
    tokens = [pooled(room, ratio, learner.pooling) for _, room, _ in rooms]
    states = run_packed(learner.model, learner.packer.prefix_ids, tokens, packed)
    return losses(learner.model.decoder, learner.head, states, packed)


def train(
    learner: Learner, rooms: Sequence[tuple[Graph, RoomTokens, int]], steps: int, seed: int
) -> list[dict[str, float]]:
    """Learns for so many steps; the means of the losses every REPORT_EVERY of them, and the minutes
    of processor time they took.
    """
    started, parameters = time.process_time(), list(learner.pooling.values())
    for parameter in parameters:
        parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=0.01)
    draw, log = random.Random(seed), []
    sums: dict[str, float] = {}
    for step in range(1, steps + 1):
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * (1.0 - 0.9 * step / steps)
        batch = [rooms[draw.randrange(len(rooms))] for _ in range(ROOMS_A_STEP)]
        loss, parts = step_loss(learner, batch, draw, RATIOS[draw.randrange(len(RATIOS))])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        for name, value in parts.items():
            sums[name] = sums.get(name, 0.0) + value / REPORT_EVERY
        if step % REPORT_EVERY == 0:
            log.append({"step": step, "minutes": (time.process_time() - started) / 60, **sums})
            print(" ".join(f"{name} {value:.3f}" for name, value in log[-1].items()), flush=True)
            sums = {}
    for parameter in parameters:
        parameter.requires_grad_(False)
    return log
