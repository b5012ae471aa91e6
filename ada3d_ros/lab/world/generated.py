"""One generated room on its own: frames, true boxes and the graph to ask about. What bags, figures
and the demo are made of.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ada3d_ros.lab.world.graph import Graph, graphs
from ada3d_ros.lab.world.render import frames_of, render, true_boxes
from ada3d_ros.lab.world.rooms import make_rooms
from ada3d_ros.types import Box3D, RgbdFrame


@dataclass(frozen=True, eq=False, slots=True)
class GeneratedRoom:
    """boxes: axis-aligned, labelled `red chair`, in the order of graph.things."""

    frames: tuple[RgbdFrame, ...]
    boxes: tuple[Box3D, ...]
    graph: Graph


def generate_room(
    seed: int, level: int = 1, side_px: int = 384, split: str = "test"
) -> GeneratedRoom:
    """The room of a seed in square pictures of side_px. Raises ConfigError for a seed, level or
    split that does not exist.
    """
    rooms = make_rooms(split, torch.tensor([seed]), level)
    return GeneratedRoom(
        frames_of(rooms, render(rooms, side_px), 0), true_boxes(rooms, 0), graphs(rooms)[0]
    )
