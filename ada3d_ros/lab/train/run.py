"""`ada3d train`: from nothing to the embedded model, one stage after the other, resumable.

A stage continues where it stopped; beside the state (session.py) the run's folder holds log.jsonl,
the learning curves.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from ada3d_ros.config import from_flat
from ada3d_ros.errors import Ada3DError, ConfigError
from ada3d_ros.lab.train.batches import autocast, batch_loss, validate
from ada3d_ros.lab.train.export import THRESHOLD, export_model
from ada3d_ros.lab.train.optimizers import Optimizers, learning_rate
from ada3d_ros.lab.train.session import (
    BACKBONES,
    Session,
    load_state,
    open_session,
    refresh_tower,
    save_state,
    trained_parameters,
)
from ada3d_ros.lab.train.stages import CURRICULA, Stage
from ada3d_ros.lab.train.warm_start import take_decoder, take_over, take_tower
from ada3d_ros.lab.train.workers import Workers
from ada3d_ros.model.backbone import Backbone
from ada3d_ros.model.checkpoint import load_model
from ada3d_ros.pruning.cost import DecoderShape
from ada3d_ros.pruning.policy import Policy
from ada3d_ros.pruning.strategy import LayerPruner

SAVE_EVERY_S = 120.0
REPORT_EVERY_S = 180.0  # 64 rooms of validation cost as much as 20 of training


def planned_pruner(model: Backbone, keep_ratio: float) -> LayerPruner:
    """The adatoken3d that keeps this mean, as the engine would have it.

    Raises ConfigError for a ratio that it cannot meet.
    """
    config = from_flat({"pruning.strategy": "adatoken3d", "pruning.keep_ratio": keep_ratio}).pruning
    shape = DecoderShape.from_config(model.config.decoder)
    pruner = Policy.from_config(config).pruner(shape)
    assert pruner is not None, "adatoken3d prunes in the layers"
    return pruner


def steps_of(session: Session, stage: Stage, until: float) -> Iterator[int]:
    """Numbers of the steps that are left, as long as there is time and no worker was stopped."""
    while session.seen.get(stage.name, 0) < stage.rooms:
        if not session.workers.all_agree(time.monotonic() < until and not session.stopped):
            return
        yield session.seen.get(stage.name, 0) // stage.batch
        session.seen[stage.name] = session.seen.get(stage.name, 0) + stage.batch


def run_stage(
    session: Session, stage: Stage, until: float, report_every_s: float = REPORT_EVERY_S
) -> bool:
    """Train one stage until it is done or time is up; state and learning curve are on disk.

    Returns whether it is done. until: monotonic seconds; report_every_s: between two validations.
    Raises ConfigError for a batch that the workers cannot share out.
    """
    workers, optimizers = session.workers, Optimizers(trained_parameters(session, stage))
    workers.share_of(stage.batch)
    load_state(session, stage, optimizers)
    if session.seen.get(stage.name, 0) >= stage.rooms:  # what was saved may be a later stage's
        return True
    started = saved = reported = time.monotonic()
    recent: dict[str, list[float]] = defaultdict(list)
    done_before = session.seen.get(stage.name, 0)
    for step in steps_of(session, stage, until):
        # The workers share the batch's rooms out; gradients are averaged.
        cpu_started = time.process_time()
        with autocast(session):
            number = session.batch_of(stage, step)
            loss, report, _ = batch_loss(session, stage, "train", number, shared=True)
        loss.backward()
        workers.average_gradients(optimizers.parameters)

        # The rate falls with the rooms seen or the time used, whichever is further.
        now, done = time.monotonic(), session.seen.get(stage.name, 0)
        used = workers.mean([(now - started) / (until - started)])[0]  # all take the same rate
        progress = max(done / stage.rooms, used)
        optimizers.step(learning_rate(stage, step, progress))
        for name, value in report.items():
            recent[name].append(value)
        spent = time.process_time() - cpu_started
        session.seconds[stage.name] = session.seconds.get(stage.name, 0.0) + spent

        # The first worker validates, writes and saves; all take a better tower at the same step.
        now = time.monotonic()
        due = not workers.all_agree(not workers.first or now - reported <= report_every_s)
        if due and workers.first:
            line = {"stage": stage.name, "rooms": done}
            line["rooms_per_s"] = (done - done_before) / (now - started)
            line |= {name: sum(v) / len(v) for name, v in recent.items()}
            line["val"] = {name: round(v, 4) for name, v in validate(session, stage).items()}
            write_line(session.folder / "log.jsonl", line)
            recent.clear()
        if due:
            reported = time.monotonic()
            if stage.shows == "features":
                refresh_tower(session)
        if workers.first and now - saved > SAVE_EVERY_S:
            save_state(session, stage, optimizers)
            saved = now
    if workers.first:
        save_state(session, stage, optimizers)
    workers.wait()
    return session.seen.get(stage.name, 0) >= stage.rooms


def write_line(path: Path, line: dict[str, Any]) -> None:
    """One line of the learning curve, to the file and the screen."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    shown = " ".join(
        f"{k}={v:.3g}" if isinstance(v, float) else f"{k}={v}" for k, v in line.items()
    )
    print(shown, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ada3d train",
        description=(
            "Trains the embedded model from nothing on generated rooms. Resumes what the folder"
            " holds."
        ),
    )

    # Which stages and rooms, on what, and what is written in the end.
    add, device = parser.add_argument, "cuda" if torch.cuda.is_available() else "cpu"
    add("--out", type=Path, required=True, help="folder of the run")
    add(
        "--backbone",
        default=BACKBONES[0],
        choices=BACKBONES,
        help="whose form the model has (default %(default)s)",
    )
    add(
        "--curriculum",
        default="full",
        choices=sorted(CURRICULA),
        help="how many rooms each stage shows; hour: less than one of one core, short: less than 20"
        " minutes (default full)",
    )
    add(
        "--from",
        dest="start_from",
        type=Path,
        metavar="CHECKPOINT",
        help="begin a new run with the weights of this folder (default: with new ones)",
    )
    add(
        "--tower",
        type=Path,
        metavar="CHECKPOINT",
        help="begin a new run with the vision tower of this folder, in the backbone's form",
    )
    add(
        "--decoder",
        type=Path,
        metavar="CHECKPOINT",
        help="begin a new run with the decoder and the grounding head of this folder",
    )
    add("--stages", help="which of the curriculum, in order, a,b,c (default: all)")
    add("--minutes", type=float, default=1e9, help="stop after this time; the next run goes on")
    add(
        "--report-minutes",
        type=float,
        default=REPORT_EVERY_S / 60,
        help="between two validations (default %(default)g)",
    )
    add("--level", type=int, default=1, choices=(1, 2), help="of the worlds (default 1)")
    add("--rooms", type=int, help="rendered training rooms (default 6000, 2 GB; with --lora 500)")
    add("--device", default=device, help="cpu or cuda (default: cuda if there)")
    add("--threads", type=int, default=1, help="CPU threads (default 1)")
    add(
        "--keep-ratio",
        type=float,
        default=1.0,
        metavar="R",
        help="AdaToken-3D while training, as the node prunes (default 1: all tokens)",
    )
    add("--seed", type=int, default=0, help="of the first weights, and which rooms are drawn")
    add(
        "--export",
        type=Path,
        metavar="DIR",
        help="then write the checkpoint folder and its grounding head",
    )
    add(
        "--threshold",
        type=float,
        default=THRESHOLD,
        help="score below which exported boxes are not shown",
    )
    fine = parser.add_argument_group("fine-tuning a trained checkpoint").add_argument
    fine("--lora", action="store_true", help="teach that of --from to point, by LoRA (needs peft)")
    fine("--rank", type=int, default=16, help="of the adapters (default 16)")
    fine("--passes", type=int, default=4000, help="room passes in all (default 4000)")
    fine("--batch", type=int, default=1, help="rooms a step (default 1)")
    fine("--questions", type=int, default=16, help="a room (default 16)")
    fine("--train-clicks", action="store_true", help="the click encoder learns, too")
    fine("--vision-path", type=Path, metavar="FOLDER", help="CLIP folder (model.vision_path)")
    fine(
        "--adapter-only",
        action="store_true",
        help="--export writes the adapters (peft's format) and the head alone",
    )
    return parser


def _run(options: argparse.Namespace) -> None:
    """`ada3d train` with parsed options. Raises Ada3DError, OSError."""
    # Which stages, and until when.
    until = time.monotonic() + options.minutes * 60
    if options.lora:
        from ada3d_ros.lab.train.finetune import fine_tune  # peft is loaded where it is needed

        options.rooms = options.rooms or 500
        fine_tune(options, until)
        return
    options.rooms = options.rooms or 6000
    known = {stage.name: stage for stage in CURRICULA[options.curriculum]}
    wanted = list(known) if options.stages is None else options.stages.split(",")
    for name in wanted:
        if name not in known:
            raise ConfigError(f"--stages {name!r} is not a stage; there are {', '.join(known)}.")

    if options.export and options.backbone == "video3dllm":
        raise ConfigError(
            "--export: a folder in Video-3D-LLM's layout has Qwen2's tokenizer, the small form one"
            " of its own: it is asked from its run (lab/benchmarks/two_backbones.py). Leave it out."
        )

    # The run, new or resumed; Ctrl-C and `kill` end it after the step.
    workers = Workers(options.device)
    session = open_session(
        options.out, options.level, options.rooms, workers, options.seed, options.backbone
    )
    if options.start_from:
        take_over(session, load_model(options.start_from))
    if options.decoder:
        take_decoder(session, load_model(options.decoder))
    if options.tower:
        take_tower(session, load_model(options.tower))
    if options.keep_ratio != 1.0:
        session.pruner = planned_pruner(session.model, options.keep_ratio)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, session.stop)

    # Train, then export what it has come to.
    for name in wanted:
        if not run_stage(session, known[name], until, 60 * options.report_minutes):
            break  # a later stage would begin with what is not finished
    if options.export and workers.first:
        model, head = session.llava3d, session.head
        export_model(options.out, options.export, options.threshold, model, head)


def main(argv: list[str]) -> int:
    """`ada3d train`: returns 0, or 2 with a sentence for a wrong option."""
    options = _parser().parse_args(argv)
    torch.set_num_threads(options.threads)
    try:
        _run(options)
    except (Ada3DError, OSError) as error:
        print(f"ada3d train: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
