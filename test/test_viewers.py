"""The RViz config and the Foxglove layout show what the node publishes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import yaml

from test.support.sources import ROOT, load

RVIZ = yaml.safe_load((ROOT / "config" / "ada3d.rviz").read_text(encoding="utf-8"))
LAYOUT = json.loads((ROOT / "config" / "foxglove_layout.json").read_text(encoding="utf-8"))
DISPLAYS = {
    "PointCloud2": "sensor_msgs/PointCloud2",
    "MarkerArray": "visualization_msgs/MarkerArray",
    "Pose": "geometry_msgs/PoseStamped",
    "Image": "sensor_msgs/CompressedImage",
}
NODE = "/ada3d_agent/"
SHOWN = {
    *("cloud", "keyframe_markers", "markers", "object_markers", "camera_pose", "goal"),
    "annotated/compressed",
}


def outputs() -> dict[str, tuple[str, str]]:
    """Type and remark of every topic that the node publishes, by name below the node."""
    tool = load(ROOT / "tools" / "write_interface_docs.py")
    return {name.removeprefix("~/"): (kind, note) for name, kind, note in tool.OUTPUTS}


def test_rviz_shows_every_topic_as_it_is_published() -> None:
    known = outputs()
    displays = [d for d in RVIZ["Visualization Manager"]["Displays"] if "Topic" in d]
    topics = {d["Topic"]["Value"].removeprefix(NODE): d for d in displays}
    assert set(topics) == SHOWN
    for topic, display in topics.items():
        kind, note = known[topic]
        assert DISPLAYS[display["Class"].split("/")[-1]] == kind
        durable = display["Topic"]["Durability Policy"] == "Transient Local"
        assert durable == note.startswith("latched"), topic
        assert display["Enabled"]
        assert display["Value"]


def test_the_launch_file_remaps_what_rviz_shows() -> None:
    code = (ROOT / "launch" / "agent.launch.py").read_text(encoding="utf-8")
    block = code[code.index("SHOWN = (") : code.index("NUMBERS = ")]
    # RViz takes a compressed picture by its base topic.
    assert set(re.findall(r'"([\w/]+)"', block)) == SHOWN | {"annotated"}


def panels_of(place: Any) -> Iterator[str]:
    """Panels in the tree of a Foxglove layout: names, and splits of two."""
    if isinstance(place, str):
        yield place
        return
    assert place["direction"] in ("row", "column")
    assert 0 < place["splitPercentage"] < 100
    yield from panels_of(place["first"])
    yield from panels_of(place["second"])


def test_the_foxglove_layout_places_each_of_its_panels_once() -> None:
    assert set(LAYOUT) == {
        *("configById", "globalVariables", "userNodes", "playbackConfig", "layout"),
    }
    placed = list(panels_of(LAYOUT["layout"]))
    assert sorted(placed) == sorted(LAYOUT["configById"])
    kinds = {name.split("!")[0] for name in placed}
    assert kinds == {"3D", "Image", "Publish", "RawMessages"}
    assert all(re.fullmatch(r"\w+!\w+", name) for name in placed)


def test_the_foxglove_layout_names_topics_of_the_node() -> None:
    known, panels = outputs(), LAYOUT["configById"]
    scene = panels["3D!ada3d"]["topics"]
    picture = panels["Image!annotated"]["imageMode"]["imageTopic"]
    assert {name.removeprefix(NODE) for name in (*scene, picture)} == SHOWN
    cloud = scene[f"{NODE}cloud"]
    assert (cloud["colorMode"], cloud["colorField"]) == ("rgb", "rgb")
    for name in ("RawMessages!answer", "RawMessages!status"):
        topic = panels[name]["topicPath"].removeprefix(NODE).split(".")[0]
        assert topic in known
    question = panels["Publish!question"]
    assert question["topicName"] == f"{NODE}question"
    assert isinstance(json.loads(question["value"])["data"], str)
    assert panels["3D!ada3d"]["followTf"] == "map"
