"""Figure 1: what spatial tokens contribute in each decoder layer, and how many that leaves."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ada3d_ros.config import PruningConfig
from ada3d_ros.engine.information import measure_information
from ada3d_ros.errors import ConfigError
from ada3d_ros.lab.benchmarks.spread import plain, spread
from ada3d_ros.model.decoder import LlamaDecoder
from ada3d_ros.pruning.cost import DecoderShape
from ada3d_ros.pruning.fit import fit_mean
from ada3d_ros.pruning.fitted import fit_settings, information_settings
from ada3d_ros.pruning.information import Masses, falls_with_depth, information_of, mean_masses
from ada3d_ros.pruning.policy import Policy
from ada3d_ros.types import PromptSequence

Progress = Callable[[str], None]
Array = npt.NDArray[np.float64]
MASSES = ("S_self", "S_sp", "S_ss")
CURVES = ("S_cross", "F", "INF", "I")


def measure_contribution(
    decoder: LlamaDecoder,
    prompts: Sequence[PromptSequence],
    pruning: PruningConfig,
    keep_ratios: Sequence[float],
    stride: int,
    progress: Progress,
) -> dict[str, Any]:
    """Masses and curves of every layer over unpruned prompts, on every stride-th spatial query.

    With how far the configured stride is from all queries, and fitted and fixed retention at each
    keep ratio.
    """
    # Every prompt at every stride that is compared.
    ada = pruning.adatoken3d
    strides = sorted({1, ada.inf.query_stride, stride})
    measured: dict[int, list[list[Masses]]] = {each: [] for each in strides}
    for index, prompt in enumerate(prompts):
        progress(f"information contribution, prompt {index + 1} of {len(prompts)}")
        for each in strides:
            measured[each].append(measure_information(decoder, prompt, each))

    # Curves of each sample, and of the mean masses.
    settings = information_settings(ada)
    samples = [information_of(masses, settings) for masses in measured[stride]]
    mean = information_of(mean_masses(measured[stride]), settings)
    stacked = mass_table(measured[stride])
    shape = DecoderShape.from_config(decoder.config)
    return {
        "n": len(prompts),
        "stride": stride,
        "layers": list(range(1, shape.num_layers + 1)),
        **{name: spread(stacked[:, :, column]) for column, name in enumerate(MASSES)},
        **{
            name: {
                **spread([getattr(sample, name) for sample in samples]),
                "of_mean_masses": plain(getattr(mean, name)),
            }
            for name in CURVES
        },
        "falls_with_depth": falls_with_depth(mean.I),
        "stride_deviation": stride_deviation(measured, ada.inf.query_stride, pruning),
        "retention": [retention_curves(mean.I, ratio, pruning, shape) for ratio in keep_ratios],
    }


def mass_table(samples: Sequence[Sequence[Masses]]) -> Array:
    """(n, L, 3) of MASSES."""
    return np.array([[[getattr(m, name) for name in MASSES] for m in sample] for sample in samples])


def stride_deviation(
    measured: dict[int, list[list[Masses]]], stride: int, pruning: PruningConfig
) -> dict[str, Any]:
    """Largest absolute difference between measuring on every stride-th query and on all.

    Over layers and samples, and for the curves of the mean masses (what a calibration would hold).
    """
    settings = information_settings(pruning.adatoken3d)
    result: dict[str, Any] = {"stride": stride, "reference_stride": 1}
    result["masses"] = float(np.abs(mass_table(measured[stride]) - mass_table(measured[1])).max())

    # Sample by sample, and of the means.
    few, every = (
        [information_of(masses, settings) for masses in measured[each]] for each in (stride, 1)
    )
    means = [information_of(mean_masses(measured[each]), settings) for each in (stride, 1)]
    for name in ("INF", "I"):
        differences = [
            np.abs(getattr(a, name) - getattr(b, name)).max()
            for a, b in zip((*few, means[0]), (*every, means[1]), strict=True)
        ]
        result[name] = float(max(differences[:-1]))
        result[f"{name}_of_mean_masses"] = float(differences[-1])
    return result


def retention_curves(
    I: Array, keep_ratio: float, pruning: PruningConfig, shape: DecoderShape
) -> dict[str, Any]:
    """The share of spatial tokens alive in each layer under the fitted and the fixed curve.

    As the layers get it; an error sentence where the decoder cannot reach the keep ratio. `used`:
    which one AdaToken-3D takes of the two when the schedule is `fitted` (the fixed one where
    information does not fall with depth).
    """
    # Both curves, held at the layers that drop.
    ada = pruning.adatoken3d
    fitted = dataclasses.replace(
        ada, schedule="fitted", calibration="per_scene", on_degenerate="flat"
    )
    fixed = dataclasses.replace(ada, schedule="fixed")
    result: dict[str, Any] = {
        "keep_ratio": keep_ratio,
        "used": "fitted" if falls_with_depth(I) else "fixed",
        "fitted": _retention(dataclasses.replace(pruning, adatoken3d=fitted), I, keep_ratio, shape),
        "fixed": _retention(dataclasses.replace(pruning, adatoken3d=fixed), I, keep_ratio, shape),
    }

    # Parameters of the fit itself, where there is one.
    try:
        found = fit_mean(I, keep_ratio, fit_settings(ada))
    except ConfigError:
        return result
    parameters = {"alpha": found.alpha, "beta": found.beta, "M": found.M, "loss": found.loss}
    result["fitted"]["parameters_before_hold"] = plain(parameters)
    return result


def _retention(
    pruning: PruningConfig, I: Array, keep_ratio: float, shape: DecoderShape
) -> dict[str, Any]:
    pruning = dataclasses.replace(pruning, strategy="adatoken3d", keep_ratio=keep_ratio)
    try:
        pruner = Policy.from_config(pruning, keep_ratio).pruner(
            shape, information=tuple(map(float, I))
        )
    except ConfigError as error:
        return {"error": str(error)}
    curve = np.ones(shape.num_layers) if pruner is None else np.array(pruner.schedule.retention)
    return {"curve": plain(curve), "mean": float(curve.mean())}
