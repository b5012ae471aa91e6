"""A robot whose questions a server answers: what goes up when, and what comes of a lost server."""

from __future__ import annotations

import importlib.util
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ada3d_ros.config import AgentConfig, from_flat
from ada3d_ros.create_pipeline import create_pipeline
from ada3d_ros.errors import (
    AccessDeniedError,
    BusyError,
    CanceledError,
    ConfigError,
    ErrorCode,
    InvalidRequestError,
    ModelError,
    NoFramesError,
    NotGroundedError,
    RemoteLostError,
)
from ada3d_ros.fleet.protocol import Call, SceneList, check_token, token_of
from ada3d_ros.fleet.remote_pipeline import RemotePipeline
from ada3d_ros.measures import MeasureKind, MeasureRequest, Reference
from ada3d_ros.scene.keyframes import SceneSnapshot
from ada3d_ros.store.named_scenes import NamedScenes
from ada3d_ros.store.writer import SceneWriter
from ada3d_ros.types import Answer, AskHooks, Question
from test.support.box_room import build_box_room
from test.support.fleet_server import Lines, ScriptedServer, answer_to, endless, scripted_server

ROOT = Path(__file__).resolve().parents[2]
FRAMES = build_box_room(seed=3, num_views=4, width=80, height=60).frames
ASK = Question("How many chairs are there?")
FREE = "http://127.0.0.1:9"  # nobody listens


@pytest.fixture
def served() -> Iterator[tuple[str, ScriptedServer]]:
    with scripted_server() as made:
        yield made


def robot(url: str, frames: int = 3, **settings: Any) -> RemotePipeline:
    flat = {"model.remote": url, "remote.robot_id": "r1", "remote.retry_sec": 0.0, **settings}
    pipeline = create_pipeline(from_flat(flat), background=True)
    assert isinstance(pipeline, RemotePipeline)
    pipeline.check()
    pipeline.load()
    for frame in FRAMES[:frames]:
        pipeline.observe(frame)
    return pipeline


def send_all(pipeline: RemotePipeline) -> int:
    steps = 1
    while pipeline.run_background_step():
        steps += 1
    return steps


def test_keyframes_go_up_once_between_questions(served: tuple[str, ScriptedServer]) -> None:
    url, server = served
    pipeline = robot(url)
    assert pipeline.info is not None
    assert (pipeline.info.name, pipeline.info.device) == ("scripted", f"cpu of {url}")
    send_all(pipeline)
    sent = [method for method, what in server.requests if what == "keyframes"]
    assert len(sent) == len(pipeline.scene.keyframes) == 3
    assert pipeline.ask(ASK).text == "two chairs"
    assert server.requests[-1] == ("POST", "ask")
    assert not pipeline.run_background_step()
    pipeline.observe(FRAMES[3])
    send_all(pipeline)
    assert [what for _, what in server.requests].count("keyframes") == 4
    assert pipeline.ask(ASK).keyframe_stamps_ns == tuple(f.stamp_ns for f in FRAMES)
    assert pipeline.counts.answers == 2
    assert pipeline.upload.again == 0
    assert {headers["x-session-id"] for headers in server.headers} == {"r1"}
    assert pipeline.upload.connection.traffic.connections == 1


def test_a_saved_scene_is_asked_about_as_the_robots_own(
    served: tuple[str, ScriptedServer], tmp_path: Path
) -> None:
    url, server = served
    before, store = robot(url), NamedScenes(tmp_path)
    writer = SceneWriter(store.open("kitchen", FRAMES[0].frame_id))
    writer.note_scene(before.scene)
    assert before.kept_objects() is None  # they are the server's
    assert writer.close(60.0)

    after = robot(url, frames=0)
    after.load_scene(store.read("kitchen").scene)
    assert after.scene.state == before.scene.state
    expected = tuple(frame.stamp_ns for frame in FRAMES[:3])
    assert after.ask(ASK).keyframe_stamps_ns == expected

    # Another scene is another session: neither takes the other's place at the server.
    other = after.beside()
    other.observe(FRAMES[3])
    assert len(other.ask(ASK).keyframe_stamps_ns) == 1
    assert after.ask(ASK).keyframe_stamps_ns == expected
    assert (after.upload.again, other.upload.again) == (0, 0)
    assert [what for _, what in server.requests].count("keyframes") == 4


def test_a_question_sends_first_what_is_missing(served: tuple[str, ScriptedServer]) -> None:
    url, _ = served
    pipeline = robot(url)
    assert len(pipeline.ask(ASK).keyframe_stamps_ns) == 3


def test_a_long_question_is_a_body_and_a_short_one_a_header(
    served: tuple[str, ScriptedServer],
) -> None:
    url, server = served
    pipeline = robot(url)
    for text, is_header in (("Where is the chair?", True), ("ß" * 2000, False)):
        assert pipeline.ask(Question(text)).question == text
        assert ("x-ada3d-call" in server.headers[-1]) == is_header
        assert (server.headers[-1]["Content-Length"] == "0") == is_header


def test_a_server_that_lost_the_scene_gets_it_again(served: tuple[str, ScriptedServer]) -> None:
    url, server = served
    pipeline = robot(url)
    assert pipeline.ask(ASK).text == "two chairs"
    server.forget()
    assert pipeline.ask(ASK).text == "two chairs"
    assert (pipeline.upload.again, pipeline.upload.sent) == (1, 6)
    server.forget()
    pipeline.observe(FRAMES[3])  # the list goes up again, and says what lacks
    send_all(pipeline)
    assert len(pipeline.ask(ASK).keyframe_stamps_ns) == 4


def test_text_and_stages_are_handed_on_as_they_come(served: tuple[str, ScriptedServer]) -> None:
    url, _ = served
    pieces: list[Any] = []
    hooks = AskHooks(
        on_stage=lambda stage: pieces.append(stage.name),
        on_text=lambda delta, tokens: pieces.append((delta, tokens)),
    )
    robot(url).ask(ASK, hooks)
    assert pieces == ["DECODING", ("two ", 1), ("chairs", 2)]


def test_ground_and_measure_are_calls_of_their_own(served: tuple[str, ScriptedServer]) -> None:
    url, server = served
    asked: list[tuple[str, Call]] = []

    def script(kind: str, call: Call, listed: SceneList) -> Lines:
        asked.append((kind, call))
        return server.two_pieces(kind, call, listed)

    server.script = script
    pipeline = robot(url)
    pipeline.ground(Question("the chair", max_boxes=3))
    request = MeasureRequest(MeasureKind.SIZE, of=Reference(phrase="chair"))
    pipeline.measure(request)
    assert [kind for kind, _ in asked] == ["ground", "measure"]
    assert asked[0][1].question.max_boxes == 3
    assert str(asked[1][1].request) == str(request)


def test_the_robots_settings_go_with_the_question(served: tuple[str, ScriptedServer]) -> None:
    url, server = served
    asked: list[Question] = []

    def script(kind: str, call: Call, listed: SceneList) -> Lines:
        asked.append(call.question)
        return server.two_pieces(kind, call, listed)

    server.script = script
    pipeline = robot(url, **{"generation.max_new_tokens": 17, "boxes.min_score": 0.4})
    pipeline.ask(ASK)
    pipeline.ask(replace(ASK, max_new_tokens=5))
    assert [(q.max_new_tokens, q.min_score) for q in asked] == [(17, 0.4), (5, 0.4)]


def test_an_error_of_the_server_is_of_its_own_class(served: tuple[str, ScriptedServer]) -> None:
    url, server = served

    def script(kind: str, call: Call, listed: SceneList) -> Lines:
        raise NotGroundedError("no chair is found")

    server.script = script
    pipeline = robot(url)
    with pytest.raises(NotGroundedError, match="no chair is found"):
        pipeline.ask(ASK)
    assert pipeline.answers_from == "server"


def test_a_busy_server_says_when_to_ask_again(served: tuple[str, ScriptedServer]) -> None:
    url, server = served

    def script(kind: str, call: Call, listed: SceneList) -> Lines:
        raise BusyError("many wait", 3.0)

    server.script = script
    pipeline = robot(url)
    with pytest.raises(BusyError) as raised:
        pipeline.ask(ASK)
    assert raised.value.retry_after_s == 3.0
    server.status = 503  # of the proxy, which has no words of ours
    with pytest.raises(BusyError, match="7 s") as raised:
        pipeline.ask(ASK)
    assert raised.value.retry_after_s == 7.0


def test_a_lost_server_is_an_error_of_its_own(served: tuple[str, ScriptedServer]) -> None:
    url, server = served
    pipeline = robot(url)
    pipeline.ask(ASK)
    server.lost = True
    with pytest.raises(RemoteLostError, match="cannot be reached") as raised:
        pipeline.ask(ASK)
    assert raised.value.code is ErrorCode.REMOTE_LOST
    assert pipeline.remote_report()["remote.answers_from"] == "nobody"
    assert not pipeline.run_background_step()
    server.lost = False
    assert pipeline.ask(ASK).text == "two chairs"
    assert pipeline.problem == ""


def test_a_server_that_is_not_there_yet_is_found_later() -> None:
    pipeline = robot(FREE)
    assert pipeline.ready
    assert pipeline.problem
    with pytest.raises(RemoteLostError):
        pipeline.ask(ASK)


def test_a_question_is_tried_again_while_time_is_left(served: tuple[str, ScriptedServer]) -> None:
    url, server = served
    pipeline = robot(url, **{"remote.retry_sec": 30.0})
    pipeline.ask(ASK)
    server.lost = True
    checks = 0

    def check() -> None:
        nonlocal checks
        checks += 1
        server.lost = pipeline.counts.retries < 2

    assert pipeline.ask(ASK, AskHooks(check=check)).text == "two chairs"
    assert pipeline.counts.retries >= 2


def test_an_answer_begun_anew_goes_on_where_its_text_was(
    served: tuple[str, ScriptedServer],
) -> None:
    url, server = served

    def broken(kind: str, call: Call, listed: SceneList) -> Lines:
        server.script = server.two_pieces
        yield {"text": "two ", "tokens": 1}

    server.script = broken
    pieces: list[str] = []
    pipeline = robot(url, **{"remote.retry_sec": 30.0})
    pipeline.ask(ASK, AskHooks(on_text=lambda delta, tokens: pieces.append(delta)))
    assert pieces == ["two ", "chairs"]


def test_a_canceled_question_hangs_up(served: tuple[str, ScriptedServer]) -> None:
    url, server = served
    server.script = lambda kind, call, listed: endless(server.hung_up)
    pipeline = robot(url)
    pieces: list[int] = []

    def check() -> None:
        if len(pieces) >= 5:
            raise CanceledError("enough")

    with pytest.raises(CanceledError):
        pipeline.ask(ASK, AskHooks(check=check, on_text=lambda delta, n: pieces.append(n)))
    assert server.hung_up.wait(10)
    server.script = server.two_pieces
    assert pipeline.ask(ASK).text == "two chairs"


@pytest.mark.parametrize(
    "line",
    [
        {"answer": {"question": "?"}},
        {"answer": 3},
        {"error": "bad"},
        {"text": "no end", "tokens": 1},
    ],
)
def test_what_is_no_answer_is_an_error_with_a_name(
    served: tuple[str, ScriptedServer], line: dict[str, Any]
) -> None:
    url, server = served
    server.script = lambda kind, call, listed: iter([line])
    with pytest.raises((InvalidRequestError, ModelError, RemoteLostError)):
        robot(url).ask(ASK)


class Local:
    """In the place of a model."""

    def __init__(self, config: AgentConfig) -> None:
        self.config, self.info, self.restored = config, None, 0

    def check(self) -> None: ...

    def load(self) -> None: ...

    def restore(self, scene: SceneSnapshot) -> bool:
        self.restored += 1
        self.scene = scene
        return True

    def ask(self, question: Question, hooks: AskHooks) -> Answer:
        return answer_to(question, "from here", SceneList.from_snapshot(self.scene))


def test_a_fall_back_answers_while_the_server_is_lost(served: tuple[str, ScriptedServer]) -> None:
    url, server = served
    made: list[Local] = []

    def make(config: AgentConfig) -> Any:
        made.append(Local(config))
        return made[-1]

    flat = {"model.remote": url, "remote.robot_id": "r1", "remote.retry_sec": 0.0}
    pipeline = RemotePipeline(from_flat(flat | {"remote.fallback": "embedded"}), True, make)
    pipeline.load()
    for frame in FRAMES[:3]:
        pipeline.observe(frame)
    assert pipeline.ask(ASK).text == "two chairs"
    assert made == []
    server.lost = True
    assert pipeline.ask(ASK).text == "from here"
    assert pipeline.answers_from == "fall-back embedded"
    assert pipeline.ask(ASK).text == "from here"
    assert len(made) == 1
    server.lost = False
    pipeline.backoff.worked()  # its wait is over
    assert pipeline.ask(ASK).text == "two chairs"
    assert pipeline.answers_from == "server"
    assert (pipeline.counts.answers, pipeline.counts.fallback_answers) == (2, 2)


def test_without_keyframes_nothing_is_asked(served: tuple[str, ScriptedServer]) -> None:
    url, server = served
    with pytest.raises(NoFramesError):
        robot(url, frames=0).ask(ASK)
    assert server.requests == [("GET", "model")]


@pytest.mark.parametrize(
    "url",
    [
        "host:8000",
        "//host:8000",
        "ftp://host:8000",
        "HTTPS//host",
        "http://",
        "http://host:0",
        "http://host:65536",
        "http://host:99999",
        "http://host:",
        "http://host:8000/",
        "http://host:8000/v1",
        "http://host:8000?a=b",
        "http://user:secret@host:8000",
        "http://ho st:8000",
        "http://host:8000\n",
        "http://[::1",
    ],
)
def test_what_is_no_address_of_a_server_is_refused_with_the_form(url: str) -> None:
    with pytest.raises(ConfigError, match="PORT from 1 to 65535; nothing behind it") as raised:
        from_flat({"model.remote": url})
    assert repr(url) in str(raised.value)


@pytest.mark.parametrize(
    "url", ["http://host", "https://a-b.local:1", "http://10.0.0.1:65535", "https://[fe80::1]:8000"]
)
def test_addresses_of_servers(url: str) -> None:
    assert from_flat({"model.remote": url}).model.remote == url


def test_a_machines_name_that_is_no_id_asks_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "-robot seven-")
    with pytest.raises(ConfigError, match=r"'-robot seven-', is no robot's id .*remote.robot_id"):
        create_pipeline(from_flat({"model.remote": FREE})).check()


@pytest.mark.parametrize(
    "told", [b"<html>", b"[]", b'{"name": "another"}', b"\xff", b'{"name": 7}', b"null"]
)
def test_a_server_of_another_kind_is_lost_and_named(
    served: tuple[str, ScriptedServer], told: bytes
) -> None:
    url, server = served
    server.model_told = told
    pipeline = robot(url)
    with pytest.raises(RemoteLostError, match="not as `ada3d serve` of this version"):
        pipeline.ask(ASK)
    assert "not as `ada3d serve`" in pipeline.remote_problem
    server.model_told = b""
    assert pipeline.ask(ASK).text == "two chairs"


@pytest.mark.parametrize("seconds", [None, "soon", 0.5])
def test_an_answer_of_another_version_is_named(
    served: tuple[str, ScriptedServer], seconds: object
) -> None:
    url, server = served
    line = {"answer": {"question": "?", "words": "?"}, "server_s": seconds}
    server.script = lambda kind, call, listed: iter([line])
    with pytest.raises(ModelError, match=r"cannot be read .*of this version"):
        robot(url).ask(ASK)


def test_a_fall_back_that_could_never_answer_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flat = {"model.remote": FREE, "remote.robot_id": "r1"}
    for path in ("embeded", str(tmp_path)):
        with pytest.raises(ConfigError, match="there is no checkpoint"):
            create_pipeline(from_flat(flat | {"remote.fallback": path})).check()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="torch is not installed"):
        create_pipeline(from_flat(flat | {"remote.fallback": "embedded"})).check()


def test_a_detector_or_a_bad_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "lines").write_text("a token\nand another")
    (tmp_path / "odd").write_text("kein Schlüssel")
    for settings, says in (
        ({"detector.path": "yolo.onnx"}, "leave it"),
        ({"remote.token_file": str(tmp_path / "none")}, "cannot be read"),
        ({"remote.token_file": str(tmp_path)}, "cannot be read"),
        ({"remote.token_file": str(tmp_path / "odd")}, "cannot be read"),
        ({"remote.token_file": "~nobody-of-this-name/token"}, "cannot be read"),
        ({"remote.token_file": str(tmp_path / "empty")}, "holds no token"),
        ({"remote.token_file": str(tmp_path / "lines")}, "holds no token"),
        ({"remote.ca_file": str(tmp_path / "none")}, "no certificate"),
        ({"remote.ca_file": str(tmp_path / "odd")}, "no certificate"),
        ({"remote.ca_file": "~nobody-of-this-name/ca"}, "no certificate"),
    ):
        config = from_flat({"model.remote": "https://127.0.0.1:9", **settings})
        with pytest.raises(ConfigError, match=says):
            create_pipeline(config).check()


def test_a_token_belongs_to_one_robot() -> None:
    secret = b"0123456789abcdef"
    check_token(secret, "r1", f"Bearer {token_of(secret, 'r1')}")
    for header in (
        None,
        "",
        "Bearer ",
        f"Basic {token_of(secret, 'r1')}",
        f"Bearer {token_of(secret, 'r2')}",
        f"Bearer {token_of(b'another secret!!', 'r1')}",
    ):
        with pytest.raises(AccessDeniedError):
            check_token(secret, "r1", header)


PROCESS = """
import sys
class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "transformers", "ray", "fastapi"):
            raise ImportError(f"{name} is forbidden here")
sys.meta_path.insert(0, NoTorch())
from ada3d_ros.config import from_flat
from ada3d_ros.create_pipeline import create_pipeline
from ada3d_ros.types import Question
from test.support.box_room import build_box_room
pipeline = create_pipeline(from_flat({"model.remote": sys.argv[1]}), background=True)
pipeline.check(); pipeline.load()
for frame in build_box_room(seed=3, num_views=20, width=640, height=480).frames:
    pipeline.observe(frame)
while pipeline.run_background_step(): pass
print(pipeline.ask(Question("How many chairs are there?")).text)
lines = open("/proc/self/status").read().splitlines()
print(next(line.split()[1] for line in lines if line.startswith("VmHWM")))
"""


def test_the_robots_process_is_small_and_loads_no_torch(
    served: tuple[str, ScriptedServer],
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROCESS, served[0]], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    text, peak_kib = done.stdout.split("\n")[:2]
    assert text == "two chairs"
    frames = 20 * 640 * 480 * 7 / 1024  # twenty keyframes are the robot's in any case
    assert int(peak_kib) - frames < 250 * 1024
