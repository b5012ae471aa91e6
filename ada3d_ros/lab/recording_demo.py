"""`ada3d demo --bag BAG --detector FILE`: the real node on a recording, with what a detector sees.

The bag is played into the node, which lifts the detector's boxes into its map between frames; then
it is asked about what was found. Nobody knows the truth of such a place: nothing is judged. The
pictures with 2D boxes are made here, by the same detector, for the page alone.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ada3d_ros.config import AgentConfig, from_flat
from ada3d_ros.errors import SourceError
from ada3d_ros.geometry.measure.distance import surface_distance_m
from ada3d_ros.lab.demo_answers import boxes_of, given_answer
from ada3d_ros.lab.demo_node import DemoNode, collect, web_page
from ada3d_ros.lab.recording_questions import recording_questions
from ada3d_ros.lab.report import (
    AskedQuestion,
    DetectedView,
    ListedObject,
    Round,
    RunReport,
    write_report,
)
from ada3d_ros.lab.results import provenance
from ada3d_ros.perception.detector import Detector
from ada3d_ros.perception.object_map import MAX_EVIDENCE
from ada3d_ros.perception.open_detector import open_detector
from ada3d_ros.ros.client import describe_answer, describe_tokens
from ada3d_ros.ros.peer import AgentPeer
from ada3d_ros.scene.keyframes import KeyframeBuffer
from ada3d_ros.sources.bag import BagSource
from ada3d_ros.sources.bag_reader import BagReader, is_bag
from ada3d_ros.sources.bag_writer import BagOptions
from ada3d_ros.sources.make_bag import bag_from_folder
from ada3d_ros.sources.messages import header_frame_id
from ada3d_ros.sources.tf_messages import TF
from ada3d_ros.sources.topics import (
    COMPRESSED_IMAGE,
    ODOMETRY,
    TF_MESSAGE,
    detect_topics,
    topic_types,
)
from ada3d_ros.srv import GetModelInfo
from ada3d_ros.types import Box3D, RgbdFrame

# Of the page's views, closer together than the node's own: a recording may be short.
VIEWS: dict[str, object] = {
    "keyframe.min_translation_m": 0.1,
    "keyframe.min_rotation_deg": 4.0,
    "keyframe.max_views": 40,
}
CAMERA_HZ = 60.0  # frames that the node takes: all of a recording
ENOUGH = 0.8  # of the keyframes that the library keeps: fewer, and the bag is played again, slower
SHOWN_VIEWS = 4  # with 2D boxes


@dataclass(frozen=True, slots=True)
class Recording:
    """A bag and how the node reads it: settings by name, and names of its inputs."""

    bag: Path
    settings: Mapping[str, str]
    remaps: Mapping[str, str]

    @property
    def config(self) -> AgentConfig:
        return from_flat(self.settings)


def open_recording(options: argparse.Namespace) -> Recording:
    """The bag of the command line; a posed folder becomes one first. Raises SourceError."""
    bag: Path = options.bag
    if not bag.exists():
        raise SourceError(f"--bag {bag} is not there; name a rosbag2 or a posed RGB-D folder.")
    if not is_bag(bag):
        options.folder, bag = bag, options.out / "recording_bag"
        bag_from_folder(options, bag, BagOptions(overwrite=True))
    with BagReader(bag) as reader:
        types = topic_types((c.topic, c.msgtype) for c in reader.connections)
        topics = detect_topics(types)
        by_tf = types[topics.pose] == TF_MESSAGE
        poses = [c for c in reader.connections if c.topic == topics.pose and not by_tf]
        world = next((header_frame_id(cdr) for _, _, cdr in reader.messages(poses)), "")

    # As the node's inputs are called.
    rgb = "compressed" if types[topics.rgb] == COMPRESSED_IMAGE else "raw"
    depth = "raw"
    if types[topics.depth] == COMPRESSED_IMAGE:
        is_own = topics.depth.endswith("/compressedDepth")
        depth = "compressedDepth" if is_own else "compressed"
    pose = {ODOMETRY: "odom", TF_MESSAGE: TF}.get(types[topics.pose], "pose")
    settings = {"rgb_transport": rgb, "depth_transport": depth, "pose_source": pose.lstrip("/")}
    remaps = {
        "rgb/image" + (f"/{rgb}" if rgb != "raw" else ""): topics.rgb,
        "depth/image" + (f"/{depth}" if depth != "raw" else ""): topics.depth,
        "rgb/camera_info": topics.camera_info,
        pose: topics.pose,
    }
    if world:
        settings["world_frame"] = world
    return Recording(bag, settings, remaps)


def look_through(recording: Recording) -> tuple[int, tuple[RgbdFrame, ...]]:
    """How many keyframes the node keeps where no frame is lost on the way, and the page's views.

    Raises SourceError.
    """
    config = recording.config
    node = KeyframeBuffer(config.keyframe, config.world.floor_z)
    page = KeyframeBuffer(from_flat(VIEWS).keyframe, config.world.floor_z)
    for frame in BagSource(recording.bag, config=config):
        node.offer(frame)
        page.offer(frame)
    views = page.snapshot().frames
    if not views:
        raise SourceError(f"{recording.bag} has no frame that could become a keyframe.")
    return node.snapshot().state.num_keyframes, views


def listed_objects(messages: Sequence[Any], last: RgbdFrame) -> list[ListedObject]:
    """SceneObject messages as the page lists them, nearest to the camera's last place first."""
    camera = Box3D(last.T_world_cam[:3, 3].copy(), np.zeros(3))
    listed = [
        ListedObject(
            box,
            surface_distance_m(box, camera),
            _views(len(message.box.evidence_stamps)),
            tuple(message.alternatives),
        )
        for message, box in zip(messages, boxes_of(messages) or [], strict=True)
    ]
    return sorted(listed, key=lambda each: each.distance_m)


def _views(named: int) -> str:
    """How many views show an object: a message names MAX_EVIDENCE of them at most."""
    return f"{named} or more" if named >= MAX_EVIDENCE else str(named)


def detected_views(detector: Detector, frames: Sequence[RgbdFrame]) -> list[DetectedView]:
    """What the detector is sure of in SHOWN_VIEWS of the frames: of each part of the recording the
    view with most boxes.
    """
    seen, least = [], detector.info.min_score
    for part in np.array_split(np.arange(len(frames)), min(SHOWN_VIEWS, len(frames))):
        views = [
            DetectedView(frames[i], [each for each in found.detections if each.score >= least])
            for i in part.tolist()
            if (found := detector.detect(frames[i])) is not None
        ]
        seen += [max(views, key=lambda view: len(view.detections))] if views else []
    return seen


def run(options: argparse.Namespace, model: Mapping[str, str]) -> Path:
    """The demo; returns the report's path. model: the settings that name it.

    Raises Ada3DError.
    """
    started = time.monotonic()
    options.out.mkdir(parents=True, exist_ok=True)

    # 1. The recording and the detector, both looked at before the node starts.
    recording = open_recording(options)
    detector = open_detector(from_flat({"detector.path": str(options.detector)}).detector)
    expected, frames = look_through(recording)
    print(f"\n== {recording.bag}: {expected} keyframes; {detector.info.name}", flush=True)

    # 2. The node sees it, and is asked.
    settings = {
        **model,
        **recording.settings,
        "use_sim_time": "true",
        "input.max_rate_hz": CAMERA_HZ,
        "detector.path": str(options.detector.resolve()),
    }
    with AgentPeer(settings, recording.remaps) as peer, web_page(options.web):
        kept = collect(peer, recording.bag, options.rate, round(ENOUGH * expected))
        print(f"{kept} keyframes kept", flush=True)
        node = DemoNode(peer)
        messages = node.objects() or []
        found = listed_objects(messages, frames[-1])
        for each in found:
            print(f"{each.box.label}: {each.distance_m:.2f} m from the camera, {each.views} views")
        asked = []
        for question in recording_questions([o.box for o in found], detector.info.kinds):
            answer = node.ask_often(question)
            print(f"\n> {question.asked}\n{describe_answer(answer)}", flush=True)
            given = given_answer(answer, question, None, describe_tokens(answer.tokens))
            asked.append(AskedQuestion(question.kind, question.asked, "", (given,)))
        info = peer.call(GetModelInfo, "get_model_info", GetModelInfo.Request())

        # 3. The report.
        content = RunReport(
            title=f"ada3d demo: what {detector.info.name} finds in {options.bag.name}",
            lead="A recording, played into the real node; boxes of a detector lifted by depth and"
            " pose. Nobody told us the truth: look at the pictures.",
            warning="",
            frames=frames,
            walls_m=None,
            true_boxes=(),
            found=[each.box for each in found],
            rounds=(Round(""),),
            questions=asked,
            facts=_facts(recording, detector, info, kept),
            listed=found,
            detected=detected_views(detector, frames),
            tiles=[(str(len(found)), "objects"), (str(kept), "keyframes")],
            note=options.note,
        )
        report = write_report(options.out / "report.html", content)
        seconds = time.monotonic() - started
        print(f"\n== {len(found)} objects; done in {seconds:.0f} s; open {report} in a browser")
    return report


def _facts(
    recording: Recording, detector: Detector, info: Any, kept: int
) -> dict[str, dict[str, str]]:
    """What ran, on what."""
    known, what = provenance("cpu"), detector.info
    run_facts = {
        "model": info.name or "none",
        "detector": f"{what.name}, {what.format}, {len(what.kinds)} kinds",
        "detector's sha256": what.sha256[:16],
        "scores from": f"{what.min_score:g}",
        "keyframes": str(kept),
        "bag": str(recording.bag),
        "commit": known["commit"],
        "date": known["date"],
    }
    machine = {
        "processor": known["processor"],
        "cores": str(known["cores"]),
        "load average": f"{known['load_average']:.1f}",
    }
    return {
        heading: {name: value for name, value in values.items() if value}
        for heading, values in (("What ran", run_facts), ("Machine", machine))
    }
