"""Messages with the fields of vision_msgs, which need not be installed: today's and Foxy's."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

Box = tuple[float, float, float, float]  # corners in px: left, top, right, bottom


def detection(label: str, score: float, box: Box, theta: float = 0.0, foxy: bool = False) -> Any:
    """A Detection2D of one hypothesis; the box turned by theta about its centre."""
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    if foxy:  # geometry_msgs/Pose2D, and the hypothesis without a message of its own
        center = SimpleNamespace(x=x, y=y, theta=theta)
        result = SimpleNamespace(id=label, score=score)
    else:
        center = SimpleNamespace(position=SimpleNamespace(x=x, y=y), theta=theta)
        result = SimpleNamespace(hypothesis=SimpleNamespace(class_id=label, score=score))
    bbox = SimpleNamespace(center=center, size_x=box[2] - box[0], size_y=box[3] - box[1])
    return SimpleNamespace(results=[result], bbox=bbox, id="")


def detection_array(stamp_ns: int, *detections: Any, frame_id: str = "") -> Any:
    """A Detection2DArray."""
    sec, nanosec = divmod(stamp_ns, 1_000_000_000)
    header = SimpleNamespace(stamp=SimpleNamespace(sec=sec, nanosec=nanosec), frame_id=frame_id)
    return SimpleNamespace(header=header, detections=list(detections))
