"""`ada3d train --export`: the trained weights as a checkpoint folder in the official layout, with
its grounding head.
"""

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
    """Writes bfloat16 safetensors (geometry in float32 at load), tokenizer, config and head to
    `folder`; returns the weights' sha256.

    threshold: boxes of a lower score are not shown. Raises ConfigError where the run has no trained
    state.
    """
    state = run / "state.pt"
    if not state.exists():
        raise ConfigError(f"{state} does not exist: train first (`ada3d train --out {run}`).")
    content = torch.load(state, map_location="cpu", weights_only=True)
    model.load_state_dict(content["modules"]["model"])
    head.load_state_dict(content["modules"]["head"])
    save_checkpoint(
        model.to(torch.bfloat16), Tokenizer(run / "tokenizer.model"), folder, SHARD_BYTES
    )
    sha256 = weights_sha256(folder)
    seen = ", ".join(f"{name} {rooms}" for name, rooms in content["seen"].items())
    save_grounding_head(
        head,
        folder,
        threshold,
        trained_on=f"generated rooms; room passes: {seen}",
        model_sha256=sha256,
    )
    return sha256
