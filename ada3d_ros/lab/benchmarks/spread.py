"""Mean and spread of repeated measurements, ready for JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, is_dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class Spread:
    """Median, least and largest of n values."""

    median: float
    min: float
    max: float
    n: int

    @classmethod
    def from_values(cls, values: Sequence[float]) -> Spread:
        """NaN of no values."""
        if not values:
            return cls(math.nan, math.nan, math.nan, 0)
        return cls(float(np.median(values)), float(min(values)), float(max(values)), len(values))

    def __str__(self) -> str:
        return f"{self.median:.3f} [{self.min:.3f}-{self.max:.3f}]"


def spread(samples: npt.ArrayLike) -> dict[str, Any]:
    """Mean and sample standard deviation (n - 1) over axis 0 of samples (n, ...), NaN left out.

    None where there is nothing to take them of.
    """
    values = np.atleast_1d(np.asarray(samples, dtype=np.float64))
    present = np.isfinite(values)
    count = present.sum(axis=0)
    filled = np.where(present, values, 0.0)
    mean = np.where(count > 0, filled.sum(axis=0) / np.maximum(count, 1), np.nan)
    squares = np.where(present, (values - mean) ** 2, 0.0).sum(axis=0)
    std = np.where(count > 1, np.sqrt(squares / np.maximum(count - 1, 1)), np.nan)
    return {"n": int(np.max(count, initial=0)), "mean": plain(mean), "std": plain(std)}


def plain(value: Any) -> Any:
    """Nested numbers as JSON has them: lists, objects, and None for NaN and infinities.

    Takes numpy arrays and numbers, tuples and dataclasses.
    """
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
