"""Parity of AdaToken-3D: the paper's equations on recorded attention, number by number.

What the authors' published functions give is listed beside it, not compared: docs/pruning.md says
what they leave out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ada3d_ros.lab.parity.comparison import Row, compare, exact, not_compared
from ada3d_ros.lab.parity.golden_case import read_json, read_tensors
from ada3d_ros.pruning.fit import closed_form, fit_endpoint, fit_mean
from ada3d_ros.pruning.information import (
    InformationSettings,
    Masses,
    attention_masses,
    information_of,
    layer_masses,
)
from ada3d_ros.pruning.schedule import RetentionSchedule, Staircase

SUMS, INFORMATION, CURVES, LOSSES = 1e-4, 1e-6, 1e-3, 1e-6
OFFICIAL = (
    "the authors' functions index the transposed matrix and leave eq. 4 out; see docs/pruning.md"
)


def is_adatoken(folder: Path) -> bool:
    """Whether the folder holds `case_*_expected.json` files of AdaToken-3D."""
    return any(folder.glob("case_*_expected.json"))


def check_adatoken(folder: Path) -> Iterator[Row]:
    """All rows of every case in an adatoken folder."""
    for path in sorted(folder.glob("case_*_expected.json")):
        name = path.name.removesuffix("_expected.json")
        label, data = f"{folder.name}/{name}", read_json(path)
        inputs = read_json(folder / f"{name}_inputs.json")
        attention = read_tensors(folder / f"{name}_inputs.safetensors")["attentions"]
        for block in sorted(data):
            if block == "derived_paper_reading":
                yield from _check_reading(label, data[block], attention, inputs)
            else:
                yield not_compared(label, block, OFFICIAL)


def _check_reading(
    label: str, golden: dict[str, Any], attention: torch.Tensor, inputs: dict[str, Any]
) -> Iterator[Row]:
    """Equations 1 to 7 on attention (L, H, T, T), then the schedules fitted to I_norm."""
    # Attention sums, from the whole matrix and by the production path.
    span = inputs["image_token_start"], inputs["prompt_start"]
    whole = [attention_masses(layer, span) for layer in attention]
    blockwise = [_masses_by_log_sum_exp(layer, span) for layer in attention]
    for name in ("S_self", "S_sp", "S_ss"):
        for suffix, masses in (("", whole), (" (log-sum-exp)", blockwise)):
            ours = [getattr(mass, name) for mass in masses]
            yield _numbers(label, name + suffix, ours, golden[name], SUMS)

    # Information of every layer.
    p = golden["params"]
    settings = InformationSettings(p["a1"], p["a2"], p["sigma"], p["gamma"], p["eps"], p["alpha_i"])
    found = information_of(whole, settings)
    by_name = {"F": found.F, "S_cross": found.S_cross, "INF": found.INF, "I_norm": found.I}
    for name, curve in by_name.items():
        yield _numbers(label, name, curve, golden[name], INFORMATION)

    # Retention schedules, fitted to the recorded information.
    for key, schedule in golden["schedules"].items():
        yield from _check_schedule(label, key, schedule, np.array(golden["I_norm"]))


def _masses_by_log_sum_exp(attention: torch.Tensor, span: tuple[int, int]) -> Masses:
    """The production path on recorded attention (H, T, T).

    Queries log(A) and keys that pick one column each have these scores.
    """
    tokens = attention.shape[-1]
    q = attention.clamp(min=1e-30).log()
    k = torch.eye(tokens)[None].expand(attention.shape[0], -1, -1) * tokens**0.5
    queries = torch.arange(span[0], tokens)
    return layer_masses(q[:, queries], k, queries, span)


def _numbers(
    case: str, name: str, ours: npt.ArrayLike, golden: list[float], tolerance: float
) -> Row:
    values = torch.tensor(np.asarray(ours))
    return compare(
        case, name, values, torch.tensor(golden, dtype=torch.float64), tolerance=tolerance
    )


def _check_schedule(
    label: str, key: str, golden: dict[str, Any], information: npt.NDArray[np.float64]
) -> Iterator[Row]:
    """One budget, `mean_0.3` or `endpoint_0.2`: its curve, its loss and the tokens it keeps."""
    mode, _, value = key.partition("_")
    if mode not in ("mean", "endpoint"):
        yield not_compared(label, key, "no rule for a budget of this name")
        return
    fit = (fit_mean if mode == "mean" else fit_endpoint)(information, float(value))
    yield _numbers(label, f"{key}.O", fit.curve, golden["O"], CURVES)
    yield _numbers(label, f"{key}.loss", [fit.loss], [golden["loss"]], LOSSES)

    # A second solver, without an optimiser in alpha and M, must come to the same loss.
    if "oracle_loss" in golden and mode == "mean":
        oracle = closed_form(information, float(value))
        yield _numbers(label, f"{key}.oracle_loss", [oracle.loss], [golden["oracle_loss"]], LOSSES)

    held = RetentionSchedule(tuple(map(float, Staircase(len(fit.curve)).hold(fit.curve))))
    for name in golden:
        match = re.fullmatch(r"counts_N(\d+)", name)
        if match:
            ours = list(held.counts(int(match[1])))
            yield exact(label, f"{key}.{name}", ours, golden[name], str(ours)[:60])
