"""Detectors of transformers: of fixed kinds (RT-DETR, D-FINE, DETR, YOLOS) and of free phrases
(OWL-ViT, OWLv2, Grounding DINO), from a local folder.

Images are prepared, and outputs read, by the folder's own processor. torch and transformers are
loaded when a detector is opened.
"""

from __future__ import annotations

import logging
import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from ada3d_ros.config.objects import DetectorConfig
from ada3d_ros.errors import DetectorError
from ada3d_ros.perception.class_names import COCO_NAMES, UNNAMED_KIND, USUAL_NAMES, read_names
from ada3d_ros.perception.detector import DetectorInfo, FrameDetections
from ada3d_ros.perception.select_boxes import NAN_SCORE, select_boxes
from ada3d_ros.perception.transformers_folder import DetectorFolder, find_folder
from ada3d_ros.perception.zero_shot import cleaned, reader_of, room_things
from ada3d_ros.types import RgbdFrame

if TYPE_CHECKING:
    import torch

NO_NAME = "n/a"  # of a class that names nothing, as DETR writes it
PLACEHOLDER = re.compile(r"label_\d+")  # what transformers writes where nobody gave a name
COUNTERS = re.compile(
    r"(num_batches_tracked|position_ids)$"
)  # nothing learned; old files lack them
# On a GPU in float16, which places their boxes as float32 does. Those that choose their queries by
# rank, as RT-DETR, chose others in float16: they are small, and stay in float32.
HALF_FAMILIES = {"owlv2", "owlvit", "yolos"}


class TransformersDetector:
    """Boxes of a folder's kinds, or of phrases. Used by one thread."""

    def __init__(self, config: DetectorConfig, phrases: Sequence[str] = ()) -> None:
        """Loads the folder, or the name in the local cache, of detector.path.

        phrases: what a zero-shot detector looks for in `detect`; a list of things in rooms where
        it is empty. Raises DetectorError; nothing is ever downloaded.
        """
        folder = find_folder(config.path)
        self._suits = folder.min_score
        names = read_names(Path(config.names).expanduser()) if config.names else ()
        self._device = _device_of(config.device)
        self._processor, self._model = _load(folder, self._device)

        # What is looked for.
        model_config = self._model.config
        self._names: tuple[str, ...] = ()
        self._reader = None
        self._standing: tuple[str, ...] = ()
        if folder.takes_phrases:
            self._reader = reader_of(folder.model_type, self._processor, model_config)
            standing = names or tuple(phrases) or room_things()
            self._standing = cleaned([phrase.lower() for phrase in standing])
            self._reader.groups(self._standing)
        else:
            self._names = _names_of(folder, model_config, names)
        kinds = self._standing or tuple(dict.fromkeys(n for n in self._names if n != NO_NAME))
        self._info = DetectorInfo(
            name=Path(folder.name).name,
            format="zero-shot" if folder.takes_phrases else "transformers",
            kinds=kinds,
            min_score=config.min_score or folder.min_score,
            takes_phrases=folder.takes_phrases,
            sha256=folder.sha256(),
            input_size=_input_size(self._processor),
        )

    @property
    def info(self) -> DetectorInfo:
        return self._info

    @property
    def dtype(self) -> torch.dtype:
        """The number format it computes in."""
        return cast("torch.dtype", self._model.dtype)

    def detect(self, frame: RgbdFrame) -> FrameDetections:
        """The boxes of the folder's kinds, or of the standing phrases. Raises DetectorError."""
        if self._reader is not None:
            return self.find(frame, self._standing)
        start = time.perf_counter()
        size = (frame.intrinsics.width, frame.intrinsics.height)
        outputs = self._forward(frame.rgb)

        # By the processor, then by name.
        found = self._image_processor.post_process_object_detection(
            outputs, threshold=self._info.faint_score, target_sizes=[(size[1], size[0])]
        )[0]
        labels = [self._names[int(number)] for number in found["labels"]]
        named = [index for index, label in enumerate(labels) if label != NO_NAME]
        selected = select_boxes(
            found["boxes"].float().cpu().numpy()[named],
            found["scores"].float().cpu().numpy()[named],
            [labels[index] for index in named],
            size,
            self._info.faint_score,
        )
        refused = Counter(selected.refused)
        refused[NAN_SCORE] += _nan_rows(outputs)
        refused[UNNAMED_KIND] += len(labels) - len(named)
        return _finished(selected, refused, start)

    def set_min_score(self, min_score: float) -> None:
        self._info = replace(self._info, min_score=min_score or self._suits)

    def find(self, frame: RgbdFrame, phrases: Sequence[str]) -> FrameDetections:
        """The boxes of phrases, each labelled with its phrase. Raises DetectorError."""
        if self._reader is None:
            raise DetectorError(
                f"{self._info.name} finds its {len(self._info.kinds)} kinds, no free phrases: those"
                " need a zero-shot detector, as OWLv2 or Grounding DINO."
            )
        start = time.perf_counter()
        size = (frame.intrinsics.width, frame.intrinsics.height)
        boxes, scores, labels = [np.zeros((0, 4))], [np.zeros(0)], list[str]()
        refused: Counter[str] = Counter()

        # One pass a group; a processor drops scores that are NaN without a word.
        for group in self._reader.groups(cleaned(phrases)):
            outputs = self._forward(frame.rgb, self._reader.text(group))
            found = self._reader.read(outputs, group, size, self._info.faint_score)
            boxes.append(found[0])
            scores.append(found[1])
            labels += found[2]
            refused[NAN_SCORE] += _nan_rows(outputs)

        selected = select_boxes(
            np.concatenate(boxes), np.concatenate(scores), labels, size, self._info.faint_score
        )
        return _finished(selected, refused + Counter(selected.refused), start)

    @property
    def _image_processor(self) -> Any:
        return getattr(self._processor, "image_processor", self._processor)

    def _forward(self, rgb: npt.NDArray[np.uint8], text: Any = None) -> Any:
        """The model's outputs for an image (H, W, 3), with a text for a zero-shot detector."""
        import torch
        from PIL import Image

        arguments = {"images": Image.fromarray(rgb), "return_tensors": "pt"}
        if text is not None:
            arguments["text"] = text
        try:
            inputs = self._processor(**arguments).to(self._device)
            pixels = inputs["pixel_values"].to(self._model.dtype)
            with torch.inference_mode():
                return self._model(**{**inputs, "pixel_values": pixels})
        except Exception as error:  # of any of three libraries: one frame is lost, nothing else
            raise DetectorError(
                f"{self._info.name} failed on an image of {rgb.shape[1]} x {rgb.shape[0]} pixels:"
                f" {_first_line(error)}"
            ) from error


def _finished(found: FrameDetections, refused: Counter[str], start: float) -> FrameDetections:
    counts = {reason: count for reason, count in refused.items() if count}
    return replace(found, refused=counts, seconds=time.perf_counter() - start)


def _nan_rows(outputs: Any) -> int:
    """How many of the model's boxes have a score that is NaN."""
    return int(outputs.logits[0].isnan().any(dim=-1).sum())


def _device_of(setting: str) -> str:
    """The device for a setting. Raises DetectorError where it is not there."""
    import torch

    if setting == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    count = torch.cuda.device_count() if setting != "cpu" else 0
    index = int(setting.partition(":")[2] or 0)
    if setting != "cpu" and index >= count:
        raise DetectorError(
            f"detector.device is {setting!r}, and torch sees {count} CUDA devices here: set it to"
            " cpu or auto."
        )
    return setting


def _load(folder: DetectorFolder, device: str) -> tuple[Any, Any]:
    """The processor and the model of a folder, in evaluation mode. Raises DetectorError."""
    # torchao, which transformers imports, warns of what does not concern us.
    for name in ("torchao", "torch.utils._pytree"):
        logging.getLogger(name).setLevel(logging.ERROR)
    import torch
    import transformers

    factories: tuple[Any, Any] = (
        transformers.AutoImageProcessor,
        transformers.AutoModelForObjectDetection,
    )
    if folder.takes_phrases:
        factories = (transformers.AutoProcessor, transformers.AutoModelForZeroShotObjectDetection)
    half = device != "cpu" and folder.model_type in HALF_FAMILIES
    try:
        # Weights that are missing would be random; they are told of, and refused.
        with _quiet(transformers.utils.logging):
            processor = factories[0].from_pretrained(
                folder.path, local_files_only=True, trust_remote_code=False
            )
            model, report = factories[1].from_pretrained(
                folder.path,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
                dtype=torch.float16 if half else torch.float32,
            )
        _check_report(folder, report)
        return processor, model.to(device).eval()
    except DetectorError:
        raise
    except ImportError as error:
        raise DetectorError(
            f"{folder.path} ({folder.model_type}) needs a Python package that is not installed:"
            f" {_first_line(error)}"
        ) from error
    except Exception as error:  # on a damaged folder transformers raises nearly everything
        raise DetectorError(
            f"{folder.path} cannot be loaded as {folder.model_type}: {_first_line(error)} Copy the"
            " folder again from where it came from."
        ) from error


@contextmanager
def _quiet(settings: Any) -> Iterator[None]:
    """transformers without warnings and progress bars, which would fill a node's log."""
    level, bar = settings.get_verbosity(), settings.is_progress_bar_enabled()
    settings.set_verbosity_error()
    settings.disable_progress_bar()
    try:
        yield
    finally:
        settings.set_verbosity(level)
        if bar:
            settings.enable_progress_bar()


def _check_report(folder: DetectorFolder, report: dict[str, Any]) -> None:
    """Raises DetectorError where weights were missing or of another shape: those are random."""
    names = sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]]))
    wrong = [name for name in names if not COUNTERS.search(name)]
    if wrong:
        raise DetectorError(
            f"{folder.path} lacks {len(wrong)} of the weights that {folder.model_type} needs, first"
            f" {wrong[0]}: it holds another model's, or a part. Take the whole detector."
        )


def _first_line(error: Exception) -> str:
    """What a library says, in one line that ends as a sentence."""
    line = " ".join(str(error).split("\n\n")[0].split())[:300] or type(error).__name__
    return line if line.endswith(".") else f"{line}."


def _names_of(folder: DetectorFolder, config: Any, given: Sequence[str]) -> tuple[str, ...]:
    """A kind for each class. Raises DetectorError where there are none, or of another count."""
    count = int(config.num_labels)
    if given:
        if len(given) != count:
            raise DetectorError(
                f"the file of detector.names holds {len(given)} names, and {folder.path} has"
                f" {count} classes: write {count} lines in the order of its classes, or leave"
                " detector.names empty."
            )
        return tuple(given)
    names = [" ".join(str(config.id2label[n]).lower().split()) for n in range(count)]
    if all(PLACEHOLDER.fullmatch(name) for name in names):
        if count == len(COCO_NAMES):
            return COCO_NAMES
        raise DetectorError(
            f"{folder.path} has {count} classes without names: write a text file with one name a"
            " line and set detector.names."
        )
    return tuple(USUAL_NAMES.get(name, name or NO_NAME) for name in names)


def _input_size(processor: Any) -> str:
    """What images are scaled to, in words."""
    size = getattr(getattr(processor, "image_processor", processor), "size", None) or {}
    get = size.get if isinstance(size, dict) else lambda key: getattr(size, key, None)
    if get("height"):
        return f"{get('width')} x {get('height')}"
    if get("shortest_edge"):
        longest = f", the longer at most {get('longest_edge')}" if get("longest_edge") else ""
        return f"shorter side {get('shortest_edge')}{longest}"
    return ""
