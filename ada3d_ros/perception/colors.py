"""The colour of a thing in words: the median of its pixels in CIELAB, and the nearest name.

CIELAB (D65) of sRGB, by the formulas of CIE 15: there equal distances look about equally different.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

_XYZ_OF_RGB = np.array(  # IEC 61966-2-1
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
)
_WHITE_XYZ = np.array([0.950456, 1.0, 1.088754])
_LINEAR_BELOW = (6 / 29) ** 3

# sRGB of what cameras give for things that people call so, in shade and in light.
EXAMPLES: dict[str, tuple[tuple[int, int, int], ...]] = {
    "black": ((10, 10, 10), (30, 30, 32), (48, 48, 50)),
    "white": ((250, 250, 250), (225, 225, 225), (205, 207, 210)),
    "gray": ((95, 95, 95), (120, 120, 120), (150, 150, 150)),
    "red": ((200, 30, 35), (140, 20, 25), (220, 70, 65)),
    "orange": ((235, 125, 30), (200, 100, 30)),
    "yellow": ((235, 205, 40), (200, 175, 50), (245, 230, 110)),
    "green": ((50, 150, 60), (40, 90, 45), (110, 170, 80)),
    "blue": ((40, 80, 190), (30, 50, 110), (90, 140, 210)),
    "purple": ((120, 50, 150), (85, 45, 105), (150, 100, 190)),
    "pink": ((235, 130, 170), (240, 170, 190), (215, 90, 140)),
    "brown": ((110, 70, 40), (80, 50, 30), (145, 95, 60)),
    "beige": ((220, 200, 165), (195, 175, 140), (235, 220, 190)),
}
NAMES = tuple(EXAMPLES)
MIN_MARGIN = 4.0  # by which the nearest name is nearer than the next one, CIELAB units
MAX_DISTANCE = 40.0  # from the nearest example


def lab_of(rgb: npt.NDArray[np.generic]) -> Array:
    """CIELAB (..., 3) of sRGB (..., 3) in 0..255: L 0..100, a towards red, b towards yellow."""
    # Light, then the three stimuli as shares of white's.
    part = np.asarray(rgb, dtype=np.float64) / 255.0
    linear = np.where(part > 0.04045, ((part + 0.055) / 1.055) ** 2.4, part / 12.92)
    xyz = linear @ _XYZ_OF_RGB.T / _WHITE_XYZ

    # As they look.
    low = xyz <= _LINEAR_BELOW
    f = np.where(low, xyz * (29 / 6) ** 2 / 3 + 4 / 29, np.cbrt(np.maximum(xyz, _LINEAR_BELOW)))
    x, y, z = f[..., 0], f[..., 1], f[..., 2]
    return np.stack((116 * y - 16, 500 * (x - y), 200 * (y - z)), axis=-1)


def median_lab(rgb: npt.NDArray[np.uint8]) -> Array:
    """The median (3,) of pixels (P, 3), P above 0, in CIELAB."""
    median: Array = np.median(lab_of(rgb), axis=0)
    return median


def color_name(lab: Array) -> str:
    """The name of a colour (3,) in CIELAB; '' where two names fit about equally, or none."""
    apart = np.array([np.linalg.norm(_EXAMPLES_LAB[name] - lab, axis=1).min() for name in NAMES])
    nearest, following = np.argsort(apart, kind="stable")[:2]
    sure = apart[following] - apart[nearest] >= MIN_MARGIN and apart[nearest] <= MAX_DISTANCE
    return NAMES[nearest] if sure else ""


_EXAMPLES_LAB = {name: lab_of(np.array(rgb)) for name, rgb in EXAMPLES.items()}
