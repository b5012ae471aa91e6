"""What a run has come to: a model to ask, or a checkpoint folder in the official layout (`ada3d
train --export`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ada3d_ros.errors import ConfigError
from ada3d_ros.lab.train.session import Session
from ada3d_ros.model.checkpoint import (
    CheckpointInfo,
    LoadedModel,
    save_checkpoint,
    weights_sha256,
)
from ada3d_ros.model.grounding_head import GroundingHead, LoadedHead, save_grounding_head
from ada3d_ros.model.llava3d import Llava3D
from ada3d_ros.model.prompt import Tokenizer
from ada3d_ros.model.video3dllm.backbone import Video3DLLM

SHARD_BYTES = 15 * 10**6
THRESHOLD = 0.5  # score below which boxes are not shown


def trained_model(session: Session) -> LoadedModel:
    """What a run was last saved as, ready to be asked: in float32, from no checkpoint folder.

    Raises ConfigError where the run has no trained state.
    """
    content = _state_of(session.folder)
    model, head = session.model, session.head
    model.load_state_dict(content["modules"]["model"])
    head.load_state_dict(content["modules"]["head"])
    session.seen, session.seconds = content["seen"], content["seconds"]
    model.eval().requires_grad_(False)
    model.decoder.prepare()
    info = CheckpointInfo(session.folder, model.config, files=(), sources={})
    loaded = LoadedHead(head.eval().requires_grad_(False), THRESHOLD, "generated rooms")
    return LoadedModel(model, session.packer.tokenizer, info, loaded)


def _state_of(run: Path) -> dict[str, Any]:
    state = run / "state.pt"
    if not state.exists():
        raise ConfigError(f"{state} does not exist: train first (`ada3d train --out {run}`).")
    content: dict[str, Any] = torch.load(state, map_location="cpu", weights_only=True)
    return content


def export_model(
    run: Path,
    folder: Path,
    threshold: float,
    model: Llava3D | Video3DLLM,
    head: GroundingHead,
) -> str:
    """Writes a checkpoint folder with tokenizer and head; returns the weights' sha256.

    Weights are bfloat16 safetensors (geometry in float32 at load). threshold: boxes of a lower
    score are not shown. Raises ConfigError where the run has no trained state.
    """
    # What the run has come to.
    content = _state_of(run)
    model.load_state_dict(content["modules"]["model"])
    head.load_state_dict(content["modules"]["head"])

    # The checkpoint, and the head that belongs to these very weights.
    tokenizer = Tokenizer(run / "tokenizer.model")
    save_checkpoint(model.to(torch.bfloat16), tokenizer, folder, SHARD_BYTES)
    sha256 = weights_sha256(folder)
    seen = ", ".join(f"{name} {rooms}" for name, rooms in content["seen"].items())
    origin = f"generated rooms; room passes: {seen}"
    save_grounding_head(head, folder, threshold, trained_on=origin, model_sha256=sha256)
    return sha256
