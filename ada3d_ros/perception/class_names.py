"""The kinds a detector can give: from a file, from an ONNX file's metadata, or those of COCO."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from pathlib import Path

from ada3d_ros.errors import DetectorError

MAX_NAMES = 20_000
MAX_NAME_CHARS = 80
MAX_BYTES = 4_000_000

_COCO = """
person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant,
stop sign, parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra,
giraffe, backpack, umbrella, handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite,
baseball bat, baseball glove, skateboard, surfboard, tennis racket, bottle, wine glass, cup, fork,
knife, spoon, bowl, banana, apple, sandwich, orange, broccoli, carrot, hot dog, pizza, donut,
cake, chair, couch, potted plant, bed, dining table, toilet, tv, laptop, mouse, remote, keyboard,
cell phone, microwave, oven, toaster, sink, refrigerator, book, clock, vase, scissors, teddy bear,
hair drier, toothbrush
"""
# The 80 classes of COCO detection, in the order that detectors number them.
COCO_NAMES: tuple[str, ...] = tuple(" ".join(name.split()) for name in _COCO.split(","))
# Numbers of COCO's categories that name nothing: its ids go from 1 to 90, its kinds are 80.
_COCO_GAPS = {0, 12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
# The names by COCO's category id 0..90, as DETR numbers its classes; "" = no kind.
COCO_IDS: tuple[str, ...] = tuple(
    "" if number in _COCO_GAPS else COCO_NAMES[number - sum(gap < number for gap in _COCO_GAPS)]
    for number in range(91)
)

# Kinds of COCO as some files write them -> as all others do.
USUAL_NAMES = {
    "aeroplane": "airplane",
    "diningtable": "dining table",
    "motorbike": "motorcycle",
    "pottedplant": "potted plant",
    "sofa": "couch",
    "tvmonitor": "tv",
}
UNNAMED_KIND = "a kind without a name"  # why a box is refused


def read_names(path: Path) -> tuple[str, ...]:
    """The names of a text file, one a line in the order of the classes, in lower case.

    Lines that are empty at the end count for nothing. Raises DetectorError with the line.
    """
    where = f"the file of detector.names, {path},"
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DetectorError(f"{where} has more than {MAX_BYTES} bytes: name a list of names.")
        lines = path.read_text(encoding="utf-8-sig").rstrip().splitlines()
    except (OSError, ValueError) as error:
        raise DetectorError(
            f"{where} cannot be read ({error}): name a text file in UTF-8 with one name a line."
        ) from error
    if not lines:
        raise DetectorError(f"{where} holds no name: write one a line, in the order of classes.")
    return checked_names(lines, where)


def names_in_metadata(metadata: Mapping[str, str], where: str) -> tuple[str, ...]:
    """The names that an ONNX file's metadata holds, () where it holds none.

    Read are `names` as a dictionary {0: 'person', ...} or a list, in Python's or JSON's writing.
    where: the file, for the error. Raises DetectorError for names that cannot be read.
    """
    text = metadata.get("names", "").strip()
    if not text:
        return ()
    try:
        if len(text) > MAX_BYTES:
            raise ValueError(f"it has {len(text)} characters, at most {MAX_BYTES} are read")
        value = json.loads(text) if text.startswith('{"') else ast.literal_eval(text)
        if isinstance(value, dict):
            numbered = {int(number): name for number, name in value.items()}
            if sorted(numbered) != list(range(len(numbered))):
                raise ValueError(f"its numbers are not 0 to {len(numbered) - 1}")
            value = [numbered[number] for number in range(len(numbered))]
        names = [name for name in value if isinstance(name, str)]
        if not names or len(names) != len(value):
            raise ValueError("it is no list of names")
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise DetectorError(
            f"the metadata `names` of {where} cannot be read ({error}; it begins {text[:40]!r}):"
            " set detector.names to a text file with one name a line."
        ) from error
    checked = checked_names(names, f"the metadata `names` of {where}")
    return tuple(USUAL_NAMES.get(name, name) for name in checked)


def checked_names(names: list[str], where: str) -> tuple[str, ...]:
    """Names in lower case with single spaces. Raises DetectorError for one that is none."""
    if len(names) > MAX_NAMES:
        raise DetectorError(f"{where} holds {len(names)} names; at most {MAX_NAMES} are taken.")
    cleaned = tuple(" ".join(name.lower().split()) for name in names)
    for number, name in enumerate(cleaned, start=1):
        if not name or len(name) > MAX_NAME_CHARS or not name.isprintable():
            raise DetectorError(
                f"{where} has no name in line {number} ({name[:40]!r}): a name has 1 to"
                f" {MAX_NAME_CHARS} printable characters, one a line in the order of classes."
            )
    return cleaned
