"""The detector that the settings name, opened."""

from __future__ import annotations

from pathlib import Path

from ada3d_ros.config.objects import TOPIC, DetectorConfig
from ada3d_ros.errors import DetectorError
from ada3d_ros.perception.detector import Detector

ONNX = ".onnx"


def open_detector(config: DetectorConfig, phrases: tuple[str, ...] = ()) -> Detector:
    """Opens detector.path: a .onnx file, else what transformers opens, a folder or a name.

    phrases: what a zero-shot detector looks for in every keyframe. Each kind of detector loads its
    library here, not before. Raises DetectorError.
    """
    if not config.path or config.path == TOPIC:
        raise DetectorError(
            f"detector.path is {config.path!r}: name an ONNX file or the folder of a transformers"
            " detector; a topic of detections is read by the node alone."
        )
    path = Path(config.path).expanduser()
    if path.suffix.lower() == ONNX or path.is_file():
        from ada3d_ros.perception.onnx_detector import OnnxDetector

        return OnnxDetector(config)
    from ada3d_ros.perception.transformers_detector import TransformersDetector

    return TransformersDetector(config, phrases)
