"""The whole server on this machine: Ray Serve, two replicas of the embedded model, robots."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ada3d_ros.config import from_flat
from ada3d_ros.errors import (
    AccessDeniedError,
    Ada3DError,
    CanceledError,
    InvalidRequestError,
    RequestError,
)
from ada3d_ros.fleet.connection import Address, Connection
from ada3d_ros.fleet.json_form import to_json
from ada3d_ros.fleet.keyframe_bytes import pack_keyframe, unpack_keyframe
from ada3d_ros.fleet.protocol import Call, SceneList, token_of
from ada3d_ros.fleet.remote_pipeline import RemotePipeline
from ada3d_ros.fleet.scene_store import HostLimits
from ada3d_ros.fleet.scene_upload import dumped
from ada3d_ros.pipeline import Ada3DPipeline
from ada3d_ros.types import AskHooks, Question, RgbdFrame
from test.support.box_room import build_box_room

pytest.importorskip("ray.serve", reason="ray is absent: pip install 'ada3d_ros[serve]'")

VIEWS, SECRET = 3, b"of a test, and of nothing else"
MODEL = {"model.path": "embedded", "keyframe.max_views": VIEWS, "objects.enabled": False}
LIMITS = HostLimits(prefixes=3, scenes=6, keyframe_bytes=1 << 20)
ASK = Question("What color is the table?", max_new_tokens=6, routed=False)
KILLED_S = 120.0  # for the others to take over; docs/fleet.md has what it takes on a free machine


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    from ada3d_ros.fleet.serve import prepare_environment, served

    folder = tmp_path_factory.mktemp("fleet")
    secret = folder / "secret"
    secret.write_bytes(SECRET)
    secret.chmod(0o600)
    (folder / "token").write_text(
        secrets.token_hex(32)
    )  # of the cluster; else Ray puts one at home
    own = {"RAY_AUTH_TOKEN_PATH": str(folder / "token"), "OMP_NUM_THREADS": "1"}
    before = dict(os.environ)
    os.environ.update(own)
    prepare_environment()
    from ada3d_ros.fleet.deployment import FleetSettings, application

    port = free_port()
    fleet = FleetSettings(MODEL, LIMITS, (2, 2), cpus=0.5, secret_file=str(secret))
    cluster = {"include_dashboard": False, "num_cpus": 3, "log_to_driver": False}
    with served(application(fleet), {"host": "127.0.0.1", "port": port}, cluster):
        yield f"http://127.0.0.1:{port}"
    os.environ.clear()
    os.environ.update(before)


def frames_of(seed: int) -> tuple[RgbdFrame, ...]:
    return build_box_room(seed=seed, num_views=VIEWS, width=96, height=72).frames


@pytest.fixture
def robot(url: str, tmp_path: Path) -> Callable[..., RemotePipeline]:
    def make(name: str, seed: int, **settings: Any) -> RemotePipeline:
        token = tmp_path / name
        token.write_text(token_of(SECRET, name))
        flat = {
            "model.remote": url,
            "remote.robot_id": name,
            "remote.token_file": str(token),
            "remote.retry_sec": KILLED_S,
            "keyframe.max_views": VIEWS,
        }
        pipeline = RemotePipeline(from_flat(flat | settings), background=True)
        pipeline.check()
        pipeline.load()
        for frame in frames_of(seed):
            pipeline.observe(frame)
        return pipeline

    return make


Robot = Callable[..., RemotePipeline]


def in_process(pipeline: RemotePipeline) -> Ada3DPipeline:
    """The same scene, its images as they are after the way to the server."""
    scene = pipeline.scene
    sent = tuple(unpack_keyframe(pack_keyframe(keyframe)) for keyframe in scene.keyframes)
    local = Ada3DPipeline(from_flat(MODEL))
    local.load()
    local.restore(replace(scene, keyframes=sent))
    return local


class Pieces:
    def __init__(self) -> None:
        self.texts: list[str] = []

    def take(self, delta: str, num_tokens: int) -> None:
        self.texts.append(delta)


def test_answers_are_those_of_a_model_in_process(robot: Robot) -> None:
    for seed in range(3):
        remote = robot(f"r{seed}", seed)
        while remote.run_background_step():
            pass
        local, pieces = in_process(remote), Pieces()
        ours = remote.ask(ASK, AskHooks(on_text=pieces.take))
        theirs = local.ask(ASK)
        assert ours.text == theirs.text == "".join(pieces.texts)
        assert ours.keyframe_stamps_ns == theirs.keyframe_stamps_ns
        boxes = remote.ground(Question("the table")), local.ground(Question("the table"))
        assert [box.center_m.round(3).tolist() for box in boxes[0].boxes] == [
            box.center_m.round(3).tolist() for box in boxes[1].boxes
        ]


def test_forty_robots_in_turn_are_answered_and_memory_stays_bounded(robot: Robot) -> None:
    first: dict[str, str] = {}
    sizes = []
    for turn in range(2):
        for number in range(20 * turn, 20 * turn + 20):
            name = f"m{number}"
            first[name] = robot(name, number % 4).ask(ASK).text
        sizes.append(sum(_rss_mib(pid) for pid in replica_pids()))
    for number in range(4):  # the same room, the same answer
        assert len({first[f"m{n}"] for n in range(number, 40, 4)}) == 1
    assert sizes[1] < sizes[0] * 1.1


def replica_pids() -> list[int]:
    """Of this test's cluster alone, which is known by its token."""
    found, token = [], os.environ["RAY_AUTH_TOKEN_PATH"].encode()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes()
            ours = token in (folder / "environ").read_bytes()
        except OSError:
            continue
        if ours and command.startswith(b"ray::ServeReplica:ada3d"):
            found.append(int(folder.name))
    return sorted(found)


def _rss_mib(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


def test_a_killed_replica_costs_time_alone(robot: Robot) -> None:
    robots = [robot(f"k{i}", i % 3) for i in range(4)]
    before = [one.ask(ASK).text for one in robots]
    victim = replica_pids()[0]
    os.kill(victim, signal.SIGKILL)
    assert [one.ask(ASK).text for one in robots] == before
    assert sum(one.upload.again for one in robots) <= len(robots)
    assert all(not one.problem for one in robots)


def test_a_robot_that_hangs_up_stops_its_answer(robot: Robot) -> None:
    remote = robot("h1", 1, **{"generation.max_new_tokens": 2000})
    pieces: list[int] = []

    def check() -> None:
        if pieces:
            raise CanceledError("enough")

    with pytest.raises(CanceledError):
        remote.ask(
            replace(ASK, max_new_tokens=2000),
            AskHooks(check=check, on_text=lambda delta, n: pieces.append(n)),
        )
    assert remote.ask(ASK).text  # the model's thread is free again


def connection(url: str, name: str, token: str) -> Connection:
    return Connection(Address(url, name, token))


def test_a_token_opens_one_robots_scenes(robot: Robot, url: str) -> None:
    mine = robot("t1", 1)
    mine.ask(ASK)
    call = dumped(to_json(Call(mine.upload.digest(mine.scene), ASK, 60.0)))
    for token in ("", token_of(SECRET, "t2")):
        thief = connection(url, "t1", token)
        with pytest.raises(AccessDeniedError):
            list(thief.lines(mine.upload.path("ask"), call, lambda: None))
    own = connection(url, "t2", token_of(SECRET, "t2"))
    path = own.address.path("scenes", mine.upload.session, "ask")
    with pytest.raises(Ada3DError, match="no scene of session"):
        list(own.lines(path, call, lambda: None))


def test_what_is_sent_badly_is_refused_by_name_and_others_go_on(robot: Robot, url: str) -> None:
    other = robot("o1", 2)
    text = other.ask(ASK).text
    bad = connection(url, "b1", token_of(SECRET, "b1"))
    path = bad.address.path
    scene = robot("b1", 1).scene
    listed = to_json(SceneList.from_snapshot(scene))
    bad.request("PUT", path("scenes", "s"), dumped(listed))
    keyframe = pack_keyframe(scene.keyframes[0])
    cases: list[tuple[str, str, bytes]] = [
        ("PUT", path("scenes", "s"), b"{"),
        ("PUT", path("scenes", "s"), b"[" * 100_000),
        ("PUT", path("scenes", "s"), dumped(listed | {"floor": {"z_m": None}})),
        ("PUT", path("scenes", "s"), dumped(listed | {"keyframes": listed["keyframes"][::-1]})),
        ("PUT", path("scenes", "s"), b" " * (1 << 20)),
        ("PUT", path("scenes", "../x"), dumped(listed)),
        ("POST", path("scenes", "s", "keyframes"), keyframe[: len(keyframe) // 2]),
        ("POST", path("scenes", "s", "keyframes"), b"\0" * (2 << 20)),
        ("POST", path("scenes", "s", "dance"), b"{}"),
        ("POST", path("scenes", "s", "ask"), b"{}"),
    ]
    for method, where, body in cases:
        with pytest.raises(RequestError):
            bad.request(method, where, body)
    call = Call(SceneList.from_snapshot(scene).digest(), replace(ASK, max_new_tokens=10**6), 60.0)
    with pytest.raises(InvalidRequestError, match="max_new_tokens"):
        bad.request("POST", path("scenes", "s", "ask"), dumped(to_json(call)))
    for _ in range(2):
        bad.request("POST", path("scenes", "s", "keyframes"), keyframe)
    assert other.ask(ASK).text == text


def test_robots_ask_at_once(robot: Robot) -> None:
    robots = [robot(f"c{i}", i % 3) for i in range(4)]
    texts: dict[int, str] = {}

    def ask(number: int) -> None:
        texts[number] = robots[number].ask(ASK).text

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    begun = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(KILLED_S)
    assert len(texts) == 4, time.monotonic() - begun
    assert texts[0] == texts[3]
