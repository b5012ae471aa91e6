"""Which topics of a recording are colour, depth, camera_info, pose: by message type, then name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ada3d_ros.errors import SourceError
from ada3d_ros.sources.tf_messages import TF

IMAGE = "sensor_msgs/msg/Image"
COMPRESSED_IMAGE = "sensor_msgs/msg/CompressedImage"
CAMERA_INFO = "sensor_msgs/msg/CameraInfo"
POSE_STAMPED = "geometry_msgs/msg/PoseStamped"
ODOMETRY = "nav_msgs/msg/Odometry"
TF_MESSAGE = "tf2_msgs/msg/TFMessage"

TYPES = {
    "rgb": (IMAGE, COMPRESSED_IMAGE),
    "depth": (IMAGE, COMPRESSED_IMAGE),
    "camera_info": (CAMERA_INFO,),
    "pose": (POSE_STAMPED, ODOMETRY, TF_MESSAGE),
}
TRANSPORT_SUFFIXES = ("/compressed", "/compressedDepth")
NOT_COLOR = ("depth", "infra", "/ir/", "mask", "disparity", "confidence")


@dataclass(frozen=True, slots=True)
class BagTopics:
    """Topic names; an empty one is detected."""

    rgb: str = ""
    depth: str = ""
    camera_info: str = ""
    pose: str = ""


def topic_types(recorded: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Of (topic, message type) pairs one type for each topic: the first that can be an input."""
    inputs = {kind for kinds in TYPES.values() for kind in kinds}
    types: dict[str, str] = {}
    for topic, kind in recorded:
        if topic not in types or (kind in inputs and types[topic] not in inputs):
            types[topic] = kind
    return types


def detect_topics(types: Mapping[str, str], wanted: BagTopics = BagTopics()) -> BagTopics:
    """Complete topics from the recording's {topic: message type}.

    Names that are given must exist with a fitting type. Detected: colour is an image that is not
    named like depth or infrared; depth has `depth` in its name, `aligned` preferred; camera_info is
    the one beside the colour image; the pose is the only PoseStamped or Odometry, without either
    /tf. A raw topic goes
    before its compressed twin. Raises SourceError where nothing fits, or several do: it never
    guesses between cameras.
    """
    # Images, by what their names say.
    colors = [t for t in _of("rgb", types) if not _is_depth(t) and _is_color(t)]
    depths = _aligned_first([t for t in _of("depth", types) if _is_depth(t)])
    rgb = wanted.rgb or _only("rgb", colors, types)
    depth = wanted.depth or _only("depth", depths, types)

    # The camera_info beside colour, and the pose.
    infos = _of("camera_info", types)
    sibling = f"{_base(rgb).rpartition('/')[0]}/camera_info"
    if sibling not in infos and not wanted.camera_info:
        sibling = _only("camera_info", [t for t in infos if not _is_depth(t)], types)
    info = wanted.camera_info or sibling
    poses = [topic for topic in _of("pose", types) if types[topic] != TF_MESSAGE]
    if not poses and types.get(TF) == TF_MESSAGE:
        poses = [TF]
    pose = wanted.pose or _only("pose", poses, types)

    # Each of a type that fits.
    found = BagTopics(rgb, depth, info, pose)
    for role, allowed in TYPES.items():
        topic = getattr(found, role)
        if types.get(topic) not in allowed:
            raise SourceError(
                f"{role} topic {topic!r} is {types.get(topic, 'not in the bag')}; expected a topic"
                f" of type {' or '.join(allowed)}. The bag has: {_listing(types)}."
            )
    return found


def _of(role: str, types: Mapping[str, str]) -> list[str]:
    return sorted(topic for topic, kind in types.items() if kind in TYPES[role])


def _base(topic: str) -> str:
    for suffix in TRANSPORT_SUFFIXES:
        topic = topic.removesuffix(suffix)
    return topic


def _is_depth(topic: str) -> bool:
    return "depth" in topic.lower()


def _is_color(topic: str) -> bool:
    return not any(word in topic.lower() for word in NOT_COLOR)


def _aligned_first(topics: list[str]) -> list[str]:
    return [t for t in topics if "aligned" in t or "registered" in t] or topics


def _only(role: str, candidates: list[str], types: Mapping[str, str]) -> str:
    # One topic per camera: in reverse order the raw one overwrites its compressed twins.
    cameras = {_base(topic): topic for topic in sorted(candidates, reverse=True)}
    if len(cameras) == 1:
        return next(iter(cameras.values()))
    found = f"{len(cameras)} fit ({', '.join(sorted(cameras))})" if cameras else "none fits"
    raise SourceError(
        f"cannot tell the {role} topic: {found}; name it (type {' or '.join(TYPES[role])}). The bag"
        f" has: {_listing(types)}."
    )


def _listing(types: Mapping[str, str]) -> str:
    return ", ".join(f"{topic} ({kind})" for topic, kind in sorted(types.items())) or "no topics"
