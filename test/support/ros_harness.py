"""A node and its peer over real DDS: a domain of their own, executors on threads of their own."""

from __future__ import annotations

import fcntl
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

rclpy = pytest.importorskip(
    "rclpy", reason="rclpy is not importable: run `make setup`, or source a ROS distribution"
)
pytest.importorskip(
    "ada3d_ros.msg", reason="the interfaces are not built: run `make setup` or colcon build"
)

from geometry_msgs.msg import PoseStamped  # noqa: E402
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor  # noqa: E402
from rclpy.node import Node  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402
from rclpy.qos import QoSProfile, ReliabilityPolicy  # noqa: E402
from sensor_msgs.msg import CameraInfo, Image  # noqa: E402

from ada3d_ros.model.prompt import Tokenizer  # noqa: E402
from ada3d_ros.pipeline import Ada3DPipeline  # noqa: E402
from ada3d_ros.ros.conversions import ns_to_time  # noqa: E402
from ada3d_ros.ros.node import AgentNode, build_node  # noqa: E402
from ada3d_ros.types import Answer, AskHooks, Question  # noqa: E402

WIDTH, HEIGHT = 160, 120
FOCAL_PX = 140.0
TOPICS = {
    "pose": "/pose",
    "info": "/rgb/camera_info",
    "rgb": "/rgb/image",
    "depth": "/depth/image",
}  # of the raw transports


@contextmanager
def free_domain() -> Iterator[int]:
    """A ROS domain that no other test on this machine uses; discovery stays on this machine."""
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    for domain in range(20, 100):
        with (Path(tempfile.gettempdir()) / f"ada3d-test-domain-{domain}.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                continue
            yield domain
            return
    pytest.fail("no free ROS_DOMAIN_ID between 20 and 99")


class Spinner:
    """A SingleThreadedExecutor on a thread of its own."""

    def __init__(self, context: Any) -> None:
        self.executor = SingleThreadedExecutor(context=context)
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self.error: BaseException | None = None

    def start(self) -> None:
        self._thread.start()

    def _spin(self) -> None:
        try:
            self.executor.spin()
        except ExternalShutdownException:
            pass
        except BaseException as error:
            self.error = error

    def stop(self) -> None:
        self.executor.shutdown(timeout_sec=2.0)
        self._thread.join(5.0)
        assert not self._thread.is_alive(), "the executor did not stop"
        assert self.error is None, (
            f"spin() ended with {self.error!r}: something raised out of a callback"
        )


def wait_until(condition: Callable[[], bool], timeout_s: float = 10.0) -> bool:
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.01)
    return condition()


class NodeLog:
    """What a node of this process wrote to its log since the last `capfd.readouterr()`."""

    def __init__(self, capfd: Any) -> None:
        self._capfd, self.text = capfd, ""

    def said(self, *words: str) -> bool:
        """Whether one line has all the words by now; the log may be behind the counters."""
        return wait_until(lambda: bool(self.lines(*words)))

    def lines(self, *words: str) -> list[str]:
        """The lines so far that have all the words."""
        self.text += self._capfd.readouterr().err
        return [line for line in self.text.splitlines() if all(word in line for word in words)]


class Harness:
    """An agent node, and a peer node that talks to it over DDS."""

    def __init__(
        self,
        context: Any,
        tiny_model: Path,
        factory: Callable[..., Ada3DPipeline],
        namespace: str = "",
        cli_args: Sequence[str] = (),
        **parameters: Any,
    ) -> None:
        defaults = {
            "model.path": str(tiny_model),
            "autostart": True,
            "generation.max_new_tokens": 8,
            "input.max_age_sec": 0.0,
            # Random weights: what they say must not depend on which tokens stay.
            "pruning.strategy": "none",
        }
        values = {**defaults, **parameters}
        overrides = [Parameter(name, value=value) for name, value in values.items()]

        # Each node on an executor of its own.
        self.agent_spinner, self._peer_spinner = Spinner(context), Spinner(context)
        self.node: AgentNode = build_node(
            factory,
            context=context,
            parameter_overrides=overrides,
            namespace=namespace,
            cli_args=list(cli_args),
        )
        self.peer = Node("peer", context=context)
        self._prefix = f"/{namespace}" if namespace else ""
        self.agent_spinner.executor.add_node(self.node)
        self._peer_spinner.executor.add_node(self.peer)

        self.publishers: dict[str, Any] = {}
        self._clients: dict[str, Any] = {}
        self.reliability = ReliabilityPolicy.RELIABLE
        self._is_closed = False
        for spinner in (self.agent_spinner, self._peer_spinner):
            spinner.start()

    def close(self) -> None:
        """Nothing the second time."""
        if self._is_closed:
            return
        self._is_closed = True
        self._peer_spinner.stop()
        self.agent_spinner.stop()
        self.peer.destroy_node()
        self.node.destroy_node()

    def ready(self) -> bool:
        return wait_until(lambda: self.node.pipeline is not None and self.node.pipeline.ready, 60.0)

    def call(self, service: type, name: str, request: Any = None, timeout_s: float = 30.0) -> Any:
        return self.call_async(service, name, request, timeout_s)()

    def call_async(
        self, service: type, name: str, request: Any = None, timeout_s: float = 30.0
    ) -> Callable[[], Any]:
        """Send now; the returned function waits for the answer."""
        if name not in self._clients:
            self._clients[name] = self.peer.create_client(
                service, f"{self._prefix}/ada3d_agent/{name}"
            )
        client = self._clients[name]
        # Discovery is slow on a busy machine.
        assert client.wait_for_service(30.0), f"no service {name}"
        future = client.call_async(request if request is not None else service.Request())

        def result() -> Any:
            assert wait_until(future.done, timeout_s), f"{name}: no answer within {timeout_s} s"
            return future.result()

        return result

    def collect(self, message_type: type, topic: str, qos: Any = 10) -> list[Any]:
        """Messages of a topic, as they come."""
        received: list[Any] = []
        self.peer.create_subscription(message_type, topic, received.append, qos)
        return received

    def publisher(self, topic: str, message_type: type) -> Any:
        if topic not in self.publishers:
            qos = QoSProfile(depth=50, reliability=self.reliability)
            self.publishers[topic] = self.peer.create_publisher(
                message_type, self._prefix + topic, qos
            )
            # Both have found each other: what is sent before is lost. Not every test has a reader.
            found = self.publishers[topic].get_subscription_count
            there = self._prefix + topic
            wait_until(lambda: found() > 0 and self.node.count_publishers(there) > 0, 5.0)
        return self.publishers[topic]

    def publish_frame(self, stamp_ns: int, x_m: float = 0.0, **changes: Any) -> None:
        """One posed frame of a camera that looks along world y.

        `changes` replace messages (rgb=, depth=, info=, pose=); one given as None is not sent.
        """
        messages = {**frame_messages(stamp_ns, x_m), **changes}
        for name, topic in TOPICS.items():
            if messages[name] is not None:
                self.publisher(topic, type(messages[name])).publish(messages[name])

    def publish_scene(self, num_keyframes: int = 3, first_s: int = 1) -> None:
        """Frames half a metre and a second apart, until that many keyframes are kept."""
        assert self.ready()
        for index in range(num_keyframes):
            self.publish_frame((first_s + index) * 1_000_000_000, x_m=0.5 * index)
            assert wait_until(
                lambda n=index + 1: self.node.pipeline.scene_state().num_keyframes >= n, 60.0
            ), self.why_no_keyframe()

    def why_no_keyframe(self) -> str:
        scene = self.node.pipeline.scene_state() if self.node.pipeline else None
        return f"{scene} {self.node.state_and_detail()} {self.node.inference.last_error}"

    def drops(self) -> dict[str, int]:
        return {reason.value: n for reason, n in self.node.drops.snapshot().items() if n}


@contextmanager
def agent_of_its_own(
    model: Path, factory: Callable[..., Ada3DPipeline] = Ada3DPipeline, **parameters: Any
) -> Iterator[Harness]:
    """An active agent in a domain of its own, for a whole module."""
    with free_domain() as domain:
        context = rclpy.Context()
        rclpy.init(context=context, domain_id=domain)
        harness = Harness(context, model, factory, **parameters)
        assert harness.ready()
        yield harness
        harness.close()
        rclpy.try_shutdown(context=context)


def frame_messages(stamp_ns: int, x_m: float = 0.0) -> dict[str, Any]:
    """Colour gradient, a wall at 2 m, K, and a z-up pose of the optical frame at (x, 0, 1)."""
    stamp = ns_to_time(stamp_ns)
    frame = "camera_color_optical_frame"
    rgb = Image(height=HEIGHT, width=WIDTH, encoding="rgb8", step=3 * WIDTH)
    depth = Image(height=HEIGHT, width=WIDTH, encoding="16UC1", step=2 * WIDTH)
    columns = np.linspace(0, 255, WIDTH).astype(np.uint8)
    rgb.data = np.broadcast_to(columns[None, :, None], (HEIGHT, WIDTH, 3)).tobytes()
    depth.data = np.full((HEIGHT, WIDTH), 2000, np.uint16).tobytes()
    info = CameraInfo(height=HEIGHT, width=WIDTH, distortion_model="plumb_bob", d=[0.0] * 5)
    info.k = [FOCAL_PX, 0.0, WIDTH / 2, 0.0, FOCAL_PX, HEIGHT / 2, 0.0, 0.0, 1.0]
    for message in (rgb, depth, info):
        message.header.stamp, message.header.frame_id = stamp, frame
    pose = PoseStamped()
    pose.header.stamp, pose.header.frame_id = stamp, "map"
    pose.pose.position.x, pose.pose.position.z = float(x_m), 1.0  # an int would be sent as garbage
    q = pose.pose.orientation  # optical z along world y, optical y down
    q.x, q.y, q.z, q.w = -(0.5**0.5), 0.0, 0.0, 0.5**0.5
    return {"rgb": rgb, "depth": depth, "info": info, "pose": pose}


def scripted(text: str, step_s: float = 0.0) -> Callable[..., Ada3DPipeline]:
    """A pipeline whose decoder says `text`: random weights cannot be made to write a box.

    Only the decoder's logits are replaced; views, prompt, prefill, decode and grounding are the
    real ones. step_s slows each token down.
    """
    import torch

    class ScriptedPipeline(Ada3DPipeline):
        next_step = 0

        def ask(self, question: Question, hooks: AskHooks = AskHooks()) -> Answer:
            self.next_step = 0
            return super().ask(question, hooks)

        def load(self) -> None:
            super().load()
            loaded = self.model
            ids = script_ids(loaded.tokenizer, text)

            def logits(state: torch.Tensor) -> torch.Tensor:
                time.sleep(step_s)
                result = torch.full((loaded.model.config.decoder.vocab_size,), -10.0)
                result[ids[min(self.next_step, len(ids) - 1)]] = 10.0
                self.next_step += 1
                return result

            loaded.model.decoder.lm_head.forward = logits  # type: ignore[method-assign]

    return ScriptedPipeline


def script_ids(tokenizer: Tokenizer, text: str) -> list[int]:
    return [*tokenizer.encode(text)[1:], tokenizer.eos_id]
