"""What the demo asks about a generated room, and whether an answer is right, by value.

Twelve questions of twelve kinds. Only things that the views show well are asked for, by names that
fit nothing else, and with margins; which ones is drawn from the seed, the same every time. Nothing
here looks at an answer before the questions are chosen.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ada3d_ros.asking.taught import CAPTION_PROMPT
from ada3d_ros.errors import ErrorCode
from ada3d_ros.geometry.boxes import iou_axis_aligned
from ada3d_ros.geometry.depth_support import count_support
from ada3d_ros.lab.world.generated import GeneratedRoom
from ada3d_ros.lab.world.graph import Graph, Thing, distance_m
from ada3d_ros.lab.world.relations import DIRECTIONS, direction
from ada3d_ros.lab.world.room_question import NUMBERS
from ada3d_ros.types import NAN, Box3D

NUM_QUESTIONS = 12
RIGHT_IOU = 0.25  # a box counts as right from here on, as in ScanRefer's lenient measure
RIGHT_SHARE = 0.1  # a length counts as right within this share of the true one
# Depth readings, counted on every fourth row and column of all views, of a thing seen well.
SEEN_WELL, STRIDE_PX = 400, 4
MARGIN_M = 0.3  # by which the nearest thing is nearer than the next
MARGIN = 1.5  # times as large as the next
APART_M = (0.4, 4.0)  # two things whose distance is asked
# Places to stand at near the room's middle.
STEPS_M = (-1.0, 0.0, 1.0)
FLOOR = tuple(Thing(-1, "", "", (x, y, 0.0), (0.0, 0.0, 0.0)) for x in STEPS_M for y in STEPS_M)
IN_METRES = {"": 1.0, "m": 1.0, "cm": 0.01, "mm": 0.001, "ft": 0.3048, "in": 0.0254}


@dataclass(frozen=True, slots=True)
class DemoQuestion:
    """One question and its true answer.

    truth: in words for a person; accepted: texts that are right, lower case, without article;
    number: the true count, or length in metres (NaN: none is asked for). phrase: to be grounded,
    then text is empty; target: number of the object that the phrase names.
    """

    kind: str
    text: str
    truth: str
    accepted: tuple[str, ...] = ()
    number: float = NAN
    is_length: bool = False
    phrase: str = ""
    target: int | None = None

    @property
    def asked(self) -> str:
        """As the report shows it."""
        return self.text or f"Find {self.phrase}."


@dataclass(frozen=True, slots=True)
class Reply:
    """What of an answer is compared with the truth.

    word, values, uncertainty (both in `unit`): of a measurement, empty where nothing was measured.
    """

    text: str = ""
    error_code: int = ErrorCode.NONE
    boxes: tuple[Box3D, ...] = ()
    word: str = ""
    values: tuple[float, ...] = ()
    uncertainty: tuple[float, ...] = ()
    unit: str = ""


class _Choice:
    """A room as the questions are drawn from it."""

    def __init__(self, room: GeneratedRoom, seed: int) -> None:
        self.graph: Graph = room.graph
        self.draw = random.Random(seed)
        seen = [count_support(room.frames, b, STRIDE_PX).num_points for b in room.boxes]
        pairs = zip(room.graph.things, seen, strict=True)
        self.clear = [thing for thing, points in pairs if points >= SEEN_WELL]
        # Those whose colour and category name them alone.
        self.named = [t for t in self.clear if len(self.graph.matching(t.category, t.color)) == 1]
        self.used: set[int] = set()  # objects asked for already: others come first

    def take(self, things: Sequence[Thing]) -> Thing | None:
        """One of them, by preference one that was not asked for yet."""
        fresh = [t for t in things if t.number not in self.used] or list(things)
        if not fresh:
            return None
        thing = self.draw.choice(fresh)
        self.used.add(thing.number)
        return thing

    def nearest(self, anchor: Thing) -> Thing | None:
        """The thing nearest to it by centres and by surfaces, clearly, and seen well."""
        near = self.graph.nearest(anchor, MARGIN_M)
        others = sorted((gap_m(anchor, t), t.number) for t in self.graph.things if t is not anchor)
        same = near is not None and others[0][1] == near.number
        return near if same and near in self.clear else None


Maker = Callable[[_Choice], DemoQuestion | None]


def gap_m(a: Thing, b: Thing) -> float:
    """Between the surfaces of two boxes, 0 where they touch."""
    apart = np.abs(np.subtract(a.center_m, b.center_m))
    free = apart - np.add(a.extents_m, b.extents_m) / 2
    return float(np.linalg.norm(np.maximum(free, 0.0)))


def _color(room: _Choice) -> DemoQuestion | None:
    alone = [t for t in room.clear if len(room.graph.matching(category=t.category)) == 1]
    thing = room.take(alone)
    if thing is None:
        return None
    text = f"What color is the {thing.category}?"
    return DemoQuestion("color", text, thing.color, (thing.color,))


def _place(thing: Thing) -> str:
    return "[" + ", ".join(f"{c:.2f}" for c in thing.center_m) + "]"


def _category(room: _Choice) -> DemoQuestion | None:
    thing = room.take(room.clear)
    if thing is None:
        return None
    accepted = (thing.category, thing.name)
    return DemoQuestion("category", f"What is at {_place(thing)}?", thing.category, accepted)


def _caption(room: _Choice) -> DemoQuestion | None:
    thing = room.take(room.clear)
    if thing is None:
        return None
    text = CAPTION_PROMPT.format(place=_place(thing))
    return DemoQuestion("caption", text, thing.name, (thing.name,))


def _count(room: _Choice) -> DemoQuestion | None:
    """The category of which there are most, all of them seen well."""
    groups = {}
    for thing in room.clear:
        same = room.graph.matching(category=thing.category)
        if all(t in room.clear for t in same):
            groups[thing.category] = len(same)
    if not groups:
        return None
    most = max(groups.values())
    category = room.draw.choice(sorted(k for k, n in groups.items() if n == most))
    plural = {"shelf": "shelves"}.get(category, category + "s")
    text, word = f"How many {plural} are there?", NUMBERS[most]
    return DemoQuestion("count", text, word, (word, str(most)), float(most))


def _absent(room: _Choice) -> DemoQuestion | None:
    """A colour and a category that are both there, on different things."""
    names = {t.name for t in room.graph.things}
    colors = {t.color for t in room.graph.things}
    kinds = {t.category for t in room.graph.things}
    absent = sorted({f"{c} {k}" for c in colors for k in kinds} - names)
    if not absent:
        return None
    words = room.draw.choice(absent)
    article = "an" if words[0] in "aeiou" else "a"
    return DemoQuestion("absent", f"Is there {article} {words} in the room?", "no", ("no",))


def _nearest(room: _Choice) -> DemoQuestion | None:
    anchor = room.take([t for t in room.named if room.nearest(t)])
    near = room.nearest(anchor) if anchor else None
    if anchor is None or near is None:
        return None
    text = f"What is nearest to the {anchor.name}?"
    return DemoQuestion("nearest", text, near.category, (near.category, near.name))


def _multihop(room: _Choice) -> DemoQuestion | None:
    anchor = room.take([t for t in room.named if room.nearest(t)])
    near = room.nearest(anchor) if anchor else None
    if anchor is None or near is None:
        return None
    text = f"What color is the object nearest to the {anchor.name}?"
    return DemoQuestion("multihop", text, near.color, (near.color,))


def _relation(room: _Choice) -> DemoQuestion | None:
    """Standing at one thing, or else at a coordinate, facing another: where is a third?"""
    wanted = room.draw.choice(DIRECTIONS)
    for places in (room.named, FLOOR):
        found = [
            (at, facing, thing, side)
            for at in places
            for facing in room.named
            for thing in room.named
            if len({at.number, facing.number, thing.number}) == 3
            and min(distance_m(at, facing), distance_m(at, thing)) > APART_M[0]
            and (side := direction(at, facing, thing))
        ]
        best = [each for each in found if each[3] == wanted] or found
        if best:
            at, facing, thing, side = room.draw.choice(best)
            stand = f"the {at.name}" if at.name.strip() else _place(at)
            text = f"I am standing at {stand} and facing the {facing.name}. Is the {thing.name} on"
            text += " my left, on my right or behind me?"
            return DemoQuestion("relation", text, side, (side,))
    return None


def _stands_out(things: Sequence[Thing], size: Callable[[Thing], float]) -> Thing | None:
    first, second = sorted(things, key=lambda t: -size(t))[:2]
    return first if size(first) >= MARGIN * size(second) else None


def _superlative(room: _Choice) -> DemoQuestion | None:
    """The largest or the tallest thing, tall by its top and by itself."""
    largest = _stands_out(room.graph.things, lambda t: t.volume_m3)
    if largest in room.clear and largest is not None:
        text = "What color is the largest object?"
        return DemoQuestion("superlative", text, largest.color, (largest.color,))
    tallest = _stands_out(room.graph.things, lambda t: t.height_m)
    if tallest is None or tallest not in room.clear:
        return None
    if tallest is not _stands_out(room.graph.things, lambda t: t.extents_m[2]):
        return None
    accepted = (tallest.category, tallest.name)
    return DemoQuestion("superlative", "What is the tallest object?", tallest.category, accepted)


def _distance(room: _Choice, form: str) -> DemoQuestion | None:
    """Between the surfaces of two things that stand apart."""
    pairs = [(a, b) for a in room.named for b in room.named if a.number < b.number]
    apart = [(a, b) for a, b in pairs if APART_M[0] <= gap_m(a, b) <= APART_M[1]]
    fresh = [(a, b) for a, b in apart if not {a.number, b.number} <= room.used] or apart
    if not fresh:
        return None
    a, b = room.draw.choice(fresh)
    room.used |= {a.number, b.number}
    length = gap_m(a, b)
    text = form.format(a.name, b.name)
    return DemoQuestion("distance", text, f"{length:.2f} m", (), length, is_length=True)


def _grounding(room: _Choice) -> DemoQuestion | None:
    thing = room.take(room.named)
    if thing is None:
        return None
    truth = f"the {thing.name}'s box"
    return DemoQuestion("grounding", "", truth, phrase=f"the {thing.name}", target=thing.number)


def _refused(room: _Choice) -> DemoQuestion | None:
    """Of a kind that nobody taught the model, and that is no measure."""
    thing = room.take(room.named)
    if thing is None:
        return None
    return DemoQuestion("refused", f"Who bought the {thing.name}?", "cannot be asked")


KINDS: dict[str, Maker] = {
    "color": _color,
    "category": _category,
    "count": _count,
    "absent": _absent,
    "nearest": _nearest,
    "relation": _relation,
    "superlative": _superlative,
    "multihop": _multihop,
    "grounding": _grounding,
    "distance": lambda room: _distance(room, "How far is the {0} from the {1}?"),
    "distance in cm": lambda room: _distance(
        room, "What is the distance between the {0} and the {1} in centimeters?"
    ),
    "refused": _refused,
}
# Where a room does not allow a kind.
INSTEAD: tuple[Maker, ...] = (_caption, _category, _color, _absent)


def choose_questions(room: GeneratedRoom, seed: int) -> list[DemoQuestion]:
    """NUM_QUESTIONS questions, the same for the same room and seed, no text twice."""
    choice = _Choice(room, seed)
    made = [question for make in KINDS.values() if (question := make(choice)) is not None]
    for _ in range(4 * NUM_QUESTIONS):  # each draws another thing
        for make in INSTEAD:
            extra = make(choice)
            if extra is None or len(made) >= NUM_QUESTIONS:
                continue
            if extra.asked not in {q.asked for q in made}:
                made.append(extra)
    return made


def judge(question: DemoQuestion, reply: Reply, room: GeneratedRoom) -> tuple[bool, str]:
    """Whether the reply is right, by value, and by how much, in words ("" where that is all).

    A length is right where its stated uncertainty holds the true one, or within RIGHT_SHARE of it.
    """
    # What cannot be asked, and errors.
    if question.kind == "refused":
        return reply.error_code == ErrorCode.UNKNOWN_KIND, ""
    if question.phrase:
        return _judge_box(question, reply, room)
    if reply.error_code != ErrorCode.NONE:
        return False, ""

    # Lengths.
    if question.is_length:
        return _judge_length(question, reply)

    # Words and counts.
    if reply.values and not math.isnan(question.number):
        return round(reply.values[0]) == question.number, ""
    return _plain(reply.word or reply.text) in question.accepted, ""


def _plain(text: str) -> str:
    """Lower case, without article and full stop."""
    words = text.strip().rstrip(".").lower().split()
    return " ".join(words[1:] if words[:1] in (["a"], ["an"], ["the"]) else words)


def _judge_box(question: DemoQuestion, reply: Reply, room: GeneratedRoom) -> tuple[bool, str]:
    """The first box against that of the target."""
    things = zip(room.graph.things, room.boxes, strict=True)
    true = next(box for thing, box in things if thing.number == question.target)
    if not reply.boxes:
        return False, ""
    iou = iou_axis_aligned(true, reply.boxes[0])
    return iou >= RIGHT_IOU, f"IoU {iou:.2f}"


def _judge_length(question: DemoQuestion, reply: Reply) -> tuple[bool, str]:
    if not reply.values or reply.unit not in IN_METRES:
        return False, "not measured"
    value = reply.values[0] * IN_METRES[reply.unit]
    allowed = RIGHT_SHARE * question.number
    if reply.uncertainty:
        allowed = max(allowed, reply.uncertainty[0] * IN_METRES[reply.unit])
    off = abs(value - question.number)
    return off <= allowed, f"{100 * off:.0f} cm off"
