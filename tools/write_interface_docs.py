"""Write docs/interfaces.md from msg/, srv/ and action/: python tools/write_interface_docs.py

The topics and services of the node stand here; test_docs.py compares their names with the code.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "docs" / "interfaces.md"
HEAD = """# Topics, services, messages

Generated from `msg/`, `srv/` and `action/` by `python tools/write_interface_docs.py`; a test
compares them. Names are relative to the node `ada3d_agent` and its namespace; only `/diagnostics`,
`/clock`, `/tf` and `/tf_static` are absolute.
"""
Table = tuple[tuple[str, str, str], ...]
INPUTS: Table = (
    (
        "rgb/image",
        "sensor_msgs/Image",
        "rgb8 bgr8 rgba8 bgra8 mono8 bayer_*8; raw, or rectified (`camera.rectified`)",
    ),
    ("rgb/image/compressed", "sensor_msgs/CompressedImage", "with `rgb_transport: compressed`"),
    ("depth/image", "sensor_msgs/Image", "16UC1 and mono16 millimetres, 32FC1 metres"),
    (
        "depth/image/compressedDepth",
        "sensor_msgs/CompressedImage",
        "with `depth_transport: compressedDepth`: 16-bit PNG",
    ),
    (
        "depth/image/compressed",
        "sensor_msgs/CompressedImage",
        "with `depth_transport: compressed`: 16-bit PNG",
    ),
    (
        "rgb/camera_info",
        "sensor_msgs/CameraInfo",
        "once or with each image; K and D of raw images, P of rectified ones",
    ),
    ("pose", "geometry_msgs/PoseStamped", "with `pose_source: pose`: the colour optical frame"),
    ("odom", "nav_msgs/Odometry", "with `pose_source: odom`, and `extrinsic.*`"),
    ("/tf", "tf2_msgs/TFMessage", "with `pose_source: tf`: `world_frame` to the optical frame"),
    (
        "/tf_static",
        "tf2_msgs/TFMessage",
        "latched; also where a body is posed: the camera in its frame, read once",
    ),
    (
        "~/detections_2d",
        "vision_msgs/Detection2DArray",
        "with `detector.path: topic`; boxes in the raw image",
    ),
    ("~/question", "std_msgs/String", "the answer comes on `~/answer_text`"),
)
OUTPUTS: Table = (
    ("~/answer", "ada3d_ros/Answer", "text, evidence, error code, tokens, latency, scene"),
    ("~/answer_text", "std_msgs/String", "the text, or `[code] sentence`"),
    ("~/boxes", "ada3d_ros/GroundedBoxArray", "full extents in metres, world frame"),
    ("~/poses", "geometry_msgs/PoseArray", "the boxes' centres"),
    (
        "~/markers",
        "visualization_msgs/MarkerArray",
        "latched; of the last answer; RViz: `config/ada3d.rviz`",
    ),
    (
        "~/objects",
        "ada3d_ros/SceneObjectArray",
        "latched; the objects kept with the scene, sent when the list changes",
    ),
    (
        "~/detections",
        "vision_msgs/Detection3DArray",
        "latched; `~/objects` without the gone ones; needs vision_msgs",
    ),
    ("~/object_markers", "visualization_msgs/MarkerArray", "latched; the same for RViz"),
    ("~/events", "ada3d_ros/SceneEvent", "what changed that a standing question is about"),
    (
        "~/keyframes",
        "ada3d_ros/KeyframeArray",
        "latched; poses, cameras, small pictures; needs a listener",
    ),
    (
        "~/keyframe_markers",
        "visualization_msgs/MarkerArray",
        "latched; their cameras as pyramids; needs a listener",
    ),
    (
        "~/cloud",
        "sensor_msgs/PointCloud2",
        "latched; the keyframes fused, coloured; needs a listener",
    ),
    (
        "~/camera_pose",
        "geometry_msgs/PoseStamped",
        "the colour optical frame at the newest image; needs a listener",
    ),
    (
        "~/annotated/compressed",
        "sensor_msgs/CompressedImage",
        "newest keyframe with boxes drawn over it; needs a listener",
    ),
    (
        "~/goal",
        "geometry_msgs/PoseStamped",
        "where to stand to face an answer's box, stamp 0; needs a listener",
    ),
    ("~/status", "ada3d_ros/AgentStatus", "latched; one sentence a person can act on"),
    (
        "/diagnostics",
        "diagnostic_msgs/DiagnosticArray",
        "inputs, synchronisation, scene, latency, model, pruning",
    ),
)
SERVICES: Table = (
    ("~/query", "ada3d_ros/QueryScene", "a question"),
    ("~/ground", "ada3d_ros/GroundObject", "boxes for a phrase, checked against depth"),
    ("~/measure", "ada3d_ros/Measure", "distances, sizes, places, counts, from boxes and depth"),
    ("~/get_objects", "ada3d_ros/GetObjects", "objects by name, place and time, at once"),
    ("~/ask_scene", "ada3d_ros/AskScene (action)", "streams the text; cancels within one token"),
    ("~/get_model_info", "ada3d_ros/GetModelInfo", "weights, device, pruning in force"),
    ("~/list_scenes", "ada3d_ros/ListScenes", "the scenes of the store, in numbers"),
    ("~/save_scene", "ada3d_ros/SaveScene", "the scene in use into the store (`scene.store`)"),
    ("~/load_scene", "ada3d_ros/LoadScene", "a scene of the store in the place of the one in use"),
    ("~/watch", "ada3d_ros/Watch", "a question that is asked again when the scene has changed"),
    ("~/unwatch", "ada3d_ros/Unwatch", "end one, or all"),
    ("~/reset_scene", "std_srvs/Trigger", "forget all keyframes"),
    ("~/set_paused", "std_srvs/SetBool", "pause and resume; also of the player `ada3d_replay`"),
)
SECTIONS = {
    "msg": ("field",),
    "srv": ("request", "response"),
    "action": ("goal", "result", "feedback"),
}
CONSTANT = re.compile(
    r"(?P<type>\w+) (?P<name>[A-Z][A-Z0-9_]*)=(?P<value>\S+)\s*(?:# *(?P<note>.*))?"
)
FIELD = re.compile(
    r"(?P<type>[\w/\[\]]+) (?P<name>[a-z]\w*)(?: (?P<default>[^#\s]+))?\s*(?:# *(?P<note>.*))?"
)


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """A Markdown table."""
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines
    )


def endpoints(head: str, rows: Table) -> str:
    """A table of topics or services."""
    return table(
        (head, "type", "remarks"), [(f"`{name}`", kind, note) for name, kind, note in rows]
    )


def section(title: str, lines: list[str]) -> Iterator[str]:
    """Fields and constants of one part of an interface file. Raises ValueError for a line that is
    neither.
    """
    for line in lines:
        if not CONSTANT.fullmatch(line) and not FIELD.fullmatch(line):
            raise ValueError(f"neither a field nor a constant: {line!r}")
    constants = [found for line in lines if (found := CONSTANT.fullmatch(line))]
    fields = [found for line in lines if (found := FIELD.fullmatch(line))]
    if fields:
        rows = [
            (f"`{f['name']}`", f"`{f['type']}`", f["default"] or "", f["note"] or "")
            for f in fields
        ]
        yield table((title, "type", "default", "meaning"), rows)
    if constants:
        constant_rows = [(f"`{c['name']}`", c["value"], c["note"] or "") for c in constants]
        yield table(("constant", "value", "meaning"), constant_rows)
    if not fields and not constants:
        yield f"{title.capitalize()}: empty."


def describe(path: Path) -> Iterator[str]:
    """One interface file."""
    yield f"### {path.stem}"
    parts: list[list[str]] = [[]]
    for raw in path.read_text(encoding="utf-8").splitlines():
        if raw.strip() == "---":
            parts.append([])
        elif raw.startswith("#") and not any(parts):
            yield raw.lstrip("# ")
        elif raw.strip() and not raw.startswith("#"):
            parts[-1].append(raw.strip())
    for title, lines in zip(SECTIONS[path.parent.name], parts, strict=True):
        yield from section(title, lines)


def render() -> str:
    """The whole page."""
    parts = [HEAD.rstrip(), "## Topics and services", endpoints("input", INPUTS)]
    parts += [endpoints("output", OUTPUTS), endpoints("service or action", SERVICES)]
    for folder, title in (("msg", "Messages"), ("srv", "Services"), ("action", "Actions")):
        parts.append(f"## {title}")
        for path in sorted((ROOT / folder).iterdir()):
            parts.extend(describe(path))
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    TARGET.write_text(render(), encoding="utf-8")
    print(f"wrote {TARGET}")
