"""An ONNX file opened by onnxruntime: its inputs, outputs and metadata, and how it is run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from ada3d_ros.config.objects import DetectorConfig
from ada3d_ros.errors import DetectorError
from ada3d_ros.perception.onnx_input import ImageInput

DEFAULT_SIZE = 640  # px, of a network that takes any size and does not say which it was made for
MAX_SIZE = 4096  # px
DTYPES: dict[str, npt.DTypeLike] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(uint8)": np.uint8,
}
SIZE_DTYPES: dict[str, npt.DTypeLike] = {
    "tensor(float)": np.float32,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
}
# What files begin with that are taken for ONNX files by mistake.
MISTAKEN = {
    b"version https://git-lfs": "a Git LFS pointer: fetch the file itself with `git lfs pull`",
    b"PK\x03\x04": "an archive, as PyTorch writes its weights: export the network to ONNX",
    b"<!DOCTYPE": "a web page: download the file itself",
    b"<html": "a web page: download the file itself",
}


@dataclass(frozen=True, slots=True)
class OnnxSession:
    """image: the input that takes the picture; sizes: other inputs, with the value that makes the
    network answer in pixels of its input; outputs: their names; metadata: of the file.
    """

    session: Any
    image: ImageInput
    sizes: Mapping[str, npt.NDArray[np.generic]]
    outputs: tuple[str, ...]
    metadata: Mapping[str, str]

    def run(self, picture: npt.NDArray[np.generic]) -> list[npt.NDArray[np.generic]]:
        """The outputs in the order of the file, half floats as float32. Raises DetectorError."""
        try:
            outputs = self.session.run(None, {self.image.name: picture, **self.sizes})
        except Exception as error:  # onnxruntime raises classes of its own, and RuntimeError
            raise DetectorError(
                f"the detector failed ({_said(error)}): try the file with"
                " `ada3d doctor --detector`, export it again, or set detector.device to cpu."
            ) from error
        # A list or a dictionary, as other networks give, is no array of numbers either.
        arrays = [np.asarray(out) for out in outputs]
        return [out.astype(np.float32) if out.dtype.kind == "f" else out for out in arrays]


def open_session(path: Path, config: DetectorConfig) -> OnnxSession:
    """Opens a file on the device of the settings. Raises DetectorError."""
    onnxruntime = _library()
    _check_file(path)
    providers = _providers(config.device, onnxruntime.get_available_providers())
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = config.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what matters is raised
    for pool in ("intra", "inter"):  # a thread that waits for work takes no processor
        options.add_session_config_entry(f"session.{pool}_op.allow_spinning", "0")
    try:
        session = onnxruntime.InferenceSession(path, options, providers=providers)
    except Exception as error:  # onnxruntime raises classes of its own
        raise DetectorError(_why_not_opened(path, error)) from error
    _check_device(config.device, session.get_providers())

    metadata = dict(session.get_modelmeta().custom_metadata_map)
    image, sizes = _inputs(path, session.get_inputs(), metadata)
    outputs = tuple(output.name for output in session.get_outputs())
    return OnnxSession(session, image, sizes, outputs, metadata)


def _library() -> ModuleType:
    try:
        import onnxruntime  # here: only who uses an ONNX detector has it
    except ImportError as error:
        raise DetectorError(
            f"a detector from an ONNX file needs onnxruntime, which cannot be imported ({error}):"
            ' pip install "ada3d_ros[detect]".'
        ) from error
    return onnxruntime


def _check_file(path: Path) -> None:
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise DetectorError(f"detector.path {path} {what}: name an ONNX file.")
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except OSError as error:
        raise DetectorError(f"detector.path {path} cannot be read: {error}.") from error
    for beginning, what in MISTAKEN.items():
        if start.lower().startswith(beginning.lower()):
            raise DetectorError(f"detector.path {path} is no ONNX file but {what}.")


def _providers(device: str, available: list[str]) -> list[Any]:
    """Where onnxruntime may compute. Raises DetectorError where the device is not to be had."""
    if device == "cpu" or (device == "auto" and "CUDAExecutionProvider" not in available):
        return ["CPUExecutionProvider"]
    if "CUDAExecutionProvider" not in available:
        raise DetectorError(
            f"detector.device is {device}, and this onnxruntime computes with"
            f" {', '.join(available)} only: install onnxruntime-gpu in place of onnxruntime, or"
            " set detector.device to cpu or auto."
        )
    index = int(device.partition(":")[2] or 0)
    return [("CUDAExecutionProvider", {"device_id": index}), "CPUExecutionProvider"]


def _check_device(device: str, used: list[str]) -> None:
    """onnxruntime falls back to the processor where CUDA does not start; who asked is told."""
    if device.startswith("cuda") and "CUDAExecutionProvider" not in used:
        raise DetectorError(
            f"detector.device is {device}, and onnxruntime could not start CUDA there (it took"
            f" {', '.join(used)}): its CUDA and cuDNN libraries or the driver are missing or of"
            " another version, or there is no such GPU. Set detector.device to cpu or auto."
        )


def _why_not_opened(path: Path, error: Exception) -> str:
    text = _said(error)
    size = path.stat().st_size
    if "ir version" in text.lower() or text.startswith("opset "):
        return (
            f"detector.path {path} is of a newer ONNX than this onnxruntime reads ({text}): update"
            " onnxruntime, or export the file again with opset 17."
        )
    if "protobuf" in text.lower() or type(error).__name__ == "InvalidProtobuf":
        with path.open("rb") as file:
            start = file.read(8).hex(" ") or "nothing"
        return (
            f"detector.path {path} is no ONNX file, or a truncated one: {size} bytes that begin"
            f" with {start}. Copy it again, or export the network to ONNX."
        )
    if "external data" in text.lower() or "GetExtDataFromTensorProto" in text:
        return (
            f"detector.path {path} keeps its weights in another file that is not there ({text}):"
            " copy that file (often *.onnx_data or *.onnx.data) beside it."
        )
    return f"detector.path {path} cannot be opened by onnxruntime ({text}): export it again."


def _said(error: Exception) -> str:
    """What onnxruntime says, without the places in its own source."""
    text = " ".join(str(error).split())
    text = re.sub(r".*onnxruntime::[^)]*\) |^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text)
    opset = re.search(r"Opset (\d+) is .* till opset (\d+)", text)
    if opset:
        return f"opset {opset[1]}, and opset {opset[2]} is the newest it knows"
    return text[:300]


def _inputs(
    path: Path, inputs: list[Any], metadata: Mapping[str, str]
) -> tuple[ImageInput, dict[str, npt.NDArray[np.generic]]]:
    """Which input takes the picture, and the values of those that ask for its size."""
    pictures = [item for item in inputs if len(item.shape) == 4 and _has_colors(item.shape)]
    if len(pictures) != 1:
        raise DetectorError(
            f"detector.path {path} is no detector: it takes {_described(inputs)}, where one picture"
            " (1, 3, height, width) or (1, height, width, 3) is expected."
        )
    image = _image(path, pictures[0], metadata)

    # Sizes: the network's own input, so that its boxes come in pixels of it.
    size = [image.height, image.width]
    known: dict[str, npt.NDArray[np.generic]] = {
        "orig_target_sizes": np.array([size[::-1]], dtype=np.int64),
        "im_shape": np.array([size], dtype=np.float32),
        "scale_factor": np.array([[1, 1]], dtype=np.float32),
        "pixel_mask": np.ones((1, *size), dtype=np.int64),  # all of the input is picture
    }
    others = [item for item in inputs if item is not pictures[0]]
    strange = [i for i in others if i.name not in known or i.type not in SIZE_DTYPES]
    if strange:
        raise DetectorError(
            f"detector.path {path} also takes {_described(strange)}, which nothing here gives:"
            " export the detector alone; one that takes words is opened from its transformers"
            " folder."
        )
    return image, {i.name: known[i.name].astype(SIZE_DTYPES[i.type]) for i in others}


def _has_colors(shape: list[Any]) -> bool:
    """Three channels, first or last; or left open, where a picture is all it can be."""
    return 3 in shape[1::2] or not isinstance(shape[1], int)


def _image(path: Path, item: Any, metadata: Mapping[str, str]) -> ImageInput:
    """The picture's input: its format, its size where the file says one."""
    if item.type not in DTYPES:
        raise DetectorError(
            f"detector.path {path} takes its picture as {item.type}: {', '.join(DTYPES)} are"
            " possible. Export it again in float32."
        )
    channels_first = item.shape[1] == 3 or item.shape[3] != 3
    sides = item.shape[2:] if channels_first else item.shape[1:3]
    if isinstance(item.shape[0], int) and item.shape[0] != 1:
        raise DetectorError(
            f"detector.path {path} takes {item.shape[0]} pictures at once: export it for one."
        )
    own = _size_in_metadata(metadata)
    height, width = (
        side if isinstance(side, int) and side > 0 else default
        for side, default in zip(sides, own, strict=True)
    )
    if not all(32 <= side <= MAX_SIZE for side in (height, width)):
        raise DetectorError(
            f"detector.path {path} takes pictures of {width} x {height} px: a side has 32 to"
            f" {MAX_SIZE} px."
        )
    return ImageInput(item.name, height, width, DTYPES[item.type], channels_first)


def _size_in_metadata(metadata: Mapping[str, str]) -> tuple[int, int]:
    """Height and width, px, that a file of any size was made for."""
    numbers = [int(text) for text in re.findall(r"\d{1,5}", metadata.get("imgsz", ""))]
    return (numbers[0], numbers[-1]) if len(numbers) in (1, 2) else (DEFAULT_SIZE, DEFAULT_SIZE)


def _described(items: list[Any]) -> str:
    return ", ".join(f"{item.name} {tuple(item.shape)}" for item in items) or "nothing"
