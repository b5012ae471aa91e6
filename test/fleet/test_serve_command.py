"""`ada3d serve`: what it refuses before anything is started, and the numbers of a call."""

from __future__ import annotations

import math
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ada3d_ros import errors
from ada3d_ros.errors import (
    Ada3DError,
    BusyError,
    ConfigError,
    InvalidRequestError,
    KeyframesMissingError,
    ModelError,
)
from ada3d_ros.fleet.protocol import (
    Call,
    SceneList,
    error_from_json,
    error_to_json,
    status_of,
)
from ada3d_ros.fleet.serve import http_options, main, parser, replicas_of
from ada3d_ros.measures import MeasureKind, MeasureRequest, Reference
from ada3d_ros.scene.floor import Floor
from ada3d_ros.store.json_form import to_json
from ada3d_ros.types import Question
from test.support.certificates import self_signed

CALL = Call("d", Question("How many chairs?"), 30.0)
LIST = SceneList(1, 7, Floor(0.1, "estimated", 3), (0.5, -0.25), ((0, 10), (4, 20)))


@pytest.mark.parametrize(
    ("text", "counts"), [("auto", (3, 3)), ("1", (1, 1)), ("2-8", (2, 8)), ("4-4", (4, 4))]
)
def test_replicas(text: str, counts: tuple[int, int]) -> None:
    assert replicas_of(text, 3) == counts


@pytest.mark.parametrize("text", ["0", "8-2", "-1", "many", "2-", "", "1-2-3"])
def test_other_replicas_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="allowed: auto"):
        replicas_of(text, 3)


def test_listening_to_everybody_needs_a_secret(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nobody is asked for a token"):
        http_options(parser().parse_args(["--host", "0.0.0.0"]))
    given = parser().parse_args(["--host", "0.0.0.0", "--secret-file", "s", "--port", "9"])
    assert http_options(given) == {"host": "0.0.0.0", "port": 9}
    for host in ("127.0.0.1", "localhost", "::1"):
        assert http_options(parser().parse_args(["--host", host]))["host"] == host


def test_certificate_and_key_belong_together(tmp_path: Path) -> None:
    cert, key = map(Path, self_signed(tmp_path, "ours"))
    for args in (["--tls-cert", str(cert)], ["--tls-key", str(key)]):
        with pytest.raises(ConfigError, match="--tls-cert"):
            http_options(parser().parse_args(args))
    both = ["--tls-cert", str(cert), "--tls-key", str(key)]
    options = http_options(parser().parse_args(both))
    assert (options["ssl_certfile"], options["ssl_keyfile"]) == (str(cert), str(key))
    key.unlink()
    with pytest.raises(ConfigError, match="no file"):
        http_options(parser().parse_args(both))


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--port", "0"], "--port 0; allowed: 1 to 65535"),
        (["--port", "65536"], "--port 65536; allowed"),
        (["--port", "-1"], "--port -1; allowed"),
        (["--replicas", "0"], "--replicas 0; allowed"),
        (["--replicas", "1000000"], "--replicas 1000000; allowed"),
        (["--cpus", "0"], "--cpus 0; allowed"),
        (["--cpus", "nan"], "--cpus nan; allowed"),
        (["--metrics-port", "-1"], "--metrics-port -1; allowed"),
        (["--prefixes", "0"], "prefixes = 0"),
        (["--scenes", "-2"], "scenes = -2"),
        (["--waiting", "0"], "waiting = 0"),
        (["--model", "{folder}/none"], "{folder}/none"),
        (["--vision-path", "{folder}/none", "--model", "{folder}"], "{folder}"),
        (["--config", "{folder}/none.yaml"], "no configuration file"),
        (["--address", "127.0.0.1:1"], "no Ray cluster answers there"),
        (["--address", "ray://127.0.0.1:1"], "no Ray cluster answers there"),
        (["--address", "127.0.0.1:99999"], "no Ray cluster answers there"),
        (["--host", "192.0.2.1", "--secret-file", "s"], "nobody can listen there"),
        (["--tls-cert", "{folder}/odd", "--tls-key", "{folder}/odd"], "no certificate and its key"),
    ],
)
def test_odd_arguments_are_told_before_anything_is_started(
    args: list[str],
    says: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    unused_port: str,
) -> None:
    (tmp_path / "odd").write_text("no certificate")
    given = [arg.format(folder=tmp_path) for arg in args]
    assert main(["--port", unused_port, "--model", "embedded", *given]) == 2
    assert says.format(folder=tmp_path) in capsys.readouterr().err


def test_a_port_in_use_is_told_before_anything_is_started(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert main(["--model", "embedded", "--port", port]) == 2
    assert f"--port {port}: nobody can listen there" in capsys.readouterr().err


def test_more_scenes_than_memory_are_told_before_anything_is_started(
    capsys: pytest.CaptureFixture[str], unused_port: str
) -> None:
    assert main(["--model", "embedded", "--port", unused_port, "--prefixes", "1000000"]) == 2
    assert "kv cache" in capsys.readouterr().err


@pytest.fixture
def unused_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return str(free.getsockname()[1])


@pytest.mark.parametrize("robot", ["", "a/b", "-probe", "ß", "x" * 65])
def test_a_token_is_of_a_robot_that_can_be(
    robot: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("ray", reason="ray is absent: pip install 'ada3d_ros[serve]'")
    secret = tmp_path / "secret"
    secret.write_bytes(b"0123456789abcdef")
    secret.chmod(0o600)
    assert main([f"--token-of={robot}", "--secret-file", str(secret)]) == 2
    assert "no robot's id" in capsys.readouterr().err


def test_limits_of_a_serve_file_are_checked(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="ray is absent: pip install 'ada3d_ros[serve]'")
    from ada3d_ros.fleet.deployment import build

    for arguments in (
        {"limits": {"prefixes": 0}},
        {"limits": {"scenes": "8"}},
        {"limits": {"waiting": 1.5}},
        {"limits": {"views": 3}},
        {"replicas": [2]},
        {"replicas": "many"},
        {"replicas": [3, 2]},
        {"cpus": 0},
        {"queued": 0},
        {"secret_file": "~nobody-of-this-name/secret"},
        {"secret_file": str(tmp_path / "none")},
        {"settings": {"model.pth": "embedded"}},
    ):
        with pytest.raises(ConfigError):
            build(arguments)


def test_without_a_model_nothing_is_started(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "--model" in capsys.readouterr().err


def test_a_token_needs_the_secret(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("ray", reason="ray is absent: pip install 'ada3d_ros[serve]'")
    assert main(["--token-of", "r1"]) == 2
    assert "--secret-file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"max_new_tokens": 10**6}, "max_new_tokens"),
        ({"max_new_tokens": -1}, "max_new_tokens"),
        ({"keep_ratio": 1.5}, "keep_ratio"),
        ({"max_boxes": 1000}, "max_boxes"),
        ({"min_score": 2.0}, "min_score"),
        ({"deadline_s": 1e9}, "deadline_s"),
    ],
)
def test_numbers_of_a_question_keep_their_ranges(change: dict[str, Any], says: str) -> None:
    call = replace(CALL, question=replace(CALL.question, **change))
    with pytest.raises(InvalidRequestError, match=says):
        Call.read("ask", to_json(call))
    assert str(Call.read("ask", to_json(CALL))) == str(CALL)


def test_a_request_belongs_to_measure_and_its_numbers_are_checked() -> None:
    request = MeasureRequest(MeasureKind.WITHIN, to=Reference(point_m=(0.0, 0.0, 0.0)), radius_m=2)
    measure = replace(CALL, request=request)
    assert Call.read("measure", to_json(measure)).request == request
    for kind, call in (
        ("ask", measure),
        ("measure", CALL),
        ("measure", replace(CALL, request=replace(request, radius_m=1e9))),
        ("measure", replace(CALL, request=replace(request, k=0x7FFFFFFF))),
        (
            "measure",
            replace(CALL, request=replace(request, to=Reference(point_m=(math.nan, 0.0, 0.0)))),
        ),
        ("ask", replace(CALL, timeout_s=0.0)),
        ("ask", replace(CALL, timeout_s=1e9)),
    ):
        with pytest.raises(InvalidRequestError):
            Call.read(kind, to_json(call))


@pytest.mark.parametrize(
    "change",
    [
        {"keyframes": ((4, 20), (0, 10))},
        {"keyframes": ((0, 20), (4, 10))},
        {"keyframes": ((0, 10), (0, 20))},
        {"keyframes": ((0, 0),)},
        {"keyframes": ((-1, 10),)},
        {"epoch": -1},
        {"floor": Floor(math.inf)},
        {"anchor_xy_m": (0.0, math.nan)},
    ],
)
def test_a_list_that_lies_is_refused(change: dict[str, Any]) -> None:
    assert SceneList.read(to_json(LIST)) == LIST
    with pytest.raises(InvalidRequestError):
        SceneList.read(to_json(replace(LIST, **change)))


def test_all_of_a_list_counts_in_its_digest() -> None:
    others = (
        replace(LIST, epoch=2),
        replace(LIST, version=8),
        replace(LIST, floor=Floor(0.2, "estimated", 3)),
        replace(LIST, anchor_xy_m=(0.5, 0.0)),
        replace(LIST, keyframes=((0, 10), (4, 21))),
        replace(LIST, keyframes=((0, 10),)),
    )
    assert len({one.digest() for one in (LIST, *others)}) == len(others) + 1
    assert SceneList.read(to_json(LIST)).digest() == LIST.digest()


def test_errors_come_back_as_they_were() -> None:
    for error in (
        BusyError("many", 4.0),
        KeyframesMissingError("two", (1, 2)),
        errors.NotGroundedError("none"),
        errors.OutOfMemoryError("none left"),
        errors.ConfigError("odd"),
    ):
        back = error_from_json(error_to_json(error))
        assert (type(back), str(back), vars(back)) == (type(error), str(error), vars(error))


@pytest.mark.parametrize(
    "told", [None, 3, {}, {"name": "FrameError"}, {"name": "IntEnum"}, {"name": 7}]
)
def test_what_is_no_error_is_a_fault_of_the_model(told: Any) -> None:
    assert type(error_from_json(told)) is ModelError


def test_a_fault_tells_its_kind_alone() -> None:
    told = error_to_json(KeyError("/home/someone/secret"))
    assert "secret" not in str(told)
    assert told["name"] == "KeyError"
    assert status_of(KeyError()) == 500


def test_statuses() -> None:
    found: dict[type[Ada3DError], int] = {
        errors.AccessDeniedError: 403,
        KeyframesMissingError: 409,
        BusyError: 503,
        errors.QuestionTooLongError: 400,
        errors.NotMeasurableError: 422,
        errors.RequestTimeoutError: 504,
        errors.CheckpointError: 500,
    }
    assert {kind: status_of(kind("")) for kind in found} == found
