"""Messages as the page in the browser shows them: plain values for JSON, and bytes for the 3D view.

Values only: no node, no clock. Text of models, bags and people goes on unchanged; the page inserts
it as text.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from ada3d_ros.asking.words import duration
from ada3d_ros.errors import ErrorCode, SourceError
from ada3d_ros.msg import AgentStatus, StandingQuestion
from ada3d_ros.ros.conversions import LATENCY_STAGES, time_to_ns

# What a person is told of each state, and how it looks: "good" asks for a question.
STATES = {
    AgentStatus.UNCONFIGURED: ("off", "The robot's agent is not set up yet."),
    AgentStatus.LOADING: ("wait", "Loading the model…"),
    AgentStatus.WAITING_FOR_DATA: ("wait", "Waiting for the first pictures."),
    AgentStatus.READY: ("good", "Ask about the scene."),
    AgentStatus.BUSY: ("good", "Answering…"),
    AgentStatus.PAUSED: ("off", "Paused: it answers when it is told to go on."),
    AgentStatus.ERROR: ("bad", "Something is wrong at the robot."),
    AgentStatus.INACTIVE: ("off", "The robot's agent is switched off."),
}
ABSENT = ("wait", "No robot yet: looking for it…")
SILENT = ("bad", "The robot does not answer any more. Waiting for it to come back…")
# Stages of one answer that do not overlap, in the order in which they happen.
BAR_STAGES = tuple(s for s in LATENCY_STAGES if s not in ("first_token", "total"))
LEAST_MS = 0.05  # a shorter stage is not shown
# What is watched, in words for people.
WATCHED = {
    StandingQuestion.KIND_ASK: "question",
    StandingQuestion.KIND_GROUND: "phrase to find",
    StandingQuestion.KIND_OBJECT: "kept object",
}
DECIMALS = 4  # of metres: a tenth of a millimetre
FLOAT32, UINT32 = 7, 6  # sensor_msgs/PointField


def status_for_people(status: Any) -> dict[str, Any]:
    """An AgentStatus message: tone, a sentence for people, and what the node itself says."""
    tone, text = STATES.get(status.state, ("bad", "The robot is in a state that is not known."))
    if status.state == AgentStatus.BUSY and status.queued:
        text = f"Answering; {status.queued} more wait{'s' if status.queued == 1 else ''}."
    return {
        "tone": tone,
        "text": text,
        "ready": status.state in (AgentStatus.READY, AgentStatus.BUSY),
        "detail": status.detail,
        "faults": list(status.faults),
        "scene": status.scene,
        "keyframes": int(status.keyframes),
        "epoch": int(status.scene_epoch),
    }


def no_status(agent: str, was_there: bool, others: str = "") -> dict[str, Any]:
    """The status of a node that is not there, or has gone. others: which ones are there."""
    tone, text = SILENT if was_there else ABSENT
    told = [f"{agent}/status is silent; `ada3d doctor` says which agents there are."]
    if others:
        told.append(f"{others}.")
    return {"tone": tone, "text": text, "ready": False, "detail": "", "faults": told, "scene": ""}


def watches_for_page(status: Any) -> list[dict[str, str]]:
    """The standing questions of an AgentStatus, with how long their answers stand by its clock."""
    now_ns = time_to_ns(status.header.stamp)

    def ago(stamp: Any) -> str:
        """`5 min`; empty for never, within a second, and where the clock is behind it (a restart,
        a bag).
        """
        then_ns = time_to_ns(stamp)
        is_told = 0 < then_ns <= now_ns - 1_000_000_000
        return duration((now_ns - then_ns) / 1e9) if is_told else ""

    told = []
    for question in status.watches:
        # That a phrase is not found is an answer, and no fault.
        is_found = question.error_code != ErrorCode.NOT_GROUNDED
        text, error = question.last_text, question.error_msg
        told.append(
            {
                "watch": question.watch_id,
                "kind": WATCHED.get(question.kind, "unknown kind"),
                "question": question.question,
                "text": text if is_found else error,
                "error": error if is_found else "",
                "stands": ago(question.last_changed),
            }
        )
    return told


def event_for_page(event: Any) -> dict[str, str]:
    """A SceneEvent: whose it is, and its sentence."""
    return {"watch": event.watch_id, "sentence": event.sentence}


def scenes_for_page(response: Any) -> dict[str, Any]:
    """A response of ~/list_scenes. newest_s: of the newest keyframe's stamp, 0 without one."""
    scenes = [
        {
            "name": scene.name,
            "keyframes": int(scene.keyframes),
            "objects": int(scene.objects),
            "megabytes": round(scene.bytes / 1e6, 1),
            "newest_s": scene.newest.sec,
            "problem": scene.problem,
        }
        for scene in response.scenes
    ]
    return {"scenes": scenes, "in_use": response.scene_in_use}


def answer_for_page(answer: Any) -> dict[str, Any]:
    """An Answer message as fields of a turn: text or sentence, boxes, tokens, times."""
    boxes = answer.boxes or answer.measurement.boxes or answer.places
    is_measured = answer.method == answer.METHOD_MEASURED  # no prompt, no tokens
    return {
        "state": _outcome(answer),
        "text": answer.text,
        "error": answer.error_msg,
        "frame": answer.header.frame_id,
        "epoch": int(answer.scene_epoch),
        "scene": answer.scene,
        "watch": answer.watch_id,
        "boxes": [_box(box) for box in boxes],
        "tokens": None if is_measured else _tokens(answer.tokens),
        "times": _times(answer.latency),
        "total_ms": _number(answer.latency.total_ms),
        "kept": len(answer.kept_positions),
        "cold": answer.cold_reason,
        "random": "(random weights)" in answer.model,
    }


def _outcome(answer: Any) -> str:
    if answer.success:
        return "done"
    return "stopped" if answer.error_code == ErrorCode.CANCELED else "failed"


def _number(value: float) -> float | None:
    return round(float(value), DECIMALS) if math.isfinite(value) else None


def _box(box: Any) -> dict[str, Any]:
    """One GroundedBox: centre and full size in metres, yaw in radians about z."""
    at, turned, size = box.center.position, box.center.orientation, box.size
    return {
        "label": box.label,
        "score": _number(box.score),
        "center": [round(value, DECIMALS) for value in (at.x, at.y, at.z)],
        "size": [round(value, DECIMALS) for value in (size.x, size.y, size.z)],
        "yaw": round(2 * math.atan2(turned.z, turned.w), DECIMALS),
    }


def _tokens(tokens: Any) -> dict[str, Any] | None:
    """What a TokenUsage message says of spatial tokens; None where there were none."""
    if not tokens.spatial_total:
        return None
    return {
        "kept": int(tokens.spatial_kept),
        "total": int(tokens.spatial_total),
        "strategy": tokens.strategy,
        "ratio": _number(tokens.keep_ratio_achieved),
    }


def _times(latency: Any) -> list[tuple[str, float]]:
    """Milliseconds of each stage that ran, and what is left of the total as `other`."""
    spent = {stage: getattr(latency, f"{stage}_ms") for stage in BAR_STAGES}
    spent = {stage: ms for stage, ms in spent.items() if math.isfinite(ms)}
    if "prefill" in spent:  # ranking is a part of it
        spent["prefill"] -= spent.get("rank", 0.0)
    if math.isfinite(latency.total_ms):
        spent["other"] = latency.total_ms - sum(spent.values())
    return [(stage, round(ms, 2)) for stage, ms in spent.items() if ms >= LEAST_MS]


def kept_bytes(answer: Any) -> bytes:
    """Places of the kept tokens, float32 (N, 3), metres."""
    places = [(p.x, p.y, p.z) for p in answer.kept_positions]
    return np.array(places, "<f4").reshape(-1, 3).tobytes()


def pose_for_page(pose: Any) -> dict[str, list[float]]:
    """A Pose message: position in metres, quaternion (x, y, z, w)."""
    at, turned = pose.position, pose.orientation
    return {
        "position": [round(value, DECIMALS) for value in (at.x, at.y, at.z)],
        "quaternion": [round(v, 5) for v in (turned.x, turned.y, turned.z, turned.w)],
    }


def keyframes_for_page(message: Any) -> tuple[dict[str, Any], dict[str, bytes]]:
    """A KeyframeArray message: what the page draws of each, and the pictures by their names.

    Those without intrinsics are left out.
    """
    views, pictures = [], {}
    for number, keyframe in enumerate(message.keyframes, start=1):
        name = f"{message.scene_epoch}-{keyframe.id}"
        fx, fy, cx, cy = keyframe.intrinsics
        if not (fx > 0 and fy > 0):
            continue
        pictures[name] = bytes(keyframe.jpeg)
        views.append(
            {
                "name": name,
                "number": number,
                "stamp_s": round(time_to_ns(keyframe.stamp) / 1e9, 3),
                "aspect": [keyframe.width, keyframe.height],
                # How far the image's edges lie from the optical axis, at one metre: left, top,
                # right, bottom.
                "edges": [
                    round(float(value), DECIMALS)
                    for value in (
                        -cx / fx,
                        -cy / fy,
                        (keyframe.width - cx) / fx,
                        (keyframe.height - cy) / fy,
                    )
                ],
                **pose_for_page(keyframe.pose),
            }
        )
    frame = message.header.frame_id
    return {"frame": frame, "epoch": int(message.scene_epoch), "views": views}, pictures


def cloud_bytes(message: Any) -> bytes:
    """A PointCloud2 message as the page takes it: float32 (N, 3) metres, then uint8 (N, 3) sRGB.

    Points that are not finite are left out. Raises SourceError for fields it cannot read.
    """
    fields = {field.name: field for field in message.fields}
    color = fields.get("rgb") or fields.get("rgba")
    numbers = [fields.get(name) for name in "xyz"]
    if color is None or not all(field is not None for field in numbers):
        raise SourceError(
            f"a cloud with fields {', '.join(fields) or 'none'}; needed: x, y, z, and rgb or rgba."
        )
    wrong = [field.name for field in numbers if field is not None and field.datatype != FLOAT32]
    if wrong or color.datatype not in (FLOAT32, UINT32):
        raise SourceError("a cloud whose x, y, z are not float32, or whose colour is not 4 bytes.")

    # The rows as they lie in the message: height rows of row_step bytes.
    end = ">" if message.is_bigendian else "<"
    layout = np.dtype(
        {
            "names": ["x", "y", "z", "color"],
            "formats": [f"{end}f4"] * 3 + [f"{end}u4"],
            "offsets": [*(field.offset for field in numbers if field is not None), color.offset],
            "itemsize": message.point_step,
        }
    )
    count = message.width * message.height
    if not count:
        return b""
    data = np.frombuffer(bytes(message.data), np.uint8)
    if len(data) < message.height * message.row_step or message.row_step < (
        message.width * message.point_step
    ):
        raise SourceError(f"a cloud of {len(data)} bytes, too few for {count} points.")
    rows = data[: message.height * message.row_step].reshape(message.height, message.row_step)
    packed = np.ascontiguousarray(rows[:, : message.width * message.point_step])
    points = packed.reshape(-1).view(layout)

    xyz = np.stack([points[name] for name in "xyz"], axis=1).astype("<f4")
    rgb = np.stack([(points["color"] >> shift) & 255 for shift in (16, 8, 0)], axis=1)
    finite: npt.NDArray[np.bool_] = np.isfinite(xyz).all(axis=1)
    return xyz[finite].tobytes() + rgb[finite].astype(np.uint8).tobytes()


def response_error(response: Any) -> str:
    """The sentence of a response, where it has one."""
    return str(getattr(response, "error_msg", ""))
