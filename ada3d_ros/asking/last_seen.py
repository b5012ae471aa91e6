"""Where and when a thing was last seen: among the objects that are kept with the scene, those that
are gone from it or from the list, and what a store knows of before (`object_history`).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from ada3d_ros.asking.kinds import KindNames
from ada3d_ros.asking.words import duration, fits, singular
from ada3d_ros.errors import NotGroundedError
from ada3d_ros.geometry.measure import uncertainty
from ada3d_ros.geometry.measure.lengths import give_or_take
from ada3d_ros.geometry.measure.metric import IN_METRES, METRES, half_width_m, listed
from ada3d_ros.measures import MeasureKind, Measurement, MeasureRequest, SceneObject

FIRST_DATE_NS = 946_684_800_000_000_000  # of 2000: a smaller stamp is of a clock without a date
MAX_NAMED = 12  # labels in a sentence


def last_seen(
    request: MeasureRequest,
    kept: Sequence[SceneObject],
    history: Sequence[SceneObject],
    newest_ns: int,
    unread: str = "",
) -> Measurement:
    """The object of the name that was seen last. kept: that the scene has now, history: that it
    ever had; newest_ns: stamp of the newest keyframe; unread: why history could not be read.

    values: its centre, metres, world frame. Raises NotGroundedError where none of that name was
    ever kept.
    """
    assert request.of is not None, "the grammar sees to it"
    name = request.of.phrase
    known = [item for item in (*kept, *history) if item.last_seen_ns >= 0]
    kinds = KindNames((), sorted({item.label for item in known}))
    found = [
        item for item in known if fits(name, item.label) or kinds.surely_fits(name, item.label)
    ]
    if not found:
        labels = sorted({singular(item.label) for item in known})
        shown = listed(labels[:MAX_NAMED]) if labels else "nothing"
        raise NotGroundedError(
            f"no {name} was ever seen in this scene: of what was kept with it there is {shown}."
            + f" {_unread(unread)}" * bool(unread)
        )
    # The first of equals is the one that is kept now.
    item = max(found, key=lambda each: each.last_seen_ns)
    x, y, z = (float(value) for value in item.center_m)
    half = half_width_m(uncertainty.PLACE, item.box)
    sentence = (
        f"The {item.label} was last seen at [{x:.2f}, {y:.2f}, {z:.2f}]{give_or_take(half)},"
        f" {when(item.last_seen_ns, newest_ns)}."
    )
    if item.is_gone:
        sentence += f" It was gone from there {when(item.gone_ns, newest_ns)}."
    others = {other.label for other in found if other is not item and other.id != item.id}
    assumptions = [IN_METRES]
    if others:
        assumptions.append("Others of that name were seen before it.")
    if unread:
        assumptions.append(_unread(unread))
    return Measurement(
        MeasureKind.WHERE,
        (x, y, z),
        METRES,
        (half, half, half),
        sentence=sentence,
        boxes=(item.box,),
        assumptions=tuple(assumptions),
    )


def _unread(why: str) -> str:
    return f"Objects of before could not be looked through: {why}"


def when(stamp_ns: int, newest_ns: int) -> str:
    """A moment as people say it, and how long it was before the newest image: `at 2026-11-29
    14:05:07 UTC, 3 min before the newest image`.
    """
    at = f"at {stamp_ns / 1e9:.1f} s"
    if stamp_ns >= FIRST_DATE_NS:
        date = datetime.fromtimestamp(stamp_ns // 1_000_000_000, UTC)
        at = f"at {date:%Y-%m-%d %H:%M:%S} UTC"
    before_s = (newest_ns - stamp_ns) / 1e9
    if before_s <= 0:
        return f"{at}, in the newest image"
    return f"{at}, {duration(before_s)} before the newest image"
