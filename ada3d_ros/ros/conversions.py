"""Messages to our types and back. Values only: no node, no clock, no publisher."""

from __future__ import annotations

import math
from typing import Any

from builtin_interfaces.msg import Time
from geometry_msgs.msg import Point, Pose, PoseArray, Quaternion, Vector3
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker, MarkerArray

from ada3d_ros.errors import Ada3DError, ErrorCode
from ada3d_ros.msg import Answer as AnswerMsg
from ada3d_ros.msg import GroundedBox, GroundedBoxArray, Latency
from ada3d_ros.msg import TokenUsage as TokenUsageMsg
from ada3d_ros.types import Answer, Box3D, StageTimings, TokenUsage

NAN = math.nan
LATENCY_STAGES = (  # of Latency.msg, as people and diagnostics see them
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


def box_to_msg(box: Box3D) -> GroundedBox:
    half = box.yaw_rad / 2
    return GroundedBox(
        label=box.label,
        score=float(box.score),
        center=Pose(
            position=_point(box.center_m),
            orientation=Quaternion(z=math.sin(half), w=math.cos(half)),
        ),
        size=Vector3(x=float(box.size_m[0]), y=float(box.size_m[1]), z=float(box.size_m[2])),
        support_points=box.support_points,
        method=int(box.method),
        evidence_stamps=[ns_to_time(s) for s in box.evidence_stamps_ns],
        evidence_voxels=[_point(p) for p in box.evidence_xyz_m],
        evidence_weights=list(box.evidence_weights),
    )


def _point(xyz: Any) -> Point:
    return Point(x=float(xyz[0]), y=float(xyz[1]), z=float(xyz[2]))


def _latency_to_msg(
    timings: StageTimings, wait_s: float, input_age_s: float, total_s: float
) -> Latency:
    def ms(seconds: float) -> float:
        return seconds * 1e3

    return Latency(
        input_age_ms=ms(input_age_s),
        wait_ms=ms(wait_s),
        preprocess_ms=ms(timings.preprocess_s),
        vision_ms=ms(timings.vision_s),
        spatial_ms=ms(timings.spatial_s),
        scene_ms=ms(timings.scene_s),
        prefill_ms=ms(timings.prefill_s),
        rank_ms=ms(timings.rank_s),
        first_token_ms=ms(wait_s + timings.first_token_s),
        decode_ms=ms(timings.decode_s),
        postprocess_ms=ms(timings.postprocess_s),
        total_ms=ms(total_s),
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
        kv_bytes=tokens.kv_bytes,
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
    """Put a finished answer into the message; started_ns and now_ns on the node clock, 0 where it
    has no time yet.
    """
    age_s = (now_ns - answer.stamp_ns) / 1e9 if now_ns > 0 else NAN
    input_age_s = (started_ns - answer.stamp_ns) / 1e9 if started_ns > 0 else NAN
    message.header = Header(stamp=ns_to_time(answer.stamp_ns), frame_id=answer.frame_id)
    message.text = answer.text
    message.boxes = [box_to_msg(box) for box in answer.boxes]
    message.stop_reason = int(answer.stop_reason)
    message.confidence = answer.confidence
    message.keyframe_stamps = [ns_to_time(s) for s in answer.keyframe_stamps_ns]
    message.scene_epoch, message.scene_version = answer.scene_epoch, answer.scene_version
    message.scene_age_s, message.scene_staleness = age_s, answer.scene_staleness
    message.scene_cached = answer.scene_cached
    message.tokens = _tokens_to_msg(answer.tokens)
    message.latency = _latency_to_msg(answer.timings, wait_s, input_age_s, total_s)


def error_of(error: BaseException) -> tuple[int, str]:
    """The error code and sentence for an exception; unexpected ones become UNKNOWN and name their
    type.
    """
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


def boxes_to_markers(answer: AnswerMsg, lifetime_s: float) -> MarkerArray:
    """A translucent cube and a label per box; earlier markers are deleted first."""
    lifetime_ns = int(lifetime_s * 1e9)
    markers = [Marker(header=answer.header, action=Marker.DELETEALL)]
    for index, box in enumerate(answer.boxes):
        cube = Marker(
            header=answer.header,
            ns="boxes",
            id=index,
            type=Marker.CUBE,
            action=Marker.ADD,
            pose=box.center,
            scale=box.size,
        )
        cube.color = ColorRGBA(r=0.1, g=0.8, b=0.3, a=0.35)
        top = Point(
            x=box.center.position.x,
            y=box.center.position.y,
            z=box.center.position.z + box.size.z / 2 + 0.1,
        )
        score = "" if math.isnan(box.score) else f" {box.score:.2f}"
        text = Marker(
            header=answer.header,
            ns="labels",
            id=index,
            type=Marker.TEXT_VIEW_FACING,
            action=Marker.ADD,
            text=box.label + score,
        )
        text.pose = Pose(position=top, orientation=Quaternion(w=1.0))
        text.scale.z = 0.12
        text.color = ColorRGBA(r=1.0, g=1.0, b=1.0, a=0.95)
        for marker in (cube, text):
            marker.lifetime.sec, marker.lifetime.nanosec = divmod(lifetime_ns, 1_000_000_000)
            markers.append(marker)
    return MarkerArray(markers=markers)
