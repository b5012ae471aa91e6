"""Calibration files: the measured information curve of one model, as YAML, with what it came from.

Written by `ada3d calibrate`, read by the node (`pruning.adatoken3d.calibration_file`). It holds the
curve, not only one schedule: any keep ratio is fitted from it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ada3d_ros.errors import ConfigError
from ada3d_ros.pruning.information import Masses

KIND = "ada3d_ros retention schedule"


@dataclass(frozen=True, slots=True)
class Calibration:
    """What a file holds. Per layer, floats: masses, INF, I (information), retention (the schedule
    fitted for `budget`).

    model: name of the checkpoint; sha256: of its weights; budget: mode and value; achieved_mean: of
    `retention` as the layers get it; provenance: commit, versions, device, seed.
    """

    model: str
    sha256: str
    information: tuple[float, ...]
    INF: tuple[float, ...]
    masses: tuple[Masses, ...]  # means over the samples
    retention: tuple[float, ...]
    parameters: Mapping[str, float]
    budget: Mapping[str, Any]
    achieved_mean: float
    samples: int
    mean_spatial_tokens: int = 0  # of the scenes measured
    settings: Mapping[str, float] = field(default_factory=dict)
    sources: tuple[str, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)
    random_weights: bool = False
    INF_std: tuple[float, ...] = ()  # spread over the samples

    @property
    def num_layers(self) -> int:
        return len(self.information)


def _numbers(values: Sequence[float]) -> list[float]:
    return [round(float(value), 9) for value in values]


def write_calibration(path: str | Path, calibration: Calibration) -> Path:
    """Write the file; its folder is made."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    data = {
        "kind": KIND,
        "model": calibration.model,
        "sha256": calibration.sha256,
        "random_weights": calibration.random_weights,
        "num_layers": calibration.num_layers,
        "samples": calibration.samples,
        "mean_spatial_tokens": calibration.mean_spatial_tokens,
        "sources": list(calibration.sources),
        "budget": dict(calibration.budget),
        "achieved_mean": round(calibration.achieved_mean, 6),
        "parameters": {name: float(value) for name, value in calibration.parameters.items()},
        "inf_settings": {name: float(value) for name, value in calibration.settings.items()},
        "retention": _numbers(calibration.retention),
        "information": _numbers(calibration.information),
        "INF": _numbers(calibration.INF),
        "INF_std": _numbers(calibration.INF_std),
        "S_self": _numbers([m.S_self for m in calibration.masses]),
        "S_sp": _numbers([m.S_sp for m in calibration.masses]),
        "S_ss": _numbers([m.S_ss for m in calibration.masses]),
        "provenance": dict(calibration.provenance),
    }
    head = (
        "# Information contribution of spatial tokens per decoder layer, and the retention schedule"
        " fitted to it.\n"
    )
    path.write_text(
        head + yaml.safe_dump(data, sort_keys=False, default_flow_style=None, width=110),
        encoding="utf-8",
    )
    return path


def read_calibration(path: str | Path) -> Calibration:
    """Read and check a file. Raises ConfigError that names what is wrong and what to do."""
    file = Path(path).expanduser()
    again = "write it anew with `ada3d calibrate`"
    try:
        data = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"no calibration file at {file}: {again}.") from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(
            f"{file} cannot be read as a calibration file ({error}): {again}."
        ) from None
    if not isinstance(data, dict) or data.get("kind") != KIND:
        raise ConfigError(f"{file} is not a calibration file (kind: {KIND!r} is missing): {again}.")
    try:
        curves = {
            name: tuple(float(v) for v in data[name])
            for name in ("information", "INF", "retention", "S_self", "S_sp", "S_ss")
        }
        count = int(data["num_layers"])
        budget, parameters = (
            dict(data["budget"]),
            {k: float(v) for k, v in data["parameters"].items()},
        )
        achieved, samples = float(data["achieved_mean"]), int(data["samples"])
        settings, made = dict(data.get("inf_settings", {})), dict(data.get("provenance", {}))
        spatial = int(data.get("mean_spatial_tokens", 0))
        sources, spread = (
            tuple(map(str, data.get("sources", ()))),
            tuple(map(float, data.get("INF_std") or ())),
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ConfigError(
            f"{file}: {type(error).__name__} {error}: a field is missing or of another type;"
            f" {again}."
        ) from None
    for name, curve in curves.items():
        if len(curve) != count or not all(map(math.isfinite, curve)):
            raise ConfigError(
                f"{file}: {name} has {len(curve)} values for {count} layers, or one is not finite;"
                f" {again}."
            )
        if name in ("information", "retention") and not all(
            -1e-6 <= value <= 1 + 1e-6 for value in curve
        ):
            raise ConfigError(f"{file}: {name} holds a value outside 0..1; {again}.")
    return Calibration(
        model=str(data.get("model", "")),
        sha256=str(data.get("sha256", "")),
        information=curves["information"],
        INF=curves["INF"],
        masses=tuple(
            Masses(*row)
            for row in zip(curves["S_self"], curves["S_sp"], curves["S_ss"], strict=True)
        ),
        retention=curves["retention"],
        parameters=parameters,
        budget=budget,
        achieved_mean=achieved,
        samples=samples,
        mean_spatial_tokens=spatial,
        settings=settings,
        sources=sources,
        provenance=made,
        random_weights=bool(data.get("random_weights", False)),
        INF_std=spread,
    )
