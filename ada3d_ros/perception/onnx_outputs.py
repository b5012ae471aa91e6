"""Which format a detector's outputs have, seen by their names and shapes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ada3d_ros.perception import onnx_decoders as cells
from ada3d_ros.perception import onnx_rows as rows
from ada3d_ros.perception.class_names import COCO_IDS, COCO_NAMES
from ada3d_ros.perception.onnx_decoders import Decoder, grid

# The strides of the maps that a network may have, the usual ones first.
STRIDES = ((8, 16, 32), (8, 16, 32, 64), (4, 8, 16, 32), (16, 32))
BINS = 8  # of a side in PicoDet and NanoDet
YOLO_BINS = 16
MASK_WEIGHTS = 32  # of YOLO's masks
ANCHORS = 3  # a cell of YOLOv5 and v7


@dataclass(frozen=True, slots=True)
class Trial:
    """What a network made of a grey picture.

    names, arrays: its outputs; size: height and width of its input, px; inputs: the names of those
    beside the picture; num_names: how many kinds its file or detector.names names, 0 where neither
    does.
    """

    names: tuple[str, ...]
    arrays: Sequence[npt.NDArray[Any]]
    size: tuple[int, int]
    inputs: Iterable[str] = ()
    num_names: int = 0

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        return [array.shape for array in self.arrays]

    @property
    def likely_kinds(self) -> int:
        return self.num_names or len(COCO_NAMES)

    def of_rank(self, rank: int) -> list[int]:
        """The numbers of the outputs with so many axes."""
        return [number for number, shape in enumerate(self.shapes) if len(shape) == rank]

    def strides_of(self, count: int) -> tuple[int, ...] | None:
        """The strides of maps that have so many cells together."""
        for strides in STRIDES:
            if count == sum(-(-self.size[0] // s) * -(-self.size[1] // s) for s in strides):
                return strides
        return None


def recognise(trial: Trial) -> Decoder | None:
    """The decoder of a network's outputs, None where they are those of no detector we know."""
    if any(array.dtype.kind not in "fiu" for array in trial.arrays):
        return None
    if any(shape[:1] != (1,) or 0 in shape[2:] for shape in trial.shapes if len(shape) > 2):
        return None
    lists = (_rows_of_two_axes, _labelled, _boxes_and_labels)
    readers = (*lists, _picodet, _yolo_maps, _pair, _masked, _single)
    for reader in readers:
        decoder = reader(trial)
        if decoder is not None:
            return decoder
    return None


def _rows_of_two_axes(trial: Trial) -> Decoder | None:
    """Lists without the axis of pictures: Paddle's and YOLOv7's."""
    lists = [number for number in trial.of_rank(2) if trial.shapes[number][1] in (6, 7)]
    if len(lists) != 1 or len(trial.of_rank(1)) != len(trial.shapes) - 1:
        return None
    if trial.shapes[lists[0]][1] == 7:
        return rows.BatchRows() if len(trial.shapes) == 1 else None
    return rows.PaddleRows(lists[0], is_detr="im_shape" in trial.inputs)


def _picodet(trial: Trial) -> Decoder | None:
    shapes = trial.shapes
    half = len(shapes) // 2
    if len(shapes) not in (6, 8) or any(len(shape) != 3 for shape in shapes):
        return None
    counts = [shape[1] for shape in shapes]
    strides = trial.strides_of(sum(counts[:half]))
    kinds = {shape[2] for shape in shapes[:half]}
    bins = {shape[2] for shape in shapes[half:]}
    if strides is None or counts[:half] != counts[half:] or len(kinds) != 1 or bins != {4 * BINS}:
        return None
    scores, sides = tuple(range(half)), tuple(range(half, 2 * half))
    return cells.PicoDet(grid(trial.size, strides), scores, sides, kinds.pop())


def _yolo_maps(trial: Trial) -> Decoder | None:
    """Maps of four axes, the bins of the sides and the scores in one or in two."""
    if len(trial.of_rank(4)) != len(trial.shapes):
        return None
    by_map: dict[tuple[int, ...], list[int]] = {}
    for number, shape in enumerate(trial.shapes):
        by_map.setdefault(shape[2:], []).append(number)
    strides = trial.strides_of(sum(height * width for height, width in by_map))
    groups = sorted(by_map.items(), key=lambda item: -item[0][0] * item[0][1])  # finest first
    bins = 4 * YOLO_BINS
    widths = {tuple(trial.shapes[number][1] for number in numbers) for _, numbers in groups}
    if strides is None or len(widths) != 1:
        return None
    channels = widths.pop()
    places = grid(trial.size, strides)
    numbers = [group for _, group in groups]
    if len(channels) == 1 and channels[0] > bins:
        one = tuple(group[0] for group in numbers)
        return cells.YoloMaps(places, channels[0] - bins, one, one)
    # A third map, the sum of the scores, tells nothing that these do not.
    if len(channels) not in (2, 3) or channels[0] != bins or channels[2:] not in ((), (1,)):
        return None
    scores = tuple(group[1] for group in numbers)
    seen = np.concatenate([trial.arrays[number].reshape(-1) for number in scores])
    logits = bool((seen < 0).any() or (seen > 1).any())
    first = tuple(group[0] for group in numbers)
    return cells.YoloMaps(places, channels[1], first, scores, logits)


def _labelled(trial: Trial) -> Decoder | None:
    """Labels, boxes and scores of queries in three outputs."""
    boxes = [number for number in trial.of_rank(3) if trial.shapes[number][2] == 4]
    others = trial.of_rank(2)
    if len(trial.shapes) != 3 or len(boxes) != 1 or "orig_target_sizes" not in trial.inputs:
        return None
    queries = trial.shapes[boxes[0]][:2]
    if len(others) != 2 or any(trial.shapes[number] != queries for number in others):
        return None
    # Labels are integers; where both are floats, the names tell.
    first, second = others
    is_label = [
        trial.arrays[number].dtype.kind in "iu" or "label" in trial.names[number]
        for number in others
    ]
    if is_label == [False, True]:
        first, second = second, first
    return rows.DetrRows(first, boxes[0], second) if any(is_label) else None


def _boxes_and_labels(trial: Trial) -> Decoder | None:
    """Boxes with their scores, and labels as integers: mmdetection's."""
    boxes, labels = trial.of_rank(3), trial.of_rank(2)
    if len(trial.shapes) != 2 or len(boxes) != 1 or len(labels) != 1:
        return None
    box, label = boxes[0], labels[0]
    is_list = trial.shapes[box] == (*trial.shapes[label], 5)
    if not is_list or trial.arrays[label].dtype.kind not in "iu":
        return None
    return rows.MmdetRows(box, label)


def _pair(trial: Trial) -> Decoder | None:
    """Boxes (1, N, 4) with scores of every class in another output."""
    named = [n for n in trial.of_rank(3) if "hidden" not in trial.names[n]]
    boxes = [n for n in named if trial.shapes[n][2] == 4]
    scores = [n for n in named if n not in boxes]
    if len(boxes) != 1 or len(scores) != 1:
        return None
    count, (first, second) = trial.shapes[boxes[0]][1], trial.shapes[scores[0]][1:]
    if trial.strides_of(count) is not None:  # one box a cell: the scores lie across
        is_paddle = second == count and len(trial.shapes) == 2
        return rows.PaddleBoxes(first, boxes[0], scores[0]) if is_paddle else None
    if first != count:
        return None
    return _detr(trial, scores[0], boxes[0])


def _detr(trial: Trial, logits: int, boxes: int) -> Decoder | None:
    """Which of its kin: by the number of classes, and by names that only one of them uses."""
    columns, queries = trial.shapes[logits][2], trial.shapes[boxes][1]
    masks = [n for n in trial.of_rank(4) if trial.shapes[n][1] == queries]
    is_rfdetr = {trial.names[logits], trial.names[boxes]} == {"labels", "dets"}
    known = trial.num_names
    # DETR has a class more than kinds, which means nothing; the others judge each class alone.
    nothing = not is_rfdetr and (
        columns == known + 1 if known else columns in (len(COCO_NAMES) + 1, len(COCO_IDS) + 1)
    )
    kinds = columns - 1 if nothing or (is_rfdetr and columns == known + 1) else columns
    normalised = nothing or is_rfdetr or kinds == len(COCO_IDS)
    return rows.Detr(
        kinds, trial.size, logits, boxes, masks[0] if masks else None, nothing, normalised
    )


def _masked(trial: Trial) -> Decoder | None:
    """YOLO with masks: its list or table, and the masks that its weights sum."""
    tables, masks = trial.of_rank(3), trial.of_rank(4)
    if len(tables) != 1 or len(masks) != 1 or len(trial.shapes) != 2:
        return None
    main, mask = tables[0], masks[0]
    count, height, width = trial.shapes[mask][1:]
    if count != MASK_WEIGHTS or height * trial.size[1] != width * trial.size[0]:
        return None
    first, second = trial.shapes[main][1:]
    if trial.strides_of(second) is not None and first > 4 + count:
        return cells.Yolo(first - 4 - count, main, mask)
    if second == 6 + count:
        return rows.YoloRows(main, mask)
    return None


def _single(trial: Trial) -> Decoder | None:
    """One table of everything."""
    if len(trial.shapes) != 1 or len(trial.shapes[0]) != 3:
        return None
    first, second = trial.shapes[0][1:]
    if trial.strides_of(second) is not None and first > 4:
        return cells.Yolo(first - 4)
    strides = trial.strides_of(first)
    if strides is not None and second > 5:
        return _one_row_a_cell(trial, strides)
    if first % ANCHORS == 0 and trial.strides_of(first // ANCHORS) is not None and second > 5:
        return cells.YoloAnchors(second - 5)
    if second == 6:
        return rows.YoloRows()
    if second == 4 + trial.likely_kinds:
        return rows.DetrTable(trial.likely_kinds, trial.size)
    return None


def _one_row_a_cell(trial: Trial, strides: tuple[int, ...]) -> Decoder:
    """YOLOX, NanoDet, or YOLO lying across: by the number of columns."""
    columns, places = trial.shapes[0][2], grid(trial.size, strides)
    if columns == 4 + trial.likely_kinds:
        return cells.Yolo(columns - 4, channels_last=True)
    of_nanodet = columns - 4 * BINS
    if of_nanodet == trial.likely_kinds or (64 in strides and of_nanodet > 0):
        return cells.NanoDet(places, of_nanodet)
    # Centres in pixels reach over the whole picture, offsets in cells stay near 0.
    decoded = bool(np.median(trial.arrays[0][0, :, 0]) > trial.size[1] / 8)
    return cells.YoloX(places, columns - 5, decoded)
