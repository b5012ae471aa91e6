"""Gathers what `health.judge` judges: monitors, counters, the graph; and logs what it says."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rclpy.utilities import get_rmw_implementation_identifier

from ada3d_ros.ros.diagnostics import InputMonitor
from ada3d_ros.ros.health import judge, why_no_keyframe
from ada3d_ros.ros.health_state import (
    DetectorState,
    Fault,
    HealthState,
    InputState,
    Offer,
    Severity,
)
from ada3d_ros.sources.tf_messages import TF, TF_STATIC

if TYPE_CHECKING:
    from ada3d_ros.ros.lifecycle import AgentLifecycle

LOG_PERIOD_S = 9.5  # looked at once a second: a line every ten
# Of those who publish; `ada3d replay` and the demo use it (decision 0011). Without it images, and
# small messages sent beside them, arrive late or not at all (docs/log.md).
LARGE_IMAGES_PROFILE = Path(__file__).with_name("fastdds_large_images.xml")
# of Fast DDS 2 and 3
FAST_DDS_2 = os.environ.get("ROS_DISTRO", "jazzy") in ("humble", "iron", "jazzy")
PROFILE_VARIABLE = ("FASTRTPS" if FAST_DDS_2 else "FASTDDS") + "_DEFAULT_PROFILES_FILE"
RMEM_MAX = Path("/proc/sys/net/core/rmem_max")
ENOUGH_RMEM_BYTES = 2**21  # two colour images of 640x480
MAX_NAMED = 3  # topics in a sentence
INPUT_TYPES = ("Image", "CompressedImage", "CameraInfo", "PoseStamped", "Odometry", "TFMessage")
TRANSPORTS = {"rgb": ("compressed",), "depth": ("compressedDepth", "compressed")}  # beside raw


class HealthWatch:
    """What is wrong with the node; in the log at once, then every 10 s while it lasts."""

    def __init__(self, node: AgentLifecycle) -> None:
        self._node = node
        self._started = time.monotonic()
        self._logged: dict[str, float] = {}  # time.monotonic() of a fault's last line, by its key

    def faults(self) -> list[Fault]:
        """What is wrong now, worst first; notes of what is waited for included."""
        return judge(self._state())

    def why_no_keyframe(self) -> str:
        """For people asking why there is no scene; never empty."""
        return why_no_keyframe(self._state())

    def log(self, faults: Sequence[Fault]) -> None:
        """Call it once a second."""
        now, log = time.monotonic(), self._node.get_logger()
        for fault in faults:
            late = now - self._logged.get(fault.key, -LOG_PERIOD_S) >= LOG_PERIOD_S
            if fault.severity is Severity.NOTE or not late:
                continue
            self._logged[fault.key] = now
            # On lines of their own: rclpy refuses one line that logs at two levels.
            if fault.severity is Severity.ERROR:
                log.error(str(fault))
            else:
                log.warning(str(fault))

    def _state(self) -> HealthState:
        # The inputs; where nobody publishes one, what is published may say why.
        node, states = self._node, list[InputState]()
        if node.inputs is not None:
            monitors, gaps_ns = node.inputs.monitors, node.inputs.gaps_ns()
            offers = {name: self._offers(m.topic) for name, m in monitors.items()}
            published = {} if all(offers.values()) else self._published()
            for m in monitors.values():
                published.pop(m.topic, None)
            states = [
                self._input(m, gaps_ns.get(name), offers[name], published)
                for name, m in monitors.items()
                if not (name == "pose" and node.inputs.poses.stands_still)
            ]

        # The scene, the counters and the clock; then what others watch.
        pipeline = node.pipeline
        objects = pipeline.objects() if pipeline is not None and pipeline.ready else None
        return HealthState(
            inputs=states,
            keyframes=pipeline.scene_state().num_keyframes if pipeline is not None else 0,
            slop_s=node.config.sync.slop_sec,
            refusals=node.drops.refusals() if node.inputs is not None else {},
            use_sim_time=bool(node.get_parameter("use_sim_time").value),
            clock_publishers=node.count_publishers("/clock"),
            now_ns=node.get_clock().now().nanoseconds,
            running_s=time.monotonic() - self._started,
            namesake_warning=node.namesakes,
            detector=self._detector(),
            store_warning=node.scenes.problem,
            remote_warning=pipeline.remote_problem if pipeline is not None else "",
            objects_warning=objects.why_not if objects is not None and objects.is_fault else "",
            static_tf_warning=node.inputs.poses.warning if node.inputs is not None else "",
            camera_axes_warning=" ".join(node.intake.watch.complaints) if node.intake else "",
            middleware="Fast DDS" if _is_fast_dds() else "the middleware",
            large_images_cure=large_images_cure(),
        )

    def _detector(self) -> DetectorState | None:
        """The detector, with the topic that its boxes come on where it has one."""
        node = self._node
        report = node.pipeline.detector_report() if node.pipeline is not None else None
        if report is None:
            return None
        if node.detections is None:
            return DetectorState(report)
        m = node.detections.monitor
        offers = self._offers(m.topic)
        published = {} if offers else self._published((m.type_name,))
        published.pop(m.topic, None)
        topic = self._input(m, None, offers, published)
        return DetectorState(report, topic, node.detections.detector.matches())

    def _offers(self, topic: str) -> list[Offer]:
        return [
            Offer(info.topic_type.rsplit("/", 1)[-1], info.qos_profile.reliability.name.lower())
            for info in self._node.get_publishers_info_by_topic(topic)
        ]

    def _published(self, wanted: Sequence[str] = INPUT_TYPES) -> dict[str, str]:
        """Topics of our types that somebody else publishes, and the name of the type."""
        kinds = {t: names[0].split("/")[-1] for t, names in self._node.get_topic_names_and_types()}
        return {
            topic: kind
            for topic, kind in kinds.items()
            if kind in wanted and self._node.count_publishers(topic) and self._is_of_others(topic)
        }

    def _is_of_others(self, topic: str) -> bool:
        """Whether another node publishes it: our own ~/camera_pose is no input of ours."""
        own = self._node.get_name(), self._node.get_namespace()
        publishers = self._node.get_publishers_info_by_topic(topic)
        return any((one.node_name, one.node_namespace) != own for one in publishers)

    def _input(
        self,
        m: InputMonitor,
        gaps_ns: Sequence[int] | None,
        offers: Sequence[Offer],
        published: Mapping[str, str],
    ) -> InputState:
        """One input; gaps_ns is None for one that is not matched by its stamp."""
        arrived, lost = m.recently_arrived_and_lost
        m.offered = (m.offered or time.monotonic()) if offers else 0.0
        # A bag may have ended before anybody reads what its topics told.
        if not offers:
            m.instead = self._instead(m, published) or m.instead
            m.elsewhere = elsewhere(m, published) or m.elsewhere
        return InputState(
            name=m.name,
            topic=m.topic,
            interface=m.interface,
            type_name=m.type_name,
            reliability=m.reliability,
            in_set=gaps_ns is not None,
            kept=gaps_ns is None and m.name != "pose",
            received=m.received,
            silent_s=m.silent_s,
            last_stamp_ns=m.last_stamp_ns,
            unset_stamps=m.unset_stamps,
            since_set=m.received - m.received_at_set,
            gaps_ns=gaps_ns or (),
            lost=lost,
            arrived=arrived,
            offers=offers,
            instead=m.instead,
            elsewhere=m.elsewhere[:MAX_NAMED],
        )

    def _instead(self, m: InputMonitor, published: Mapping[str, str]) -> tuple[str, str] | None:
        """The same input as it is published in another form, and the settings that take it."""
        other = next((form for form in other_forms(m, published) if form[0] in published), None)
        if other is None:
            return None
        topic, setting, interface = other
        if self._node.resolve_topic_name(interface) == topic:
            return topic, setting
        # A remap rule names one topic exactly, the other form is another topic.
        return topic, f"{setting} and remap it: -r {interface}:={topic}"


def elsewhere(m: InputMonitor, published: Mapping[str, str]) -> list[str]:
    """Published topics of an input's type that could be it: depth is no colour."""
    return [t for t, kind in published.items() if kind == m.type_name and _could_be(m.name, t)]


def _could_be(name: str, topic: str) -> bool:
    """Whether an image topic's name fits colour or depth; of others any does but static TF."""
    if topic.endswith(TF_STATIC):  # it is listened to as it is
        return False
    return name not in TRANSPORTS or ("depth" in topic.lower()) == (name == "depth")


def other_forms(m: InputMonitor, published: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """Topic, setting, and topic before remapping, of an input in each form not subscribed."""
    # An image compressed, or raw.
    if m.name in TRANSPORTS:
        endings = {transport: f"/{transport}" for transport in TRANSPORTS[m.name]} | {"raw": ""}
        own = next(ending for ending in endings.values() if m.interface.endswith(ending))
        topic, interface = m.topic.removesuffix(own), m.interface.removesuffix(own)
        others = {t: end for t, end in endings.items() if end != own}
        forms = [
            (topic + end, f"{m.name}_transport:={t}", interface + end) for t, end in others.items()
        ]
        if elsewhere(m, published):
            return forms  # a remap is simpler

        # On another topic.
        kinds = {t: "CompressedImage" if end else "Image" for t, end in others.items()}
        return forms + [
            (found, f"{m.name}_transport:={t}", interface + end)
            for t, end in others.items()
            for found, kind in published.items()
            if kind == kinds[t] and found.endswith(end) and _could_be(m.name, found)
        ]

    # A pose as odometry, or the reverse, and TF; which has something to say on any robot.
    poses = {"pose": "PoseStamped", "odom": "Odometry", TF: "TFMessage"}
    if m.interface not in poses:
        return []
    others = {interface: kind for interface, kind in poses.items() if interface != m.interface}
    return [
        (topic, f"pose_source:={interface.lstrip('/')}", interface)
        for interface, kind in others.items()
        for topic, published_kind in published.items()
        if published_kind == kind and (kind != "TFMessage" or topic == TF)
    ]


def _is_fast_dds() -> bool:
    return "fastrtps" in get_rmw_implementation_identifier()


def large_images_cure() -> str:
    """What keeps large images from being lost between processes on this machine."""
    # Fast DDS: a larger segment of shared memory, which the sender decides.
    cures = []
    if _is_fast_dds():
        cures.append(f"start their publisher with {PROFILE_VARIABLE}={LARGE_IMAGES_PROFILE}")

    # Over the network, and for others: the socket's buffer.
    try:
        rmem_bytes = int(RMEM_MAX.read_text())
    except (OSError, ValueError):  # not Linux, or hidden
        rmem_bytes = ENOUGH_RMEM_BYTES
    if rmem_bytes < ENOUGH_RMEM_BYTES or not cures:
        cures.append(f"sudo sysctl -w net.core.rmem_max={2**25}")
    return ", and ".join(cures)
