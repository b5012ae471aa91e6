"""One batch of a stage: its rooms and points, its loss, and which answers were right."""

from __future__ import annotations

import random
from collections import defaultdict

import torch
from torch.nn import functional as F

from ada3d_ros.lab.train.embedded import CODE_SCALE
from ada3d_ros.lab.train.gallery import normalise
from ada3d_ros.lab.train.objective import losses, run_packed
from ada3d_ros.lab.train.packing import PackedQuestions
from ada3d_ros.lab.train.session import Session
from ada3d_ros.lab.train.stages import MIX, Stage
from ada3d_ros.lab.train.tokens import (
    SYMBOLIC_VOXEL_M,
    Points,
    label_shares,
    quarter_turn,
    room_tokens,
    symbolic_points,
    turn_rooms,
)
from ada3d_ros.lab.train.video_form import from_first_camera, video_room_tokens
from ada3d_ros.lab.world.graph import Graph, graphs
from ada3d_ros.lab.world.questions import make_questions
from ada3d_ros.lab.world.room_question import RoomQuestion
from ada3d_ros.lab.world.rooms import CATEGORIES, Rooms, make_rooms
from ada3d_ros.lab.world.wordings import reword
from ada3d_ros.model.video3dllm.backbone import Video3DLLM

VAL_ROOMS = 64
SYMBOLIC_SEEDS = 10**9  # rooms without pictures are endless; they start after the gallery's
VISION_LOSS_WEIGHT = 0.5  # of the patch labels, while the decoder learns from images


def draw_rooms(
    session: Session, stage: Stage, split: str, number: int, turn: int
) -> tuple[Rooms, list[Points], torch.Tensor | None]:
    """Batch `number` of a stage: the rooms, turned; their points; the pictures.

    Pictures (B, V, S, S, 3) uint8, None where the stage shows none.
    """
    # Symbolic rooms are made on the spot, each is seen once.
    if stage.shows == "symbolic":
        seeds = torch.arange(stage.batch) + number * stage.batch + SYMBOLIC_SEEDS
        rooms = turn_rooms(make_rooms(split, seeds, session.level), turn)
        generator = torch.Generator().manual_seed(number)
        points = symbolic_points(rooms, stage.per_object, stage.background, generator)
        return *_in_model_world(session, rooms, points), None

    # Rendered ones are shuffled anew in every pass.
    count = session.gallery_rooms if split == "train" else VAL_ROOMS
    gallery, device = session.gallery(split, count), session.device
    at = torch.arange(stage.batch) + number * stage.batch
    if split == "train":
        generator = torch.Generator().manual_seed(number * stage.batch // len(gallery))
        index = torch.randperm(len(gallery), generator=generator)[at % len(gallery)].numpy()
    else:
        index = (at % len(gallery)).numpy()

    # The world and the points turn together; what a patch shows stays.
    R = quarter_turn(turn, device)
    seeds = gallery.seeds[index].to(device)
    rooms = turn_rooms(make_rooms(split, seeds, gallery.level), turn)
    xyz = torch.from_numpy(gallery.xyz_m[index]).to(device) @ R.T
    owners = torch.from_numpy(gallery.owners[index]).to(device).long()
    points = [Points(xyz[b], owners[b]) for b in range(len(index))]
    rgb = torch.from_numpy(gallery.rgb[index]).to(device) if stage.shows != "oracle" else None
    return *_in_model_world(session, rooms, points), rgb


def _in_model_world(
    session: Session, rooms: Rooms, points: list[Points]
) -> tuple[Rooms, list[Points]]:
    """Where the model's origin is, as `origin_of` has it: LLaVA-3D's is that of the rooms."""
    if isinstance(session.model, Video3DLLM):
        return from_first_camera(rooms, points)
    return rooms, points


def patch_loss(
    session: Session, rooms: Rooms, points: list[Points], features: torch.Tensor
) -> tuple[torch.Tensor, dict[str, float]]:
    """Loss of vision features (B, V * P, C), and its parts for the log.

    Cross-entropy of the labels they encode against the true shares, and their distance to the code.
    """
    shares = torch.stack([label_shares(rooms, b, p.owners) for b, p in enumerate(points)])
    logits = features.float() @ session.code.T * (8.0 / CODE_SCALE**2)
    split = len(CATEGORIES) + 1
    parts = [
        (logits[..., :split], shares[..., :split]),  # categories, background last
        (logits[..., split:], shares[..., split:]),  # colours, none last
    ]
    entropies = [-(true * F.log_softmax(logit, -1)).sum(-1).mean() for logit, true in parts]
    loss = entropies[0] + entropies[1]
    distance = (features.float() - shares @ session.code).square().sum(-1).mean() / CODE_SCALE**2

    # For the log: how often the largest label is right, where a patch lies mostly on an object.
    on_object = shares[..., : split - 1].sum(-1) > 0.6
    category, color = (
        (logit.argmax(-1) == true.argmax(-1))[on_object].float().mean() for logit, true in parts
    )
    report = {
        "patch": float(loss.detach()),
        "distance": float(distance.detach()),
        "patch_category": float(category),
        "patch_color": float(color),
    }
    return loss + distance, report


def batch_loss(
    session: Session, stage: Stage, split: str, number: int, shared: bool = False
) -> tuple[torch.Tensor, dict[str, float], dict[str, list[bool]]]:
    """Loss of one batch, its parts, and which answers were right, by kind.

    shared: of this worker's share of it. All draw the whole batch, so that every room is what it is
    for one worker alone. Raises ConfigError for a batch that cannot be shared out.
    """
    draw = random.Random(f"{stage.name} {split} {number}")
    rooms, points, rgb = draw_rooms(session, stage, split, number, draw.randrange(4))
    drawn = rooms
    share = session.workers.share_of(stage.batch) if shared else slice(None)
    mean = session.workers.mean if shared else tuple
    rooms, points, rgb = rooms[share], points[share], None if rgb is None else rgb[share]
    model, extra = session.model, torch.zeros((), device=session.device)
    report: dict[str, float] = {}

    # Vision features in place of the true code, where there are pictures.
    if rgb is not None:
        features = encode(session, stage, rgb)
        if len(session.code):
            extra, report = patch_loss(session, rooms, points, features)
        if stage.shows == "patches":
            return extra, report, {}
        points = [Points(p.xyz_m, p.owners, features[b]) for b, p in enumerate(points)]

    # Spatial tokens, and the questions after them.
    known = graphs(drawn)
    asked = [_draw_questions(graph, stage.questions, draw) for graph in known]
    objects, seed = rooms.category.shape[1], draw.randrange(2**40)
    packed = session.packer.pack(known, asked, objects, seed, share).to(session.device)
    if isinstance(model, Video3DLLM):
        tokens = video_room_tokens(model, rooms, points, session.code)
    else:
        voxel = SYMBOLIC_VOXEL_M if stage.shows == "symbolic" else model.config.voxel_size_m
        tokens = room_tokens(model, rooms, points, session.code, voxel)

    states = run_packed(
        model, session.packer.prefix_ids, tokens, packed, session.pruner, session.recompute
    )
    loss, parts = losses(model.decoder, session.head, states, packed, mean)
    report |= parts | {"tokens": sum(len(t.owner) for t in tokens) / len(tokens)}
    return loss + VISION_LOSS_WEIGHT * extra, report, right_answers(session, states.text, packed)


def encode(session: Session, stage: Stage, rgb: torch.Tensor) -> torch.Tensor:
    """Features (B, V * P, C) of pictures (B, V, S, S, 3); `features` leaves the tower as it is."""
    pixels = torch.cat([normalise(view, session.model.config.vision) for view in rgb])
    with torch.set_grad_enabled(stage.shows != "features" and torch.is_grad_enabled()):
        features = session.model.encode_views(pixels)
    return features.unflatten(0, (len(rgb), -1)).flatten(1, 2)


def _draw_questions(graph: Graph, count: int, draw: random.Random) -> list[RoomQuestion]:
    kinds = tuple(MIX[draw.randrange(len(MIX))] for _ in range(count))
    made = make_questions(graph, draw.randrange(2**40), kinds, count)
    return [reword(question, draw) for question in made]


@torch.no_grad()
def right_answers(
    session: Session, text: torch.Tensor, packed: PackedQuestions
) -> dict[str, list[bool]]:
    """Whether greedy decoding would give exactly the true answer, by kind of question.

    text (B, M, D): final states of the questions' tokens.
    """
    states = text[packed.target_room, packed.target_place]
    best = session.model.decoder.lm_head(states).argmax(-1) == packed.target_id
    # A question's targets follow each other, in the order of the questions.
    owner = packed.block[packed.target_room, packed.target_place]
    _, sizes = torch.unique_consecutive(
        torch.stack((packed.target_room, owner)), dim=1, return_counts=True
    )
    result: dict[str, list[bool]] = defaultdict(list)
    for question, right in zip(packed.questions, best.split(sizes.tolist()), strict=True):
        result[question.kind].append(bool(right.all()))
    return result


@torch.no_grad()
def validate(session: Session, stage: Stage) -> dict[str, float]:
    """Exact-match shares on validation rooms, and the losses."""
    right: dict[str, list[bool]] = defaultdict(list)
    parts: dict[str, list[float]] = defaultdict(list)
    for number in range(VAL_ROOMS // stage.batch):
        with autocast(session):
            _, report, answers = batch_loss(session, stage, "val", number)
        for kind, values in answers.items():
            right[kind] += values
        for name, value in report.items():
            parts[name].append(value)
    means = {name: sum(v) / len(v) for name, v in parts.items()}
    return means | {kind: sum(v) / len(v) for kind, v in sorted(right.items())}


def autocast(session: Session) -> torch.autocast:
    """bfloat16 for the matrix products, on any device."""
    return torch.autocast(session.device.type, torch.bfloat16)
