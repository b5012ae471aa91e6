"""What is wrong with the detector, in sentences with their cures. Pure, as `ros/health.py` is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ada3d_ros.perception import select_boxes
from ada3d_ros.ros.health_state import DETECTOR, DetectorState, Fault, InputState, Severity

IN_A_ROW = 3  # so many frames that it fails at, or that no array fits: it is no accident
UNSEEN_SHARE, MIN_UNSEEN = 0.2, 10  # of the frames, which it had no time for
UNUSABLE_SHARE, MIN_UNUSABLE = 0.2, 10  # of its boxes
SILENT_AFTER_S = 5.0  # without an array
# why a detection of a topic is not used, beside what select_boxes refuses
NO_NAME = "a detection without a class"
NO_SUCH_NUMBER = "a class number that has no name"
NO_LENS = "a box where the lens model has no answer"
# What a detector in order never gives; other boxes are refused for what the depth shows there.
UNUSABLE = (
    *(NO_NAME, NO_SUCH_NUMBER, select_boxes.NAN_SCORE, select_boxes.SCORE_OUTSIDE),
    *(select_boxes.NAN_BOX, select_boxes.BOX_OUTSIDE, select_boxes.BOX_WITHOUT_EXTENT),
    select_boxes.MASK_SIZE,
)


def judge_detector(state: DetectorState | None, slop_s: float, fed: bool) -> Iterator[Fault]:
    """What is wrong with it; fed: images come, so its boxes are due."""
    if state is None:
        return
    told = list(_topic(state.topic, fed)) if state.topic is not None else []
    if state.topic is not None:
        told += _matching(state, state.topic, slop_s)
    yield from told
    yield from _failing(state)
    if not told:  # else frames go unseen for that
        yield from _slow(state)
    yield from _unusable(state)


def _fault(key: str, sentence: str, cure: str, severity: Severity = Severity.WARN) -> Fault:
    return Fault(severity, sentence, cure, DETECTOR, f"detector {key}")


def _failing(state: DetectorState) -> Iterator[Fault]:
    report = state.report
    if not is_failing(state):
        return
    frames = f"the last {report.failed_in_a_row} frames, no object is found meanwhile"
    if report.lifting_failed:
        sentence = f"objects cannot be made of {frames}: {report.last_error}"
        yield _fault("fails", sentence, "the log has the trace: report it with that")
    else:
        sentence = f"the detector failed at {frames}: {report.last_error}"
        yield _fault("fails", sentence, "check it with `ada3d doctor --detector PATH`")


def is_failing(state: DetectorState | None) -> bool:
    """Whether frame after frame raises."""
    return state is not None and state.report.failed_in_a_row >= IN_A_ROW


def _slow(state: DetectorState) -> Iterator[Fault]:
    """Frames come faster than it looks at them now, whatever was before."""
    report = state.report
    if report.recent_unseen < max(MIN_UNSEEN, UNSEEN_SHARE * report.recent):
        return
    if state.topic is not None:
        cure = f"let its node look at more images (ros2 topic hz {state.topic.topic})"
        takes = ""
    else:
        cure = "take a smaller detector or more detector.threads"
        takes = f", it takes {report.seconds:.2f} s for one" if report.seconds > 0 else ""
    yield _fault(
        "slow",
        f"{report.recent_unseen} of the last minute's {report.recent} frames went by before the"
        f" detector had seen them{takes}",
        f"{cure}, or let fewer frames in (input.max_rate_hz, keyframe.min_translation_m,"
        " keyframe.min_rotation_deg)",
    )


def _unusable(state: DetectorState) -> Iterator[Fault]:
    """Boxes that a detector in order does not give."""
    refused = {why: n for why, n in state.report.refused.items() if why in UNUSABLE and n}
    total = sum(refused.values())
    if total < max(MIN_UNUSABLE, UNUSABLE_SHARE * (total + state.report.found)):
        return
    cure = "export its file again, or check it with `ada3d doctor --detector PATH`"
    if state.topic is not None:
        cure = f"check what its node publishes (ros2 topic echo {state.topic.topic} --once)"
        if NO_SUCH_NUMBER in refused:
            cure += ", or name its classes in detector.names"
    sentence = f"the detector gives what cannot be used, {refused_in_words(refused)}"
    yield _fault("unusable", sentence, cure)


def refused_in_words(refused: Mapping[str, int]) -> str:
    """`3 x a score that is NaN, 1 x a box outside the picture`, the most frequent first."""
    ordered = sorted(refused.items(), key=lambda item: -item[1])
    return ", ".join(f"{count} x {reason}" for reason, count in ordered)


# -- detections of a topic


def _topic(one: InputState, fed: bool) -> Iterator[Fault]:
    """Whether anything comes, where images do."""
    silent = not one.received or one.silent_s > SILENT_AFTER_S
    if not silent or not fed:
        return
    early = one.silent_s <= SILENT_AFTER_S
    severity = Severity.NOTE if early else Severity.WARN
    still = " any more" if one.received else ""
    nothing = f"nothing received{still} on {one.topic} ({one.type_name}), no object is found"
    types = sorted({offer.type_name for offer in one.offers})
    if types and one.type_name not in types:
        sentence = f"{one.topic} is published as {', '.join(types)}, subscribed as {one.type_name}"
        yield _fault("silent", sentence, f"remap, as in -r {one.interface}:=TOPIC", severity)
    elif types:
        count = f"{len(one.offers)} publisher{'s' if len(one.offers) > 1 else ''}"
        cure = f"check that it sends (ros2 topic hz {one.topic})"
        yield _fault("silent", f"{nothing}, {count}", cure, severity)
    else:
        remap = one.elsewhere[0] if one.elsewhere else "TOPIC"
        other = f"; of this type there is {', '.join(one.elsewhere)}" if one.elsewhere else ""
        cure = f"start the node that detects, or remap: -r {one.interface}:={remap}"
        sentence = f"{nothing}, 0 publishers{' so far' * early}{other}"
        yield _fault("silent", sentence, cure, severity)


def _matching(state: DetectorState, topic: InputState, slop_s: float) -> Iterator[Fault]:
    """Arrays come, and are of no frame."""
    matches, name = state.matches, topic.topic
    copy = "let its node copy the header of the image that it looked at"
    if topic.unset_stamps >= IN_A_ROW:
        count = matches.unset_stamps
        sentence = f"{name}: header.stamp is not set (zero) in {count} arrays"
        yield _fault("unset stamps", sentence, copy)
    elif matches.missed >= IN_A_ROW and matches.other_frame:
        sentence = (
            f"{matches.missed} frames without detections: those on {name} are of camera frame"
            f" {matches.other_frame!r}, the images of another"
        )
        cure = f"remap {topic.interface} to the detector of this camera, or {copy}"
        yield _fault("other frame", sentence, cure)
    elif matches.missed >= IN_A_ROW:
        never = "match no more" if matches.matched else "never match"
        sentence = (
            f"{matches.missed} frames without detections: stamps of {name} {never} those of the"
            f" colour image within sync.slop_sec {slop_s:g} s"
        )
        if matches.nearest_ns >= 0:
            lead_s = (matches.nearest_ns - matches.missed_ns) / 1e9
            side = "ahead of" if lead_s > 0 else "behind"
            sentence += (
                f", the nearest ({matches.nearest_ns / 1e9:.3f}) is {abs(lead_s):.6g} s {side} the"
                f" image ({matches.missed_ns / 1e9:.3f})"
            )
        yield _fault("stamps", sentence, copy)
