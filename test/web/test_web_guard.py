"""What the page's server refuses, asked by plain HTTP: Host, Origin, token, size, kind of body."""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette", reason="Starlette is absent: pip install 'ada3d_ros[web]'")
pytest.importorskip("httpx", reason="httpx is absent: pip install 'ada3d_ros[web]'")

from starlette.testclient import TestClient

from ada3d_ros.web.board import MAX_OPEN, Board
from ada3d_ros.web.guard import MAX_BODY, Guard
from ada3d_ros.web.server import STATIC, build_app

TOKEN = "t0kenOfTwentyLetters"
OWN = "http://127.0.0.1:8090"


REFUSED = "w9"  # ends no standing question


class Robot:
    """Takes down what it is asked; its services are itself."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []

    def watch(self, is_watched: bool) -> None:
        self.asked.append(("watch", is_watched))

    def ask(self, turn: str, question: str, keep_ratio: float) -> None:
        self.asked.append(("ask", turn, question, keep_ratio))

    def find(self, turn: str, phrase: str, keep_ratio: float) -> None:
        self.asked.append(("find", turn, phrase, keep_ratio))

    def stop(self, turn: str) -> None:
        self.asked.append(("stop", turn))

    def set_strategy(self, strategy: str) -> None:
        self.asked.append(("strategy", strategy))

    def _told(self, *asked: Any, **fields: Any) -> Future[dict[str, Any]]:
        self.asked.append(asked)
        future: Future[dict[str, Any]] = Future()
        future.set_result(fields)
        return future

    def begin_watch(self, kind: str, text: str, every_s: float) -> Future[dict[str, Any]]:
        return self._told("begin", kind, text, every_s, watch="w1")

    def end_watch(self, watch_id: str) -> Future[dict[str, Any]]:
        if watch_id == REFUSED:
            return self._told("end", watch_id, error="w9 is none that stands.")
        return self._told("end", watch_id, ended=1)

    def list_scenes(self) -> Future[dict[str, Any]]:
        return self._told("list", scenes=[], in_use="")

    def save_scene(self, name: str) -> Future[dict[str, Any]]:
        return self._told("save", name, scene=name)

    def load_scene(self, name: str) -> Future[dict[str, Any]]:
        return self._told("load", name, scene=name)


def client(
    host: str = "127.0.0.1", token: str = "", base: str = OWN
) -> tuple[TestClient, Robot, Board]:
    robot, board = Robot(), Board("/ada3d_agent", ["none"])
    three = STATIC / "dom.js"  # any file: what three.js holds is not looked at here
    app = Guard(build_app(board, robot, robot, three), host, token, "ada3d_8090")
    return TestClient(app, base_url=base, follow_redirects=False), robot, board


@pytest.mark.parametrize(
    ("listens", "host", "status"),
    [
        ("127.0.0.1", "127.0.0.1:8090", 200),
        ("127.0.0.1", "localhost:9000", 200),  # passed on by `ssh -L 9000:localhost:8090`
        ("127.0.0.1", "[::1]:8090", 200),
        ("127.0.0.1", "robot.example:8090", 403),
        ("127.0.0.1", "192.168.1.7:8090", 403),
        ("127.0.0.1", "127.0.0.1.example:8090", 403),
        ("127.0.0.1", "", 403),
        ("127.0.0.1", "[", 403),
        ("0.0.0.0", "192.168.1.7:8090", 200),
        ("0.0.0.0", "robot.example:8090", 403),
        ("robot.example", "ROBOT.example:8090", 200),
    ],
)
def test_the_host_must_be_our_own(listens: str, host: str, status: int) -> None:
    """A name that somebody else bound to our address is not."""
    asked = client(listens)[0]
    assert asked.get("/", headers={"Host": host}).status_code == status


@pytest.mark.parametrize("path", ["/", "/events", "/cloud/1", "/static/page.js"])
@pytest.mark.parametrize(
    "origin", ["http://evil.example", "http://127.0.0.1:3000", "null", "http://["]
)
def test_another_page_gets_nothing(path: str, origin: str) -> None:
    asked = client()[0]
    assert asked.get(path, headers={"Origin": origin}).status_code == 403


def test_another_page_may_not_fetch_without_an_origin() -> None:
    """As <script> and <img> of another site do."""
    asked = client()[0]
    fetched = {"Sec-Fetch-Site": "cross-site"}
    assert asked.get("/cloud/1", headers=fetched).status_code == 403
    assert asked.get("/", headers=fetched).status_code == 200  # a link that was followed


def test_another_page_may_not_ask() -> None:
    asked, robot, _ = client()
    body = {"kind": "ask", "text": "What is there?"}
    assert (
        asked.post("/ask", json=body, headers={"Origin": "http://evil.example"}).status_code == 403
    )
    assert robot.asked == []
    told = asked.post("/ask", json=body, headers={"Origin": OWN})
    assert told.status_code == 200
    assert robot.asked == [("ask", told.json()["turn"], "What is there?", 0.0)]


@pytest.mark.parametrize(
    ("kind", "body", "status"),
    [
        ("text/plain", b'{"kind": "ask", "text": "hi"}', 415),
        ("application/json", b"x" * (MAX_BODY + 1), 413),
        ("application/json", b"[1]", 400),
        ("application/json", b"{", 400),
        ("application/json", b'{"kind": "shout", "text": "hi"}', 400),
        ("application/json", b'{"kind": "ask", "text": 7}', 400),
        ("application/json", b'{"kind": "ask", "text": "hi", "keep_ratio": 1.5}', 400),
        ("application/json", b'{"kind": "ask", "text": "hi", "keep_ratio": NaN}', 400),
        ("application/json", b'{"kind": "ask", "text": "hi", "keep_ratio": true}', 400),
        ("application/json; charset=utf-8", b'{"kind": "find", "text": "hi"}', 200),
    ],
)
def test_a_body_that_is_not_taken(kind: str, body: bytes, status: int) -> None:
    asked, robot, _ = client()
    told = asked.post("/ask", content=body, headers={"Content-Type": kind})
    assert told.status_code == status
    assert len(robot.asked) == (status == 200)


@pytest.mark.parametrize("goes", [True, False], ids=["goes away", "says no more"])
@pytest.mark.parametrize("path", ["/ask", "/stop", "/settings", "/watch", "/unwatch", "/scenes"])
def test_a_body_that_does_not_end_is_no_fault(
    path: str, goes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is raised, which the server would log with a trace; nobody is asked."""
    asked, robot, _ = client()
    monkeypatch.setattr("ada3d_ros.web.server.BODY_S", 0.05)
    messages = [{"type": "http.request", "body": b'{"kind": "ask", "te', "more_body": True}]
    if goes:
        messages.append({"type": "http.disconnect"})
    headers = [
        (b"host", b"127.0.0.1:8090"),
        (b"content-type", b"application/json"),
        (b"content-length", b"100"),
    ]
    scope = {"type": "http", "method": "POST", "path": path, "headers": headers}
    sent: list[Any] = []

    async def receive() -> Any:
        return messages.pop(0) if messages else await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(asked.app({**scope, "query_string": b"", "root_path": ""}, receive, send))
    assert sent[0]["status"] == 400
    assert robot.asked == []


def test_a_body_of_untold_length_is_not_taken() -> None:
    asked = client()[0]
    chunks = (part for part in [b"{}"])
    told = asked.post("/ask", content=chunks, headers={"Content-Type": "application/json"})
    assert told.status_code == 413


@pytest.mark.parametrize("length", ["\u00b2", "-1", "0x2", "9" * 5000])
def test_a_length_that_is_no_number_is_not_taken(length: str) -> None:
    asked, robot, _ = client()
    headers = {"Content-Type": "application/json", "Content-Length": length.encode("latin-1")}
    told = asked.post("/ask", content=b"{}", headers=headers)
    assert told.status_code == 413
    assert robot.asked == []


@pytest.mark.parametrize(
    ("text", "named"),
    [("Is it \ud800?", "U+D800 at 6"), ("a\0b", "U+0000 at 1"), ("\x1b", "U+001B")],
)
def test_text_that_ros_does_not_carry_is_refused(text: str, named: str) -> None:
    """Half of a surrogate pair cannot be sent, and a NUL would cut the question."""
    asked, robot, board = client()
    kind = {"Content-Type": "application/json"}
    body = json.dumps({"kind": "ask", "text": text})  # \\ud800, as a browser sends it
    told = asked.post("/ask", content=body, headers=kind)
    assert (told.status_code, named in told.json()["error"]) == (400, True)
    told = asked.post("/settings", content=json.dumps({"strategy": text}), headers=kind)
    assert (told.status_code, named in told.json()["error"]) == (400, True)
    assert robot.asked == []
    assert not board.turns
    text = "Wo ist der rote Stuhl? \U0001fa91\n"
    assert asked.post("/ask", json={"kind": "ask", "text": text}).status_code == 200
    assert robot.asked[0][2] == text


def test_a_token_is_brought_once_and_kept_in_a_cookie() -> None:
    asked = client("0.0.0.0", TOKEN)[0]
    assert asked.get("/").status_code == 401
    assert asked.get("/cloud/1").status_code == 401
    assert asked.get("/?token=wrong").status_code == 401
    assert asked.get(f"/cloud/1?token={TOKEN}").status_code == 401  # at the page's address alone

    told = asked.get(f"/?token={TOKEN}")
    assert told.status_code == 200
    cookie = told.headers["set-cookie"]
    assert cookie.startswith(f"ada3d_8090={TOKEN};")
    assert "httponly" in cookie.lower()
    assert "samesite=strict" in cookie.lower()
    assert TOKEN not in told.text
    assert asked.get("/").status_code == 200
    assert asked.get("/cloud/1").status_code == 200
    assert asked.get("/", headers={"Cookie": "ada3d_8090=wrong"}).status_code == 401


def test_every_response_has_the_policy() -> None:
    asked = client()[0]
    for told in (asked.get("/"), asked.get("/nothing"), asked.get("/", headers={"Host": "x"})):
        policy = told.headers["content-security-policy"]
        assert policy.startswith("default-src 'self';")
        assert "unsafe" not in policy
        assert told.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "path", ["/static/nothing.js", "/static/../server.py", "/static/%2e%2e%2fserver.py"]
)
def test_nothing_but_the_pages_files_is_served(path: str) -> None:
    asked = client()[0]
    assert asked.get(path).status_code == 404


def test_views_and_kept_tokens_are_served_by_name() -> None:
    asked, _, board = client()
    board.set_keyframes({"epoch": 1, "views": []}, {"1-0": b"picture"})
    turn = board.begin("ask", "What is there?", "p")
    board.end(turn, {"state": "done", "text": "A chair."}, b"places")
    assert asked.get("/views/1-0.jpg").content == b"picture"
    assert asked.get("/views/1-1.jpg").status_code == 404
    assert asked.get(f"/kept/{turn}").content == b"places"


def test_three_js_is_compressed_where_the_browser_takes_it() -> None:
    asked = client()[0]
    packed = asked.get("/three.js", headers={"Accept-Encoding": "gzip, br"})
    plain = asked.get("/three.js", headers={"Accept-Encoding": "identity"})
    assert packed.headers["content-encoding"] == "gzip"
    assert int(packed.headers["content-length"]) < int(plain.headers["content-length"]) / 1.5
    assert packed.text == plain.text == (STATIC / "dom.js").read_text()
    for told in (packed, plain):
        assert told.headers["content-type"].startswith("text/javascript")
        assert told.headers["vary"] == "Accept-Encoding"


def test_too_many_open_questions_are_refused() -> None:
    asked, _, board = client()
    turns = [board.begin("ask", "?", "p") for _ in range(MAX_OPEN)]
    body = {"kind": "ask", "text": "One more?"}
    told = asked.post("/ask", json=body)
    assert told.status_code == 429
    assert "wait" in told.json()["error"]
    board.end(turns[0], {"state": "done"}, b"")
    assert asked.post("/ask", json=body).status_code == 200


def test_a_turn_is_stopped_by_its_name() -> None:
    asked, robot, board = client()
    turn = board.begin("ask", "?", "p")
    assert asked.post("/stop", json={"turn": turn}).status_code == 200
    assert robot.asked == [("stop", turn)]
    for wrong in ({"turn": "x"}, {"turn": ["x"]}, {}):
        assert asked.post("/stop", json=wrong).status_code == 400


@pytest.mark.parametrize(
    ("path", "body", "status", "asked"),
    [
        ("/watch", {"kind": "ask", "text": "Where?"}, 200, ("begin", "ask", "Where?", 0.0)),
        (
            *("/watch", {"kind": "object", "text": "lamp", "every_s": 30}, 200),
            ("begin", "object", "lamp", 30.0),
        ),
        ("/watch", {"kind": "shout", "text": "Where?"}, 400, None),
        ("/watch", {"kind": "ask", "text": ["Where?"]}, 400, None),
        ("/watch", {"kind": ["ask"], "text": "Where?"}, 400, None),
        ("/watch", {"kind": "ask", "text": "a\0b"}, 400, None),
        ("/watch", {"kind": "ask", "text": "Where?", "every_s": True}, 400, None),
        ("/watch", {"kind": "ask", "text": "Where?", "every_s": -1}, 400, None),
        ("/watch", {"kind": "ask", "text": "Where?", "every_s": 10**400}, 400, None),
        ("/watch", {"kind": "ask", "text": "Where?", "every_s": "30"}, 400, None),
        ("/unwatch", {"watch": "w1"}, 200, ("end", "w1")),
        ("/unwatch", {"watch": REFUSED}, 200, ("end", REFUSED)),
        ("/unwatch", {"watch": 1}, 400, None),
        ("/unwatch", {}, 400, None),
        ("/scenes", {"verb": "save", "name": ""}, 200, ("save", "")),
        ("/scenes", {"verb": "load", "name": "../hall"}, 200, ("load", "../hall")),  # the node's
        ("/scenes", {"verb": "delete", "name": "hall"}, 400, None),
        ("/scenes", {"verb": "load", "name": None}, 400, None),
        ("/scenes", {"verb": "load", "name": "\ud800"}, 400, None),
    ],
)
def test_watches_and_scenes(
    path: str, body: dict[str, Any], status: int, asked: tuple[Any, ...] | None
) -> None:
    page, robot, _ = client()
    kind = {"Content-Type": "application/json"}
    told = page.post(path, content=json.dumps(body), headers=kind)
    assert told.status_code == status
    assert robot.asked == ([asked] if asked else [])
    is_refused = status != 200 or REFUSED in body.values()
    assert ("error" in told.json()) == is_refused


def test_the_scenes_are_listed_to_our_own_page_alone() -> None:
    page, robot, _ = client()
    assert page.get("/scenes").json() == {"scenes": [], "in_use": ""}
    assert page.get("/scenes", headers={"Origin": "http://evil.example"}).status_code == 403
    assert robot.asked == [("list",)]


def test_the_page_runs_no_script_of_its_own_text() -> None:
    """No inline script, style or handler: the policy would stop it, and so it would be missed."""
    text = (STATIC / "index.html").read_text()
    assert "<style" not in text
    assert "style=" not in text
    assert "onclick" not in text
    assert text.count("<script") == text.count('<script type="module" src=') == 1
    for file in STATIC.glob("*.js"):
        assert "innerHTML" not in file.read_text()
        assert len(file.read_text().splitlines()) <= 400


def test_a_page_gets_the_whole_and_then_what_changes() -> None:
    board = Board("/ada3d_agent", ["none"])
    turn = board.begin("ask", "Where?", "p")
    queue = board.watch()
    board.add_text(turn, "There")
    board.end(turn, {"state": "failed", "error": "no"}, b"")
    board.add_text(turn, " is more")  # too late
    events = [queue.get_nowait() for _ in range(queue.qsize())]
    assert [name for name, _ in events] == ["whole", "text", "turn"]
    assert json.loads(events[0][1])["turns"][0]["question"] == "Where?"
    assert json.loads(events[2][1])["text"] == "There"


def test_a_page_that_lags_behind_is_let_go() -> None:
    board = Board("/ada3d_agent", ["none"])
    queue = board.watch()
    for number in range(600):
        board.set("cloud", number + 1)
    events = [queue.get_nowait() for _ in range(queue.qsize())]
    assert events[-1] is None
    assert len(events) <= 501


def test_statics_are_all_there() -> None:
    names = {file.name for file in Path(STATIC).iterdir()}
    assert {"index.html", "page.css", "page.js", "scene.js", "icon.svg"} <= names
