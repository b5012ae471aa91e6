"""`ada3d web`: the page in the browser, until it is interrupted."""

from __future__ import annotations

import argparse
import asyncio
import errno
import secrets
import signal
import socket
import sys
import webbrowser
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Event
from types import FrameType
from typing import Any

from ada3d_ros.config import SETTINGS
from ada3d_ros.errors import Ada3DError, ConfigError
from ada3d_ros.ros.client import parse_with_ros_args
from ada3d_ros.ros.discovery import DEFAULT_NODE
from ada3d_ros.ros.page_node import PageNode
from ada3d_ros.web.board import Board

PORT, MAX_PORT = 8090, 65535
LEAST_TOKEN = 16  # characters
NEW_TOKEN = "new"


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="ada3d web",
        description="Serve a page that shows the robot's scene in 3D and takes questions about it."
        " It needs the extra [web]. docs/how-to/use-the-web-page.md.",
        epilog="Example: ada3d web --open",
    )
    add = made.add_argument
    add(
        "--port",
        type=int,
        default=PORT,
        help="where to listen (default %(default)s); 0: any that is free",
    )
    add(
        "--host",
        default="127.0.0.1",
        help="address to listen at (default %(default)s: this machine alone)",
    )
    add("--node", default=DEFAULT_NODE, help="full name of the agent node (default %(default)s)")
    add(
        "--token",
        metavar="FILE",
        default="",
        help=f"file with the token that browsers must bring, {LEAST_TOKEN} characters or more;"
        f" {NEW_TOKEN}: make one. Needed where --host is reached from other machines",
    )
    add("--open", action="store_true", help="open the page in this machine's browser")
    return made


def main(args: Sequence[str] | None = None) -> int:
    """Exit status: 0 ended by a signal, 2 for what does not work."""
    given, ros_args = parse_with_ros_args(parser(), sys.argv[1:] if args is None else args)
    try:
        serve(given, ros_args, print)
    except Ada3DError as error:
        print(f"ada3d web: {error}", file=sys.stderr)
        return 2
    return 0


def read_token(given: str) -> str:
    """The token of `--token`; "" where none is asked for. Raises ConfigError."""
    if given in ("", NEW_TOKEN):
        return secrets.token_urlsafe(24) if given else ""
    try:
        token = Path(given).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", "") or "it is no text"
        raise ConfigError(
            f"--token {given}: the file cannot be read ({why}). `--token {NEW_TOKEN}` makes one."
        ) from None
    if len(token) < LEAST_TOKEN or not token.isascii() or not token.isalnum():
        raise ConfigError(
            f"--token {given}: a token of {len(token)} characters; it must have {LEAST_TOKEN} or"
            f" more, letters and digits alone. `--token {NEW_TOKEN}` makes one."
        )
    return token


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there. Raises ConfigError where that is taken, or not possible."""
    cure = "choose another with --port, or 0 for any that is free"
    if not 0 <= port <= MAX_PORT:
        raise ConfigError(f"--port {port}; allowed: 0 to {MAX_PORT}.")
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(f"port {port} of {host} is taken: {cure}.") from None
        raise ConfigError(f"cannot listen at port {port} of {host} ({error}): {cure}.") from None


def address_of(host: str, port: int, token: str) -> str:
    """What to open in a browser."""
    shown = socket.gethostname() if host in ("", "0.0.0.0", "::") else host
    shown = f"[{shown}]" if ":" in shown else shown
    return f"http://{shown}:{port}/" + (f"?token={token}" if token else "")


def serve(given: argparse.Namespace, ros_args: Sequence[str], say: Callable[[str], object]) -> None:
    """Listen, and serve until a signal. Raises ConfigError."""
    # What must be there; nobody is let in from outside without a token.
    try:
        import uvicorn

        from ada3d_ros.web.guard import Guard, is_loopback
        from ada3d_ros.web.server import build_app, find_three
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("ada3d_ros"):
            raise
        raise ConfigError(
            f"the page needs the package {error.name}, which is not installed:"
            " `pip install -c constraints/python.txt -c constraints/web.txt nicegui`."
        ) from None
    three = find_three()
    if not is_loopback(given.host) and not given.token:
        raise ConfigError(
            f"--host {given.host} is reached from other machines and nobody is asked for a token:"
            f" give --token FILE or --token {NEW_TOKEN}, or listen at 127.0.0.1."
        )
    token = read_token(given.token)
    listening = listen(given.host, given.port)
    port = listening.getsockname()[1]

    async def run() -> None:
        loop = asyncio.get_running_loop()
        board = Board(given.node, list(SETTINGS["pruning.strategy"].choices))
        robot = PageNode(given.node, _OnLoop(loop, board), ros_args)
        app = Guard(
            build_app(board, robot, robot.services, three), given.host, token, f"ada3d_{port}"
        )

        class Server(uvicorn.Server):
            def handle_exit(self, sig: int, frame: FrameType | None) -> None:
                loop.call_soon_threadsafe(board.close)
                super().handle_exit(sig, frame)

        server = Server(
            uvicorn.Config(
                app,
                lifespan="off",
                ws="none",
                log_level="warning",
                server_header=False,
                proxy_headers=False,
                limit_concurrency=200,
                timeout_graceful_shutdown=1,
            )
        )
        server.should_exit = ended.is_set()
        robot.start()
        address = address_of(given.host, port, token)
        say(f"The page is at {address} (Ctrl-C ends it).")
        sys.stdout.flush()
        if given.open:
            loop.run_in_executor(None, webbrowser.open, address)
        try:
            await server.serve(sockets=[listening])
        finally:
            robot.close()

    # uvicorn takes signals while it serves, and sends them once more when it has ended.
    ended = Event()
    for kind in (signal.SIGINT, signal.SIGTERM):
        signal.signal(kind, lambda *_: ended.set())
    with listening:
        asyncio.run(run())


class _OnLoop:
    """Hands what the robot says from the node's thread to the board on the loop's."""

    def __init__(self, loop: asyncio.AbstractEventLoop, board: Board) -> None:
        self._loop, self._board = loop, board

    def _call(self, function: Callable[..., None], *args: Any) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function, *args)

    def status(self, status: dict[str, Any]) -> None:
        self._call(self._board.set, "status", status)

    def cloud(self, points: bytes) -> None:
        self._call(self._board.set_cloud, points)

    def keyframes(self, keyframes: dict[str, Any], pictures: dict[str, bytes]) -> None:
        self._call(self._board.set_keyframes, keyframes, pictures)

    def pose(self, pose: dict[str, Any]) -> None:
        self._call(self._board.set, "pose", pose)

    def settings(self, settings: dict[str, Any]) -> None:
        self._call(self._board.set_settings, settings)

    def watches(self, watches: list[dict[str, Any]]) -> None:
        self._call(self._board.set, "watches", watches)

    def event(self, event: dict[str, Any]) -> None:
        self._call(self._board.add_news, event)

    def text(self, turn: str, delta: str) -> None:
        self._call(self._board.add_text, turn, delta)

    def ended(self, turn: str, fields: dict[str, Any], kept: bytes) -> None:
        self._call(self._board.end, turn, fields, kept)

    def elsewhere(self, question: str, fields: dict[str, Any], kept: bytes) -> None:
        self._call(self._board.add_elsewhere, question, fields, kept)
