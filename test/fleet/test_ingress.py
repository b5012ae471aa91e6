"""What a replica's HTTP resources say to whoever lies, breaks off, dawdles or sends nonsense."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("ray.serve", reason="ray is absent: pip install 'ada3d_ros[serve]'")

from ada3d_ros.fleet import ingress
from ada3d_ros.fleet.ingress import BODIES, ReplicaSettings
from ada3d_ros.fleet.protocol import CALL_HEADER, Call, SceneList
from ada3d_ros.fleet.scene_store import HostLimits
from ada3d_ros.fleet.scene_upload import dumped
from ada3d_ros.scene.keyframes import KeyframeBuffer, SceneSnapshot
from ada3d_ros.store.json_form import to_json
from ada3d_ros.store.keyframe_bytes import MAGIC, encode_millimetres, pack_keyframe
from ada3d_ros.types import Question
from test.support.hosted_scenes import ASK, MODEL, VIEWS, config, scene_of
from test.support.ingress_server import IngressServer, answered, ingress_server

LIMITS = HostLimits(prefixes=2, scenes=4, a_robot=2, waiting=2)
HUGE = 10**400
SCENE = "scenes/s"


@pytest.fixture(scope="module")
def server() -> Iterator[IngressServer]:
    settings = ReplicaSettings(MODEL, LIMITS, b"of a test, and of nothing else")
    with ingress_server(settings) as made:
        yield made


@pytest.fixture
def other(server: IngressServer) -> Iterator[None]:
    """Another robot, whose answers stay as they were."""
    scene = scene_of(2)
    put(server, scene, "other")
    before = ask(server, scene, robot="other")["text"]
    yield
    assert ask(server, scene, robot="other")["text"] == before
    for robot in ("r1", "other"):
        server.request("DELETE", SCENE, robot=robot)


def put(server: IngressServer, scene: SceneSnapshot, robot: str = "r1") -> None:
    listed = dumped(to_json(SceneList.from_snapshot(scene)))
    assert server.request("PUT", SCENE, listed, robot)[0] == 200
    for keyframe in scene.keyframes:
        assert server.request("POST", f"{SCENE}/keyframes", pack_keyframe(keyframe), robot)[0]


def call_of(scene: SceneSnapshot, question: Question = ASK) -> dict[str, Any]:
    return to_json(Call(SceneList.from_snapshot(scene).digest(), question, 60.0))


def ask(server: IngressServer, scene: SceneSnapshot, robot: str = "r1") -> dict[str, Any]:
    status, told = server.request("POST", f"{SCENE}/ask", dumped(call_of(scene)), robot)
    assert status == 200, told
    return told["answer"]


def refused(told: tuple[int, Any], name: str = "InvalidRequestError") -> str:
    """The text of the error that was told, which has this name."""
    status, data = told
    assert data["error"]["name"] == name, data
    assert 400 <= status != 500
    return data["error"]["text"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"keyframes": [[0, 2**63]]}, "64 bits"),
        ({"keyframes": [[2**63, 5]]}, "64 bits"),
        ({"keyframes": [[0, 1.5]]}, "expected int"),
        ({"epoch": 10**30}, "64 bits"),
        ({"version": -5}, "at least 0"),
        ({"floor": {"z_m": HUGE}}, "number or null"),
        ({"floor": {"z_m": 1e300}}, "within"),
        ({"anchor_xy_m": [0.0, 1e300]}, "within"),
        ({"keyframes": [[0, 5], [0, 5]]}, "must rise"),
        ({"keyframes": [[1, 5], [0, 6]]}, "must rise"),
        ({"keyframes": [[0, -5]]}, "must rise"),
    ],
)
def test_lists_of_odd_numbers_are_refused(
    server: IngressServer, other: None, change: dict[str, Any], says: str
) -> None:
    listed = to_json(SceneList.from_snapshot(scene_of(1)))
    told = server.request("PUT", SCENE, json.dumps(listed | change).encode())
    assert says in refused(told)


def test_a_version_names_one_list_and_none_comes_back(server: IngressServer, other: None) -> None:
    scene = scene_of(1)
    put(server, scene)
    assert len(ask(server, scene)["keyframe_stamps_ns"]) == VIEWS
    listed = to_json(SceneList.from_snapshot(scene))
    fewer = listed | {"keyframes": listed["keyframes"][1:]}
    for lie in (
        fewer,
        fewer | {"version": listed["version"] - 1},
        fewer | {"epoch": 0, "version": 0},
    ):
        assert "version of its own" in refused(server.request("PUT", SCENE, dumped(lie)))
    assert len(ask(server, scene)["keyframe_stamps_ns"]) == VIEWS
    risen = SceneList.read(fewer | {"version": listed["version"] + 1})
    assert server.request("PUT", SCENE, dumped(to_json(risen)))[0] == 200
    call = dumped(to_json(Call(risen.digest(), ASK, 60.0)))
    answer = server.request("POST", f"{SCENE}/ask", call)[1]["answer"]
    assert len(answer["keyframe_stamps_ns"]) == VIEWS - 1


def repacked(change: dict[str, Any], **images: bytes) -> bytes:
    """The first keyframe with other fields in its header, or another jpeg or png."""
    data = pack_keyframe(scene_of(1).keyframes[0])
    start = len(MAGIC) + 4
    (length,) = struct.unpack(">I", data[len(MAGIC) : start])
    header, rest = json.loads(data[start : start + length]), data[start + length :]
    jpeg = images.get("jpeg", rest[: header["jpeg_bytes"]])
    png = images.get("png", rest[header["jpeg_bytes"] :])
    change = {key: header[key] | v if isinstance(v, dict) else v for key, v in change.items()}
    return (
        with_header(json.dumps(header | {"jpeg_bytes": len(jpeg)} | change).encode()) + jpeg + png
    )


def with_header(text: bytes) -> bytes:
    return MAGIC + struct.pack(">I", len(text)) + text


def picture(kind: str, mode: str, size: tuple[int, int]) -> bytes:
    file = io.BytesIO()
    Image.new(mode, size).save(file, kind)
    return file.getvalue()


SIZE = (96, 72)
HAIR = {
    "jpeg": picture("JPEG", "RGB", (4000, 1)),
    "png": encode_millimetres(np.ones((1, 4000), np.float32)),
}
NAN_POSE = [[float("nan")] * 4] * 4
SHEARED = [[1.0, 0.5, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]]
BAD_KEYFRAMES: dict[str, tuple[bytes, str]] = {
    "a header without an end": (with_header(b"[" * 4000), "no JSON"),
    "a focal length of 0": (repacked({"intrinsics": {"fx": 0.0}}), "fx=0"),
    "a negative one": (repacked({"intrinsics": {"fy": -5.0}}), "fy=-5"),
    "one of 400 digits": (repacked({"intrinsics": {"fx": HUGE}}), "number or null"),
    "no width": (repacked({"intrinsics": {"width": 0}}), "above 0"),
    "a negative width": (repacked({"intrinsics": {"width": -1}}), "above 0"),
    "another size": (repacked({"intrinsics": {"width": 48, "height": 36}}), "its camera 48x36"),
    "K of an image twice as large": (repacked({"intrinsics": {"cx": 96, "cy": 72}}), "principal"),
    "a principal point far away": (repacked({"intrinsics": {"cx": 1e300}}), "principal"),
    "an image as thin as a hair": (
        repacked({"intrinsics": {"width": 4000, "height": 1, "cx": 2000, "cy": 0}}, **HAIR),
        "4000x1 px; allowed",
    ),
    "a pose that is not finite": (repacked({"T_world_cam": NAN_POSE}), "not finite"),
    "a sheared pose": (repacked({"T_world_cam": SHEARED}), "not orthonormal"),
    "a pose of 400 digits": (repacked({"T_world_cam": [[HUGE]]}), "does not fit"),
    "a pose of words": (repacked({"T_world_cam": ["x"]}), "does not fit"),
    "a stamp of 65 bits": (repacked({"stamp_ns": 2**64}), "stamp_ns"),
    "a depth stamp of 65 bits": (repacked({"depth_stamp_ns": -(2**64)}), "depth_stamp_ns"),
    "an index of 65 bits": (repacked({"index": 2**64}), "index"),
    "true as an index": (repacked({"index": True}), "index = True"),
    "a JPEG of 1x1": (repacked({}, jpeg=picture("JPEG", "RGB", (1, 1))), "1x1"),
    "a JPEG of 5000x5000": (repacked({}, jpeg=picture("JPEG", "L", (5000, 5000))), "5000x5000"),
    "a bomb": (repacked({}, png=picture("PNG", "1", (20000, 20000))), "far larger"),
    "a PNG for a JPEG": (repacked({}, jpeg=picture("PNG", "RGB", SIZE)), "JPEG cannot be read"),
    "a depth of 8 bits": (repacked({}, png=picture("PNG", "L", SIZE)), "16 bits"),
    "a depth of three channels": (repacked({}, png=picture("PNG", "RGB", SIZE)), "16 bits"),
    "a depth of another size": (
        repacked({}, png=encode_millimetres(np.ones((5, 5), np.float32))),
        "5x5",
    ),
    "nothing": (b"", "no keyframe"),
}


@pytest.mark.parametrize("case", BAD_KEYFRAMES)
def test_keyframes_of_nonsense_are_refused(server: IngressServer, other: None, case: str) -> None:
    put(server, scene_of(1))
    data, says = BAD_KEYFRAMES[case]
    assert says in refused(server.request("POST", f"{SCENE}/keyframes", data))


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", "/openapi.json"),
        ("GET", "/v1/robots//model"),
        ("GET", "/v1/robots/a%2Fb/model"),
        ("PATCH", SCENE),
        ("PUT", "scenes/a%2Fb"),
        ("POST", "scenes/s/dance"),
    ],
)
def test_what_no_resource_is_called_is_refused_by_name(
    server: IngressServer, method: str, path: str
) -> None:
    assert "no resource" in refused(server.request(method, path))


@pytest.mark.parametrize("name", ["..", "x" * 10_000, "%C3%9F", "r1%0A", "r1%00", "-probe"])
def test_names_of_other_letters_are_refused(server: IngressServer, name: str) -> None:
    assert "is no name" in refused(server.request("GET", f"/v1/robots/{name}/model"))
    assert "is no name" in refused(server.request("PUT", f"scenes/{name}", b"{}"))


@pytest.mark.parametrize(
    "change",
    [{"timeout_s": HUGE}, {"timeout_s": None}, {"question": {"max_new_tokens": 2**64}}],
)
def test_calls_of_odd_numbers_are_refused(
    server: IngressServer, other: None, change: dict[str, Any]
) -> None:
    scene = scene_of(1)
    put(server, scene)
    call = call_of(scene)
    call |= {key: call[key] | v if isinstance(v, dict) else v for key, v in change.items()}
    refused(server.request("POST", f"{SCENE}/ask", json.dumps(call).encode()))
    refused(server.request("POST", f"{SCENE}/ask", headers={CALL_HEADER: "{"}))
    assert ask(server, scene)["text"]


def test_a_body_that_dawdles_is_cut_off(
    server: IngressServer, other: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingress, "SILENCE_S", 0.05)
    with closing(server.begin("PUT", SCENE, 1000)) as slow:
        slow.sendall(b"{")
        assert "0.05 s" in refused(answered(slow), "RequestTimeoutError")
    monkeypatch.setattr(ingress, "SILENCE_S", 60.0)
    monkeypatch.setattr(ingress, "BODY_S", 0.05)
    with closing(server.begin("PUT", SCENE, 1000)) as trickles:
        trickles.sendall(b"{")
        assert "in all" in refused(answered(trickles), "RequestTimeoutError")


def test_a_robots_bodies_leave_room_for_others(server: IngressServer, other: None) -> None:
    """More than four at once of one robot are refused; another's come as before."""
    slow = [server.begin("PUT", SCENE, 1000) for _ in range(BODIES)]
    try:
        told: tuple[int, Any] = 200, None
        while told[0] != 503:  # until all of them were seen
            told = server.request("PUT", SCENE, b"{}")
        assert "one at a time" in refused(told, "BusyError")
        put(server, scene_of(2), "other")
    finally:
        for opened in slow:
            opened.close()
    while server.replica.bodies:  # until it was noticed that they hung up
        with suppress(AssertionError):
            refused(server.request("PUT", SCENE, b"{}"))


def test_a_length_that_lies_ends_with_a_name(server: IngressServer, other: None) -> None:
    for length in (2 << 30, LIMITS.keyframe_bytes + 1):
        with closing(server.begin("POST", f"{SCENE}/keyframes", length)) as opened:
            assert f"a body of {length} bytes" in refused(answered(opened))


def test_a_scene_pushed_out_by_the_robots_own_is_said_to_be_missing(
    server: IngressServer, other: None
) -> None:
    scene = scene_of(1)
    put(server, scene)
    listed = dumped(to_json(SceneList.from_snapshot(scene)))
    for session in ("s2", "s3"):
        assert server.request("PUT", f"scenes/{session}", listed)[0] == 200
    told = server.request("POST", f"{SCENE}/ask", dumped(call_of(scene)))
    refused(told, "KeyframesMissingError")
    for session in ("s2", "s3"):
        server.request("DELETE", f"scenes/{session}")


def test_the_robots_own_way_through_a_scene_that_changes(server: IngressServer) -> None:
    """Keyframes come and go, a reset, a scene that is loaded: each list is taken."""
    buffer = KeyframeBuffer(config().keyframe)
    snapshots: list[SceneSnapshot] = []
    for seed in (1, 2):
        for keyframe in scene_of(seed).keyframes:
            shifted = replace(keyframe.frame, stamp_ns=keyframe.frame.stamp_ns + len(snapshots))
            buffer.offer(shifted)
            snapshots.append(buffer.snapshot())
        buffer.reset()
    buffer.restore(replace(snapshots[2], state=replace(snapshots[2].state, epoch=5)))
    for scene in (*snapshots, buffer.snapshot()):
        listed = dumped(to_json(SceneList.from_snapshot(scene)))
        assert server.request("PUT", SCENE, listed)[0] == 200
    server.request("DELETE", SCENE)
