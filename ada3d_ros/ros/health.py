"""What is wrong, in one judgement: the states of the inputs in, sentences with their cures out.

Pure: no ROS, no clock, no threads. The log, `~/status`, `/diagnostics`, the error of a question and
`ada3d doctor` all show what `judge` returns. `ros/watch.py` gathers what it judges.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence

from ada3d_ros.errors import FrameReason
from ada3d_ros.ros.detector_health import is_failing, judge_detector
from ada3d_ros.ros.health_state import (
    INPUTS,
    MODEL,
    SCENE,
    SYNCHRONIZATION,
    Fault,
    HealthState,
    InputState,
    Severity,
)

SILENT_AFTER_S = 5.0  # without a message: the input is silent
PAUSE_S = 30.0  # the same, where all stop at once and their publishers stay
NO_CLOCK_AFTER_S = 3.0  # without a publisher of /clock
IN_A_ROW = 10  # so many frames refused, or messages without a set: it is no accident
SEVERAL = 5  # messages of a stream, not one that is kept for late comers
FEW = 3  # so many stamps of zero; so many messages before a set that is not there is missed
LOST_SHARE, MIN_LOST = 0.2, 10  # of the messages of the last seconds, lost by the middleware
SET_APART_NS, POSE_APART_NS = 500_000_000, 2_000_000_000  # stamps that are of another clock
KEPT_APART_NS = 60_000_000_000  # the same for what stays in force
LIVE_NS = 10_000_000_000  # stamps so near the node's clock are of it
MAX_SLOP_S = 1.0  # the highest value of sync.slop_sec

WAIT_TEXT = "the first frame is on its way; ask again in a moment."
WORDS = {"rgb": "colour", "depth": "depth", "camera_info": "camera_info", "pose": "pose"}


def judge(state: HealthState) -> list[Fault]:
    """What is wrong, worst first; causes come before what follows from them."""
    found = [
        *_warning(state.namesake_warning, "namesake", MODEL),
        *_warning(state.remote_warning, "remote", MODEL),
        *_clock(state),
        *_silence(state),
        *_unset_stamps(state),
        *_apart(state),
        *_refusals(state),
        *_losses(state),
        *_warning(state.static_tf_warning, "static tf", SCENE),
        *_warning(state.camera_axes_warning, "camera axes", SCENE),
        *_warning("" if is_failing(state.detector) else state.objects_warning, "objects", SCENE),
        *_warning(state.store_warning, "store", SCENE),
        *judge_detector(state.detector, state.slop_s, _is_fed(state)),
    ]
    # That a bag has ended, or a camera gone, explains nothing else.
    return sorted(found, key=lambda fault: (-fault.severity, fault.key == "silent ended"))


def _is_fed(state: HealthState) -> bool:
    """Whether keyframes are there and images still come."""
    return bool(state.keyframes) and not any(_is_silent(i) for i in state.inputs if i.in_set)


def why_no_keyframe(state: HealthState) -> str:
    """The sentences of `judge`; where nothing is wrong yet, what is waited for."""
    return " ".join(map(str, judge(state))) or WAIT_TEXT


def _warning(sentence: str, key: str, task: str) -> Iterator[Fault]:
    if sentence:
        yield Fault(Severity.WARN, sentence, "", task, key)


def _blocking(state: HealthState) -> Severity:
    """Of what keeps frames out."""
    return Severity.WARN if state.keyframes else Severity.ERROR


# -- the clock


def _clock(state: HealthState) -> Iterator[Fault]:
    """use_sim_time and /clock: both, or neither."""

    def fault(severity: Severity, sentence: str, cure: str) -> Fault:
        return Fault(severity, sentence, cure, INPUTS, "clock")

    if state.running_s < NO_CLOCK_AFTER_S:
        return
    if state.use_sim_time and state.clock_publishers and not state.now_ns:
        text = "use_sim_time is true, nothing received on /clock yet"
        yield fault(Severity.NOTE, text, "let the player or simulator go on")
    elif state.use_sim_time and not state.clock_publishers:
        if state.now_ns and state.inputs and not any(i.offers for i in state.inputs):
            return  # a bag has been played to its end
        yield fault(
            Severity.WARN,
            "use_sim_time is true, nothing publishes /clock",
            "play the bag with its clock (`ada3d replay`, `ros2 bag play --clock`), or set"
            " use_sim_time:=false for a live camera",
        )
    elif not state.use_sim_time and state.clock_publishers:
        stamps = [i.last_stamp_ns for i in state.inputs if i.last_stamp_ns > 0]
        if stamps and min(abs(state.now_ns - stamp) for stamp in stamps) < LIVE_NS:
            return  # a live camera beside someone else's simulation
        text = "/clock is published, use_sim_time is false"
        yield fault(_blocking(state), text, "start the node with -p use_sim_time:=true")


# -- inputs from which nothing comes


def _is_silent(one: InputState) -> bool:
    return not one.received or (one.silent_s > SILENT_AFTER_S and not one.kept)


def _silence(state: HealthState) -> Iterator[Fault]:
    # All have stopped at once, and whoever sends them is still there: a source that pauses.
    streams = [i for i in state.inputs if not i.kept]
    paused = bool(state.keyframes) and all(_is_silent(i) and i.offers for i in streams)
    limit_s = PAUSE_S if paused else SILENT_AFTER_S

    # What never came, one by one where the graph tells why; the rest in one sentence.
    silent = [i for i in state.inputs if _is_silent(i)]
    told = [i for i in silent if _why_silent(i) and not (i.received and i.offers)]
    rest = [i for i in silent if i not in told]
    for kind, inputs in (
        *((i.name, [i]) for i in told),
        ("unpublished", [i for i in rest if not i.offers and not i.received]),
        ("published", [i for i in rest if i.offers and not i.received]),
        ("ended", [i for i in rest if not i.offers and i.received]),
        ("stopped", [i for i in rest if i.offers and i.received]),
    ):
        if inputs:
            longest_s = max(i.silent_s for i in inputs)
            severity = Severity.NOTE if longest_s <= limit_s else Severity.WARN
            text = _why_silent(inputs[0]) if kind in WORDS else None
            text = text or _silent_text(inputs, longest_s <= SILENT_AFTER_S)
            yield Fault(severity, *text, INPUTS, f"silent {kind}")


def _nothing_on(inputs: Sequence[InputState]) -> str:
    still = " any more" if all(one.received for one in inputs) else ""
    return f"nothing received{still} on " + ", ".join(f"{i.topic} ({i.type_name})" for i in inputs)


def _silent_text(inputs: Sequence[InputState], early: bool) -> tuple[str, str]:
    """Sentence and cure for silent inputs of which nothing more is known; all of one kind.

    early: publishers may be there that are not discovered yet.
    """
    if inputs[0].offers:
        count = " + ".join(str(len(i.offers)) for i in inputs)
        checks = " ; ".join(f"ros2 topic hz {i.topic}" for i in inputs)
        plural = "" if count == "1" else "s"
        cure = f"check that they send ({checks})"
        if any(i.kept for i in inputs):  # what is sent once, before the node listens
            cure += "; a camera_info that is sent once must be latched (durability transient_local)"
        return f"{_nothing_on(inputs)}, {count} publisher{plural}", cure
    remaps = " ".join(f"-r {i.interface}:=TOPIC" for i in inputs)
    otherwise = " again" if inputs[0].received else f", or remap: {remaps}"
    count = "0 publishers" + " so far" * early
    return f"{_nothing_on(inputs)}, {count}", f"start the camera or the bag{otherwise}"


def _why_silent(one: InputState) -> tuple[str, str] | None:
    """Sentence and cure where the graph tells why nothing comes."""
    # Nobody publishes it, but what could be meant.
    nothing = _nothing_on([one])
    if not one.offers and one.instead and not one.received:
        topic, setting = one.instead
        return f"{nothing}, {topic} is published", f"set {setting}"
    if not one.offers and one.elsewhere and not one.received:
        remap = f"-r {one.interface}:={one.elsewhere[0]}"
        others = ", ".join(one.elsewhere)
        return f"{nothing}, 0 publishers; of this type there is {others}", f"remap, as in {remap}"

    # Somebody does, of another type or reliability.
    types = sorted({offer.type_name for offer in one.offers})
    if types and one.type_name not in types:
        return (
            f"{one.topic} is published as {', '.join(types)}, subscribed as {one.type_name}",
            "remap to the right topic, or set rgb_transport, depth_transport or pose_source",
        )
    best_effort = all(offer.reliability == "best_effort" for offer in one.offers)
    if types and best_effort and one.reliability == "reliable":
        return (
            f"{one.topic} is published best-effort, subscribed reliable: nothing arrives",
            f"set qos.{one.name} to auto or best_effort",
        )
    return None


# -- stamps


def _unset_stamps(state: HealthState) -> Iterator[Fault]:
    """Inputs that leave header.stamp zero, in one sentence."""
    unset = [i for i in state.inputs if i.unset_stamps]
    if not any(i.in_set or i.name == "pose" for i in unset):
        return
    count = sum(i.unset_stamps for i in unset)
    often = max(i.unset_stamps for i in unset) >= FEW
    if not often and state.keyframes:
        return
    yield Fault(
        _blocking(state) if often else Severity.NOTE,
        f"{', '.join(i.topic for i in unset)}: header.stamp is not set (zero) in {count} messages",
        "let the driver stamp its messages with the time of capture",
        SYNCHRONIZATION,
        "unset stamps",
    )


def _apart(state: HealthState) -> Iterator[Fault]:
    """Inputs whose stamps are of another clock; else those that miss the slop."""
    # Without stamps, or messages, there is nothing to compare.
    stamped = [i for i in state.inputs if i.last_stamp_ns > 0 and not i.unset_stamps]
    members = [i for i in state.inputs if i.in_set]
    odd = list(_of_another_clock(state, stamped))
    yield from odd
    if not members or any(i not in stamped or not i.received for i in members) or odd:
        return

    # All of one clock, and no set for a while.
    since_set = min(i.since_set for i in members)
    if since_set >= (IN_A_ROW if state.keyframes else FEW):
        severity = _blocking(state) if since_set >= IN_A_ROW else Severity.NOTE
        yield Fault(severity, *_slop_text(state, members), SYNCHRONIZATION, "slop")


def _slop_text(state: HealthState, members: Sequence[InputState]) -> tuple[str, str]:
    """Sentence and cure where all inputs of a set arrive, of one clock, and none fits another."""
    # Of several that do not fit, the one that needs most.
    text = f"no {_names(members)} within sync.slop_sec {state.slop_s:g} s"
    gaps_ns = {i.topic: statistics.median_high(map(abs, i.gaps_ns)) for i in members if i.gaps_ns}
    if not gaps_ns:
        color = members[0]
        worst = max(members, key=lambda i: abs(i.last_stamp_ns - color.last_stamp_ns))
        lead_s = (worst.last_stamp_ns - color.last_stamp_ns) / 1e9
        return (
            f"{text}, {worst.topic} is {abs(lead_s):g} s {_side(lead_s)} colour",
            "let their publishers send one moment at one time, or raise sync.queue_size",
        )

    # What its slop would have to be; rounded up, it takes the gap in.
    topic = max(gaps_ns, key=lambda topic: gaps_ns[topic])
    side = next(_side(statistics.median_high(i.gaps_ns)) for i in members if i.topic == topic)
    gap_s = math.ceil(gaps_ns[topic] / 1e5) / 1e4
    cure = f"sync.slop_sec would need {gap_s:g}; better, let the driver synchronise them"
    if gap_s > MAX_SLOP_S:
        cure = "synchronise the clocks of their publishers"
    return f"{text}, {topic} is {gap_s:g} s {side} the nearest colour image", cure


def _side(lead: float) -> str:
    return "ahead of" if lead > 0 else "behind"


def _of_another_clock(state: HealthState, stamped: Sequence[InputState]) -> Iterator[Fault]:
    """Inputs that stand elsewhere in time than most do."""
    # Where most stand; a tie is for the first, colour. Poses come at rates of their own.
    streams = [i for i in stamped if i.in_set]
    if len(stamped) < 2 or not streams:
        return

    def near(one: InputState, other: InputState) -> bool:
        return abs(one.last_stamp_ns - other.last_stamp_ns) <= _apart_ns(one, other)

    reference = max(streams, key=lambda i: sum(near(i, other) for other in streams))
    agreeing = [i for i in stamped if near(reference, i)]
    named = [i for i in agreeing if i.in_set] or agreeing

    # Those elsewhere, if it harms.
    for one in stamped:
        if one in agreeing or not _matters(state, one):
            continue
        lead_s = (one.last_stamp_ns - reference.last_stamp_ns) / 1e9
        yield Fault(
            Severity.WARN if one.kept else _blocking(state),
            f"{one.topic} is {abs(lead_s):.1f} s {_side(lead_s)} {_names(named)} (another clock?)",
            "stamp all inputs with one clock: synchronise the hosts, or record and play all of"
            " them in one time",
            SYNCHRONIZATION,
            f"another clock {one.name}",
        )


def _apart_ns(one: InputState, other: InputState) -> int:
    if one.kept or other.kept:
        return KEPT_APART_NS
    return POSE_APART_NS if "pose" in (one.name, other.name) else SET_APART_NS


def _matters(state: HealthState, one: InputState) -> bool:
    """Whether frames are lost by it, or an input in force comes all the time with wrong stamps."""
    if one.kept:
        return one.received >= SEVERAL  # one alone may have been sent long ago
    if one.in_set:
        members = [i for i in state.inputs if i.in_set]
        return min(i.since_set for i in members) >= IN_A_ROW
    return FrameReason.NO_POSE in state.refusals


def _names(inputs: Sequence[InputState]) -> str:
    *first, last = [WORDS.get(i.name, i.name) for i in inputs]
    return f"{', '.join(first)} and {last}" if first else last


# -- frames that were refused, messages that were lost


def _refusals(state: HealthState) -> Iterator[Fault]:
    """The most frequent refusal since the last good frame; what follows from a fault is none."""
    counts = dict(state.refusals)
    # of another time than a clock that is not used
    if not state.use_sim_time and any(_clock(state)):
        counts.pop(FrameReason.STALE, None)
    apart = {fault.key for fault in _apart(state)}
    for name, reason in (("pose", FrameReason.NO_POSE), ("camera_info", FrameReason.NO_INFO)):
        lacks = any(_is_silent(i) or i.unset_stamps for i in state.inputs if i.name == name)
        if lacks or f"another clock {name}" in apart:
            counts.pop(reason, None)
    total = sum(count for count, _ in counts.values())
    if not total or (total < IN_A_ROW and state.keyframes):
        return
    count, why = max(counts.values(), key=lambda refusal: refusal[0])
    yield Fault(
        _blocking(state) if total >= IN_A_ROW else Severity.NOTE,
        f"{count} {'frame' if count == 1 else 'frames'} refused, {why}",
        "",  # the sentence of the refusal has it
        SYNCHRONIZATION,
        "refusals",
    )


def _losses(state: HealthState) -> Iterator[Fault]:
    """Messages that were sent and never arrived, in one sentence."""
    lossy = [i for i in state.inputs if i.lost >= max(MIN_LOST, LOST_SHARE * (i.lost + i.arrived))]
    if lossy:
        shares = ", ".join(f"{i.topic} ({i.lost} of {i.lost + i.arrived})" for i in lossy)
        yield Fault(
            Severity.WARN,
            f"{state.middleware} loses messages of {shares}",
            state.large_images_cure,
            INPUTS,
            "lost",
        )
