"""The routes: the page's own files, events for it, pictures and points, and what it asks for."""

from __future__ import annotations

import asyncio
import gzip
import json
import unicodedata
from collections.abc import AsyncIterator
from concurrent.futures import Future
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from ada3d_ros.config import SETTINGS
from ada3d_ros.errors import Ada3DError, BusyError, ConfigError, InvalidRequestError
from ada3d_ros.web.board import OPEN, Board

STATIC = Path(__file__).resolve().parent / "static"
THREE = Path("elements") / "scene" / "dist" / "index.js"  # three.js within NiceGUI's wheel
INSTALL = "`pip install -c constraints/python.txt -c constraints/web.txt nicegui`"
KINDS = ("ask", "find")
LONGEST_S = SETTINGS["watch.min_period_sec"].high or 0.0
WATCH_KINDS = ("ask", "ground", "object")
BODY_S = 10.0  # until all of a body has come
UNWATCHED_S = 10.0  # after the last page has gone: one that is loaded anew comes back sooner
FRESH = {"Cache-Control": "no-cache"}  # asked after each time: a new version shows at once


class Robot(Protocol):
    """What the page asks of the robot."""

    def watch(self, is_watched: bool) -> None: ...
    def ask(self, turn: str, question: str, keep_ratio: float) -> None: ...
    def find(self, turn: str, phrase: str, keep_ratio: float) -> None: ...
    def stop(self, turn: str) -> None: ...


class Services(Protocol):
    """What else it has the robot do; a future gives the fields of the answer, or `error`."""

    def set_strategy(self, strategy: str) -> None: ...
    def begin_watch(self, kind: str, text: str, every_s: float) -> Future[dict[str, Any]]: ...
    def end_watch(self, watch_id: str) -> Future[dict[str, Any]]: ...
    def list_scenes(self) -> Future[dict[str, Any]]: ...
    def save_scene(self, name: str) -> Future[dict[str, Any]]: ...
    def load_scene(self, name: str) -> Future[dict[str, Any]]: ...


def find_three() -> Path:
    """three.js of the installed NiceGUI, as one ES module. Raises ConfigError."""
    spec = find_spec("nicegui")
    for folder in (spec.submodule_search_locations or []) if spec is not None else []:
        if (Path(folder) / THREE).is_file():
            return Path(folder) / THREE
    what = "is not installed" if spec is None else f"has no {THREE}: it is of another version"
    raise ConfigError(
        f"three.js draws the scene and comes with the package nicegui, which {what}: {INSTALL}."
    )


def build_app(board: Board, robot: Robot, services: Services, three: Path) -> Starlette:
    """The application without its guard."""
    routes = _Routes(board, robot, services, three)
    return Starlette(
        routes=[
            Route("/", routes.index),
            Route("/three.js", routes.three),
            Route("/static/{name}", routes.static),
            Route("/events", routes.events),
            Route("/cloud/{number:int}", routes.cloud),
            Route("/views/{name}.jpg", routes.picture),
            Route("/kept/{name}", routes.kept),
            Route("/ask", routes.ask, methods=["POST"]),
            Route("/stop", routes.stop, methods=["POST"]),
            Route("/settings", routes.settings, methods=["POST"]),
            Route("/watch", routes.watch, methods=["POST"]),
            Route("/unwatch", routes.unwatch, methods=["POST"]),
            Route("/scenes", routes.scenes),
            Route("/scenes", routes.use_scene, methods=["POST"]),
        ]
    )


class _Routes:
    def __init__(self, board: Board, robot: Robot, services: Services, three: Path) -> None:
        self._board, self._robot, self._services, self._three = board, robot, services, three
        self._packed = b""  # three.js, compressed, once it was asked for
        self._files = {file.name: file for file in STATIC.iterdir()}

    # -- what the page is made of

    async def index(self, request: Request) -> Response:
        return FileResponse(STATIC / "index.html", headers=FRESH)

    async def static(self, request: Request) -> Response:
        file = self._files.get(request.path_params["name"])
        return FileResponse(file, headers=FRESH) if file is not None else _nothing()

    async def three(self, request: Request) -> Response:
        """Compressed where the browser takes that: 200 kB in the place of 800."""
        headers = {**FRESH, "Vary": "Accept-Encoding"}
        if "gzip" not in request.headers.get("accept-encoding", ""):
            return FileResponse(self._three, media_type="text/javascript", headers=headers)
        if not self._packed:
            self._packed = await asyncio.to_thread(gzip.compress, self._three.read_bytes(), 6)
        headers["Content-Encoding"] = "gzip"
        return Response(self._packed, media_type="text/javascript", headers=headers)

    # -- what it shows

    async def events(self, request: Request) -> Response:
        return StreamingResponse(self._stream(), media_type="text/event-stream")

    async def _stream(self) -> AsyncIterator[str]:
        queue = self._board.watch()
        self._robot.watch(True)
        try:
            yield "retry: 1000\n\n"
            while (event := await queue.get()) is not None:
                yield f"event: {event[0]}\ndata: {event[1]}\n\n"
        finally:
            self._board.leave(queue)
            asyncio.get_running_loop().call_later(UNWATCHED_S, self._unwatch)

    def _unwatch(self) -> None:
        if not self._board.is_watched:
            self._robot.watch(False)

    async def cloud(self, request: Request) -> Response:
        return Response(self._board.cloud, media_type="application/octet-stream")

    async def picture(self, request: Request) -> Response:
        picture = self._board.pictures.get(request.path_params["name"])
        return Response(picture, media_type="image/jpeg") if picture is not None else _nothing()

    async def kept(self, request: Request) -> Response:
        kept = self._board.kept_of(request.path_params["name"])
        return Response(kept, media_type="application/octet-stream")

    # -- what it asks for

    async def ask(self, request: Request) -> Response:
        """Begin a turn: {kind, text, keep_ratio, page} gives {turn}."""
        try:
            given = await _fields(request)
            kind, text, page = given.get("kind"), given.get("text"), given.get("page", "")
            ratio = given.get("keep_ratio", 0)
            if kind not in KINDS or not isinstance(text, str) or not isinstance(page, str):
                raise InvalidRequestError(
                    f"kind is one of {', '.join(KINDS)}, text and page are text."
                )
            _check_text("text", text)
            if isinstance(ratio, bool) or not isinstance(ratio, int | float) or not 0 <= ratio <= 1:
                raise InvalidRequestError("keep_ratio is a number from 0 (the robot's own) to 1.")
            if self._board.is_full:
                raise BusyError("Too many questions wait for an answer: wait for one of them.")
        except Ada3DError as error:
            return _refused(error)
        turn = self._board.begin(kind, text, page[:80])
        (self._robot.ask if kind == "ask" else self._robot.find)(turn, text, float(ratio))
        return JSONResponse({"turn": turn})

    async def stop(self, request: Request) -> Response:
        """Stop a turn: {turn}."""
        try:
            turn = (await _fields(request)).get("turn")
            known = self._board.turns.get(turn) if isinstance(turn, str) else None
            if known is None:
                raise InvalidRequestError("There is no such question.")
        except Ada3DError as error:
            return _refused(error)
        if known["state"] in OPEN:
            self._robot.stop(known["turn"])
        return JSONResponse({})

    async def settings(self, request: Request) -> Response:
        """Change what holds for everybody: {strategy}."""
        try:
            strategy = (await _fields(request)).get("strategy")
            if not isinstance(strategy, str):
                raise InvalidRequestError("strategy is the name of one.")
            _check_text("strategy", strategy)
        except Ada3DError as error:
            return _refused(error)
        self._services.set_strategy(strategy)
        return JSONResponse({})

    async def watch(self, request: Request) -> Response:
        """Begin a standing question: {kind, text, every_s} gives {watch}."""
        try:
            given = await _fields(request)
            kind, text, every_s = given.get("kind"), given.get("text"), given.get("every_s", 0)
            if kind not in WATCH_KINDS or not isinstance(text, str):
                raise InvalidRequestError(f"kind is one of {', '.join(WATCH_KINDS)}, text is text.")
            _check_text("text", text)
            is_number = isinstance(every_s, int | float) and not isinstance(every_s, bool)
            if not is_number or not 0 <= every_s <= LONGEST_S:
                raise InvalidRequestError(
                    f"every_s is a number of seconds, at most {LONGEST_S:g}; 0: the robot's own."
                )
        except Ada3DError as error:
            return _refused(error)
        return await _told(self._services.begin_watch(kind, text, float(every_s)))

    async def unwatch(self, request: Request) -> Response:
        """End a standing question: {watch}."""
        try:
            watch = (await _fields(request)).get("watch")
            if not isinstance(watch, str):
                raise InvalidRequestError("watch is the name of a standing question, as w1.")
            _check_text("watch", watch)
        except Ada3DError as error:
            return _refused(error)
        return await _told(self._services.end_watch(watch))

    async def scenes(self, request: Request) -> Response:
        """The scenes of the robot's store: {scenes, in_use}."""
        return await _told(self._services.list_scenes())

    async def use_scene(self, request: Request) -> Response:
        """Save the scene in use, or go on with a saved one: {verb: "save" or "load", name}."""
        try:
            given = await _fields(request)
            verb, name = given.get("verb"), given.get("name")
            if verb not in ("save", "load") or not isinstance(name, str):
                raise InvalidRequestError("verb is save or load, name is the scene's.")
            _check_text("name", name)
        except Ada3DError as error:
            return _refused(error)
        services = self._services
        return await _told((services.save_scene if verb == "save" else services.load_scene)(name))


async def _told(future: Future[dict[str, Any]]) -> Response:
    """What the robot's service answered; a refusal of it is its `error`, no fault of HTTP."""
    return JSONResponse(await asyncio.wrap_future(future))


async def _fields(request: Request) -> dict[str, Any]:
    """What a body holds. Raises InvalidRequestError, also where it does not come to its end."""
    try:
        async with asyncio.timeout(BODY_S):
            fields = json.loads(await request.body())
    except (ValueError, RecursionError, ClientDisconnect, TimeoutError):
        fields = None
    if not isinstance(fields, dict):
        raise InvalidRequestError("The body is no JSON object.")
    return fields


def _check_text(name: str, text: str) -> None:
    """Raises InvalidRequestError where ROS would not carry it, or would cut it: half of a surrogate
    pair, a control character.
    """
    for place, letter in enumerate(text):
        if unicodedata.category(letter) in ("Cc", "Cs") and letter not in "\t\n\r":
            raise InvalidRequestError(
                f"{name} holds U+{ord(letter):04X} at {place}, which is no letter: write it without"
                " control characters."
            )


def _refused(error: Ada3DError) -> Response:
    status = 429 if isinstance(error, BusyError) else 400
    return JSONResponse({"error": str(error)}, status)


def _nothing() -> Response:
    return Response("There is nothing of that name.\n", 404, media_type="text/plain")
