"""The scenes of many robots on one model: who may be asked about what, what is freed, what lies."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from ada3d_ros.engine import streaming
from ada3d_ros.errors import (
    BusyError,
    CanceledError,
    ConfigError,
    DeviceLostError,
    InvalidRequestError,
    KeyframesMissingError,
    LoadingError,
    OutOfMemoryError,
)
from ada3d_ros.fleet.protocol import Call, SceneList
from ada3d_ros.fleet.replica_probe import ReplicaProbe
from ada3d_ros.fleet.scene_host import SceneHost
from ada3d_ros.fleet.scene_store import HostLimits
from ada3d_ros.measures import MeasureKind, MeasureRequest, Reference
from ada3d_ros.pipeline import Ada3DPipeline
from ada3d_ros.scene.keyframes import SceneSnapshot
from ada3d_ros.store.keyframe_bytes import pack_keyframe, unpack_keyframe
from ada3d_ros.types import Answer, AskHooks, Question, Scope
from test.support.hosted_scenes import ASK, VIEWS, config, scene_of

LIMITS = HostLimits(prefixes=2, scenes=4, a_robot=2, waiting=2)


def in_process(scene: SceneSnapshot) -> Ada3DPipeline:
    """A pipeline of this scene alone, its images as they are after the way to a server."""
    sent = tuple(unpack_keyframe(pack_keyframe(keyframe)) for keyframe in scene.keyframes)
    local = Ada3DPipeline(config())
    local.load()
    local.restore(replace(scene, keyframes=sent))
    return local


@pytest.fixture(scope="module")
def shared_host() -> Iterator[SceneHost]:
    host = SceneHost(config(), LIMITS)
    host.load()
    yield host
    assert host.close()


@pytest.fixture
def host(shared_host: SceneHost) -> Iterator[SceneHost]:
    """With no scene in it."""
    yield shared_host
    for robot, session in ROBOTS:
        shared_host.delete(robot, session)


ROBOTS = [(f"r{i}", session) for i in range(8) for session in ("s", "s2", "s3")]


def upload(host: SceneHost, robot: str, scene: SceneSnapshot, session: str = "s") -> None:
    missing = host.put_scene(robot, session, SceneList.from_snapshot(scene))
    for keyframe in scene.keyframes:
        if keyframe.frame.stamp_ns in missing:
            host.put_keyframe(robot, session, pack_keyframe(keyframe))


def call_of(scene: SceneSnapshot, question: Question = ASK, **more: Any) -> Call:
    return Call(SceneList.from_snapshot(scene).digest(), question, 60.0, **more)


def answer(
    host: SceneHost,
    robot: str,
    call: Call,
    kind: str = "ask",
    hooks: AskHooks = AskHooks(),
    session: str = "s",
) -> Answer:
    done, got = threading.Event(), []

    def on_done(result: Answer | None, error: BaseException | None) -> None:
        got.append(error or result)
        done.set()

    host.start(robot, session, kind, call, hooks, on_done)
    assert done.wait(60)
    if isinstance(got[0], BaseException):
        raise got[0]
    return got[0]


def test_robots_are_answered_about_their_own_scenes_as_in_process(host: SceneHost) -> None:
    scenes = {f"r{i}": scene_of(i) for i in range(3)}
    for robot, scene in scenes.items():
        upload(host, robot, scene)
    for robot, scene in scenes.items():
        local = in_process(scene)
        there = Question("Is there a chair?", max_new_tokens=4, routed=False)
        for question in (ASK, there, replace(there, scope=Scope.LATEST_IMAGE)):
            ours, theirs = answer(host, robot, call_of(scene, question)), local.ask(question)
            assert ours.text == theirs.text
            assert ours.keyframe_stamps_ns == theirs.keyframe_stamps_ns
            assert (ours.scene_epoch, ours.scene_version) == scene.version
            assert ours.confidence == theirs.confidence


def test_phrases_are_grounded_and_things_measured(host: SceneHost) -> None:
    scene = scene_of(1)
    upload(host, "r1", scene)
    local = in_process(scene)
    phrase = Question("the table")
    ours, theirs = answer(host, "r1", call_of(scene, phrase), "ground"), local.ground(phrase)
    assert len(ours.boxes) == len(theirs.boxes)
    for mine, its in zip(ours.boxes, theirs.boxes, strict=True):
        np.testing.assert_allclose(mine.center_m, its.center_m, atol=1e-4)
    request = MeasureRequest(
        MeasureKind.DISTANCE,
        of=Reference(point_m=(0.0, 0.0, 0.0)),
        to=Reference(point_m=(1.5, 2.0, 0.0)),
    )
    asked = call_of(scene, Question("How far?"), request=request)
    measured = answer(host, "r1", asked, "measure")
    assert measured.measurement is not None
    assert measured.measurement.values == pytest.approx((2.5,))


def test_the_list_says_what_is_missing_and_a_call_before_is_refused(host: SceneHost) -> None:
    scene = scene_of(2)
    stamps = [keyframe.frame.stamp_ns for keyframe in scene.keyframes]
    before = host.counts().missing
    with pytest.raises(KeyframesMissingError, match="no scene"):
        answer(host, "r1", call_of(scene))
    assert list(host.put_scene("r1", "s", SceneList.from_snapshot(scene))) == stamps
    assert host.put_keyframe("r1", "s", pack_keyframe(scene.keyframes[2])) == 2  # any order
    with pytest.raises(KeyframesMissingError) as raised:
        answer(host, "r1", call_of(scene))
    assert list(raised.value.stamps_ns) == stamps[:2]
    for keyframe in scene.keyframes * 2:  # each twice
        host.put_keyframe("r1", "s", pack_keyframe(keyframe))
    assert answer(host, "r1", call_of(scene)).keyframe_stamps_ns == tuple(stamps)
    assert host.counts().missing == before + 2


def test_another_list_than_the_asked_one_never_answers(host: SceneHost) -> None:
    scene = scene_of(3)
    upload(host, "r1", scene)
    fewer = replace(scene, keyframes=scene.keyframes[1:], state=replace(scene.state, version=9))
    upload(host, "r1", fewer)
    with pytest.raises(KeyframesMissingError, match="another one"):
        answer(host, "r1", call_of(scene))
    assert len(answer(host, "r1", call_of(fewer)).keyframe_stamps_ns) == VIEWS - 1


def test_the_least_recently_used_prefixes_go_first_then_scenes(host: SceneHost) -> None:
    scenes = {f"r{i}": scene_of(i) for i in range(6)}
    before = host.counts()
    for robot in ("r0", "r1", "r2"):
        upload(host, robot, scenes[robot])
        answer(host, robot, call_of(scenes[robot]))
    now = host.counts()
    assert (now.scenes, now.prefixes) == (3, 2)
    assert now.freed_prefixes > before.freed_prefixes
    texts = {robot: answer(host, robot, call_of(scenes[robot])).text for robot in ("r0", "r1")}
    for robot in ("r3", "r4", "r5"):
        upload(host, robot, scenes[robot])
        answer(host, robot, call_of(scenes[robot]))
    now = host.counts()
    assert (now.scenes, now.prefixes) == (4, 2)
    assert now.freed_scenes == before.freed_scenes + 2
    with pytest.raises(KeyframesMissingError):  # r2 was asked least recently, then r0
        answer(host, "r2", call_of(scenes["r2"]))
    upload(host, "r0", scenes["r0"])
    assert answer(host, "r0", call_of(scenes["r0"])).text == texts["r0"]


def test_a_robot_has_few_sessions_and_others_keep_theirs(host: SceneHost) -> None:
    scene = scene_of(1)
    upload(host, "r2", scene)
    for session in ("s", "s2", "s3"):
        upload(host, "r1", scene, session)
    with pytest.raises(KeyframesMissingError):
        answer(host, "r1", call_of(scene))
    answer(host, "r1", call_of(scene), session="s3")
    answer(host, "r2", call_of(scene))


def test_a_question_on_a_prefix_that_is_there_counts_as_a_hit(host: SceneHost) -> None:
    scene = scene_of(4)
    upload(host, "r1", scene)
    answer(host, "r1", call_of(scene))
    hits = host.counts().cache_hits
    answer(host, "r1", call_of(scene))
    assert host.counts().cache_hits == hits + 1


def blocked(host: SceneHost, robot: str, scene: SceneSnapshot) -> tuple[threading.Event, Any]:
    """A question that is being answered until the event is set."""
    began, go_on = threading.Event(), threading.Event()

    def on_stage(stage: object) -> None:
        began.set()
        go_on.wait(60)

    results: list[Any] = []
    job = host.start(
        robot,
        "s",
        "ask",
        call_of(scene),
        AskHooks(on_stage=on_stage),
        lambda result, error: results.append(error or result),
    )
    assert began.wait(60)
    return go_on, (job, results)


def test_a_full_queue_is_busy_and_says_how_long(host: SceneHost) -> None:
    scene = scene_of(1)
    upload(host, "r1", scene)
    go_on, _ = blocked(host, "r1", scene)
    try:
        jobs = [
            host.start("r1", "s", "ask", call_of(scene), AskHooks(), lambda *_: None)
            for _ in range(LIMITS.waiting)
        ]
        with pytest.raises(BusyError) as raised:
            host.start("r1", "s", "ask", call_of(scene), AskHooks(), lambda *_: None)
        assert raised.value.retry_after_s >= 1.0
        for job in jobs:
            host.cancel(job)
    finally:
        go_on.set()
    answer(host, "r1", call_of(scene))


def test_a_caller_who_hangs_up_stops_the_answer(host: SceneHost) -> None:
    scene = scene_of(1)
    upload(host, "r1", scene)
    go_on, (job, results) = blocked(host, "r1", scene)
    host.cancel(job)
    go_on.set()
    answer(host, "r1", call_of(scene))  # the next in the queue
    assert isinstance(results[0], CanceledError)


def test_an_answer_that_ends_early_is_counted_with_its_tokens(
    host: SceneHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    word = torch.tensor(host.opened[0].tokenizer.encode("red")[-1])
    monkeypatch.setattr(streaming, "make_sampler", lambda *_: lambda logits: word)
    scene, jobs, ended = scene_of(1), [], threading.Event()
    upload(host, "r1", scene)
    before, begun = host.counts(), threading.Event()

    def on_text(delta: str, num_tokens: int) -> None:
        assert begun.wait(60)
        if num_tokens == 7:
            host.cancel(jobs[0])

    call = call_of(scene, replace(ASK, max_new_tokens=100))
    hooks = AskHooks(on_text=on_text)
    jobs.append(host.start("r1", "s", "ask", call, hooks, lambda *_: ended.set()))
    begun.set()
    assert ended.wait(60)
    after = host.counts()
    assert (after.canceled, after.canceled_tokens) == (before.canceled + 1, 7)


def test_lists_that_lie_are_refused_and_others_are_answered_as_before(host: SceneHost) -> None:
    scene, other = scene_of(1), scene_of(2)
    upload(host, "r1", scene)
    upload(host, "r2", other)
    text = answer(host, "r2", call_of(other)).text
    listed = SceneList.from_snapshot(scene)
    (first, stamp), *rest = listed.keyframes
    with pytest.raises(InvalidRequestError, match="an index names one keyframe"):
        host.put_scene("r1", "s", replace(listed, keyframes=((first, stamp - 1), *rest)))
    many = tuple((i, i + 1) for i in range(VIEWS + 1))
    with pytest.raises(InvalidRequestError, match="takes up to 3"):
        host.put_scene("r1", "s", replace(listed, epoch=7, keyframes=many))
    last = scene.keyframes[-1]
    future = replace(last.frame, stamp_ns=last.frame.stamp_ns + 10**18)
    with pytest.raises(InvalidRequestError, match="not in the scene's list"):
        host.put_keyframe("r1", "s", pack_keyframe(replace(last, frame=future)))
    with pytest.raises(InvalidRequestError):
        host.put_keyframe("r1", "s", pack_keyframe(last)[:500])
    answer(host, "r1", call_of(scene))
    assert answer(host, "r2", call_of(other)).text == text


def test_keyframes_posed_in_two_worlds_are_refused_at_the_question(host: SceneHost) -> None:
    scene = scene_of(1)
    last = scene.keyframes[-1]
    odom = replace(last, frame=replace(last.frame, frame_id="odom"))
    mixed = replace(scene, keyframes=(*scene.keyframes[:-1], odom))
    upload(host, "r1", mixed)
    with pytest.raises(InvalidRequestError, match="odom"):
        answer(host, "r1", call_of(mixed))


@pytest.mark.parametrize("fails", [1, 2])
def test_without_memory_other_prefixes_go_and_it_is_tried_again(
    host: SceneHost, monkeypatch: pytest.MonkeyPatch, fails: int
) -> None:
    scenes = [scene_of(i) for i in range(2)]
    for i, scene in enumerate(scenes):
        upload(host, f"r{i}", scene)
        answer(host, f"r{i}", call_of(scene))
    asked, real = [], Ada3DPipeline.ask

    def ask(pipeline: Ada3DPipeline, question: Question, hooks: AskHooks = AskHooks()) -> Answer:
        asked.append(host.counts().prefixes)
        if len(asked) <= fails:
            raise OutOfMemoryError("none left")
        return real(pipeline, question, hooks)

    monkeypatch.setattr(Ada3DPipeline, "ask", ask)
    if fails == 1:
        answer(host, "r1", call_of(scenes[1]))
    else:
        with pytest.raises(OutOfMemoryError):
            answer(host, "r1", call_of(scenes[1]))
    assert asked == [2, 1]
    monkeypatch.undo()
    answer(host, "r0", call_of(scenes[0]))


def test_images_beyond_the_budget_of_all_scenes_push_out_the_oldest() -> None:
    host = SceneHost(config(), replace(LIMITS, images_mib=0))
    scenes = [scene_of(i) for i in range(2)]
    for i, scene in enumerate(scenes):
        upload(host, f"r{i}", scene)
    assert host.counts().scenes == 1
    with pytest.raises(LoadingError):
        host.start("r1", "s", "ask", call_of(scenes[1]), AskHooks(), lambda *_: None)
    assert host.close()


def test_so_many_scenes_must_fit_into_memory() -> None:
    host = SceneHost(config(), HostLimits(prefixes=10**6))
    with pytest.raises(OutOfMemoryError, match="kv cache"):
        host.load()
    assert host.close()


def test_a_detector_is_refused() -> None:
    with pytest.raises(ConfigError, match="keyframes alone"):
        SceneHost(config(**{"detector.path": "yolo.onnx"}))


def test_the_probe_asks_where_nobody_else_did(host: SceneHost) -> None:
    probe = ReplicaProbe(host)
    probe.check()
    before = host.finished
    probe.check()
    assert host.finished == before + 1
    scene = scene_of(1)
    upload(host, "r1", scene)
    answer(host, "r1", call_of(scene))
    probe.check()
    assert host.finished == before + 2  # the robot's question was sign enough


def test_a_lost_device_is_told_to_everybody(monkeypatch: pytest.MonkeyPatch) -> None:
    host, scene = SceneHost(config(), LIMITS), scene_of(1)
    host.load()
    upload(host, "r1", scene)

    def ask(pipeline: Ada3DPipeline, question: Question, hooks: AskHooks = AskHooks()) -> Answer:
        raise DeviceLostError("the GPU is gone")

    monkeypatch.setattr(Ada3DPipeline, "ask", ask)
    for _ in range(2):
        with pytest.raises(DeviceLostError):
            answer(host, "r1", call_of(scene))
    with pytest.raises(DeviceLostError):
        ReplicaProbe(host).check()
    assert host.close()
