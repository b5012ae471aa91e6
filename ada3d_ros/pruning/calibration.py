"""Calibration files: the measured information curve of one model, as YAML, with what it came from.

Written by `ada3d calibrate`, read by the node (`pruning.adatoken3d.calibration_file`). It holds the
curve, not only one schedule: any keep ratio is fitted from it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ada3d_ros.errors import ConfigError
from ada3d_ros.pruning.information import Masses

KIND = "ada3d_ros retention schedule"
AGAIN = "write it anew with `ada3d calibrate`"
CURVES = ("information", "INF", "retention", "S_self", "S_sp", "S_ss")
HEAD = (
    "# Information contribution of spatial tokens per decoder layer, and the retention schedule"
    " fitted to it.\n"
)


@dataclass(frozen=True, slots=True)
class Calibration:
    """What a file holds. Per layer, floats: masses, INF, information I, retention.

    model: name of the checkpoint; sha256: of its weights; masses: means over the samples;
    retention: the schedule fitted for `budget` (mode and value); achieved_mean: of `retention` as
    the layers get it; mean_spatial_tokens: of the scenes measured; provenance: commit, versions,
    device, seed; INF_std: spread over the samples.
    """

    model: str
    sha256: str
    information: tuple[float, ...]
    INF: tuple[float, ...]
    masses: tuple[Masses, ...]
    retention: tuple[float, ...]
    parameters: Mapping[str, float]
    budget: Mapping[str, Any]
    achieved_mean: float
    samples: int
    mean_spatial_tokens: int = 0
    settings: Mapping[str, float] = field(default_factory=dict)
    sources: tuple[str, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)
    random_weights: bool = False
    INF_std: tuple[float, ...] = ()

    @property
    def num_layers(self) -> int:
        return len(self.information)


def write_calibration(path: str | Path, calibration: Calibration) -> Path:
    """Write the file; its folder is made."""
    # What it came from, then the curves.
    c = calibration
    data = {
        "kind": KIND,
        "model": c.model,
        "sha256": c.sha256,
        "random_weights": c.random_weights,
        "num_layers": c.num_layers,
        "samples": c.samples,
        "mean_spatial_tokens": c.mean_spatial_tokens,
        "sources": list(c.sources),
        "budget": dict(c.budget),
        "achieved_mean": round(c.achieved_mean, 6),
        "parameters": {name: float(value) for name, value in c.parameters.items()},
        "inf_settings": {name: float(value) for name, value in c.settings.items()},
        "retention": _numbers(c.retention),
        "information": _numbers(c.information),
        "INF": _numbers(c.INF),
        "INF_std": _numbers(c.INF_std),
        "S_self": _numbers([m.S_self for m in c.masses]),
        "S_sp": _numbers([m.S_sp for m in c.masses]),
        "S_ss": _numbers([m.S_ss for m in c.masses]),
        "provenance": dict(c.provenance),
    }

    # In the order above, lists on one line.
    text = yaml.safe_dump(data, sort_keys=False, default_flow_style=None, width=110)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(HEAD + text, encoding="utf-8")
    return path


def _numbers(values: Sequence[float]) -> list[float]:
    return [round(float(value), 9) for value in values]


def read_calibration(path: str | Path) -> Calibration:
    """Read and check a file. Raises ConfigError that names what is wrong and what to do."""
    # YAML of our kind.
    file = Path(os.path.expanduser(path))  # without a word on a user who is not there
    try:
        data = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"no calibration file at {file}: {AGAIN}.") from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(
            f"{file} cannot be read as a calibration file ({error}): {AGAIN}."
        ) from None
    if not isinstance(data, dict) or data.get("kind") != KIND:
        raise ConfigError(f"{file} is not a calibration file (kind: {KIND!r} is missing): {AGAIN}.")

    # Every field of its type.
    try:
        curves = {name: tuple(map(float, data[name])) for name in CURVES}
        count = int(data["num_layers"])
        masses = zip(curves["S_self"], curves["S_sp"], curves["S_ss"], strict=False)
        calibration = Calibration(
            model=str(data.get("model", "")),
            sha256=str(data.get("sha256", "")),
            information=curves["information"],
            INF=curves["INF"],
            masses=tuple(Masses(*layer) for layer in masses),
            retention=curves["retention"],
            parameters={name: float(value) for name, value in data["parameters"].items()},
            budget=dict(data["budget"]),
            achieved_mean=float(data["achieved_mean"]),
            samples=int(data["samples"]),
            mean_spatial_tokens=int(data.get("mean_spatial_tokens", 0)),
            settings=dict(data.get("inf_settings", {})),
            sources=tuple(map(str, data.get("sources", ()))),
            provenance=dict(data.get("provenance", {})),
            random_weights=bool(data.get("random_weights", False)),
            INF_std=tuple(map(float, data.get("INF_std") or ())),
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ConfigError(
            f"{file}: {type(error).__name__} {error}: a field is missing or of another type;"
            f" {AGAIN}."
        ) from None

    # One finite number for each layer, shares within 0..1.
    for name, curve in curves.items():
        if len(curve) != count or not all(map(math.isfinite, curve)):
            raise ConfigError(
                f"{file}: {name} has {len(curve)} values for {count} layers, or one is not finite;"
                f" {AGAIN}."
            )
        is_share = name in ("information", "retention")
        if is_share and not all(-1e-6 <= value <= 1 + 1e-6 for value in curve):
            raise ConfigError(f"{file}: {name} holds a value outside 0..1; {AGAIN}.")
    return calibration
