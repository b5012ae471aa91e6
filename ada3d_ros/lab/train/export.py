"""`ada3d train --export`: the trained weights as a checkpoint folder in the official layout."""

from __future__ import annotations

from pathlib import Path

import torch

from ada3d_ros.errors import ConfigError
from ada3d_ros.model.checkpoint import save_checkpoint, weights_sha256
from ada3d_ros.model.grounding_head import GroundingHead, save_grounding_head
from ada3d_ros.model.llava3d import Llava3D
from ada3d_ros.model.prompt import Tokenizer

SHARD_BYTES = 15 * 10**6


def export_model(
    run: Path, folder: Path, threshold: float, model: Llava3D, head: GroundingHead
) -> str:
    """Writes a checkpoint folder with tokenizer and head; returns the weights' sha256.

    Weights are bfloat16 safetensors (geometry in float32 at load). threshold: boxes of a lower
    score are not shown. Raises ConfigError where the run has no trained state.
    """
    # What the run has come to.
    state = run / "state.pt"
    if not state.exists():
        raise ConfigError(f"{state} does not exist: train first (`ada3d train --out {run}`).")
    content = torch.load(state, map_location="cpu", weights_only=True)
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
