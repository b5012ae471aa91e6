"""`ada3d train`: from nothing to the embedded model, one stage after the other, resumable at any
minute.

Everything lies in one folder: the tokenizer, the rendered rooms, state.pt (weights, optimiser,
place in the curriculum), log.jsonl (the learning curves). A stage continues where it stopped.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from ada3d_ros.config import from_flat
from ada3d_ros.engine.information import decoder_shape
from ada3d_ros.errors import Ada3DError, ConfigError
from ada3d_ros.lab.train.embedded import (
    CODE_SCALE,
    EMBEDDED_CONFIG,
    corpus,
    feature_code,
    new_model,
)
from ada3d_ros.lab.train.export import export_model
from ada3d_ros.lab.train.gallery import Gallery, normalise, open_gallery
from ada3d_ros.lab.train.objective import losses, run_packed
from ada3d_ros.lab.train.optimizers import Optimizers, learning_rate
from ada3d_ros.lab.train.packing import PackedQuestions, Packer
from ada3d_ros.lab.train.stages import MIX, STAGES, Stage
from ada3d_ros.lab.train.tokens import (
    SYMBOLIC_VOXEL_M,
    Points,
    RoomTokens,
    label_shares,
    quarter_turn,
    room_tokens,
    symbolic_points,
    turn_rooms,
)
from ada3d_ros.lab.train.workers import Workers
from ada3d_ros.lab.world.graph import graphs
from ada3d_ros.lab.world.questions import make_questions
from ada3d_ros.lab.world.rooms import CATEGORIES, Rooms, make_rooms
from ada3d_ros.model.grounding_head import GroundingHead
from ada3d_ros.model.llava3d import Llava3D
from ada3d_ros.model.prompt import Tokenizer, train_tokenizer
from ada3d_ros.pruning.in_llm import LayerPruner
from ada3d_ros.pruning.policy import Policy

SAVE_EVERY_S = 120.0
REPORT_EVERY_S = 30.0
VAL_ROOMS = 64
SYMBOLIC_SEEDS = 10**9  # rooms without pictures are endless; they start behind the gallery's
VISION_LOSS_WEIGHT = 0.5  # of the patch labels, while the decoder learns from images


@dataclass
class Session:
    """What a run holds: weights, optimisers, data, and how many room passes each stage has seen."""

    folder: Path
    model: Llava3D
    head: GroundingHead
    packer: Packer
    code: torch.Tensor
    level: int
    gallery_rooms: int
    workers: Workers
    seen: dict[str, int] = field(default_factory=dict)
    galleries: dict[str, Gallery] = field(default_factory=dict)
    stopped: bool = False
    pruner: LayerPruner | None = None  # of spatial tokens while training; None = all are kept

    def stop(self, *args: object) -> None:
        """Finish the step, save, end: what Ctrl-C and `kill` do."""
        self.stopped = True

    @property
    def device(self) -> torch.device:
        return self.workers.device

    def gallery(self, split: str) -> Gallery:
        """The rendered rooms of a split; made by the first worker when first asked for."""
        if split not in self.galleries:
            if not self.workers.first and split == "train":
                self.workers.wait()
            count = self.gallery_rooms if split == "train" else VAL_ROOMS
            self.galleries[split] = open_gallery(
                self.folder / "gallery",
                split,
                self.level,
                count,
                self.model.config.vision,
                device=str(self.device),
            )
            if self.workers.first and split == "train":
                self.workers.wait()
        return self.galleries[split]


def open_session(
    folder: Path, level: int, gallery_rooms: int, workers: Workers, seed: int
) -> Session:
    """A new run, or the one that `folder` holds."""
    folder.mkdir(parents=True, exist_ok=True)
    path, device = folder / "tokenizer.model", workers.device
    if not workers.first:
        workers.wait()  # the first one makes the tokenizer
    tokenizer = (
        Tokenizer(path)
        if path.exists()
        else train_tokenizer(path, corpus(), EMBEDDED_CONFIG.decoder.vocab_size)
    )
    if workers.first:
        workers.wait()
    model, head = new_model(tokenizer, seed)
    code = feature_code(model.config.vision.hidden_size).to(device)
    return Session(
        folder,
        model.to(device),
        head.to(device),
        Packer(tokenizer),
        code,
        level,
        gallery_rooms,
        workers,
    )


def planned_pruner(model: Llava3D, keep_ratio: float) -> LayerPruner | None:
    """The adatoken3d that keeps this mean, as the engine would have it. Raises ConfigError for a
    ratio that it cannot meet.
    """
    config = from_flat({"pruning.strategy": "adatoken3d", "pruning.keep_ratio": keep_ratio}).pruning
    return Policy.from_config(config).pruner(decoder_shape(model.config.decoder))


def trained_modules(session: Session, stage: Stage) -> list[nn.Module]:
    """`patches` moves the vision tower alone; images move everything; the rest all but the tower."""
    model = session.model
    rest: list[nn.Module] = [
        model.decoder,
        model.projector,
        model.position_embedding,
        model.click_encoder,
        session.head,
    ]
    if stage.shows == "patches":
        return [model.vision]
    return [*rest, model.vision] if stage.shows == "images" else rest


def draw_rooms(
    session: Session, stage: Stage, split: str, number: int, turn: int
) -> tuple[Rooms, list[Points], torch.Tensor | None]:
    """Batch `number` of a stage: the rooms, turned; their points; the pictures (B, V, S, S, 3)
    where the stage shows any.
    """
    if stage.shows == "symbolic":
        seeds = torch.arange(stage.batch) + number * stage.batch + SYMBOLIC_SEEDS
        rooms = turn_rooms(make_rooms(split, seeds, session.level), turn)
        generator = torch.Generator().manual_seed(number)
        return rooms, symbolic_points(rooms, stage.per_object, stage.background, generator), None
    gallery = session.gallery(split)
    order = torch.randperm(
        len(gallery), generator=torch.Generator().manual_seed(number * stage.batch // len(gallery))
    )
    at = (torch.arange(stage.batch) + number * stage.batch) % len(gallery)
    rows = order[at].numpy() if split == "train" else at.numpy()
    R = quarter_turn(turn, session.device)
    rooms = turn_rooms(
        make_rooms(split, gallery.seeds[rows].to(session.device), gallery.level), turn
    )
    xyz = torch.from_numpy(gallery.xyz_m[rows]).to(session.device) @ R.T
    owners = torch.from_numpy(gallery.owners[rows]).to(session.device).long()
    points = [Points(xyz[b], owners[b]) for b in range(len(rows))]
    rgb = (
        torch.from_numpy(gallery.rgb[rows]).to(session.device) if stage.shows != "oracle" else None
    )
    return rooms, points, rgb


def patch_loss(
    session: Session, rooms: Rooms, points: list[Points], features: torch.Tensor
) -> tuple[torch.Tensor, dict[str, float]]:
    """Features (B, V * P, C) against the true shares: cross-entropy of what they say, and their
    distance to the code.
    """
    shares = torch.stack([label_shares(rooms, b, p.owners) for b, p in enumerate(points)])
    said = features.float() @ session.code.T * (8.0 / CODE_SCALE**2)
    split = len(CATEGORIES) + 1
    parts = [(said[..., :split], shares[..., :split]), (said[..., split:], shares[..., split:])]
    loss = sum(-(true * F.log_softmax(logit, -1)).sum(-1).mean() for logit, true in parts)
    distance = (features.float() - shares @ session.code).square().sum(-1).mean() / CODE_SCALE**2
    on_object = shares[..., : split - 1].sum(-1) > 0.6
    right = [
        (logit.argmax(-1) == true.argmax(-1))[on_object].float().mean() for logit, true in parts
    ]
    assert isinstance(loss, torch.Tensor)
    report = {
        "patch": float(loss.detach()),
        "distance": float(distance.detach()),
        "patch_category": float(right[0]),
        "patch_color": float(right[1]),
    }
    return loss + distance, report


def batch_loss(
    session: Session, stage: Stage, split: str, number: int
) -> tuple[torch.Tensor, dict[str, float], dict[str, list[bool]]]:
    """Loss of one batch, its parts, and which answers were right, by kind."""
    draw = random.Random(f"{stage.name} {split} {number}")
    rooms, points, rgb = draw_rooms(session, stage, split, number, draw.randrange(4))
    extra = torch.zeros((), device=session.device)
    report: dict[str, float] = {}
    if rgb is not None:
        pixels = torch.cat([normalise(view, session.model.config.vision) for view in rgb])
        with torch.set_grad_enabled(stage.shows != "features" and torch.is_grad_enabled()):
            features = session.model.encode_views(pixels)
        features = features.unflatten(0, (len(rgb), -1)).flatten(1, 2)
        extra, report = patch_loss(session, rooms, points, features)
        if stage.shows == "patches":
            return extra, report, {}
        points = [Points(p.xyz_m, p.owners, features[b]) for b, p in enumerate(points)]
    known = graphs(rooms)
    asked = []
    for graph in known:
        kinds = [MIX[draw.randrange(len(MIX))] for _ in range(stage.questions)]
        asked.append(make_questions(graph, draw.randrange(2**40), tuple(kinds), stage.questions))
    packed = session.packer.pack(known, asked, rooms.category.shape[1])
    voxel = SYMBOLIC_VOXEL_M if stage.shows == "symbolic" else session.model.config.voxel_size_m
    tokens: list[RoomTokens] = room_tokens(session.model, rooms, points, session.code, voxel)
    states = run_packed(session.model, session.packer.prefix_ids, tokens, packed, session.pruner)
    loss, parts = losses(session.model.decoder, session.head, states, packed)
    report |= parts | {"tokens": sum(len(t.owner) for t in tokens) / len(tokens)}
    return loss + VISION_LOSS_WEIGHT * extra, report, right_answers(session, states.text, packed)


@torch.no_grad()
def right_answers(
    session: Session, text: torch.Tensor, packed: PackedQuestions
) -> dict[str, list[bool]]:
    """Whether greedy decoding would give exactly the true answer, by kind of question."""
    best = (
        session.model.decoder.lm_head(text[packed.row_room, packed.row_place]).argmax(-1)
        == packed.row_target
    )
    sizes = [round(1.0 / float(w)) for w in packed.row_weight]
    result: dict[str, list[bool]] = defaultdict(list)
    place = 0
    for question in packed.questions:
        size = sizes[place]
        result[question.kind].append(bool(best[place : place + size].all()))
        place += size
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
    return torch.autocast(session.device.type, torch.bfloat16)


def steps_of(session: Session, stage: Stage, until: float) -> Iterator[int]:
    """Numbers of the steps that are left, as long as there is time and nobody said stop."""
    together = stage.batch * session.workers.count
    while session.seen.get(stage.name, 0) < stage.rooms:
        if not session.workers.all_agree(time.monotonic() < until and not session.stopped):
            return
        yield session.seen.get(stage.name, 0) // together
        session.seen[stage.name] = session.seen.get(stage.name, 0) + together


def run_stage(session: Session, stage: Stage, until: float) -> None:
    """Train one stage until it is done or time is up; state and learning curve are on disk."""
    optimizers = Optimizers(trained_modules(session, stage))
    state = session.folder / ("vision.pt" if stage.shows == "patches" else "state.pt")
    load_state(session, state, stage, optimizers)
    started = saved = reported = time.monotonic()
    recent: dict[str, list[float]] = defaultdict(list)
    done_before = session.seen.get(stage.name, 0)
    for step in steps_of(session, stage, until):
        with autocast(session):
            loss, report, _ = batch_loss(
                session, stage, "train", step * session.workers.count + session.workers.rank
            )
        loss.backward()
        session.workers.average_gradients(optimizers.parameters)
        progress = max(
            session.seen.get(stage.name, 0) / stage.rooms,
            (time.monotonic() - started) / (until - started),
        )
        optimizers.step(learning_rate(stage, step, progress))
        for name, value in report.items():
            recent[name].append(value)
        if not session.workers.first:
            continue
        now = time.monotonic()
        if now - reported > REPORT_EVERY_S:
            rate = (session.seen.get(stage.name, 0) - done_before) / (now - started)
            line = {
                "stage": stage.name,
                "rooms": session.seen.get(stage.name, 0),
                "rooms_per_s": rate,
            }
            line |= {name: sum(v) / len(v) for name, v in recent.items()}
            line["val"] = {name: round(v, 4) for name, v in validate(session, stage).items()}
            write_line(session.folder / "log.jsonl", line)
            recent.clear()
            if stage.shows == "features":
                refresh_tower(session)
            reported = time.monotonic()
        if now - saved > SAVE_EVERY_S:
            save_state(session, state, stage, optimizers)
            saved = now
    if session.workers.first:
        save_state(session, state, stage, optimizers)
    session.workers.wait()


def write_line(path: Path, line: dict[str, Any]) -> None:
    """One line of the learning curve, to the file and the screen."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    shown = " ".join(
        f"{k}={v:.3g}" if isinstance(v, float) else f"{k}={v}" for k, v in line.items()
    )
    print(shown, flush=True)


def save_state(session: Session, path: Path, stage: Stage, optimizers: Optimizers) -> None:
    """Replaced in one move: a run that is killed loses at most what came after."""
    content = {
        "stage": stage.name,
        "seen": session.seen,
        "modules": {name: module.state_dict() for name, module in _modules(session, stage).items()},
        "optimizers": optimizers.state(),
    }
    torch.save(content, path.with_suffix(".tmp"))
    path.with_suffix(".tmp").replace(path)


def _modules(session: Session, stage: Stage) -> dict[str, nn.Module]:
    if stage.shows == "patches":
        return {"vision": session.model.vision}
    return {"model": session.model, "head": session.head}


def load_state(session: Session, path: Path, stage: Stage, optimizers: Optimizers) -> None:
    """Weights of the last save, and the optimisers where the same stage goes on. Images start with
    the trained tower.
    """
    if path.exists():
        content = torch.load(path, map_location=session.device, weights_only=True)
        session.seen = {**session.seen, **content["seen"]}
        for name, module in _modules(session, stage).items():
            module.load_state_dict(content["modules"][name])
        if content["stage"] == stage.name:
            optimizers.load(content["optimizers"])
    if stage.shows == "features" or (stage.shows == "images" and not session.seen.get(stage.name)):
        refresh_tower(session)


def refresh_tower(session: Session) -> None:
    """Take over the tower that the `vision` stage has come to."""
    tower = session.folder / "vision.pt"
    if tower.exists():
        content = torch.load(tower, map_location=session.device, weights_only=True)
        session.model.vision.load_state_dict(content["modules"]["vision"])


def main(argv: list[str]) -> int:
    """`ada3d train`: returns 0, or 2 with a sentence for a wrong option."""
    parser = argparse.ArgumentParser(
        prog="ada3d train",
        description=(
            "Trains the embedded model from nothing on generated rooms. Resumes what the folder"
            " holds."
        ),
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument(
        "--stages",
        default=",".join(s.name for s in STAGES),
        help="which, in order (default: %(default)s)",
    )
    parser.add_argument(
        "--minutes", type=float, default=1e9, help="stop after this time; the next run goes on"
    )
    parser.add_argument(
        "--level", type=int, default=1, choices=(1, 2), help="of the worlds (default 1)"
    )
    parser.add_argument(
        "--rooms", type=int, default=6000, help="rendered training rooms (default 6000, 2 GB)"
    )
    parser.add_argument(
        "--device",
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="cpu or cuda (default: cuda if there)",
    )
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default 1)")
    parser.add_argument(
        "--keep-ratio",
        type=float,
        default=1.0,
        metavar="R",
        help="AdaToken-3D while training, as the node prunes (default 1: all tokens)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the first weights")
    parser.add_argument(
        "--export",
        type=Path,
        metavar="DIR",
        help="then write the checkpoint folder and its grounding head",
    )
    parser.add_argument(
        "--threshold",
        type=float,
        default=0.5,
        help="score below which exported boxes are not shown",
    )
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    until = time.monotonic() + options.minutes * 60
    try:
        known = {stage.name: stage for stage in STAGES}
        wanted = options.stages.split(",")
        for name in wanted:
            if name not in known:
                raise ConfigError(
                    f"--stages {name!r} is not a stage; there are {', '.join(known)}."
                )
        session = open_session(
            options.out, options.level, options.rooms, Workers(options.device), options.seed
        )
        if options.keep_ratio != 1.0:
            session.pruner = planned_pruner(session.model, options.keep_ratio)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, session.stop)
        for name in wanted:
            run_stage(session, known[name], until)
        if options.export and session.workers.first:
            export_model(
                options.out, options.export, options.threshold, session.model, session.head
            )
    except (Ada3DError, OSError) as error:
        print(f"ada3d train: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
