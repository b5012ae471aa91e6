"""A robot and its server over TLS: who is trusted, what is said of who is not, tokens over it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ada3d_ros.config import from_flat
from ada3d_ros.errors import AccessDeniedError, RemoteLostError
from ada3d_ros.fleet.protocol import token_of
from ada3d_ros.fleet.remote_pipeline import RemotePipeline
from ada3d_ros.types import Question
from test.support.box_room import build_box_room
from test.support.certificates import self_signed
from test.support.fleet_server import ScriptedServer, scripted_server

FRAMES = build_box_room(seed=3, num_views=3, width=80, height=60).frames
ASK = Question("How many chairs are there?")
SECRET = b"of a test, and of nothing else"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With certificates ours.pem, of the server, and another.pem."""
    made = tmp_path_factory.mktemp("tls")
    for name in ("ours", "another"):
        self_signed(made, name)
    return made


@pytest.fixture
def served(folder: Path) -> Iterator[tuple[str, ScriptedServer]]:
    tls = str(folder / "ours.pem"), str(folder / "ours.key")
    with scripted_server(tls=tls) as (url, server):
        server.secret = SECRET
        yield url, server


def robot(folder: Path, url: str, ca: str = "ours", token: str = "r1") -> RemotePipeline:
    (folder / "token").write_text(token_of(SECRET, token))
    flat: dict[str, Any] = {
        "model.remote": url,
        "remote.robot_id": "r1",
        "remote.retry_sec": 0.0,
        "remote.token_file": str(folder / "token"),
        "remote.ca_file": str(folder / f"{ca}.pem") if ca else "",
    }
    pipeline = RemotePipeline(from_flat(flat), background=True)
    pipeline.check()
    for frame in FRAMES:
        pipeline.observe(frame)
    return pipeline


def test_a_trusted_server_answers_and_the_token_goes_with_each_request(
    folder: Path, served: tuple[str, ScriptedServer]
) -> None:
    url, server = served
    pipeline = robot(folder, url)
    pipeline.load()
    assert len(pipeline.ask(ASK).keyframe_stamps_ns) == 3
    assert [what for _, what in server.requests].count("keyframes") == 3
    assert {sent["Authorization"] for sent in server.headers} == {
        f"Bearer {token_of(SECRET, 'r1')}"
    }
    assert pipeline.remote_report()["remote.url"] == url
    assert url.startswith("https://")


@pytest.mark.parametrize(
    ("ca", "host", "says"),
    [
        ("another", "127.0.0.1", r"against \S*another.pem \(self-signed certificate"),
        ("", "127.0.0.1", r"against what this system trusts \(self-signed certificate"),
        ("ours", "localhost", "Hostname mismatch"),
    ],
)
def test_who_is_not_trusted_gets_nothing(
    folder: Path, served: tuple[str, ScriptedServer], ca: str, host: str, says: str
) -> None:
    url, server = served
    pipeline = robot(folder, url.replace("127.0.0.1", host), ca)
    with pytest.raises(RemoteLostError, match=f"is not trusted: its certificate .*{says}") as told:
        pipeline.ask(ASK)
    assert "remote.ca_file" in str(told.value)
    assert pipeline.remote_problem == f"nobody answers: {told.value}"
    assert server.requests == []


def test_another_robots_token_opens_nothing(
    folder: Path, served: tuple[str, ScriptedServer]
) -> None:
    url, server = served
    with pytest.raises(AccessDeniedError):
        robot(folder, url, token="r2").load()
    assert server.requests == [("GET", "model")]


def test_tls_on_one_side_alone_is_a_lost_server(
    folder: Path, served: tuple[str, ScriptedServer]
) -> None:
    url, server = served
    with pytest.raises(RemoteLostError, match=r"cannot be reached .*does it take https:// alone"):
        robot(folder, url.replace("https", "http")).ask(ASK)
    with scripted_server() as (plain, _), pytest.raises(RemoteLostError, match="speaks no TLS"):
        robot(folder, plain.replace("http", "https")).ask(ASK)
    assert server.requests == []
