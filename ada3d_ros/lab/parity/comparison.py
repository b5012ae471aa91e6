"""One comparison with a recorded value, a row of `ada3d parity`, and the tolerances."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

PIXELS, POINTS, FEATURES, LOGITS = 1e-6, 1e-5, 1e-4, 5e-4
INTRINSICS = 1e-5  # px; float32 has steps of 3e-5 px at 300 px, so 1e-6 px would mean exact
TOLERANCES = {  # absolute, by the name after the last dot; every array of integers is exact
    "pixel_values": PIXELS,
    "depth_m": PIXELS,
    "poses_aligned": PIXELS,
    "intrinsics_adjusted": INTRINSICS,
    "xyz_full": POINTS,
    "patch_xyz": POINTS,
    "logits": LOGITS,
    "greedy_logits": LOGITS,
    "greedy_margin": 2 * LOGITS,  # a difference of two logits
}


@dataclass(frozen=True, slots=True)
class Row:
    """One comparison.

    max_error is inf for another shape or text; note says why an array was not compared.
    """

    case: str
    name: str
    max_error: float
    tolerance: float
    note: str = ""
    compared: bool = True

    @property
    def passed(self) -> bool:
        return not self.compared or self.max_error <= self.tolerance  # NaN fails

    def __str__(self) -> str:
        if not self.compared:
            return f"{self.case:<14} {self.name:<30} not compared: {self.note}"
        verdict = "PASS" if self.passed else "FAIL"
        return (
            f"{self.case:<14} {self.name:<30} max error {self.max_error:8.1e}  tolerance"
            f" {self.tolerance:7.1e}  {verdict}  {self.note}"
        )


def compare(
    case: str,
    name: str,
    ours: torch.Tensor,
    golden: torch.Tensor,
    note: str = "",
    tolerance: float | None = None,
) -> Row:
    """Element by element; an array of another shape fails, NaN and inf must be at the same places.

    tolerance: absolute; None takes that of TOLERANCES.
    """
    if tolerance is None:
        by_name = TOLERANCES.get(name.rpartition(".")[2], FEATURES)
        tolerance = by_name if golden.is_floating_point() else 0.0
    if ours.shape != golden.shape:
        shapes = f"shape {tuple(ours.shape)}, expected {tuple(golden.shape)}"
        return Row(case, name, math.inf, tolerance, shapes)

    same = (ours == golden) | (ours.isnan() & golden.isnan())
    error = torch.where(same, 0.0, (ours.double() - golden.double()).abs())
    largest = float(error.max()) if error.numel() else 0.0
    return Row(case, name, largest, tolerance, note or str(tuple(golden.shape)))


def exact(case: str, name: str, ours: Any, golden: Any, note: str = "") -> Row:
    """Text or lists that must be equal."""
    if ours == golden:
        return Row(case, name, 0.0, 0.0, note)
    return Row(case, name, math.inf, 0.0, f"{str(ours)[:60]!r}, expected {str(golden)[:60]!r}")


def not_compared(case: str, name: str, reason: str) -> Row:
    """A recorded value that is listed with the reason why it is not compared."""
    return Row(case, name, math.nan, 0.0, reason, compared=False)
