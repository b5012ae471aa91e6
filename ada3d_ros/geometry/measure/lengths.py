"""Lengths in words, in the asker's unit."""

from __future__ import annotations

from ada3d_ros.errors import InvalidRequestError

# metres in one; digits behind the point
UNITS: dict[str, tuple[float, int]] = {
    "m": (1.0, 2),
    "cm": (0.01, 0),
    "mm": (0.001, 0),
    "ft": (0.3048, 1),
    "in": (0.0254, 0),
}


def format_length(value_m: float, unit: str = "m", with_unit: bool = True) -> str:
    """`1.32 m`, `132 cm`, `1320 mm`, `4.3 ft`, `52 in`. Raises InvalidRequestError for another
    unit.
    """
    if unit not in UNITS:
        raise InvalidRequestError(f"unit {unit!r}: one of {', '.join(UNITS)}.")
    in_metres, digits = UNITS[unit]
    number = f"{round(value_m / in_metres, digits) + 0.0:.{digits}f}"  # + 0.0: never -0
    return f"{number} {unit}" if with_unit else number


def format_lengths(values_m: tuple[float, ...], unit: str = "m") -> str:
    """`1.20 x 0.60 x 0.75 m`."""
    numbers = [format_length(value, unit, with_unit=False) for value in values_m]
    return f"{' x '.join(numbers)} {unit}"


def give_or_take(half_width_m: float, unit: str = "m") -> str:
    """` (give or take 6 cm)`: a half width in whole cm below a metre, else in the asker's unit."""
    small = unit if unit in ("mm", "ft", "in") or half_width_m >= 1.0 else "cm"
    return f" (give or take {format_length(half_width_m, small)})"
