"""What a measurement is made of: the boxes that its names resolved to, and the scene's depth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ada3d_ros.measures import SceneObject
from ada3d_ros.types import NAN, Box3D, RgbdFrame


@dataclass(frozen=True, eq=False, slots=True)
class Referent:
    """What a Reference resolved to: an object's box, or a point (the robot's, too) as a box of
    size 0.

    label: without article ("red chair", "[1, 2, 0]", "robot"); heading_rad: of a robot, about world
    z, NaN where unknown.
    """

    label: str
    box: Box3D
    is_object: bool = True
    heading_rad: float = NAN

    @property
    def name(self) -> str:
        """As it stands in a sentence: "the red chair", "[1, 2, 0]"."""
        return self.label if self.label.startswith("[") else f"the {self.label}"

    @classmethod
    def of_point(
        cls, xyz_m: Sequence[float], label: str = "", heading_rad: float = NAN
    ) -> Referent:
        """A point of the world; label "robot" and a heading make it the robot's place."""
        text = label or "[" + ", ".join(f"{value:g}" for value in xyz_m) + "]"
        box = Box3D(np.array(xyz_m, dtype=np.float64), np.zeros(3), label=text)
        return cls(text, box, False, heading_rad)


@dataclass(frozen=True, eq=False, slots=True)
class Resolved:
    """The referents of a request's `of`, `to` and `third`, None where the request has none.

    candidates: the objects that are counted or looked for: all of the scene, or those that the
    request's category fits. Gone ones, and the referents themselves, are left out by `measure`.
    """

    of: Referent | None = None
    to: Referent | None = None
    third: Referent | None = None
    candidates: tuple[SceneObject, ...] = ()


@dataclass(frozen=True, eq=False, slots=True)
class MeasuredScene:
    """The keyframes that the boxes come from, the floor's height, and where the robot is, if known.

    All in the world frame.
    """

    frames: Sequence[RgbdFrame] = ()
    floor_z_m: float = 0.0
    robot: Referent | None = None


def given(referent: Referent | None) -> Referent:
    """A referent that was checked to be there."""
    if referent is None:
        raise ValueError("a request was measured that was not checked")
    return referent
