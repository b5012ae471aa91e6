"""`ada3d train --from CHECKPOINT --lora`: teaches a trained checkpoint to point before it speaks.

Generated rooms at the checkpoint's own picture size, through its own vision tower; what learns are
LoRA adapters of the decoder, the head's rows of the two tokens that point, the grounding head and,
if wished, the click encoder. Everything else stays as it is. The run's folder holds state.pt with
what was learnt, not the checkpoint.
"""

from __future__ import annotations

import argparse
import signal
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ada3d_ros.errors import CheckpointError, ConfigError, OutOfMemoryError
from ada3d_ros.lab.train.batches import autocast, batch_loss, validate
from ada3d_ros.lab.train.lora import (
    adapter_state,
    add_adapters,
    load_adapter_state,
    require_peft,
    save_adapter,
    trained_parameters,
)
from ada3d_ros.lab.train.optimizers import learning_rate
from ada3d_ros.lab.train.packing import Packer
from ada3d_ros.lab.train.run import REPORT_EVERY_S, SAVE_EVERY_S, steps_of, write_line
from ada3d_ros.lab.train.session import Session
from ada3d_ros.lab.train.stages import Stage
from ada3d_ros.lab.train.workers import Workers
from ada3d_ros.model.checkpoint import (
    LoadedModel,
    files_sha256,
    inspect_checkpoint,
    load_inspected,
    save_checkpoint,
    weights_sha256,
)
from ada3d_ros.model.grounding_head import GroundingHead, save_grounding_head

if TYPE_CHECKING:
    from peft import PeftModel

_KEPT = frozenset(("seen", "adapters", "head", "optimizer"))  # of a run that goes on
LARGE = 10**9  # parameters from which on activations are computed anew in the backward pass
LEARNING_RATE, DECAY = 2e-4, 0.3


@dataclass(frozen=True, eq=False, slots=True)
class FineTune:
    """A run: what learns and how far it has come (session.seen).

    facts: of the checkpoint and the options; a run goes on with the same ones only.
    """

    session: Session
    loaded: LoadedModel
    adapted: PeftModel
    stage: Stage
    optimizer: torch.optim.AdamW
    facts: dict[str, Any]

    @property
    def parameters(self) -> list[nn.Parameter]:
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    @property
    def state_path(self) -> Path:
        return self.session.folder / "state.pt"


def weights_dtype(device: torch.device) -> torch.dtype:
    """What the checkpoint's own weights are kept in; what learns is float32 everywhere."""
    has_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported()
    return torch.bfloat16 if has_bf16 else torch.float32


def open_finetune(options: argparse.Namespace, workers: Workers) -> FineTune:
    """A new run, or the one that the folder holds.

    Raises CheckpointError for a folder that is not a 3D checkpoint in full precision, ConfigError
    without peft, or where the folder holds a run of other options.
    """
    # Refuse before gigabytes are read.
    require_peft()
    info = inspect_checkpoint(options.start_from, options.vision_path)
    if not info.config.has_video_tower:
        raise CheckpointError(
            f"{info.path} is 2D only (its config.json has no mm_video_tower): it has no places to"
            " point at. Take a LLaVA-3D checkpoint."
        )

    # The checkpoint in the device's format, its head or a new one, and what is added.
    device = workers.device
    loaded = load_inspected(info, device, weights_dtype(device))
    model = loaded.llava3d
    adapted = add_adapters(model, options.rank, options.seed)
    head = loaded.head.head if loaded.head else GroundingHead(model.config.decoder.hidden_size)
    head.to(device).requires_grad_(True)
    model.click_encoder.requires_grad_(options.train_clicks)

    # The run.
    options.out.mkdir(parents=True, exist_ok=True)
    session = Session(
        folder=options.out,
        model=model,
        head=head,
        packer=Packer(
            loaded.tokenizer, point_ids=(model.config.point_id, model.config.egocentric_point_id)
        ),
        code=torch.zeros(0, model.config.vision.hidden_size, device=device),
        level=options.level,
        gallery_rooms=options.rooms,
        workers=workers,
        seed=options.seed,
        recompute=info.num_parameters >= LARGE,
    )
    learns = [*trained_parameters(model), *head.parameters()]
    tune = FineTune(
        session=session,
        loaded=loaded,
        adapted=adapted,
        stage=Stage(
            "pointing",
            "features",
            options.passes,
            options.batch,
            options.questions,
            LEARNING_RATE,
            decay=DECAY,
        ),
        optimizer=torch.optim.AdamW(learns, lr=LEARNING_RATE, weight_decay=0.0),
        facts={
            "checkpoint_sha256": weights_sha256(info.path),
            "rank": options.rank,
            "train_clicks": options.train_clicks,
            "level": options.level,
            "seed": options.seed,
        },
    )
    _load_state(tune)
    return tune


def save_state(tune: FineTune, passes: int) -> None:
    """Replaced in one move: a run that is killed loses at most what came after `passes`."""
    session = tune.session
    content = {
        "facts": tune.facts,
        "seen": {tune.stage.name: passes},
        "adapters": adapter_state(tune.adapted),
        "head": session.head.state_dict(),
        "optimizer": tune.optimizer.state_dict(),
    }
    if tune.facts["train_clicks"]:
        content["click_encoder"] = tune.loaded.llava3d.click_encoder.state_dict()
    part = tune.state_path.with_suffix(".tmp")
    torch.save(content, part)
    part.replace(tune.state_path)


def _load_state(tune: FineTune) -> None:
    """What the folder holds, if anything. Raises ConfigError for a run of other facts, or of a
    version that wrote less.
    """
    if not tune.state_path.exists():
        return
    session = tune.session
    content = torch.load(tune.state_path, map_location=session.device, weights_only=True)
    facts = content.get("facts")
    if facts is None:
        raise ConfigError(
            f"{tune.state_path} is of a training without --lora: name another folder as --out."
        )
    missing = [*(tune.facts.keys() - facts.keys()), *(_KEPT - content.keys())]
    if missing:
        raise ConfigError(
            f"{tune.state_path} does not say {', '.join(sorted(missing))}: a version before this"
            " one wrote it. Name another folder as --out, or delete the file to begin anew."
        )
    for name, value in tune.facts.items():
        if facts[name] != value:
            raise ConfigError(
                f"{session.folder} holds a run with {name} {facts[name]!r}, not {value!r}: go on"
                " with the same, or name another folder as --out."
            )
    session.seen = content["seen"]
    load_adapter_state(tune.adapted, content["adapters"])
    session.head.load_state_dict(content["head"])
    if "click_encoder" in content:
        tune.loaded.llava3d.click_encoder.load_state_dict(content["click_encoder"])
    tune.optimizer.load_state_dict(content["optimizer"])


def train(tune: FineTune, until: float) -> None:
    """Steps until the passes are done or time is up; state and learning curve are on disk.

    until: monotonic seconds.
    """
    session, stage, workers = tune.session, tune.stage, tune.session.workers
    saved = reported = time.monotonic()
    recent: dict[str, list[float]] = defaultdict(list)
    done = session.seen.get(stage.name, 0)
    for step in steps_of(session, stage, until):
        # The workers share the batch's rooms out; gradients are averaged.
        with autocast(session):
            number = session.batch_of(stage, step)
            loss, report, _ = batch_loss(session, stage, "train", number, shared=True)
        loss.backward()
        workers.average_gradients(tune.parameters)

        # The rate depends on the passes alone: a run that was stopped goes on with the same one.
        nn.utils.clip_grad_norm_(tune.parameters, 1.0)
        rate = learning_rate(stage, step, done / stage.rooms)
        for group in tune.optimizer.param_groups:
            group["lr"] = rate
        tune.optimizer.step()
        tune.optimizer.zero_grad(set_to_none=True)
        done = (step + 1) * stage.batch
        for name, value in report.items():
            recent[name].append(value)

        # The first worker validates, writes and saves.
        now = time.monotonic()
        if workers.first and now - reported > REPORT_EVERY_S:
            line: dict[str, Any] = {"stage": stage.name, "rooms": done}
            line |= {name: sum(v) / len(v) for name, v in recent.items()}
            line["val"] = validate(session, stage)
            write_line(session.folder / "log.jsonl", line)
            recent.clear()
            reported = time.monotonic()
        if workers.first and now - saved > SAVE_EVERY_S:
            save_state(tune, done)
            saved = now
    if workers.first:
        save_state(tune, done)
    workers.wait()


def export(tune: FineTune, folder: Path, threshold: float, adapter_only: bool = False) -> None:
    """The checkpoint with the adapters merged into it, in the official layout, and its head.

    adapter_only: the adapters by themselves and the head; the model stays as it is. Merged, the
    model has no adapters any more.
    """
    if adapter_only:
        sha256 = files_sha256([save_adapter(tune.adapted, folder)])
    else:
        tune.adapted.merge_and_unload()
        save_checkpoint(tune.session.model, tune.loaded.tokenizer, folder)
        sha256 = weights_sha256(folder)
    passes = tune.session.seen.get(tune.stage.name, 0)
    origin = f"generated rooms, {passes} passes, LoRA of rank {tune.facts['rank']}"
    save_grounding_head(tune.session.head, folder, threshold, origin, sha256)


def check_options(options: argparse.Namespace) -> None:
    """Raises ConfigError for options that do not go together, or out of range."""
    if not options.start_from:
        raise ConfigError("--lora teaches a trained checkpoint: name it by --from CHECKPOINT.")
    for name in ("passes", "batch", "questions"):
        if getattr(options, name) < 1:
            raise ConfigError(f"--{name} {getattr(options, name)}: must be 1 or more.")
    if options.keep_ratio != 1.0:
        raise ConfigError(
            "--keep-ratio is for training from nothing: a checkpoint learns on all its tokens, and"
            " is pruned when it is asked."
        )

    # What is written in the end.
    if options.export and options.export.resolve() == options.start_from.resolve():
        raise ConfigError(f"--export {options.export} is the checkpoint itself: name another.")
    if options.adapter_only and options.train_clicks:
        raise ConfigError(
            "--adapter-only holds the decoder's adapters, not a trained click encoder: export the"
            " whole checkpoint, or train without --train-clicks."
        )


def fine_tune(options: argparse.Namespace, until: float) -> None:
    """`ada3d train --lora` with parsed options. Raises Ada3DError, OSError.

    until: monotonic seconds.
    """
    check_options(options)
    workers = Workers(options.device)
    workers.share_of(options.batch)
    tune = open_finetune(options, workers)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, tune.session.stop)
    try:
        train(tune, until)
    except torch.OutOfMemoryError:
        raise OutOfMemoryError(
            f"a step takes more memory than {workers.device} has free: use a smaller --batch or"
            " --questions; the same command goes on from the last save."
        ) from None
    if options.export and workers.first:
        export(tune, options.export, options.threshold, options.adapter_only)
