"""Settings of the objects that are kept with the scene, and of the detector that finds them."""

from __future__ import annotations

from dataclasses import dataclass

from ada3d_ros.config.setting import setting

TOPIC = "topic"  # detector.path of detections that other nodes publish


@dataclass(frozen=True, slots=True)
class DetectorConfig:
    path: str = setting(
        "",
        "what finds objects in the images: an ONNX file, a folder of a transformers detector, or"
        " `topic` = ~/detections_2d (vision_msgs/Detection2DArray); empty = the model's own"
        " grounding head",
        read_only=True,
    )
    names: str = setting(
        "",
        "text file with the detector's kinds, one a line in the order of its classes; empty = as"
        " the file or folder says, else the 80 of COCO",
        read_only=True,
    )
    min_score: float = setting(
        0.0, "score of a box in an image at least; 0 = what suits the detector", low=0.0, high=1.0
    )
    min_views: int = setting(
        3,
        "keyframes that must agree on an object before it is listed, where each is just sure"
        " enough; surer ones weigh more, two at least",
        unit="views",
        low=1,
        high=64,
    )
    proposals: bool = setting(
        False,
        "of several objects that a phrase names (~/ground) the model's grounding head chooses, by"
        " where it points; false = all of them",
    )
    device: str = setting("cpu", "where it runs", pattern="auto|cpu|cuda(:[0-9]+)?", read_only=True)
    threads: int = setting(
        1, "processor threads of an ONNX detector", unit="threads", low=1, high=64, read_only=True
    )


@dataclass(frozen=True, slots=True)
class ObjectsConfig:
    enabled: bool = setting(
        True, "keep a list of the scene's objects (~/objects), for models that have a vocabulary"
    )
    vocabulary: str = setting(
        "",
        "text file with one name a line that is looked for; empty = vocabulary.txt in the model's"
        " folder, none without it",
        read_only=True,
    )
    min_score: float = setting(0.3, "score of an object at least", low=0.05, high=1.0)
    max_count: int = setting(
        200, "objects kept at most, those of the lowest score go", unit="objects", low=1, high=5000
    )
    phrases_per_step: int = setting(
        16,
        "names that are looked for in one background step, between questions",
        unit="phrases",
        low=1,
        high=256,
    )
