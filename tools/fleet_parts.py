"""The parts of measure_fleet.py that start Ray: two replicas of the embedded model, and robots.

warm: time beside the model, answers against the same in process. rooms: all questions about a few
rooms, alike. killed: a replica that is killed. many: robots in turn, and the replicas' memory.
hung_up: tokens of answers that nobody waits for any more. Each on a cluster of its own: updated, a
rolling update under load; scaled, from two replicas to three under load, and the robots that moved.
"""

from __future__ import annotations

import atexit
import functools
import os
import secrets
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ada3d_ros.config import from_flat
from ada3d_ros.errors import Ada3DError, CanceledError
from ada3d_ros.fleet.remote_pipeline import RemotePipeline
from ada3d_ros.fleet.scene_store import HostLimits
from ada3d_ros.lab.evaluation.selection import RoomSelection, rooms_of
from ada3d_ros.lab.fleet_processes import replica_pids, rss_mib
from ada3d_ros.lab.world.generated import generate_room
from ada3d_ros.pipeline import Ada3DPipeline
from ada3d_ros.store.keyframe_bytes import pack_keyframe, unpack_keyframe
from ada3d_ros.types import Answer, AskHooks, Question, RgbdFrame

VIEWS, REPLICAS = 8, 2
EMBEDDED = {"model.path": "embedded", "keyframe.max_views": VIEWS, "objects.enabled": False}
ASK = Question("What color is the table?", max_new_tokens=8, routed=False)
WARM, MANY, ROOMS = 40, 40, 3
TOKEN_S, HANG_UPS, HEARD = 0.02, 10, 5  # seconds a token, as of a 7B; pieces, and then no more
LOADING, LOADED, SMALL = 6, 40, 4  # threads that ask, robots, views of each
SCALE_S = 300.0
FEW, ALL = HostLimits(prefixes=6, scenes=12), HostLimits(prefixes=LOADED, scenes=LOADED)
Figures = dict[str, Any]


def spread(values: Sequence[float]) -> dict[str, float]:
    found = np.asarray(values)
    low, middle, high = np.percentile(found, (5, 50, 95)).tolist()
    return {"n": len(values), "median": middle, "p5": low, "p95": high, "max": float(found.max())}


def drawn_frames(seed: int, views: int, width: int, height: int) -> tuple[RgbdFrame, ...]:
    """Of a generated room: the middle rows of square pictures."""
    frames, top = generate_room(seed, side_px=width).frames[:views], (width - height) // 2
    return tuple(
        replace(
            frame,
            rgb=frame.rgb[top : top + height].copy(),
            depth_m=frame.depth_m[top : top + height].copy(),
            intrinsics=replace(frame.intrinsics, cy=frame.intrinsics.cy - top, height=height),
        )
        for frame in frames
    )


# -- server and robots


def app_of(replicas: tuple[int, int], limits: HostLimits, **settings: Any) -> Any:
    """The application; settings: of the agent's, beside EMBEDDED."""
    from ada3d_ros.fleet.deployment import FleetSettings, application
    from ada3d_ros.lab.talking_replica import TalkingReplica

    fleet = FleetSettings(EMBEDDED | settings, limits, replicas, cpus=0.5)
    return application(fleet, TalkingReplica)


@contextmanager
def cluster(
    replicas: tuple[int, int] = (REPLICAS, REPLICAS), limits: HostLimits = FEW
) -> Iterator[int]:
    """The port it listens at."""
    from ada3d_ros.fleet.serve import prepare_environment, served

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = int(server.getsockname()[1])
    os.environ["RAY_AUTH_TOKEN_PATH"] = token_path()
    prepare_environment()
    own = {"include_dashboard": False, "num_cpus": replicas[1] + 1, "log_to_driver": False}
    with served(app_of(replicas, limits), {"host": "127.0.0.1", "port": port}, own):
        yield port


@functools.cache
def token_path() -> str:
    """Of a file with a token for this process's clusters, which Ray reads once."""
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = Path(folder) / "token"
    path.write_text(secrets.token_hex(32))
    return str(path)


def robot(port: int, name: str, frames: Sequence[RgbdFrame]) -> RemotePipeline:
    flat = {
        "model.remote": f"http://127.0.0.1:{port}",
        "remote.robot_id": name,
        "remote.retry_sec": 120.0,
        "keyframe.max_views": VIEWS,
        "keyframe.min_translation_m": 0.0,
        "keyframe.min_rotation_deg": 0.0,
    }
    made = RemotePipeline(from_flat(flat), background=True)
    made.load()
    for frame in frames:
        made.observe(frame)
    return made


def room_robot(port: int, name: str, seed: int) -> RemotePipeline:
    return robot(port, name, drawn_frames(seed, VIEWS, 448, 336))


def in_process(remote: RemotePipeline) -> Ada3DPipeline:
    """The same scene, its images as they are after the way to the server."""
    scene = remote.scene
    sent = tuple(unpack_keyframe(pack_keyframe(keyframe)) for keyframe in scene.keyframes)
    local = Ada3DPipeline(from_flat(EMBEDDED))
    local.load()
    local.restore(replace(scene, keyframes=sent))
    return local


def running() -> int:
    """Replicas that Serve counts as running."""
    from ray import serve

    status = serve.status().applications["ada3d"].deployments["ada3d"]
    return int(status.replica_states.get("RUNNING", 0))


def await_replicas(count: int) -> None:
    """Until so many run. Raises TimeoutError."""
    end = time.monotonic() + SCALE_S
    while running() != count:
        if time.monotonic() > end:
            raise TimeoutError(f"{running()} of {count} replicas run after {SCALE_S:g} s")
        time.sleep(0.5)


# -- parts


def served(names: Sequence[str]) -> Figures:
    begun = time.monotonic()
    found: Figures = {"replicas": REPLICAS, "views": VIEWS, "image": "448x336"}
    with cluster() as port:
        found["start_s"] = time.monotonic() - begun
        for name in names:
            found |= SERVED[name](port)
    return found


def warm(port: int) -> Figures:
    """One question again and again, served and in process in turn. beside_the_model: what the
    robot waits beyond the model's own time: network_ms (robot, proxy, replica's HTTP, and back) and
    in_replica_ms (queue of the model's thread, scene looked up).
    """
    remote = room_robot(port, "warm", 1)
    local = in_process(remote)
    for _ in range(3):
        remote.ask(ASK), local.ask(ASK)
    here, there, beside, network, same = [], [], [], [], 0
    for _ in range(WARM):
        begun = time.perf_counter()
        ours = local.ask(ASK)
        middle = time.perf_counter()
        theirs = remote.ask(ASK)
        end = time.perf_counter()
        here.append((middle - begun) * 1e3)
        there.append((end - middle) * 1e3)
        beside.append(there[-1] - theirs.timings.total_s * 1e3)
        network.append(remote.counts.network_s * 1e3)
        same += ours.text == theirs.text
    in_replica = [all_ms - one for all_ms, one in zip(beside, network, strict=True)]
    return {
        "in_process_ms": spread(here),
        "served_ms": spread(there),
        "beside_the_model_ms": spread(beside),
        "network_ms": spread(network),
        "in_replica_ms": spread(in_replica),
        "same_text": [same, WARM],
        "connections": remote.upload.connection.traffic.connections,
    }


def rooms(port: int) -> Figures:
    """Every question and phrase about a few rooms of the test split: text and boxes alike?"""
    asked = same = 0
    for number, room in enumerate(rooms_of(RoomSelection("test", 0, ROOMS), 384)):
        remote = robot(port, f"room{number}", room.frames[:VIEWS])
        local = in_process(remote)
        for question in room.questions:
            text = Question(question.phrase or question.text, max_new_tokens=12)
            kind = "ground" if question.phrase else "ask"
            asked += 1
            same += outcome(remote, kind, text) == outcome(local, kind, text)
    return {"rooms": {"rooms": ROOMS, "same_text_and_boxes": [same, asked]}}


def outcome(pipeline: Any, kind: str, question: Question) -> tuple[str, Any]:
    """Text and boxes, or the error's name."""
    try:
        answer: Answer = getattr(pipeline, kind)(question)
    except Ada3DError as error:
        return type(error).__name__, str(error)
    return answer.text, [(b.center_m.tolist(), b.size_m.tolist(), b.score) for b in answer.boxes]


def killed(port: int) -> Figures:
    robots = [room_robot(port, f"k{number}", number % 4) for number in range(6)]
    before = [one.ask(ASK).text for one in robots]
    again = [one.upload.again for one in robots]
    os.kill(replica_pids()[0], signal.SIGKILL)
    begun, seconds, same = time.monotonic(), [], 0
    for one, text in zip(robots, before, strict=True):
        same += one.ask(ASK).text == text
        seconds.append(time.monotonic() - begun)
    found = {
        "robots": len(robots),
        "all_answered_after_s": seconds[-1],
        "first_answered_after_s": seconds[0],
        "same_text": [same, len(robots)],
        "scenes_sent_again": sum(one.upload.again for one in robots) - sum(again),
    }
    await_replicas(REPLICAS)  # its successor
    return {"killed_replica": found}


def many(port: int) -> Figures:
    sizes_mib, answered = [], 0
    for number in range(MANY):
        answered += bool(room_robot(port, f"m{number}", number % 4).ask(ASK).text)
        if number % 10 == 9:
            sizes_mib.append(sum(rss_mib(pid) for pid in replica_pids()))
    return {"robots_in_turn": {"answered": [answered, MANY], "replicas_mib_each_ten": sizes_mib}}


def hung_up(port: int) -> Figures:
    """Tokens that were decoded beyond the last one which the robot heard before it hung up: at the
    pace of a 7B, and as fast as the embedded model goes.
    """
    from ada3d_ros.lab.talking_replica import told

    remote, handle = room_robot(port, "hung", 1), told("hung")
    remote.ask(ASK)
    found = {}
    for name, token_s in (("at_20_ms_a_token", TOKEN_S), ("as_fast_as_it_goes", 0.0)):
        handle.talk.remote(token_s).result()
        beyond = [tokens_beyond(remote, handle) for _ in range(HANG_UPS)]
        found[name] = spread(beyond)
    handle.talk.remote(-1.0).result()
    return {"hung_up_tokens_beyond": found}


def tokens_beyond(remote: RemotePipeline, handle: Any) -> int:
    before, heard = handle.counts.remote().result(), [0]

    def check() -> None:
        if heard[-1] >= HEARD:
            raise CanceledError("enough")

    hooks = AskHooks(check=check, on_text=lambda delta, tokens: heard.append(tokens))
    with suppress(CanceledError):
        remote.ask(replace(ASK, max_new_tokens=1000), hooks)
    while (after := handle.counts.remote().result())["canceled"] == before["canceled"]:
        time.sleep(0.05)
    return int(after["canceled_tokens"] - before["canceled_tokens"] - heard[-1])


class Load:
    """Robots with small scenes that ask in turn, a few threads at once, until `stop`."""

    def __init__(self, port: int, prefix: str) -> None:
        self.robots = [
            robot(port, f"{prefix}{n}", drawn_frames(n % 4, SMALL, 192, 144)) for n in range(LOADED)
        ]
        self.texts = [one.ask(ASK).text for one in self.robots]
        self.sent_before = [one.upload.again for one in self.robots]
        self.answers = self.others = 0
        self.seconds: list[float] = []
        self.lost: list[str] = []
        self._end, self._lock = threading.Event(), threading.Lock()
        self._threads = [threading.Thread(target=self._ask, args=(n,)) for n in range(LOADING)]
        for thread in self._threads:
            thread.start()

    def _ask(self, first: int) -> None:
        while not self._end.is_set():
            for number in range(first, LOADED, LOADING):
                begun = time.monotonic()
                try:
                    same = self.robots[number].ask(ASK).text == self.texts[number]
                except Exception as error:  # counted, and told with its name
                    with self._lock:
                        self.lost.append(f"{type(error).__name__}: {error}"[:200])
                    continue
                with self._lock:
                    self.answers, self.others = self.answers + 1, self.others + (not same)
                    self.seconds.append(time.monotonic() - begun)

    def until_all_were_asked(self) -> None:
        """Twice from now on, as each thread has its robots in turn. Raises TimeoutError."""
        end, wanted = time.monotonic() + SCALE_S, self.answers + 2 * LOADED + LOADING
        while self.answers < wanted:
            if time.monotonic() > end:
                raise TimeoutError(f"{self.answers} of {wanted} answers after {SCALE_S:g} s")
            time.sleep(0.5)

    def stop(self) -> Figures:
        self._end.set()
        for thread in self._threads:
            thread.join()
        pairs = zip(self.robots, self.sent_before, strict=True)
        again = [one.upload.again - before for one, before in pairs]
        return {
            "robots": LOADED,
            "asking_at_once": LOADING,
            "answers": self.answers,
            "lost": len(self.lost),
            "lost_as": sorted(set(self.lost)),
            "other_texts": self.others,
            "slowest_s": max(self.seconds),
            "seconds": spread(self.seconds),
            "robots_moved": sum(count > 0 for count in again),
            "scenes_sent_again": sum(again),
        }


def updated() -> Figures:
    """Every replica replaced by one with another setting, while robots ask."""
    from ray import serve

    with cluster(limits=ALL) as port:
        load = Load(port, "u")
        begun, before = time.monotonic(), set(replica_pids())
        changed = app_of((REPLICAS, REPLICAS), ALL, **{"generation.max_new_tokens": 33})
        serve.run(changed, name="ada3d", route_prefix="/")
        await_replicas(REPLICAS)
        seconds, replaced = time.monotonic() - begun, not before & set(replica_pids())
        load.until_all_were_asked()
        return load.stop() | {"took_s": seconds, "all_replaced": replaced}


def scaled() -> Figures:
    """A third replica comes, since more is asked than two should answer."""
    with cluster((REPLICAS, REPLICAS + 1), ALL) as port:
        load, begun = Load(port, "s"), time.monotonic()
        await_replicas(REPLICAS + 1)
        seconds = time.monotonic() - begun
        load.until_all_were_asked()
        found = load.stop()
    share = found["robots_moved"] / LOADED
    return found | {"took_s": seconds, "moved": share, "even_share": 1 / (REPLICAS + 1)}


SERVED: dict[str, Callable[[int], Figures]] = {
    part.__name__: part for part in (warm, rooms, hung_up, killed, many)
}
