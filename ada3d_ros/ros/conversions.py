"""Messages to our types and back. Values only: no node, no clock, no publisher."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Point, Point32, Pose, PoseArray, Quaternion, Vector3
from std_msgs.msg import Header

from ada3d_ros.config import SETTINGS
from ada3d_ros.errors import Ada3DError, ErrorCode, InvalidRequestError
from ada3d_ros.measures import RADIUS_M, Measurement, MeasureRequest
from ada3d_ros.msg import Answer as AnswerMsg
from ada3d_ros.msg import GroundedBox, GroundedBoxArray, Latency
from ada3d_ros.msg import Measurement as MeasurementMsg
from ada3d_ros.msg import TokenUsage as TokenUsageMsg
from ada3d_ros.types import Answer, Box3D, Question, Scope
from ada3d_ros.usage import StageTimings, TokenUsage

NAN = math.nan
MAX_SUPPORT_POINTS = 2**32 - 1  # of the message: a thing seen for weeks has more
# Of Latency.msg, as people and diagnostics see them.
LATENCY_STAGES = (
    "wait",
    "preprocess",
    "vision",
    "spatial",
    "scene",
    "prefill",
    "rank",
    "first_token",
    "decode",
    "postprocess",
    "total",
)


def ns_to_time(stamp_ns: int) -> Time:
    """Nanoseconds as builtin_interfaces/Time; negative becomes zero."""
    stamp_ns = max(stamp_ns, 0)
    return Time(sec=stamp_ns // 1_000_000_000, nanosec=stamp_ns % 1_000_000_000)


def time_to_ns(stamp: Any) -> int:
    """builtin_interfaces/Time as nanoseconds."""
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)


@dataclass(frozen=True, slots=True)
class Request:
    """What a caller asked. timeout_s 0: the node's default; deadline_ms NaN: none; measure: the
    typed request that question.text describes.
    """

    question: Question
    ground: bool = False
    measure: MeasureRequest | None = None
    timeout_s: float = 0.0
    deadline_ms: float = NAN


def request_from_query(message: Any) -> Request:
    """A QueryScene request, or what an AskScene goal has in common with it.

    This and the next two raise InvalidRequestError where a number is outside its setting's range.
    """
    if message.scope not in list(Scope):
        allowed = ", ".join(f"{s.value} ({s.name})" for s in Scope)
        raise InvalidRequestError(f"scope = {message.scope}; allowed: {allowed}.")
    _checked_limit("max_new_tokens", message.max_new_tokens, "generation.max_new_tokens")
    question = Question(
        message.question, scope=Scope(message.scope), max_new_tokens=int(message.max_new_tokens)
    )
    return _with_limits(message, question)


def request_from_goal(message: Any) -> Request:
    """An AskScene goal."""
    request = request_from_query(message)
    return replace(request, question=replace(request.question, want_boxes=message.want_boxes))


def request_from_ground(message: Any) -> Request:
    """A GroundObject request."""
    _checked_limit("max_boxes", message.max_boxes, "boxes.max_count")
    _checked_limit("min_score", message.min_score, "boxes.min_score")
    question = Question(message.phrase, max_boxes=message.max_boxes, min_score=message.min_score)
    return replace(_with_limits(message, question), ground=True)


def checked_timeout_s(message: Any) -> float:
    """The request's own time limit in seconds, 0 where it has none. Raises InvalidRequestError."""
    timeout_s = _checked_limit("timeout_sec", message.timeout_sec, "generation.timeout_sec")
    return 0.0 if math.isnan(timeout_s) else timeout_s


def checked_radius_m(value: float) -> float:
    """A radius in metres. Raises InvalidRequestError outside measures.RADIUS_M."""
    low, high = RADIUS_M
    if not low <= value <= high:  # also catches NaN
        raise InvalidRequestError(
            f"radius_m = {value:g} is out of range; allowed: {low:g} to {high:g} metres."
        )
    return float(value)


def _with_limits(message: Any, question: Question) -> Request:
    """Time and token budget, which every kind of question has."""
    timeout_s = checked_timeout_s(message)
    asked = round(message.keep_ratio, 6)  # a float32: 0.7 comes as 0.699999988
    keep_ratio = _checked_limit("keep_ratio", asked, "pruning.keep_ratio")
    deadline_ms = _checked_number("deadline_ms", message.deadline_ms, 1.0, 600_000.0)
    return Request(
        replace(question, keep_ratio=keep_ratio),
        timeout_s=timeout_s,
        deadline_ms=deadline_ms,
    )


def _checked_limit(name: str, value: float, setting: str) -> float:
    """`value` checked against the range of a setting."""
    s = SETTINGS[setting]
    return _checked_number(name, value, float(s.low or 0.0), float(s.high or math.inf))


def _checked_number(name: str, value: float, low: float, high: float) -> float:
    """`value`, or NaN where it is 0 (not given). Raises InvalidRequestError outside low..high."""
    if value == 0:
        return NAN
    if not low <= value <= high:  # also catches NaN
        raise InvalidRequestError(
            f"{name} = {value:g} is out of range; allowed: {low:g} to {high:g}, or 0 for the node's"
            " default."
        )
    return float(value)


def box_to_msg(box: Box3D, box_id: str = "") -> GroundedBox:
    half = box.yaw_rad / 2
    return GroundedBox(
        label=box.label,
        id=box_id,
        score=float(box.score),
        center=Pose(
            position=_point(box.center_m),
            orientation=Quaternion(z=math.sin(half), w=math.cos(half)),
        ),
        size=Vector3(x=float(box.size_m[0]), y=float(box.size_m[1]), z=float(box.size_m[2])),
        support_points=min(box.support_points, MAX_SUPPORT_POINTS),
        method=int(box.method),
        evidence_stamps=[ns_to_time(s) for s in box.evidence_stamps_ns],
        evidence_voxels=[_point(p) for p in box.evidence_xyz_m],
        evidence_weights=list(box.evidence_weights),
    )


def _point(xyz: Any) -> Point:
    return Point(x=float(xyz[0]), y=float(xyz[1]), z=float(xyz[2]))


def measurement_to_msg(measurement: Measurement) -> MeasurementMsg:
    return MeasurementMsg(
        kind=int(measurement.kind),
        values=[float(value) for value in measurement.values],
        uncertainty=[float(half_width) for half_width in measurement.uncertainty],
        unit=measurement.unit,
        word=measurement.word,
        sentence=measurement.sentence,
        boxes=[box_to_msg(box) for box in measurement.boxes],
        assumptions=list(measurement.assumptions),
    )


def _latency_to_msg(
    timings: StageTimings, wait_s: float, input_age_s: float, total_s: float
) -> Latency:
    return Latency(
        input_age_ms=input_age_s * 1e3,
        wait_ms=wait_s * 1e3,
        preprocess_ms=timings.preprocess_s * 1e3,
        vision_ms=timings.vision_s * 1e3,
        spatial_ms=timings.spatial_s * 1e3,
        scene_ms=timings.scene_s * 1e3,
        prefill_ms=timings.prefill_s * 1e3,
        rank_ms=timings.rank_s * 1e3,
        first_token_ms=(wait_s + timings.first_token_s) * 1e3,
        decode_ms=timings.decode_s * 1e3,
        postprocess_ms=timings.postprocess_s * 1e3,
        total_ms=total_s * 1e3,
    )


def _tokens_to_msg(tokens: TokenUsage) -> TokenUsageMsg:
    return TokenUsageMsg(
        prompt=tokens.prompt,
        generated=tokens.generated,
        spatial_total=tokens.spatial_total,
        spatial_kept=tokens.spatial_kept,
        keep_ratio_requested=tokens.keep_ratio_requested,
        keep_ratio_achieved=tokens.keep_ratio_achieved,
        strategy=tokens.strategy,
        prefill_flops=tokens.prefill_flops,
        unpruned_prefill_flops=tokens.unpruned_prefill_flops,
        full_prefill_flops=tokens.full_prefill_flops,
        build_flops=tokens.build_flops,
        unpruned_build_flops=tokens.unpruned_build_flops,
        kv_bytes=tokens.kv_bytes,
        held_kv_bytes=tokens.held_kv_bytes,
        unpruned_kv_bytes=tokens.unpruned_kv_bytes,
    )


def empty_answer_msg(question: str, request_id: int, frame_id: str, model: str) -> AnswerMsg:
    """An answer with every 'not known' value in place: NaN, not 0."""
    nothing = StageTimings()
    return AnswerMsg(
        header=Header(frame_id=frame_id),
        request_id=request_id,
        question=question,
        confidence=NAN,
        scene_age_s=NAN,
        scene_staleness=NAN,
        deadline_ms=NAN,
        tokens=_tokens_to_msg(TokenUsage()),
        latency=_latency_to_msg(nothing, NAN, NAN, NAN),
        model=model,
    )


def fill_answer_msg(
    message: AnswerMsg, answer: Answer, wait_s: float, total_s: float, started_ns: int, now_ns: int
) -> None:
    """Put a finished answer into the message.

    wait_s, total_s: in the queue, and from acceptance on. started_ns, now_ns: on the node clock, 0
    where it has no time yet.
    """
    age_s = (now_ns - answer.stamp_ns) / 1e9 if now_ns > 0 else NAN
    input_age_s = (started_ns - answer.stamp_ns) / 1e9 if started_ns > 0 else NAN
    message.header = Header(stamp=ns_to_time(answer.stamp_ns), frame_id=answer.frame_id)
    message.text = answer.text
    message.boxes = [box_to_msg(box) for box in answer.boxes]
    message.method = int(answer.method)
    message.places = [box_to_msg(place) for place in answer.places]
    if answer.measurement is not None:
        message.measurement = measurement_to_msg(answer.measurement)
    message.stop_reason = int(answer.stop_reason)
    message.confidence = answer.confidence
    message.keyframe_stamps = [ns_to_time(s) for s in answer.keyframe_stamps_ns]
    message.scene_epoch, message.scene_version = answer.scene_epoch, answer.scene_version
    message.scene_age_s, message.scene_staleness = age_s, answer.scene_staleness
    message.scene_cached = answer.scene_cached
    message.cache_mode, message.cold_reason = answer.cache_mode, answer.cold_reason
    message.tokens = _tokens_to_msg(answer.tokens)
    message.kept_positions = _positions(answer.kept_xyz_m)
    message.latency = _latency_to_msg(answer.timings, wait_s, input_age_s, total_s)


def _positions(xyz_m: npt.NDArray[np.float32] | None) -> list[Point32]:
    """Points (K, 3) as they are, those without a place (newlines, NaN) left out."""
    if xyz_m is None:
        return []
    placed = xyz_m[np.isfinite(xyz_m).all(axis=1)]
    return [Point32(x=x, y=y, z=z) for x, y, z in placed.tolist()]


def error_of(error: BaseException) -> tuple[int, str]:
    """Code and sentence for an exception; an unexpected one becomes UNKNOWN and names its type."""
    if isinstance(error, Ada3DError):
        return int(error.code), str(error)
    return (
        int(ErrorCode.UNKNOWN),
        f"unexpected {type(error).__name__}: {error}. The node goes on; the log has the details.",
    )


def boxes_to_msg(answer: AnswerMsg) -> GroundedBoxArray:
    return GroundedBoxArray(header=answer.header, query=answer.question, boxes=answer.boxes)


def boxes_to_poses(answer: AnswerMsg) -> PoseArray:
    return PoseArray(header=answer.header, poses=[box.center for box in answer.boxes])
