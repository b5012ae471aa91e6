"""A server of one replica over HTTP or TLS, without Ray: it keeps scenes as the real one does, and
answers with what the test says, or with what a model does.
"""

from __future__ import annotations

import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from ada3d_ros.errors import Ada3DError
from ada3d_ros.fleet.protocol import (
    CALL_HEADER,
    Call,
    SceneList,
    check_token,
    error_to_json,
    status_of,
)
from ada3d_ros.fleet.scene_store import HostLimits, Key, SceneStore
from ada3d_ros.store.json_form import to_json
from ada3d_ros.types import Answer, ModelInfo, Question, StopReason
from ada3d_ros.usage import StageTimings, TokenUsage

INFO = ModelInfo("scripted", "1", "", "cpu", "float32", 1, 4, 100, False, True, True)
Lines = Iterator[dict[str, Any]]


def answer_to(question: Question, text: str, listed: SceneList) -> Answer:
    return Answer(
        question=question.text,
        text=text,
        boxes=(),
        stamp_ns=listed.keyframes[-1][1],
        frame_id="map",
        keyframe_stamps_ns=tuple(stamp for _, stamp in listed.keyframes),
        stop_reason=StopReason.EOS,
        tokens=TokenUsage(generated=2),
        timings=StageTimings(total_s=0.001),
        scene_epoch=listed.epoch,
        scene_version=listed.version,
    )


class ScriptedServer:
    """script: makes the lines of an answer. requests: method and last part of the path. secret: of
    the tokens that are asked for, if any.
    """

    def __init__(self) -> None:
        self.info = INFO
        self.store: SceneStore[None] = SceneStore(HostLimits(), 20)
        self.requests: list[tuple[str, str]] = []
        self.headers: list[dict[str, str]] = []
        self.secret = b""
        self.lost = False  # every connection is cut
        self.status = 0  # that is answered instead, without a reason
        self.model_told = b""  # that is answered instead to who asks for the model
        self.hung_up = threading.Event()
        self.script: Callable[[str, Call, SceneList], Lines] = self.two_pieces

    def two_pieces(self, kind: str, call: Call, listed: SceneList) -> Lines:
        yield {"stage": 3}
        yield {"text": "two ", "tokens": 1}
        yield {"text": "chairs", "tokens": 2}
        yield {"answer": to_json(answer_to(call.question, "two chairs", listed)), "server_s": 0.001}

    def forget(self) -> None:
        """As a new replica in the place of this one."""
        self.store = SceneStore(HostLimits(), 20)

    def handle(self, request: BaseHTTPRequestHandler) -> None:
        robot, *rest = request.path.split("/")[3:]
        length = int(request.headers.get("Content-Length", 0))
        body = request.rfile.read(length)
        self.requests.append((request.command, rest[-1] if rest[-1] != rest[1:2] else "scene"))
        self.headers.append(dict(request.headers))
        if self.lost:
            request.close_connection = True
            return
        if self.status:
            _respond(request, self.status, b"no reason")
            return
        try:
            if self.secret:
                check_token(self.secret, robot, request.headers.get("Authorization"))
            if rest == ["model"] and self.model_told:
                _respond(request, 200, self.model_told)
                return
            if rest == ["model"]:
                told: Any = to_json(self.info)
            elif request.command == "PUT":
                listed = SceneList.read(json.loads(body))
                told = {"missing": list(self.store.put_scene((robot, rest[1]), listed))}
            elif rest[-1] == "keyframes":
                told = {"missing": self.store.put_keyframe((robot, rest[1]), body)}
            else:
                call = Call.read(rest[-1], json.loads(request.headers.get(CALL_HEADER) or body))
                self._stream(request, self.lines((robot, rest[1]), rest[-1], call))
                return
        except Ada3DError as error:
            _respond(request, status_of(error), _json({"error": error_to_json(error)}))
            return
        _respond(request, 200, _json(told))

    def lines(self, key: Key, kind: str, call: Call) -> Lines:
        """Of an answer. Raises what refuses it."""
        scene, _ = self.store.whole(key, call.digest)
        return self.script(kind, call, scene.wanted)

    def _stream(self, request: BaseHTTPRequestHandler, lines: Lines) -> None:
        first = next(lines)
        request.send_response(200)
        request.send_header("Transfer-Encoding", "chunked")
        request.end_headers()
        try:
            line: dict[str, Any] | None = first
            while line is not None:
                data = _json(line) + b"\n"
                request.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
                line = next(lines, None)
            request.wfile.write(b"0\r\n\r\n")
        except OSError:
            self.hung_up.set()
            request.close_connection = True


def _json(data: Any) -> bytes:
    return json.dumps(data).encode()


def _respond(request: BaseHTTPRequestHandler, status: int, body: bytes) -> None:
    request.send_response(status)
    request.send_header("Content-Length", str(len(body)))
    if status == 503:
        request.send_header("Retry-After", "7")
    request.end_headers()
    request.wfile.write(body)


@contextmanager
def scripted_server(
    port: int = 0, tls: tuple[str, str] | None = None, server: ScriptedServer | None = None
) -> Iterator[tuple[str, ScriptedServer]]:
    """Its address, and the server. tls: files of its certificate and key; server: one of another
    kind.
    """
    scripted = server or ScriptedServer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            scripted.handle(self)

        do_PUT = do_POST = do_DELETE = do_GET

        def log_message(self, *args: Any) -> None:
            pass

    listening = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    listening.daemon_threads = True
    if tls is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*tls)
        listening.socket = context.wrap_socket(
            listening.socket, server_side=True, do_handshake_on_connect=False
        )
    thread = threading.Thread(target=lambda: listening.serve_forever(0.01), daemon=True)
    thread.start()
    try:
        scheme = "http" if tls is None else "https"
        yield f"{scheme}://127.0.0.1:{listening.server_address[1]}", scripted
    finally:
        listening.shutdown()
        listening.server_close()
        thread.join()


def endless(hung_up: threading.Event) -> Lines:
    """Pieces of a text without an end, until who reads hangs up."""
    count = 0
    while not hung_up.is_set():
        count += 1
        yield {"text": "and ", "tokens": count}
        time.sleep(0.002)
