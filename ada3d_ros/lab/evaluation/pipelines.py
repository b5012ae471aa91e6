"""The node's own pipeline as the laboratory asks it: every view a keyframe, one room at a time."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from ada3d_ros.config import SETTINGS, AgentConfig, from_flat
from ada3d_ros.errors import ConfigError
from ada3d_ros.pipeline import Ada3DPipeline
from ada3d_ros.types import RgbdFrame


def add_pruning(add: Callable[..., object]) -> None:
    """The options of what is pruned, and how exact the weights are; add: of a parser."""
    modes, prune = SETTINGS["cache.mode"], SETTINGS["cache.prune"]
    add("--strategy", default="none", help="pruning strategy (default none)")
    add("--keep", type=float, help="keep ratio of the strategy")
    add(
        "--cache-mode",
        default=modes.default,
        choices=modes.choices,
        help=f"cache.mode (default {modes.default})",
    )
    add(
        "--cache-prune",
        default=prune.default,
        choices=prune.choices,
        help=f"cache.prune (default {prune.default})",
    )
    add("--weights", default="full", help="model.weights: full, int8 or int4 (default full)")


def pruning_settings(options: argparse.Namespace) -> dict[str, object]:
    """The settings that those options give, without strategy and keep ratio."""
    return {
        "model.weights": options.weights,
        "cache.mode": options.cache_mode,
        "cache.prune": options.cache_prune,
    }


def open_pipeline(
    model: Path,
    strategy: str,
    keep: float | None,
    settings: Mapping[str, object] = MappingProxyType({}),
    background: bool = False,
    scenes: bool = False,
) -> Ada3DPipeline:
    """The pipeline that takes every view as a keyframe and, unless the settings say otherwise,
    answers by the model alone; settings: others by name; scenes: it will be asked about
    scenes, not about images alone.

    Raises ConfigError, for a 2D model that is asked about scenes too, ModelError.
    """
    values: dict[str, object] = {
        "model.path": str(model),
        "pruning.strategy": strategy,
        "keyframe.min_translation_m": 0.0,
        "keyframe.min_rotation_deg": 0.0,
        "question.measure": False,
        "objects.enabled": False,
    }
    if keep is not None:
        values["pruning.keep_ratio"] = keep
    pipeline = Ada3DPipeline(from_flat(values | dict(settings), AgentConfig()), background)
    info = pipeline.check()
    if scenes and not info.has_3d:
        raise ConfigError(
            f"{model} is {info.backbone}, which is 2D: it has no scene to be asked about. Ask it"
            " about images (`ada3d eval image`, vqa, mme, mmbench, mmvet), or give a 3D checkpoint."
        )
    pipeline.load()
    return pipeline


def load_room(pipeline: Ada3DPipeline, frames: Sequence[RgbdFrame]) -> None:
    """Empties the scene and observes one room's views.

    Raises ConfigError where a view was not admitted as a keyframe.
    """
    pipeline.reset_scene()
    for frame in frames:
        pipeline.observe(frame)
    admitted = pipeline.scene_state().num_keyframes
    if admitted != len(frames):
        raise ConfigError(f"{admitted} of {len(frames)} views became keyframes; all must.")
