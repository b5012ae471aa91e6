"""Standing questions: asked again when the scene has changed, told when the answer has.

What is due, what counts as a change, and what happened to a watched object; knows neither ROS nor
the model. Times are ns of the node's clock, places metres in the world frame.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import IntEnum

import numpy as np

from ada3d_ros.measures import ObjectsSnapshot, SceneObject
from ada3d_ros.types import Box3D

FORMAT = 1  # of the JSON
MAX_DOUBLINGS = 7
MAX_PERIOD_S = 86400.0  # of watch.min_period_sec
MAX_NS = 2**31 * 10**9  # of a stamp in a message
QUESTION_KINDS: dict[str, type | tuple[type, ...]] = {  # of the JSON
    **dict.fromkeys(("watch_id", "question", "last_text", "error_msg"), str),
    **dict.fromkeys(("last_asked_ns", "last_changed_ns", "error_code", "epoch", "timeouts"), int),
    "min_period_s": (int, float),
    "watched": list,
}
OBJECT_KINDS: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("id", "label"), str),
    "yaw_rad": (int, float),
    "gone": bool,
    "others": list,
}


class WatchKind(IntEnum):
    """The numbers of StandingQuestion.msg."""

    ASK = 0
    GROUND = 1
    OBJECT = 2


class EventKind(IntEnum):
    """The numbers of SceneEvent.msg."""

    ANSWER_CHANGED = 1
    OBJECT_MOVED = 2
    OBJECT_GONE = 3
    OBJECT_BACK = 4


@dataclass(slots=True)
class Watched:
    """One object that is watched, as it was told last. id: '' where a new epoch has not shown it
    yet; others: of those that were there beside it, so that none of them is taken for it where it
    has moved.
    """

    id: str
    label: str
    center_m: tuple[float, float, float]
    size_m: tuple[float, float, float]
    yaw_rad: float = 0.0
    gone: bool = False
    others: tuple[str, ...] = ()

    @property
    def box(self) -> Box3D:
        center, size = np.array(self.center_m), np.array(self.size_m)
        return Box3D(center, size, self.yaw_rad, label=self.label)


@dataclass(slots=True)
class StandingQuestion:
    """A question that stands, and what came of it last. `told` is None until it was answered once;
    then (text or error code, box centres). seen: (epoch, version) of the scene of the last try.
    """

    watch_id: str
    kind: WatchKind
    question: str
    min_period_s: float
    last_asked_ns: int = -1
    last_changed_ns: int = -1
    last_text: str = ""
    error_code: int = 0
    error_msg: str = ""
    told: tuple[str, tuple[tuple[float, float, float], ...]] | None = None
    seen: tuple[int, int] | None = None
    watched: list[Watched] = field(default_factory=list)
    epoch: int = -1  # of the scene that the ids of `watched` are of
    timeouts: int = 0  # in a row: each doubles the time until the next try

    def is_due(self, scene: tuple[int, int], now_ns: int) -> bool:
        """Whether it is to be asked of this scene (epoch, version) now. A clock that went back
        counts as time enough.
        """
        if scene == self.seen:
            return False
        waited_s = (now_ns - self.last_asked_ns) / 1e9
        wait_s = self.min_period_s * 2 ** min(self.timeouts, MAX_DOUBLINGS)
        return self.last_asked_ns < 0 or waited_s < 0 or waited_s >= wait_s


@dataclass(frozen=True, eq=False, slots=True)
class ObjectEvent:
    """What happened to a watched object. thing: as it is now; before: its box then; moved_m:
    between the centres.
    """

    kind: EventKind
    thing: SceneObject
    before: Box3D
    sentence: str
    moved_m: float = 0.0


def has_changed(
    before: tuple[str, tuple[tuple[float, float, float], ...]],
    text: str,
    centers_m: Sequence[tuple[float, float, float]],
    moved_m: float,
) -> bool:
    """Whether an answer is news: another text, more or fewer boxes, or one that is `moved_m` or
    more from where each of the boxes before was.
    """
    old_text, old_centers = before
    if text != old_text or len(centers_m) != len(old_centers):
        return True
    left = list(old_centers)
    for center in centers_m:  # each takes the nearest that is left
        nearest = min(left, key=lambda old: math.dist(old, center))
        if math.dist(nearest, center) >= moved_m:
            return True
        left.remove(nearest)
    return False


def watch_objects(
    question: StandingQuestion, matching: Iterable[SceneObject], snapshot: ObjectsSnapshot
) -> None:
    """Begin to watch these objects of the list."""
    present = {thing.id for thing in snapshot.present}
    question.epoch = snapshot.scene_epoch
    question.watched = [_watched(thing, tuple(sorted(present - {thing.id}))) for thing in matching]


def _watched(thing: SceneObject, others: tuple[str, ...]) -> Watched:
    """What is kept of an object to know it again."""
    x, y, z = map(float, thing.box.center_m)
    length, width, height = map(float, thing.box.size_m)
    center, size = (x, y, z), (length, width, height)
    yaw_rad = float(thing.box.yaw_rad)
    return Watched(thing.id, thing.label, center, size, yaw_rad, thing.is_gone, others)


def object_events(
    question: StandingQuestion,
    snapshot: ObjectsSnapshot,
    same_name: Callable[[str, str], bool],
    moved_m: float,
) -> list[ObjectEvent]:
    """What happened to the watched objects by this list, which must be complete; they are watched
    as they are now afterwards. same_name(name, label): whether a label means the same thing. A new
    epoch gives ids anew: then each is the nearest of its name, and that is no event.
    """
    if snapshot.scene_epoch != question.epoch:
        _bind_anew(question, snapshot, same_name)
        return []
    found = {thing.id: thing for thing in snapshot.objects}
    events: list[ObjectEvent] = []
    followed: list[Watched] = []
    for old in question.watched:
        if not old.id:  # waits for its first sight in this epoch
            watched = {w.id for w in (*followed, *question.watched)}
            first = _successor(old, snapshot.present, watched, same_name)
            followed.append(old if first is None else _watched(first, ()))
            continue
        thing = found.get(old.id)
        if thing is not None and not same_name(old.label, thing.label):
            far = math.dist(thing.center_m, old.center_m) >= moved_m
            thing = None if far else thing  # named anew where it stands, else another thing
        if thing is not None and not thing.is_gone:
            beside = {*old.others, *(t.id for t in snapshot.present)} - {thing.id}
            event, new = _still_there(old, thing, tuple(sorted(beside & {*found})), moved_m)
        else:
            watched = {*(w.id for w in followed), *(w.id for w in question.watched)}
            successor = _successor(old, snapshot.present, watched | {*old.others}, same_name)
            if thing is None:  # dropped from the list: perhaps it became one with another there
                here = _successor(old, snapshot.present, watched, same_name)
                is_here = here and math.dist(here.center_m, old.center_m) < moved_m
                successor = here if is_here else successor
            event, new = _not_there(old, thing, successor, moved_m, snapshot.stamp_ns)
        followed.append(new)
        events += [event] if event is not None else []
    question.watched = followed
    return events


def _bind_anew(
    question: StandingQuestion, snapshot: ObjectsSnapshot, same_name: Callable[[str, str], bool]
) -> None:
    """Find each watched object in another epoch's list; one that is not there yet has no id."""
    taken: set[str] = set()
    present = {thing.id for thing in snapshot.present}
    bound = []
    for old in question.watched:
        thing = _successor(old, snapshot.present, taken, same_name)
        if thing is None:
            bound.append(replace(old, id=""))
            continue
        taken.add(thing.id)
        bound.append(_watched(thing, tuple(sorted(present - {thing.id}))))
    question.watched, question.epoch = bound, snapshot.scene_epoch


def _still_there(
    old: Watched, thing: SceneObject, others: tuple[str, ...], moved_m: float
) -> tuple[ObjectEvent | None, Watched]:
    """The same object: back where it was gone, or its box elsewhere. others: there beside it."""
    new = _watched(thing, others)
    distance_m = math.dist(old.center_m, new.center_m)
    if old.gone:
        sentence = f"the {thing.label} is back{_at(new, distance_m, moved_m)}"
        return ObjectEvent(EventKind.OBJECT_BACK, thing, old.box, sentence, distance_m), new
    if distance_m >= moved_m:
        sentence = f"the {thing.label} moved by {distance_m:.2f} m{_place(new)}"
        return ObjectEvent(EventKind.OBJECT_MOVED, thing, old.box, sentence, distance_m), new
    # What creeps in small steps is told once it is far enough from where it was told last.
    return None, replace(new, center_m=old.center_m, size_m=old.size_m, yaw_rad=old.yaw_rad)


def _not_there(
    old: Watched,
    thing: SceneObject | None,
    successor: SceneObject | None,
    moved_m: float,
    stamp_ns: int,
) -> tuple[ObjectEvent | None, Watched]:
    """Its place is empty, or the list has it no longer: it is another one's id now, stands
    elsewhere, or is gone.
    """
    if successor is not None:
        new = _watched(successor, old.others)
        distance_m = math.dist(old.center_m, new.center_m)
        if old.gone:
            kind, what = EventKind.OBJECT_BACK, "is back"
        elif distance_m < moved_m:  # the same thing under another id
            return None, replace(new, center_m=old.center_m, size_m=old.size_m, yaw_rad=old.yaw_rad)
        else:
            kind, what = EventKind.OBJECT_MOVED, f"moved by {distance_m:.2f} m"
        sentence = f"the {old.label} {what}{_place(new)}"
        return ObjectEvent(kind, successor, old.box, sentence, distance_m), new
    if old.gone:
        return None, old
    sentence = f"the {old.label} is gone from where it was{_place(old)}"
    if thing is None:
        thing = SceneObject(old.id, old.label, old.box, gone_ns=stamp_ns)
        sentence = f"the {old.label} is no longer among the known objects; it was{_place(old)}"
    return ObjectEvent(EventKind.OBJECT_GONE, thing, old.box, sentence), replace(old, gone=True)


def _successor(
    old: Watched,
    present: Sequence[SceneObject],
    taken: set[str],
    same_name: Callable[[str, str], bool],
) -> SceneObject | None:
    """An object of the same name that was not there before; of several the nearest."""
    new = [t for t in present if t.id not in taken and same_name(old.label, t.label)]
    return min(new, key=lambda thing: math.dist(old.center_m, thing.center_m), default=None)


def _at(new: Watched, distance_m: float, moved_m: float) -> str:
    return " where it was" if distance_m < moved_m else _place(new)


def _place(thing: Watched) -> str:
    x, y, z = thing.center_m
    return f" at [{x:.2f}, {y:.2f}, {z:.2f}]"


def to_json(questions: Iterable[StandingQuestion], last_number: int) -> str:
    """Text that `from_json` reads; last_number: of the newest id, so that none is given twice."""
    rows = [asdict(question) for question in questions]
    return json.dumps({"format": FORMAT, "last_number": last_number, "questions": rows})


def from_json(text: str) -> tuple[list[StandingQuestion], int]:
    """What `to_json` wrote; nothing of an empty text. Raises ValueError with the reason."""
    if not text:
        return [], 0
    try:
        data = json.loads(text)
        if data["format"] != FORMAT:
            raise ValueError(f"they are of format {data['format']}, this version reads {FORMAT}")
        questions = [_question(row) for row in data["questions"]]
        last_number = int(data["last_number"])
        if len({question.watch_id for question in questions}) < len(questions):
            raise ValueError("two have one id")
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ValueError(f"its standing questions cannot be read: {error}.") from error
    return questions, last_number


def _question(row: dict[str, object]) -> StandingQuestion:
    """One from its JSON, where tuples are lists. Raises KeyError, TypeError, ValueError."""
    _check_kinds(row, QUESTION_KINDS)
    question = StandingQuestion(**row)  # type: ignore[arg-type]
    question.kind = WatchKind(question.kind)
    if question.told is not None:
        text, centers = question.told
        _check_kinds({"told": text}, {"told": str})
        question.told = text, tuple(_numbers(center) for center in centers)
    if not 0.0 < question.min_period_s <= MAX_PERIOD_S:
        raise ValueError(f"{question.watch_id!r} is asked every {question.min_period_s} s")
    if not (question.watch_id and question.question.strip()):
        raise ValueError("one has no id, or no question")
    if not 0 <= question.error_code < 2**16:
        raise ValueError(f"{question.watch_id!r} has the error code {question.error_code}")
    if not all(-1 <= ns < MAX_NS for ns in (question.last_asked_ns, question.last_changed_ns)):
        raise ValueError(f"{question.watch_id!r} was asked at no time")
    question.watched = [_object(watched) for watched in row["watched"]]  # type: ignore[attr-defined]
    question.seen = None  # the scene may have grown meanwhile, and its ids count anew
    return question


def _object(row: dict[str, object]) -> Watched:
    _check_kinds(row, OBJECT_KINDS)
    thing = Watched(**row)  # type: ignore[arg-type]
    thing.center_m, thing.size_m = _numbers(thing.center_m), _numbers(thing.size_m)
    _numbers((thing.yaw_rad, 0.0, 0.0))
    thing.others = tuple(map(str, thing.others))
    return thing


def _check_kinds(row: dict[str, object], kinds: dict[str, type | tuple[type, ...]]) -> None:
    for name, kind in kinds.items():
        if name in row and not isinstance(row[name], kind):
            raise ValueError(f"{name} = {row[name]!r:.60}")


def _numbers(row: Sequence[float]) -> tuple[float, float, float]:
    """Three that are finite."""
    _check_kinds({"place": row}, {"place": (list, tuple)})
    x, y, z = map(float, row)
    if not math.isfinite(x + y + z):
        raise ValueError(f"a place [{x}, {y}, {z}]")
    return x, y, z
