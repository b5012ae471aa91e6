"""The judgement: each kind of fault gives exactly its sentence, its cure, its severity and task.

`judge` is pure, so the states are written down here; that the node gathers them is tested over DDS
in test_health_node.py.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest

from ada3d_ros.config import SETTINGS
from ada3d_ros.errors import FrameReason
from ada3d_ros.ros.diagnostics import InputMonitor
from ada3d_ros.ros.health import (
    IN_A_ROW,
    MAX_SLOP_S,
    NO_CLOCK_AFTER_S,
    PAUSE_S,
    SILENT_AFTER_S,
    WAIT_TEXT,
    judge,
    why_no_keyframe,
)
from ada3d_ros.ros.health_state import HealthState, InputState, Offer, Severity
from ada3d_ros.ros.watch import elsewhere, other_forms

SECOND = 1_000_000_000
NOW = 1_700_000_000 * SECOND
RELIABLE, BEST_EFFORT = "reliable", "best_effort"
NOTE, WARN, ERROR = Severity
INPUTS: dict[str, tuple[str, str]] = {  # topic and type
    "rgb": ("rgb/image", "Image"),
    "depth": ("depth/image", "Image"),
    "camera_info": ("rgb/camera_info", "CameraInfo"),
    "pose": ("pose", "PoseStamped"),
}


def one(name: str, **changes: Any) -> InputState:
    """A good input: 30 messages, the last just now, of one publisher."""
    interface, kind = INPUTS[name]
    good = InputState(
        name=name,
        topic=f"/{interface}",
        interface=interface,
        type_name=kind,
        in_set=name != "pose",
        received=30,
        silent_s=0.1,
        last_stamp_ns=NOW,
        arrived=30,
        offers=(Offer(kind, RELIABLE),),
    )
    return replace(good, **changes)


def state(inputs: dict[str, dict[str, Any]] | None = None, **changes: Any) -> HealthState:
    """Four good inputs and three keyframes; `inputs` changes some of the inputs."""
    changed = inputs or {}
    states = [one(name, **changed.get(name, {})) for name in INPUTS]
    return replace(HealthState(inputs=states, keyframes=3, now_ns=NOW), **changes)


def told(health: HealthState) -> list[tuple[Severity, str, str]]:
    return [(fault.severity, str(fault), fault.task) for fault in judge(health)]


ABSENT = {"received": 0, "silent_s": 60.0, "last_stamp_ns": -1, "offers": (), "arrived": 0}
ENDED = {"silent_s": 60.0, "offers": ()}
START = "start the camera or the bag"
STAMP = "let the driver stamp its messages with the time of capture."
ONE_CLOCK = (
    "stamp all inputs with one clock: synchronise the hosts, or record and play all of them in one"
    " time."
)
WITH_CLOCK = (
    "play the bag with its clock (`ada3d replay`, `ros2 bag play --clock`), or set"
    " use_sim_time:=false for a live camera."
)
BAD_SIZE = "depth is 32x24, colour 64x48: both must be 64x48, as camera_info says."
UNSET = {"unset_stamps": 40, "last_stamp_ns": 0}
ODD = {"since_set": 30}  # of every input in the set

# name -> state, severity, exact sentence and cure, task
ONE_FAULT: dict[str, tuple[HealthState, Severity, str, str]] = {
    # -- the clock
    "no clock": (
        state(use_sim_time=True, now_ns=0),
        WARN,
        f"use_sim_time is true, nothing publishes /clock: {WITH_CLOCK}",
        "Inputs",
    ),
    "no clock any more": (
        state(use_sim_time=True),
        WARN,
        f"use_sim_time is true, nothing publishes /clock: {WITH_CLOCK}",
        "Inputs",
    ),
    "a clock that stands": (
        state(use_sim_time=True, now_ns=0, clock_publishers=1),
        NOTE,
        "use_sim_time is true, nothing received on /clock yet: let the player or simulator go on.",
        "Inputs",
    ),
    "a clock that is not used": (
        state(clock_publishers=1, now_ns=NOW + 3600 * SECOND),
        WARN,
        "/clock is published, use_sim_time is false: start the node with -p use_sim_time:=true.",
        "Inputs",
    ),
    "a clock that is not used, without frames": (
        state(clock_publishers=1, now_ns=NOW + 3600 * SECOND, keyframes=0),
        ERROR,
        "/clock is published, use_sim_time is false: start the node with -p use_sim_time:=true.",
        "Inputs",
    ),
    # -- nothing comes
    "no input at all": (
        state(dict.fromkeys(INPUTS, ABSENT), keyframes=0),
        WARN,
        "nothing received on /rgb/image (Image), /depth/image (Image), /rgb/camera_info"
        f" (CameraInfo), /pose (PoseStamped), 0 publishers: {START}, or remap: -r rgb/image:=TOPIC"
        " -r depth/image:=TOPIC -r rgb/camera_info:=TOPIC -r pose:=TOPIC.",
        "Inputs",
    ),
    "no camera_info": (
        state({"camera_info": ABSENT}, keyframes=0),
        WARN,
        "nothing received on /rgb/camera_info (CameraInfo), 0 publishers:"
        f" {START}, or remap: -r rgb/camera_info:=TOPIC.",
        "Inputs",
    ),
    "no pose yet": (
        state({"pose": ABSENT | {"silent_s": SILENT_AFTER_S}}, keyframes=0),
        NOTE,
        f"nothing received on /pose (PoseStamped), 0 publishers so far: {START}, or remap: -r"
        " pose:=TOPIC.",
        "Inputs",
    ),
    "published, and does not come": (
        state({"depth": ABSENT | {"offers": (Offer("Image", RELIABLE),)}}, keyframes=0),
        WARN,
        "nothing received on /depth/image (Image), 1 publisher: check that they send (ros2 topic hz"
        " /depth/image).",
        "Inputs",
    ),
    "one stopped": (
        state({"pose": {"silent_s": 6.0}}),
        WARN,
        "nothing received any more on /pose (PoseStamped), 1 publisher: check that they send (ros2"
        " topic hz /pose).",
        "Inputs",
    ),
    "the camera is unplugged": (
        state(dict.fromkeys(("rgb", "depth", "camera_info"), ENDED)),
        WARN,
        "nothing received any more on /rgb/image (Image), /depth/image (Image), /rgb/camera_info"
        f" (CameraInfo), 0 publishers: {START} again.",
        "Inputs",
    ),
    "all pause": (
        state({name: {"silent_s": PAUSE_S} for name in INPUTS}),
        NOTE,
        "nothing received any more on /rgb/image (Image), /depth/image (Image), /rgb/camera_info"
        " (CameraInfo), /pose (PoseStamped), 1 + 1 + 1 + 1 publishers: check that they send (ros2"
        " topic hz /rgb/image ; ros2 topic hz /depth/image ; ros2 topic hz /rgb/camera_info ; ros2"
        " topic hz /pose).",
        "Inputs",
    ),
    # -- it is there, in another form
    "compressed colour": (
        state(
            {
                "rgb": ABSENT
                | {
                    "topic": "/camera/color/image_raw",
                    "instead": (
                        "/camera/color/image_raw/compressed",
                        "rgb_transport:=compressed",
                    ),
                }
            },
            keyframes=0,
        ),
        WARN,
        "nothing received on /camera/color/image_raw (Image), /camera/color/image_raw/compressed is"
        " published: set rgb_transport:=compressed.",
        "Inputs",
    ),
    "another topic of the type": (
        state({"camera_info": ABSENT | {"elsewhere": ("/cam/info", "/b/info")}}, keyframes=0),
        WARN,
        "nothing received on /rgb/camera_info (CameraInfo), 0 publishers; of this type there is"
        " /cam/info, /b/info: remap, as in -r rgb/camera_info:=/cam/info.",
        "Inputs",
    ),
    "another type": (
        state({"depth": ABSENT | {"offers": (Offer("CompressedImage", RELIABLE),)}}, keyframes=0),
        WARN,
        "/depth/image is published as CompressedImage, subscribed as Image: remap to the right"
        " topic, or set rgb_transport, depth_transport or pose_source.",
        "Inputs",
    ),
    "another reliability": (
        state({"rgb": ABSENT | {"offers": (Offer("Image", BEST_EFFORT),)}}, keyframes=0),
        WARN,
        "/rgb/image is published best-effort, subscribed reliable: nothing arrives: set qos.rgb to"
        " auto or best_effort.",
        "Inputs",
    ),
    # -- stamps
    "no stamp is set": (
        state(dict.fromkeys(("rgb", "depth", "camera_info"), UNSET), keyframes=0),
        ERROR,
        "/rgb/image, /depth/image, /rgb/camera_info: header.stamp is not set (zero) in 120"
        f" messages: {STAMP}",
        "Synchronization",
    ),
    "the depth's stamp is not set": (
        state({"depth": UNSET}),
        WARN,
        f"/depth/image: header.stamp is not set (zero) in 40 messages: {STAMP}",
        "Synchronization",
    ),
    "the pose's stamp is not set": (
        state(
            {"pose": UNSET},
            keyframes=0,
            refusals={FrameReason.NO_POSE: (30, "no pose in 'map'.")},
        ),
        ERROR,
        f"/pose: header.stamp is not set (zero) in 40 messages: {STAMP}",
        "Synchronization",
    ),
    "camera_info of another clock": (
        state(
            {
                "rgb": ODD,
                "depth": ODD,
                "camera_info": ODD | {"last_stamp_ns": 5 * SECOND},
                "pose": {},
            },
            keyframes=0,
        ),
        ERROR,
        f"/rgb/camera_info is 1699999995.0 s behind colour and depth (another clock?): {ONE_CLOCK}",
        "Synchronization",
    ),
    "colour of another clock": (
        state(
            {
                "rgb": ODD | {"last_stamp_ns": NOW + 2 * SECOND},
                "depth": ODD,
                "camera_info": ODD,
            }
        ),
        WARN,
        f"/rgb/image is 2.0 s ahead of depth and camera_info (another clock?): {ONE_CLOCK}",
        "Synchronization",
    ),
    "poses of another clock": (
        state(
            {"pose": {"last_stamp_ns": NOW - 100 * SECOND}},
            keyframes=0,
            refusals={FrameReason.NO_POSE: (30, "no pose in 'map'.")},
        ),
        ERROR,
        f"/pose is 100.0 s behind colour, depth and camera_info (another clock?): {ONE_CLOCK}",
        "Synchronization",
    ),
    "a camera_info in force of another clock": (
        state(
            {"camera_info": {"in_set": False, "kept": True, "last_stamp_ns": 5 * SECOND}},
        ),
        WARN,
        f"/rgb/camera_info is 1699999995.0 s behind colour and depth (another clock?): {ONE_CLOCK}",
        "Synchronization",
    ),
    "depth out of slop": (
        state(
            {
                "rgb": ODD,
                "depth": ODD | {"gaps_ns": (-33_000_000, -33_200_010, -33_300_000)},
                "camera_info": ODD,
            },
            keyframes=0,
        ),
        ERROR,
        "no colour, depth and camera_info within sync.slop_sec 0.02 s, /depth/image is 0.0333 s"
        " behind the nearest colour image: sync.slop_sec would need 0.0333; better, let the driver"
        " synchronise them.",
        "Synchronization",
    ),
    "two out of slop: what the worse one needs": (
        state(
            {
                "rgb": ODD,
                "depth": ODD | {"gaps_ns": (30_000_000,)},
                "camera_info": ODD | {"gaps_ns": (40_000_000,)},
            },
        ),
        WARN,
        "no colour, depth and camera_info within sync.slop_sec 0.02 s, /rgb/camera_info is 0.04 s"
        " ahead of the nearest colour image: sync.slop_sec would need 0.04; better, let the driver"
        " synchronise them.",
        "Synchronization",
    ),
    "a set of colour and depth alone": (
        state(
            {
                "rgb": ODD,
                "depth": ODD | {"gaps_ns": (1_500_000_000,)},
                "camera_info": {"in_set": False, "kept": True},
            },
        ),
        WARN,
        "no colour and depth within sync.slop_sec 0.02 s, /depth/image is 1.5 s ahead of the"
        " nearest colour image: synchronise the clocks of their publishers.",
        "Synchronization",
    ),
    # -- refusals
    "frames refused, none used yet": (
        state(keyframes=0, refusals={FrameReason.BAD_SIZE: (27, BAD_SIZE)}),
        ERROR,
        f"27 frames refused, {BAD_SIZE}",
        "Synchronization",
    ),
    "frames refused since the last good one": (
        state(refusals={FrameReason.BAD_SIZE: (IN_A_ROW, BAD_SIZE)}),
        WARN,
        f"10 frames refused, {BAD_SIZE}",
        "Synchronization",
    ),
    "the first is refused": (
        state(keyframes=0, refusals={FrameReason.BAD_SIZE: (1, BAD_SIZE)}),
        NOTE,
        f"1 frame refused, {BAD_SIZE}",
        "Synchronization",
    ),
    "the most frequent refusal": (
        state(
            refusals={
                FrameReason.BAD_UNITS: (4, "the depth's median is 2000 m."),
                FrameReason.STALE: (6, "image stamps differ by 81.0 s."),
            },
        ),
        WARN,
        "6 frames refused, image stamps differ by 81.0 s.",
        "Synchronization",
    ),
    # -- the middleware
    "lost images": (
        state({"rgb": {"lost": 97}, "depth": {"lost": 229}}, large_images_cure="use the profile"),
        WARN,
        "the middleware loses messages of /rgb/image (97 of 127), /depth/image (229 of 259): use"
        " the profile.",
        "Inputs",
    ),
    # -- of those who watch one thing
    "two nodes of one name": (
        state(namesake_warning="two nodes are called /ada3d_agent."),
        WARN,
        "two nodes are called /ada3d_agent.",
        "Model and GPU",
    ),
    "a lost server": (
        state(remote_warning="nobody answers: the server is lost"),
        WARN,
        "nobody answers: the server is lost.",
        "Model and GPU",
    ),
    "a body frame": (
        state(camera_axes_warning="the camera looks straight up."),
        WARN,
        "the camera looks straight up.",
        "Scene",
    ),
}


@pytest.mark.parametrize("name", ONE_FAULT)
def test_each_fault_has_its_sentence(name: str) -> None:
    health, severity, text, task = ONE_FAULT[name]
    assert told(health) == [(severity, text, task)]
    assert why_no_keyframe(health) == text


GOOD: dict[str, HealthState] = {
    "all is well": state(),
    "not active": HealthState(),
    "a clock that runs": state(use_sim_time=True, clock_publishers=1),
    "the clock is not discovered yet": state(
        use_sim_time=True, now_ns=0, running_s=NO_CLOCK_AFTER_S - 0.1
    ),
    "a live camera beside a simulation": state(clock_publishers=1, now_ns=NOW + 5 * SECOND),
    "camera_info once, in force": state(
        {
            "camera_info": {
                "in_set": False,
                "kept": True,
                "received": 1,
                "silent_s": 600.0,
                "offers": (),
                "last_stamp_ns": NOW - 600 * SECOND,
            }
        },
        keyframes=0,
    ),
    "a zero stamp among good ones": state({"rgb": {"unset_stamps": 1}}),
    "the stamp of what stays in force": state(
        {"camera_info": {"in_set": False, "kept": True, "unset_stamps": 40, "last_stamp_ns": 0}}
    ),
    "a gap now and then": state({"depth": {"gaps_ns": (33_000_000,)}}),
    "poses far apart that serve": state({"pose": {"last_stamp_ns": NOW - 3 * SECOND}}),
    "nine refusals": state(refusals={FrameReason.BAD_SIZE: (IN_A_ROW - 1, BAD_SIZE)}),
    "a few lost": state({"rgb": {"lost": 9, "arrived": 20}, "depth": {"lost": 10, "arrived": 90}}),
}


@pytest.mark.parametrize("name", GOOD)
def test_what_is_no_fault(name: str) -> None:
    assert told(GOOD[name]) == []
    assert why_no_keyframe(GOOD[name]) == WAIT_TEXT


def test_a_bag_that_has_ended_is_told_once_and_its_clock_not_at_all() -> None:
    health = state(dict.fromkeys(INPUTS, ENDED), use_sim_time=True)
    (fault,) = judge(health)
    assert fault.severity is WARN
    assert str(fault).endswith("(PoseStamped), 0 publishers: start the camera or the bag again.")


def test_an_ended_bag_is_told_last() -> None:
    """What was wrong with its frames is what to mend."""
    health = state(dict.fromkeys(INPUTS, ENDED), camera_axes_warning="the camera looks up.")
    assert [fault.key for fault in judge(health)] == ["camera axes", "silent ended"]


def test_the_worst_comes_first_and_causes_before_what_follows() -> None:
    """Refusals keep frames out."""
    health = state(
        {"depth": {"lost": 40}},
        camera_axes_warning="the camera looks up.",
        refusals={FrameReason.BAD_SIZE: (81, BAD_SIZE)},
        clock_publishers=1,
        now_ns=NOW + 3600 * SECOND,
        keyframes=0,
    )
    assert [fault.key for fault in judge(health)] == ["clock", "refusals", "lost", "camera axes"]
    assert [fault.severity for fault in judge(health)] == [ERROR, ERROR, WARN, WARN]


@pytest.mark.parametrize(
    ("name", "reason"), [("pose", FrameReason.NO_POSE), ("camera_info", FrameReason.NO_INFO)]
)
def test_refusals_that_only_follow_are_not_told(name: str, reason: FrameReason) -> None:
    """Without poses every frame is refused; the sentence is that nothing comes on /pose."""
    refusals = {reason: (40, f"no {name}.")}
    (fault,) = judge(state({name: ABSENT}, keyframes=0, refusals=refusals))
    assert fault.key == "silent unpublished"
    (fault,) = judge(state(keyframes=0, refusals=refusals))
    assert fault.sentence == f"40 frames refused, no {name}."


def test_stale_stamps_that_follow_from_the_clock_are_not_told() -> None:
    """Their cure would contradict the clock's."""
    stale = {FrameReason.STALE: (81, "image stamps differ.")}
    health = state(clock_publishers=1, now_ns=NOW + 3600 * SECOND, keyframes=0, refusals=stale)
    assert [fault.key for fault in judge(health)] == ["clock"]
    (fault,) = judge(state(keyframes=0, refusals=stale))
    assert fault.key == "refusals"


def test_a_camera_info_that_was_missed_has_its_cure() -> None:
    """Sent once before the node listened, it never comes, and its rate tells nothing."""
    missed = {"in_set": False, "kept": True, "received": 0, "silent_s": 60.0, "last_stamp_ns": -1}
    (fault,) = judge(state({"camera_info": missed}, keyframes=0))
    assert fault.cure.endswith("must be latched (durability transient_local)")


def test_depth_is_never_named_as_the_colour_image() -> None:
    """A bag with compressed colour, nothing remapped: its depth was the only raw image."""
    published = {
        "/cam/aligned_depth_to_color/image_raw": "Image",
        "/cam/color/image_raw/compressed": "CompressedImage",
    }
    rgb = InputMonitor("rgb", "/rgb/image", "rgb/image", "Image")
    depth = InputMonitor("depth", "/depth/image", "depth/image", "Image")
    assert elsewhere(rgb, published) == []
    assert other_forms(rgb, published)[-1] == (
        "/cam/color/image_raw/compressed",
        "rgb_transport:=compressed",
        "rgb/image/compressed",
    )
    assert elsewhere(depth, published) == ["/cam/aligned_depth_to_color/image_raw"]


def test_static_tf_is_never_named_as_tf() -> None:
    published = {"/tf_static": "TFMessage", "/r2/tf_static": "TFMessage", "/r2/tf": "TFMessage"}
    assert elsewhere(InputMonitor("pose", "/tf", "/tf", "TFMessage"), published) == ["/r2/tf"]


def test_an_input_is_not_silent_before_its_publisher_is_there() -> None:
    monitor = InputMonitor("rgb")
    monitor.started -= 60.0
    assert monitor.silent_s >= 60.0
    monitor.offered = time.monotonic()
    assert monitor.silent_s < 60.0


def test_a_fault_keeps_its_key_while_it_lasts() -> None:
    """The log repeats by it: counts that grow are no new fault."""
    keys = {
        judge(state(keyframes=0, refusals={reason: (count, BAD_SIZE)}))[0].key
        for reason, count in ((FrameReason.BAD_SIZE, 10), (FrameReason.BAD_UNITS, 99))
    }
    assert keys == {"refusals"}


def test_the_highest_slop_is_that_of_the_setting() -> None:
    assert SETTINGS["sync.slop_sec"].high == MAX_SLOP_S
