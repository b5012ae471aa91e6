"""What a training run holds, and how it is kept on disk.

Everything lies in one folder: the tokenizer, the rendered rooms, state.pt and vision.pt (weights,
optimisers, place in the curriculum).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from ada3d_ros.lab.train.embedded import (
    EMBEDDED_CONFIG,
    corpus,
    feature_code,
    new_model,
)
from ada3d_ros.lab.train.gallery import Gallery, open_gallery
from ada3d_ros.lab.train.optimizers import Optimizers
from ada3d_ros.lab.train.packing import Packer
from ada3d_ros.lab.train.stages import Stage
from ada3d_ros.lab.train.video_form import COORD_TOKEN, new_video_model
from ada3d_ros.lab.train.workers import Workers
from ada3d_ros.model.grounding_head import GroundingHead
from ada3d_ros.model.llava3d import Llava3D
from ada3d_ros.model.prompt import POINT_TOKENS, Tokenizer
from ada3d_ros.model.random_checkpoint import train_tokenizer
from ada3d_ros.model.video3dllm.backbone import Video3DLLM
from ada3d_ros.pruning.strategy import LayerPruner

BACKBONES = ("llava3d", "video3dllm")


@dataclass
class Session:
    """What a run holds: weights, data, how many room passes each stage has seen, and the CPU
    seconds that its steps took; seed: of the first weights, and which rooms are drawn.

    code: of the vision features (`feature_code`), empty for a checkpoint's own tower, which stays;
    pruner: of spatial tokens while training, None = all are kept; recompute: as in `run_packed`.
    """

    folder: Path
    model: Llava3D | Video3DLLM
    head: GroundingHead
    packer: Packer
    code: torch.Tensor
    level: int
    gallery_rooms: int
    workers: Workers
    seen: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    galleries: dict[str, Gallery] = field(default_factory=dict)
    stopped: bool = False
    pruner: LayerPruner | None = None
    recompute: bool = False
    seed: int = 0

    def stop(self, *args: object) -> None:
        """Finish the step, save, end: what Ctrl-C and `kill` do."""
        self.stopped = True

    @property
    def llava3d(self) -> Llava3D:
        """The model, for what is done to that form alone: export, a click encoder of its own."""
        assert isinstance(self.model, Llava3D)
        return self.model

    @property
    def device(self) -> torch.device:
        return self.workers.device

    def batch_of(self, stage: Stage, step: int) -> int:
        """Number of the batch that a step takes: a seed's lie behind all of the seed before."""
        return self.seed * (stage.rooms // stage.batch) + step

    def gallery(self, split: str, count: int) -> Gallery:
        """`count` rendered rooms of a split.

        The first worker renders those of `train` when they are first asked for.
        """
        if split in self.galleries:
            return self.galleries[split]
        if not self.workers.first and split == "train":
            self.workers.wait()
        folder, config = self.folder / "gallery", self.model.config
        found = open_gallery(folder, split, self.level, count, config, str(self.device))
        if self.workers.first and split == "train":
            self.workers.wait()
        self.galleries[split] = found
        return found


def open_session(
    folder: Path,
    level: int,
    gallery_rooms: int,
    workers: Workers,
    seed: int,
    backbone: str = BACKBONES[0],
) -> Session:
    """A new run, or the one that `folder` holds; its state is read by `load_state`. backbone: whose
    form the model has, one of BACKBONES.
    """
    folder.mkdir(parents=True, exist_ok=True)
    device = workers.device
    is_video = backbone == "video3dllm"
    controls = (*POINT_TOKENS, COORD_TOKEN) if is_video else POINT_TOKENS
    tokenizer = _open_tokenizer(folder / "tokenizer.model", controls, workers)
    model, head = (new_video_model if is_video else new_model)(tokenizer, seed)
    return Session(
        folder=folder,
        model=model.to(device),
        head=head.to(device),
        packer=Packer(
            tokenizer, point_ids=(model.config.point_id, model.config.egocentric_point_id)
        ),
        code=feature_code(model.config.vision.hidden_size).to(device),
        level=level,
        gallery_rooms=gallery_rooms,
        workers=workers,
        seed=seed,
    )


def _open_tokenizer(path: Path, controls: Sequence[str], workers: Workers) -> Tokenizer:
    """The run's tokenizer; the first worker trains it while the others wait."""
    if not workers.first:
        workers.wait()
    if path.exists():
        tokenizer = Tokenizer(path)
    else:
        size = EMBEDDED_CONFIG.decoder.vocab_size
        tokenizer = train_tokenizer(path, corpus(), size, controls)
    if workers.first:
        workers.wait()
    return tokenizer


def trained_parameters(session: Session, stage: Stage) -> list[tuple[str, nn.Parameter]]:
    """By name. `patches` trains the vision tower alone, `images` everything, the rest all but the
    tower.
    """
    named = list(session.model.named_parameters())
    tower = [(name, p) for name, p in named if name.startswith("vision.")]
    if stage.shows == "patches":
        return tower
    rest = [(name, p) for name, p in named if not name.startswith("vision.")]
    rest += session.head.named_parameters()
    return [*rest, *tower] if stage.shows == "images" else rest


def state_path(session: Session, stage: Stage) -> Path:
    """Where a stage's state lies: the vision tower may be trained beside the rest."""
    return session.folder / ("vision.pt" if stage.shows == "patches" else "state.pt")


def save_state(session: Session, stage: Stage, optimizers: Optimizers) -> None:
    """Replaced in one move: a run that is killed loses at most what came after."""
    path, modules = state_path(session, stage), _saved_modules(session, stage)
    content = {
        "stage": stage.name,
        "seen": session.seen,
        "seconds": session.seconds,
        "modules": {name: module.state_dict() for name, module in modules.items()},
        "optimizers": optimizers.state(),
    }
    torch.save(content, path.with_suffix(".tmp"))
    path.with_suffix(".tmp").replace(path)


def load_state(session: Session, stage: Stage, optimizers: Optimizers) -> None:
    """Weights of the last save, and the optimisers where the same stage goes on.

    Images start with the trained tower.
    """
    path = state_path(session, stage)
    if path.exists():
        content = torch.load(path, map_location=session.device, weights_only=True)
        session.seen = {**session.seen, **content["seen"]}
        session.seconds = {**session.seconds, **content.get("seconds", {})}
        for name, module in _saved_modules(session, stage).items():
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


def _saved_modules(session: Session, stage: Stage) -> dict[str, nn.Module]:
    if stage.shows == "patches":
        return {"vision": session.model.vision}
    return {"model": session.model, "head": session.head}
