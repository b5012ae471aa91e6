#!/usr/bin/env python3
"""What the topics that show the scene cost: without a listener, and with one on each.

    python tools/measure_scene_outputs.py [--repetitions 7] [--json FILE]

The node runs in this process on the embedded model, its inputs are frames of a generated room in
480 x 480 px. Times are of the thread that does the work (CPU), medians over the repetitions with
the least and the most. Without a listener: what the executor spends for a set of messages and at a
keyframe, and what was made. With one: each part of the work, and the messages' sizes.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import rclpy
import torch
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.serialization import serialize_message
from std_msgs.msg import Header

from ada3d_ros.config.outputs import CloudConfig
from ada3d_ros.geometry.colour_cloud import CloudFuser
from ada3d_ros.geometry.standing_place import standing_place
from ada3d_ros.lab.results import require_citable, write_results
from ada3d_ros.lab.world.generated import GeneratedRoom, generate_room
from ada3d_ros.msg import KeyframeArray
from ada3d_ros.ros.annotated import OBJECT_RGB, Drawn
from ada3d_ros.ros.node import AgentNode, build_node
from ada3d_ros.ros.outputs import LATCHED
from ada3d_ros.ros.scene_messages import (
    ShownScene,
    cloud_to_msg,
    keyframes_to_msg,
    picture_to_msg,
    thumbnail,
)
from ada3d_ros.sources.messages import PosedSet

SIDE_PX, SEED, CALLS = 480, 5, 2000
QUALITY = 80
CLOUD = CloudConfig().voxel_m, CloudConfig().stride_px


def cpu_ms(work: Callable[[], object], times: int = 1) -> float:
    """Of this thread, for one call."""
    start = time.thread_time()
    for _ in range(times):
        work()
    return (time.thread_time() - start) / times * 1e3


def spread(values: list[float]) -> dict[str, float]:
    return {"p50": statistics.median(values), "min": min(values), "max": max(values)}


def without_listener(node: AgentNode, room: GeneratedRoom, repetitions: int) -> dict[str, Any]:
    """The calls that the node makes at every set and keyframe, and what came of them."""
    outputs, frame = node.scene_outputs, room.frames[0]
    messages = PosedSet(None, None, None, frame.stamp_ns, frame.T_world_cam, ("", "", ""))
    at_set = [cpu_ms(lambda: outputs.note_set(messages), CALLS) for _ in range(repetitions)]
    at_keyframe = [cpu_ms(outputs.update, CALLS) for _ in range(repetitions)]
    return {
        "at_a_set_us": {k: v * 1e3 for k, v in spread(at_set).items()},
        "at_a_keyframe_us": {k: v * 1e3 for k, v in spread(at_keyframe).items()},
        "made": sum(outputs.made.values()),
        "threads_started": int(outputs.worker is not None),
    }


def one_listener(node: AgentNode, repetitions: int) -> dict[str, Any]:
    """That somebody who listens to keyframes makes those, and nothing else."""
    peer = Node("listener")
    received: list[KeyframeArray] = []
    peer.create_subscription(KeyframeArray, "/ada3d_agent/keyframes", received.append, LATCHED)
    end = time.monotonic() + 60.0
    while not received and time.monotonic() < end:
        node.scene_outputs.update()
        rclpy.spin_once(peer, timeout_sec=0.05)
    found = [cpu_ms(node.scene_outputs.update, CALLS) for _ in range(repetitions)]
    peer.destroy_node()
    return {
        "at_a_keyframe_us": {k: v * 1e3 for k, v in spread(found).items()},
        "made": dict(node.scene_outputs.made),
    }


def parts(room: GeneratedRoom, scene: ShownScene, repetitions: int) -> dict[str, Any]:
    """The work, part by part, and the sizes of the messages in bytes."""
    frames, header = list(room.frames), Header(frame_id="map")
    times: dict[str, list[float]] = {}

    def note(name: str, work: Callable[[], object]) -> None:
        times.setdefault(name, []).append(cpu_ms(work))

    boxes = [Drawn(box, box.label, OBJECT_RGB) for box in room.boxes]
    x, y = frames[-1].T_world_cam[:2, 3].tolist()
    jpegs = {each.index: thumbnail(each.frame.rgb, QUALITY) for each in scene.keyframes}
    thing = room.boxes[0]
    cloud = CloudFuser(*CLOUD).update(frames)
    for _ in range(repetitions):
        fuser = CloudFuser(*CLOUD)
        note("cloud_all_keyframes_ms", lambda fuser=fuser: fuser.update(frames[:-1]))
        note("cloud_one_more_keyframe_ms", lambda fuser=fuser: fuser.update(frames))
        note("cloud_message_ms", lambda: serialize_message(cloud_to_msg(cloud, header)))
        note("thumbnail_ms", lambda: thumbnail(frames[0].rgb, QUALITY))
        note("keyframes_message_ms", lambda: keyframes_to_msg(scene, jpegs, "map"))
        note("annotated_picture_ms", lambda: picture_to_msg(frames[-1], boxes, QUALITY))
        note("goal_ms", lambda: standing_place(frames, thing, 0.0, (x, y)))
    sizes = {
        "cloud": len(serialize_message(cloud_to_msg(cloud, header))),
        "keyframes": len(serialize_message(keyframes_to_msg(scene, jpegs, "map"))),
        "annotated": len(serialize_message(picture_to_msg(frames[-1], boxes, QUALITY))),
    }
    return {
        "keyframes": len(frames),
        "points": len(cloud),
        "bytes": sizes,
        **{name: spread(found) for name, found in times.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--json", type=Path, help="also write the results")
    options = parser.parse_args()
    if options.json:
        require_citable(options.json)
    torch.set_num_threads(1)
    room = generate_room(SEED, side_px=SIDE_PX, split="val")
    rclpy.init()
    settings = {"model.path": "embedded", "autostart": True, "objects.enabled": False}
    parameters = [Parameter(name, value=value) for name, value in settings.items()]
    node = build_node(parameter_overrides=parameters)
    pipeline = node.pipeline
    assert pipeline is not None, node.state_and_detail()
    for frame in room.frames:
        pipeline.observe(frame)
    kept = pipeline.scene
    scene = ShownScene(kept.keyframes, kept.state, kept.floor.z_m)
    results: dict[str, Any] = {
        "n": options.repetitions,
        "calls": CALLS,
        "side_px": SIDE_PX,
        "without_listener": without_listener(node, room, options.repetitions),
        "listener_on_keyframes": one_listener(node, options.repetitions),
        "parts": parts(room, scene, options.repetitions),
    }
    node.destroy_node()
    rclpy.try_shutdown()
    print(results)
    if options.json:
        print(f"wrote {write_results(options.json, results, 'cpu', SEED)}")


if __name__ == "__main__":
    main()
