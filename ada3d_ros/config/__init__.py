"""Every setting of the agent, its default, unit and range, written once, in the dataclasses here.

ROS parameters are declared from them (ros/parameters.py), YAML files only override them
(`load_config`), and docs/parameters.md is generated from them. Here: all settings by dotted name
(`sync.slop_sec` is the setting `slop_sec` of the class in the field `sync`), a config as values and
back, a config from a YAML file. Knows nothing of ROS or torch.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterator, Mapping
from operator import attrgetter
from pathlib import Path
from typing import Any, cast

import yaml

from ada3d_ros.config.agent import AgentConfig, DepthConfig, KeyframeConfig, ModelConfig
from ada3d_ros.config.pruning import PruningConfig
from ada3d_ros.config.setting import Setting, Value
from ada3d_ros.errors import ConfigError

__all__ = [
    "SETTINGS",
    "VISION_SETTING",
    "AgentConfig",
    "DepthConfig",
    "KeyframeConfig",
    "ModelConfig",
    "PruningConfig",
    "Setting",
    "as_options",
    "from_flat",
    "iter_settings",
    "load_config",
    "to_flat",
]


# How a text names the setting, at the node and at launch.
VISION_SETTING = "model.vision_path (at launch: vision_path:=FOLDER)"


def as_options(text: str) -> str:
    """A text of an error as a command says it: with its option in the place of the setting."""
    text = text.replace(VISION_SETTING, "--vision-path").replace("model.path", "--model")
    return text.replace("detector.path", "--detector")


def iter_settings(cls: type = AgentConfig, prefix: str = "") -> Iterator[Setting]:
    """Every setting in file order, dotted names."""
    for f in dataclasses.fields(cls):
        if dataclasses.is_dataclass(f.default):
            yield from iter_settings(type(f.default), f"{prefix}{f.name}.")
        else:
            yield Setting(name=f"{prefix}{f.name}", default=cast(Value, f.default), **f.metadata)


SETTINGS: dict[str, Setting] = {s.name: s for s in iter_settings()}


def to_flat(config: AgentConfig) -> dict[str, Value]:
    """The config's values by dotted name."""
    return {name: attrgetter(name)(config) for name in SETTINGS}


def from_flat(values: Mapping[str, Any], base: AgentConfig | None = None) -> AgentConfig:
    """A config from dotted names over `base` (default: all defaults).

    Raises ConfigError for an unknown name (the nearest is named), a value out of range, or values
    that do not fit together.
    """
    flat = to_flat(base or AgentConfig())
    for name, value in values.items():
        if name not in SETTINGS:
            near = difflib.get_close_matches(name, SETTINGS, 1)
            advice = f"did you mean {near[0]!r}?" if near else "see docs/parameters.md."
            raise ConfigError(f"unknown setting {name!r}; {advice}")
        flat[name] = SETTINGS[name].check(value)
    return _build(AgentConfig, flat, "")


def _build(cls: type, flat: Mapping[str, Value], prefix: str) -> Any:
    """The tree below `prefix` from its values."""
    fields: dict[str, Any] = {}
    for f in dataclasses.fields(cls):
        name = prefix + f.name
        nested = dataclasses.is_dataclass(f.default)
        fields[f.name] = _build(type(f.default), flat, f"{name}.") if nested else flat[name]
    return cls(**fields)


def load_config(path: str | Path, base: AgentConfig | None = None) -> AgentConfig:
    """A config from a ROS 2 parameter file (`/**: ros__parameters:`) or a plain nested YAML.

    Raises ConfigError where the file is absent, not YAML, or holds an unknown or bad setting.
    """
    # Read.
    try:
        tree = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"no configuration file at {path}.") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from None
    except (OSError, ValueError) as error:  # a folder, not allowed, not text
        raise ConfigError(f"{path} cannot be read: {error}") from None

    # Down to the parameters of the node.
    for root in ("/**", "ros__parameters"):
        if isinstance(tree, dict) and root in tree:
            tree = tree[root]

    values = dict(_flatten(tree or {}, "", path))
    values.pop("use_sim_time", None)  # of every ROS node
    return from_flat(values, base)


def _flatten(node: Any, prefix: str, path: str | Path) -> Iterator[tuple[str, Any]]:
    """Values by dotted name; names may be dotted in the file already."""
    if not isinstance(node, dict):
        raise ConfigError(
            f"{path}: expected a mapping at {prefix.rstrip('.') or 'the top'}, got"
            f" {type(node).__name__}."
        )
    for key, value in node.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}.", path)
        else:
            yield f"{prefix}{key}", value
