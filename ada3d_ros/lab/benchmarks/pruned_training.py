"""Training time to the same validation accuracy, pruned against unpruned.

`python -m ada3d_ros.lab.benchmarks.pruned_training --out RUN --json FILE` trains a small form of
the embedded model with several seeds. A seed learns from a few true points first, where nothing can
be pruned; then two copies of it learn from the same pictures in turns, step by step in one process,
one on all spatial tokens and one on those that AdaToken-3D keeps. The tower is the shipped one and
stays as it is, so its features are kept; the clock is the process's CPU time of forward pass,
backward pass and optimisers. Each copy is validated as it is trained. The same command goes on
where it was stopped; every copy is exported in the end, to be evaluated as any checkpoint.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from ada3d_ros.errors import Ada3DError, ConfigError
from ada3d_ros.lab.benchmarks.bench import device_name
from ada3d_ros.lab.benchmarks.spread import Spread, plain
from ada3d_ros.lab.command_line import parse_list
from ada3d_ros.lab.results import ResultFile
from ada3d_ros.lab.train.batches import autocast, batch_loss, draw_rooms, encode
from ada3d_ros.lab.train.export import export_model
from ada3d_ros.lab.train.gallery import Gallery
from ada3d_ros.lab.train.optimizers import Optimizers, learning_rate
from ada3d_ros.lab.train.run import planned_pruner, run_stage
from ada3d_ros.lab.train.session import Session, open_session, save_state, trained_modules
from ada3d_ros.lab.train.stages import Stage
from ada3d_ros.lab.train.workers import Workers
from ada3d_ros.lab.world.rooms import NUM_VIEWS
from ada3d_ros.model.checkpoint import load_model
from ada3d_ros.model.startup import embedded_model_path
from ada3d_ros.model.vision import VisionTower
from ada3d_ros.pruning.cost import DecoderShape

START = (  # both copies of a seed begin with these weights
    Stage("symbolic", "symbolic", 1_000, 4, 22, 2e-3, per_object=1, background=3),
    Stage("points", "symbolic", 160, 4, 22, 1.5e-3, per_object=5, background=16),
)
MEASURED = Stage("features", "features", 280, 2, 24, 1.5e-3, decay=0.3)
LEVEL = 1  # of the rooms
VAL_ROOMS = 16
VALIDATE_EVERY = 10  # steps
LEVELS = (0.5, 0.6, 0.7, 0.8)
SHARE_OF_FINAL = 0.95  # of what the unpruned copy comes to: the level of the headline
TRIALS = (1, 24)  # questions a room whose step is timed alone
TRIAL_STEPS = 6
UNPRUNED, PRUNED = "unpruned", "pruned"


@dataclass(frozen=True, slots=True)
class Point:
    """One validation: after so many room passes and seconds of CPU, questions right of all."""

    rooms: int
    seconds: float
    right: int
    asked: int
    by_kind: dict[str, tuple[int, int]]


@dataclass(eq=False)
class Copy:
    """One of the two: its session and optimisers, the seconds of every step, its validations."""

    name: str
    session: Session
    optimizers: Optimizers
    seconds: list[float] = field(default_factory=list)
    points: list[Point] = field(default_factory=list)


class KeptTower:
    """A tower that stays as it is, and the features of the pictures that it has seen."""

    def __init__(self, tower: VisionTower) -> None:
        self.state = tower.state_dict()
        self._seen: dict[bytes, torch.Tensor] = {}

    def install(self, session: Session) -> None:
        """The session's model gets these weights, and remembers with all others that have them."""
        model = session.model
        model.vision.load_state_dict(self.state)
        plainly = model.encode_views

        def remembered(pixels: torch.Tensor) -> torch.Tensor:
            return torch.cat([look(room) for room in pixels.split(NUM_VIEWS[LEVEL])])

        def look(room: torch.Tensor) -> torch.Tensor:
            key = room.numpy().tobytes()
            if key not in self._seen:
                self._seen[key] = plainly(room)
            return self._seen[key]

        model.encode_views = remembered  # type: ignore[method-assign]


# -- one seed


class Seed:
    """Both copies of one seed, in a folder of its own below the run's."""

    def __init__(
        self,
        out: Path,
        seed: int,
        keep_ratio: float,
        tower: KeptTower,
        galleries: dict[str, Gallery],
    ) -> None:
        self.seed, self.folder, self.keep_ratio = seed, out / f"seed{seed}", keep_ratio
        self._tower, self._galleries = tower, galleries
        tokenizer = out / "tokenizer.model"
        for name in ("start", UNPRUNED, PRUNED):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
            if tokenizer.exists():  # one for all: it takes longer to train than to copy
                shutil.copyfile(tokenizer, self.folder / name / "tokenizer.model")
        self.start = self._open("start")
        if not tokenizer.exists():
            shutil.copyfile(self.folder / "start" / "tokenizer.model", tokenizer)

    def _open(self, name: str) -> Session:
        folder = self.folder / name
        session = open_session(folder, LEVEL, MEASURED.rooms, Workers("cpu"), self.seed)
        session.galleries = self._galleries
        return session

    def train_start(self) -> None:
        """The first stages, without pictures; done stages are left out."""
        for stage in START:
            run_stage(self.start, stage, math.inf)

    def open_copies(self) -> tuple[Copy, Copy]:
        """From the weights of the start, or from where they were stopped."""
        copies = []
        state = torch.load(self.folder / "start" / "state.pt", weights_only=True)
        for name in (UNPRUNED, PRUNED):
            session = self._open(name)
            session.model.load_state_dict(state["modules"]["model"])
            session.head.load_state_dict(state["modules"]["head"])
            self._tower.install(session)
            if name == PRUNED:
                session.pruner = planned_pruner(session.model, self.keep_ratio)
            optimizers = Optimizers(trained_modules(session, MEASURED))
            copies.append(Copy(name, session, optimizers))
        if self._saved.exists():
            self._load(copies)
        return copies[0], copies[1]

    @property
    def _saved(self) -> Path:
        return self.folder / "copies.pt"

    def save(self, copies: Sequence[Copy]) -> None:
        """Both in one move, so that they always stand at the same step."""
        content = {
            copy.name: {
                "model": copy.session.model.state_dict(),
                "head": copy.session.head.state_dict(),
                "optimizers": copy.optimizers.state(),
                "seconds": copy.seconds,
                "points": [asdict(point) for point in copy.points],
            }
            for copy in copies
        }
        part = self._saved.with_suffix(".tmp")
        torch.save(content, part)
        part.replace(self._saved)

    def _load(self, copies: Sequence[Copy]) -> None:
        content = torch.load(self._saved, weights_only=True)
        for copy in copies:
            saved = content[copy.name]
            copy.session.model.load_state_dict(saved["model"])
            copy.session.head.load_state_dict(saved["head"])
            copy.optimizers.load(saved["optimizers"])
            copy.seconds = list(saved["seconds"])
            copy.points = [Point(**point) for point in saved["points"]]

    def train(self, copies: Sequence[Copy]) -> bool:
        """Step by step in turns, validated and saved; whether it came to the end."""
        steps = MEASURED.rooms // MEASURED.batch
        for step in range(len(copies[0].seconds), steps):
            if self.start.stopped:
                return False
            if not copies[0].points:
                self._validate(copies)
            for copy in copies if step % 2 else reversed(copies):
                train_step(copy, step, self.seed * steps)
            if (step + 1) % VALIDATE_EVERY == 0 or step + 1 == steps:
                self._validate(copies)
        return True

    def _validate(self, copies: Sequence[Copy]) -> None:
        for copy in copies:
            copy.points.append(validate(copy))
            last = copy.points[-1]
            print(
                f"seed {self.seed} {copy.name}: {last.rooms} rooms, {last.seconds:.0f} s,"
                f" {last.right}/{last.asked} right",
                flush=True,
            )
        self.save(copies)

    def export(self, copies: Sequence[Copy]) -> None:
        """Each as a checkpoint folder `model` with its head."""
        for copy in copies:
            folder = self.folder / copy.name
            copy.session.seen = {**self.start.seen, MEASURED.name: MEASURED.rooms}
            save_state(copy.session, MEASURED, copy.optimizers)
            export_model(folder, folder / "model", 0.5, copy.session.model, copy.session.head)


def train_step(copy: Copy, step: int, first: int) -> None:
    """One timed step on batch `first + step`, whose features are there already."""
    number, session = first + step, copy.session
    _look(session, "train", number)
    started = time.process_time()
    with autocast(session):
        loss, _, _ = batch_loss(session, MEASURED, "train", number)
    loss.backward()
    progress = step * MEASURED.batch / MEASURED.rooms
    copy.optimizers.step(learning_rate(MEASURED, step, progress))
    copy.seconds.append(time.process_time() - started)


def _look(session: Session, split: str, number: int) -> None:
    """Have the features of a batch's pictures, untimed."""
    _, _, rgb = draw_rooms(session, MEASURED, split, number, 0)
    assert rgb is not None
    with autocast(session):
        encode(session, MEASURED, rgb)


@torch.no_grad()
def validate(copy: Copy) -> Point:
    """Exact matches on rooms of validation, with the tokens that the copy is trained on."""
    right: Counter[str] = Counter()
    asked: Counter[str] = Counter()
    for number in range(VAL_ROOMS // MEASURED.batch):
        with autocast(copy.session):
            _, _, answers = batch_loss(copy.session, MEASURED, "val", number)
        for kind, values in answers.items():
            right[kind] += sum(values)
            asked[kind] += len(values)
    kinds = {kind: (right[kind], asked[kind]) for kind in sorted(asked)}
    rooms = len(copy.seconds) * MEASURED.batch
    return Point(rooms, sum(copy.seconds), right.total(), asked.total(), kinds)


# -- what comes of it


def first_reached(points: Sequence[Point], level: float) -> tuple[float, float] | None:
    """Room passes and seconds at which the share right first reaches `level`, linear between two
    validations; None where it never does.
    """
    before: Point | None = None
    for point in points:
        if point.right >= level * point.asked:
            if before is None:
                return float(point.rooms), point.seconds
            rise = (point.right - before.right) / point.asked
            share = (level - before.right / before.asked) / rise
            rooms = before.rooms + share * (point.rooms - before.rooms)
            return rooms, before.seconds + share * (point.seconds - before.seconds)
        before = point
    return None


def compared(unpruned: Sequence[Point], pruned: Sequence[Point], level: float) -> dict[str, Any]:
    """Both at one level; saved: 1 - seconds pruned / seconds unpruned."""
    found = [first_reached(points, level) for points in (unpruned, pruned)]
    row: dict[str, Any] = {"level": level}
    for name, at in zip((UNPRUNED, PRUNED), found, strict=True):
        row[name] = None if at is None else {"rooms": at[0], "seconds": at[1]}
    whole, less = found
    row["saved"] = 1 - less[1] / whole[1] if whole and less and whole[1] > 0 else None
    return row


def seed_results(seed: int, copies: Sequence[Copy]) -> dict[str, Any]:
    """Curves, seconds of a step and their ratio, and time to each level."""
    unpruned, pruned = copies
    final = unpruned.points[-1]
    level = SHARE_OF_FINAL * final.right / final.asked
    ratios = [b / a for a, b in zip(unpruned.seconds, pruned.seconds, strict=True)]
    return {
        "seed": seed,
        "points": {copy.name: [asdict(point) for point in copy.points] for copy in copies},
        "step_s": {copy.name: Spread.from_values(copy.seconds) for copy in copies},
        "step_ratio": Spread.from_values(ratios),
        "headline": compared(unpruned.points, pruned.points, level),
        "levels": [compared(unpruned.points, pruned.points, level) for level in LEVELS],
    }


def time_steps(copies: Sequence[Copy]) -> list[dict[str, Any]]:
    """What a forward and backward pass takes with few and many questions a room, in turns; nothing
    is learned. Beside it the decoder's FLOPs of one question's prompt.
    """
    rows = []
    for questions in TRIALS:
        stage = Stage("trial", "features", MEASURED.rooms, MEASURED.batch, questions, 0.0)
        seconds: dict[str, list[float]] = {copy.name: [] for copy in copies}
        for number in range(TRIAL_STEPS):
            for copy in copies if number % 2 else reversed(copies):
                _look(copy.session, "train", number)
                started = time.process_time()
                with autocast(copy.session):
                    loss, _, _ = batch_loss(copy.session, stage, "train", number)
                loss.backward()
                seconds[copy.name].append(time.process_time() - started)
                for parameter in copy.optimizers.parameters:
                    parameter.grad = None
        ratios = [b / a for a, b in zip(*seconds.values(), strict=True)]
        rows.append(
            {
                "questions": questions,
                "step_s": {name: Spread.from_values(values) for name, values in seconds.items()},
                "step_ratio": Spread.from_values(ratios),
            }
        )
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0, or 2 with a sentence for a wrong option."""
    parser = argparse.ArgumentParser(
        prog="python -m ada3d_ros.lab.benchmarks.pruned_training", description=__doc__
    )
    add = parser.add_argument
    add("--out", type=Path, required=True, help="folder of the runs")
    add("--json", type=Path, required=True, metavar="FILE", help="written after every seed")
    add("--seeds", default="0,1,2", help="of weights and rooms (default: %(default)s)")
    add("--keep-ratio", type=float, default=0.41, metavar="R", help="(default: %(default)s)")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    try:
        return _run(options)
    except (Ada3DError, OSError) as error:
        print(f"pruned_training: {error}", file=sys.stderr)
        return 2


def _run(options: argparse.Namespace) -> int:
    seeds = parse_list(options.seeds, int, "--seeds")
    if not 0.0 < options.keep_ratio < 1.0:
        raise ConfigError(f"--keep-ratio {options.keep_ratio:g}: allowed: above 0 and below 1.")
    out = ResultFile(options.json, device_name(torch.device("cpu")), seeds[0])
    tower = KeptTower(load_model(embedded_model_path()).model.vision)
    galleries: dict[str, Gallery] = {}
    results: dict[str, Any] = {
        "keep_ratio": options.keep_ratio,
        "stages": [asdict(stage) for stage in (*START, MEASURED)],
        "val_rooms": VAL_ROOMS,
        "seeds": [],
    }
    for seed in seeds:
        one = Seed(options.out, seed, options.keep_ratio, tower, galleries)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, one.start.stop)
        one.train_start()
        if one.start.stopped:
            return 1
        copies = one.open_copies()
        if seed == seeds[0]:
            pruner, shape = copies[1].session.pruner, copies[0].session.model.config.decoder
            assert pruner is not None
            results["retention"] = pruner.schedule.retention
            results["layers"] = DecoderShape.from_config(shape).num_layers
            results["trials"] = plain(time_steps(copies))
        finished = one.train(copies)
        results["seeds"].append(plain(seed_results(seed, copies) | {"finished": finished}))
        out.write(results, complete=finished and seed == seeds[-1])
        if not finished:
            return 1
        one.export(copies)
        print(json.dumps(results["seeds"][-1]["headline"]), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
