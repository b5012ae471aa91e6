"""The whole server on this machine: Ray Serve over TLS, two replicas of a small model, robots."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from http.client import HTTPSConnection
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import pytest

from ada3d_ros.config import from_flat
from ada3d_ros.errors import (
    AccessDeniedError,
    CanceledError,
    InvalidRequestError,
    KeyframesMissingError,
    OutOfMemoryError,
)
from ada3d_ros.fleet.connection import Address, Connection
from ada3d_ros.fleet.protocol import Call, SceneList, token_of
from ada3d_ros.fleet.remote_pipeline import RemotePipeline
from ada3d_ros.fleet.scene_store import HostLimits
from ada3d_ros.fleet.scene_upload import dumped
from ada3d_ros.fleet.serve import (
    APPLICATION,
    http_options,
    parser,
    prepare_environment,
    served,
)
from ada3d_ros.lab.fleet_processes import replica_pids, rss_mib
from ada3d_ros.pipeline import Ada3DPipeline
from ada3d_ros.store.json_form import to_json
from ada3d_ros.store.keyframe_bytes import pack_keyframe, unpack_keyframe
from ada3d_ros.types import AskHooks, Question, RgbdFrame
from test.support.box_room import build_box_room
from test.support.certificates import self_signed

serve = pytest.importorskip("ray.serve", reason="ray is absent: pip install 'ada3d_ros[serve]'")

from ada3d_ros.fleet.deployment import FleetSettings, application  # noqa: E402
from ada3d_ros.lab.talking_replica import TalkingReplica, told  # noqa: E402

VIEWS, SECRET = 3, b"of a test, and of nothing else"
MODEL = {"model.path": "embedded", "keyframe.max_views": VIEWS, "objects.enabled": False}
LIMITS = HostLimits(prefixes=3, scenes=6, keyframe_bytes=1 << 20)
TOKEN_S = 0.02  # of a 7B
ASK = Question("What color is the table?", max_new_tokens=6, routed=False)
KILLED_S = 120.0  # for the others to take over; docs/fleet.md has what it takes on a free machine


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> FleetSettings:
    secret = tmp_path_factory.mktemp("fleet") / "secret"
    secret.write_bytes(SECRET)
    secret.chmod(0o600)
    return FleetSettings(MODEL, LIMITS, (2, 2), cpus=0.5, secret_file=str(secret))


@pytest.fixture(scope="module")
def url(fleet: FleetSettings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("cluster")
    token = folder / "token"  # else Ray writes one at home
    token.write_text(secrets.token_hex(32))
    cert, key = self_signed(folder, "server")
    before = dict(os.environ)
    os.environ |= {"RAY_AUTH_TOKEN_PATH": str(token), "OMP_NUM_THREADS": "1"}
    os.environ["SSL_CERT_FILE"] = cert  # what this process trusts
    prepare_environment()
    port = free_port()
    options = parser().parse_args(["--port", str(port), "--tls-cert", cert, "--tls-key", key])
    cluster = {"include_dashboard": False, "num_cpus": 3, "log_to_driver": False}
    with served(application(fleet, TalkingReplica), http_options(options), cluster):
        yield f"https://127.0.0.1:{port}"
    os.environ.clear()
    os.environ.update(before)


def frames_of(seed: int) -> tuple[RgbdFrame, ...]:
    return build_box_room(seed=seed, num_views=VIEWS, width=96, height=72).frames


class Robot(Protocol):
    def __call__(self, name: str, room: int | Sequence[RgbdFrame]) -> RemotePipeline:
        """room: a seed, or the frames."""


@pytest.fixture
def robot(url: str, tmp_path: Path) -> Robot:
    def make(name: str, room: int | Sequence[RgbdFrame]) -> RemotePipeline:
        token = tmp_path / name
        token.write_text(token_of(SECRET, name))
        flat = {
            "model.remote": url,
            "remote.robot_id": name,
            "remote.token_file": str(token),
            "remote.retry_sec": KILLED_S,
            "keyframe.max_views": VIEWS,
        }
        pipeline = RemotePipeline(from_flat(flat), background=True)
        pipeline.check()
        pipeline.load()
        for frame in frames_of(room) if isinstance(room, int) else room:
            pipeline.observe(frame)
        return pipeline

    return make


def in_process(remote: RemotePipeline) -> Ada3DPipeline:
    """The same scene, its images as they are after the way to the server."""
    scene = remote.scene
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
        sizes.append(sum(rss_mib(pid) for pid in replica_pids()))
    for number in range(4):  # the same room, the same answer
        assert len({first[f"m{n}"] for n in range(number, 40, 4)}) == 1
    assert sizes[1] < sizes[0] * 1.1


def test_a_robot_that_hangs_up_stops_its_answer_within_five_tokens(robot: Robot) -> None:
    remote = robot("h1", 1)
    text = remote.ask(ASK).text
    handle = told("h1")
    handle.talk.remote(TOKEN_S).result()
    before, heard = handle.counts.remote().result(), [0]

    def check() -> None:
        if heard[-1] >= 5:
            raise CanceledError("enough")

    hooks = AskHooks(check=check, on_text=lambda delta, tokens: heard.append(tokens))
    with pytest.raises(CanceledError):
        remote.ask(replace(ASK, max_new_tokens=1000), hooks)
    handle.talk.remote(-1.0).result()
    while (after := handle.counts.remote().result())["canceled"] == before["canceled"]:
        time.sleep(0.02)
    decoded = after["canceled_tokens"] - before["canceled_tokens"]
    assert heard[-1] <= decoded <= heard[-1] + 5
    assert remote.ask(ASK).text == text


def connection(url: str, name: str, token: str) -> Connection:
    return Connection(Address(url, name, token))


def own_connection(url: str, name: str) -> Connection:
    return connection(url, name, token_of(SECRET, name))


def test_a_token_opens_one_robots_scenes(robot: Robot, url: str) -> None:
    mine = robot("t1", 1)
    text = mine.ask(ASK).text
    call = dumped(to_json(Call(mine.upload.digest(mine.scene), ASK, 60.0)))
    for token in ("", token_of(SECRET, "t2")):
        thief = connection(url, "t1", token)
        with pytest.raises(AccessDeniedError):
            list(thief.lines(mine.upload.path("ask"), call, lambda: None))
    own = own_connection(url, "t2")
    path = own.address.path("scenes", mine.upload.session, "ask")
    with pytest.raises(KeyframesMissingError, match="no scene of session"):
        list(own.lines(path, call, lambda: None))
    elsewhere = connection(url, "t3", token_of(SECRET, "t2"))  # t2's scene, where t3's would be
    with pytest.raises(InvalidRequestError, match="must be the robot's id, t2"):
        list(elsewhere.lines(path, call, lambda: None))
    assert mine.ask(ASK).text == text


def test_what_is_sent_badly_is_refused_by_name_and_others_go_on(robot: Robot, url: str) -> None:
    other = robot("o1", 2)
    text = other.ask(ASK).text
    bad = own_connection(url, "b1")
    path = bad.address.path
    scene = robot("b1", 1).scene
    listed = to_json(SceneList.from_snapshot(scene))
    bad.request("PUT", path("scenes", "s"), dumped(listed))
    keyframe = pack_keyframe(scene.keyframes[0])
    strange = pack_keyframe(replace(scene.keyframes[0], index=7))
    falling = listed["keyframes"][::-1]
    renamed = [[index, stamp_ns + 1] for index, stamp_ns in listed["keyframes"]]
    cases: list[tuple[str, str, bytes, str]] = [
        ("PUT", path("scenes", "s"), b"{", "no JSON"),
        ("PUT", path("scenes", "s"), b"[" * 100_000, "no JSON"),
        ("PUT", path("scenes", "s"), dumped(listed | {"floor": {"z_m": None}}), "finite"),
        ("PUT", path("scenes", "s"), dumped(listed | {"keyframes": falling}), "must rise"),
        ("PUT", path("scenes", "s"), dumped(listed | {"keyframes": renamed}), "names one"),
        ("PUT", path("scenes", "s"), b" " * (1 << 20), "allowed: up to"),
        ("PUT", path("scenes", "-x"), dumped(listed), "is no name"),
        ("POST", path("scenes", "s", "keyframes"), keyframe[: len(keyframe) // 2], "cut|read"),
        ("POST", path("scenes", "s", "keyframes"), strange, "not in the scene's list"),
        ("POST", path("scenes", "s", "keyframes"), b"\0" * (2 << 20), "allowed: up to"),
        ("POST", path("scenes", "s", "dance"), b"{}", "no resource"),
        ("POST", path("scenes", "s", "ask"), b"{}", "lacks"),
    ]
    for method, where, body, says in cases:
        with pytest.raises(InvalidRequestError, match=says):
            bad.request(method, where, body)
    lied = dumped(to_json(Call("of another list", ASK, 60.0)))
    with pytest.raises(KeyframesMissingError):
        list(bad.lines(path("scenes", "s", "ask"), lied, lambda: None))
    long = Call(SceneList.from_snapshot(scene).digest(), replace(ASK, max_new_tokens=10**6), 60.0)
    with pytest.raises(InvalidRequestError, match="max_new_tokens"):
        list(bad.lines(path("scenes", "s", "ask"), dumped(to_json(long)), lambda: None))
    assert other.ask(ASK).text == text


def test_gigabytes_are_refused_before_they_are_sent(robot: Robot, url: str) -> None:
    parts, address = urlsplit(url), own_connection(url, "g1").address
    with closing(HTTPSConnection(parts.hostname or "", parts.port, timeout=60)) as raw:
        raw.putrequest("POST", address.path("scenes", "s", "keyframes"))
        raw.putheader("x-session-id", "g1")
        raw.putheader("Authorization", f"Bearer {address.token}")
        raw.putheader("Content-Length", str(3 << 30))
        raw.endheaders()
        raw.send(b"\0" * 1000)
        response = raw.getresponse()
        told_error = json.loads(response.read())["error"]
    assert (response.status, told_error["name"]) == (400, "InvalidRequestError")
    assert f"a body of {3 << 30} bytes" in told_error["text"]


@pytest.mark.parametrize("offset_ns", [10**18, -(10**9) + 1])
def test_clocks_need_not_agree_and_keyframes_come_in_any_order(
    robot: Robot, url: str, offset_ns: int
) -> None:
    """The robot's clock is decades ahead, or begins with its first frame; keyframes come from the
    last to the first, each twice.
    """
    text = robot(f"p{offset_ns < 0}", 1).ask(ASK).text
    name = f"q{offset_ns < 0}"
    frames = [
        replace(f, stamp_ns=f.stamp_ns + offset_ns, depth_stamp_ns=None) for f in frames_of(1)
    ]
    scene = robot(name, frames).scene
    own, listed = own_connection(url, name), SceneList.from_snapshot(scene)
    path = own.address.path
    own.request("PUT", path("scenes", "s"), dumped(to_json(listed)))
    for keyframe in [*reversed(scene.keyframes), *scene.keyframes]:
        told_missing = own.request(
            "POST", path("scenes", "s", "keyframes"), pack_keyframe(keyframe)
        )
    assert told_missing == {"missing": 0}
    call = dumped(to_json(Call(listed.digest(), ASK, 60.0)))
    lines = list(own.lines(path("scenes", "s", "ask"), call, lambda: None))
    assert lines[-1]["answer"]["text"] == text


def test_a_replica_without_memory_says_so_and_others_are_answered(robot: Robot) -> None:
    here = robot("e0", 1)
    text = here.ask(ASK).text
    handle = told("e0")
    handle.lack_memory.remote(True).result()
    with pytest.raises(OutOfMemoryError, match="as the test says"):
        here.ask(ASK)
    handle.lack_memory.remote(False).result()
    assert here.ask(ASK).text == text
    assert here.upload.again == 0


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


def test_a_killed_replica_costs_time_alone(robot: Robot) -> None:
    robots = [robot(f"k{i}", i % 3) for i in range(4)]
    before = [one.ask(ASK).text for one in robots]
    victim = replica_pids()[0]
    os.kill(victim, signal.SIGKILL)
    assert [one.ask(ASK).text for one in robots] == before
    assert sum(one.upload.again for one in robots) <= len(robots)
    assert all(not one.problem for one in robots)


def test_an_update_loses_no_answer(robot: Robot, fleet: FleetSettings) -> None:
    """All replicas are replaced while robots ask."""
    robots = [robot(f"u{i}", i % 3) for i in range(2)]
    texts = [one.ask(ASK).text for one in robots]
    answers: list[bool] = []
    ended = threading.Event()

    def ask(number: int) -> None:
        while not ended.is_set():
            answers.append(robots[number].ask(ASK).text == texts[number])

    old = set(replica_pids())
    settings = {**fleet.settings, "generation.max_new_tokens": 33}
    with ThreadPoolExecutor(2) as pool:
        loads = [pool.submit(ask, number) for number in range(2)]
        try:
            changed = application(replace(fleet, settings=settings), TalkingReplica)
            serve.run(changed, name=APPLICATION, route_prefix="/")
        finally:
            ended.set()
    assert not [load.exception() for load in loads if load.exception()]
    assert answers
    assert all(answers)
    assert not old & set(replica_pids())
