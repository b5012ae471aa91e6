"""The model that answers on a robot while its server is lost (`remote.fallback`); it is loaded when
it is first needed, since it brings torch along.
"""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ada3d_ros.config import AgentConfig
from ada3d_ros.errors import ConfigError

if TYPE_CHECKING:
    from ada3d_ros.pipeline import Ada3DPipeline

EMBEDDED = "embedded"  # as in model/startup.py, which loads torch


def check_fallback(config: AgentConfig) -> None:
    """Raise ConfigError where it could never answer, before the server is lost; loads nothing."""
    path = config.remote.fallback
    if not path:
        return
    if path != EMBEDDED and not (Path(path) / "config.json").is_file():
        raise ConfigError(
            f"remote.fallback = {path!r}: there is no checkpoint (no {path}/config.json). Name"
            f" `{EMBEDDED}`, the folder of a checkpoint, or nothing."
        )
    if importlib.util.find_spec("torch") is None:
        raise ConfigError(
            f"remote.fallback = {path!r}: torch is not installed here, which its model needs:"
            " install it, or leave remote.fallback empty."
        )


def local_pipeline(config: AgentConfig) -> Ada3DPipeline:
    """Of the model that answers here."""
    from ada3d_ros.pipeline import Ada3DPipeline

    model = replace(config.model, path=config.remote.fallback, remote="")
    return Ada3DPipeline(replace(config, model=model))
