"""The HTTP resources of one replica, as Ray Serve runs it: requests in, a SceneHost asked.

Ray pickles the class with its FastAPI application while this module is being read. So annotations
must be objects by then (no `from __future__ import annotations` here), and what the class calls
stands above it.
"""

import asyncio
import json
import logging
import re
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from ray import serve
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from ada3d_ros.config import from_flat
from ada3d_ros.errors import (
    Ada3DError,
    BusyError,
    CanceledError,
    InvalidRequestError,
    ModelError,
    RequestTimeoutError,
)
from ada3d_ros.fleet.protocol import (
    CALL_HEADER,
    CALLS,
    LAST,
    MAX_JSON_BYTES,
    NAME,
    SESSION_HEADER,
    VERSION,
    Call,
    SceneList,
    check_token,
    error_to_json,
    status_of,
)
from ada3d_ros.fleet.replica_metrics import ReplicaMetrics
from ada3d_ros.fleet.replica_probe import ReplicaProbe
from ada3d_ros.fleet.scene_host import SceneHost
from ada3d_ros.fleet.scene_store import HostLimits
from ada3d_ros.store.json_form import parsed_json, to_json
from ada3d_ros.types import AskHooks

logger = logging.getLogger(__name__)
ALIVE_S = 1.0  # between two lines of a question that waits
PACE_S = 0.02  # that a stage waits at most, to go together with what follows
SILENCE_S, BODY_S = 5.0, 60.0  # between two pieces of a body, and for all of it
BODIES = 4  # of one robot that come at once; ours sends one after the other
SCENES = f"/{VERSION}/robots/{{robot}}/scenes/{{session}}"
NDJSON = "application/x-ndjson"
app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)


@dataclass(frozen=True)
class ReplicaSettings:
    """settings: of the agent's that differ from the default, by dotted name; secret: that robots'
    tokens are made with, b"" = none is asked for.
    """

    settings: dict[str, Any]
    limits: HostLimits = HostLimits()
    secret: bytes = b""


async def _body(request: Request, most: int) -> bytes:
    """No more than so many bytes are ever read. Raises InvalidRequestError."""
    declared = request.headers.get("content-length", "0")
    parts: list[bytes] = []
    size = int(declared[:20]) if declared.isdecimal() else 0
    if size <= most:
        size, stream, end = 0, request.stream(), asyncio.get_running_loop().time() + BODY_S
        while size <= most:
            part = await _next_part(stream, end)
            if part is None:
                return b"".join(parts)
            size += len(part)
            parts.append(part)
    raise InvalidRequestError(f"a body of {size} bytes or more; allowed: up to {most}.")


async def _next_part(stream: AsyncIterator[bytes], end: float) -> bytes | None:
    """Of a body that ends at this time of the loop; None behind the last. Raises
    RequestTimeoutError, so that a slow robot does not keep others waiting, and CanceledError where
    it hangs up.
    """
    left_s = end - asyncio.get_running_loop().time()
    try:
        async with asyncio.timeout(min(SILENCE_S, left_s)):
            return await anext(stream, None)
    except ClientDisconnect:
        raise CanceledError("the robot hung up before the body had come.") from None
    except TimeoutError:
        raise RequestTimeoutError(
            f"the body came too slowly; allowed: a pause of {SILENCE_S:g} s, {BODY_S:g} s in all."
            " Send it again over a faster network, or smaller images."
        ) from None


def _json(data: str | bytes) -> Any:
    """Raises InvalidRequestError."""
    return parsed_json(data, "the body, or the header of the call,")


@app.exception_handler(HTTPException)
async def no_resource(request: Request, error: HTTPException) -> Response:
    """What no route takes, in the form of every other error."""
    asked = f"{request.method} {request.url.path}"
    refused = InvalidRequestError(
        f"no resource {asked[:80]!r} ({error.detail}); there are, of each robot, model and"
        f" scenes/SESSION with keyframes, {', '.join(CALLS)}. Is the robot of the server's version?"
    )
    return _told(error_to_json(refused), error.status_code)


def _refusal(error: Exception) -> Response:
    if not isinstance(error, Ada3DError):
        logger.error("a request failed", exc_info=error)
    return _told(error_to_json(error), status_of(error))


def _told(error: dict[str, Any], status: int) -> Response:
    headers = {}
    if status == status_of(BusyError("")):
        headers["Retry-After"] = str(int(error.get("retry_after_s", 1)))
    return JSONResponse({"error": error}, status, headers)


def _is_last(line: dict[str, Any]) -> bool:
    return any(name in line for name in LAST)


async def next_lines(queue: asyncio.Queue[dict[str, Any]]) -> list[dict[str, Any]]:
    """The next lines; none within ALIVE_S: an empty list. Text goes at once, with all that waits;
    stages wait for it: each piece of an answer takes proxy and replica a millisecond.
    """
    lines: list[dict[str, Any]] = []
    with suppress(TimeoutError):
        async with asyncio.timeout(ALIVE_S):
            lines.append(await queue.get())
        async with asyncio.timeout(PACE_S):
            while not _is_last(lines[-1]) and (queue.qsize() or "stage" in lines[-1]):
                lines.append(await queue.get())
    return lines


async def _encoded(
    first: list[dict[str, Any]], pieces: AsyncIterator[list[dict[str, Any]]]
) -> AsyncIterator[bytes]:
    lines: list[dict[str, Any]] | None = first
    try:
        while lines is not None:
            yield b"".join(
                json.dumps(line, separators=(",", ":"), allow_nan=False).encode() + b"\n"
                for line in lines
            )
            lines = await anext(pieces, None)
    except ModelError:
        logger.exception("an answer broke off")
        raise
    finally:
        await pieces.aclose()  # type: ignore[attr-defined]


@serve.ingress(app)
class Replica:
    """One copy of the model, and the scenes of the robots that the router sends here."""

    def __init__(self, settings: ReplicaSettings) -> None:
        self._settings = settings
        limits = settings.limits
        with_probe = replace(limits, prefixes=limits.prefixes + 1, scenes=limits.scenes + 1)
        self._host = SceneHost(from_flat(settings.settings), with_probe)
        self._info = self._host.load()
        self._metrics = ReplicaMetrics(self._host)
        self._probe = ReplicaProbe(self._host)
        self.bodies: Counter[str] = Counter()  # that come just now, of each robot

    async def check_health(self) -> None:
        """A one-token answer, unless one was given since the last time. Raises what is wrong."""
        self._metrics.update()
        await asyncio.to_thread(self._probe.check)

    def counts(self) -> dict[str, int]:
        """HostCounts, for who has a handle of the deployment: no resource."""
        return asdict(self._host.counts())

    def close(self) -> None:
        """End the model's thread."""
        host = getattr(self, "_host", None)
        if host is not None:
            host.close()

    def __del__(self) -> None:
        self.close()

    # -- resources

    @app.get(f"/{VERSION}/robots/{{robot}}/model")
    async def get_model(self, robot: str, request: Request) -> Response:
        try:
            self._admit(request, robot)
            return JSONResponse(to_json(self._info))
        except Exception as error:
            return _refusal(error)

    @app.put(SCENES)
    async def put_scene(self, robot: str, session: str, request: Request) -> Response:
        try:
            self._admit(request, robot, session)
            listed = SceneList.read(_json(await self._body_of(robot, request, MAX_JSON_BYTES)))
            missing = self._host.put_scene(robot, session, listed)
            return JSONResponse({"missing": list(missing)})
        except Exception as error:
            return _refusal(error)

    @app.post(f"{SCENES}/keyframes")
    async def post_keyframe(self, robot: str, session: str, request: Request) -> Response:
        try:
            self._admit(request, robot, session)
            data = await self._body_of(robot, request, self._settings.limits.keyframe_bytes)
            missing = await asyncio.to_thread(self._host.put_keyframe, robot, session, data)
            return JSONResponse({"missing": missing})
        except Exception as error:
            return _refusal(error)

    @app.delete(SCENES)
    async def delete_scene(self, robot: str, session: str, request: Request) -> Response:
        try:
            self._admit(request, robot, session)
            return JSONResponse({"deleted": self._host.delete(robot, session)})
        except Exception as error:
            return _refusal(error)

    @app.post(f"{SCENES}/{{kind}}")
    async def post_call(self, robot: str, session: str, kind: str, request: Request) -> Response:
        try:
            self._admit(request, robot, session)
            if kind not in CALLS:
                raise InvalidRequestError(f"no resource {kind!r}; there are {', '.join(CALLS)}.")
            header = request.headers.get(CALL_HEADER)
            told = header or await self._body_of(robot, request, MAX_JSON_BYTES)
            call = Call.read(kind, _json(told))
            pieces = self._answer(robot, session, kind, call)
            first = await anext(pieces)
        except Exception as error:
            return _refusal(error)
        if "error" in first[-1]:  # before anything was told: it can still be the status
            return _told(first[-1]["error"], first[-1]["status"])
        return StreamingResponse(_encoded(first, pieces), media_type=NDJSON)

    async def _body_of(self, robot: str, request: Request, most: int) -> bytes:
        """Raises InvalidRequestError, RequestTimeoutError, BusyError."""
        if self.bodies[robot] >= BODIES:
            raise BusyError(f"{BODIES} bodies of robot {robot} come at once: one at a time.", 1.0)
        self.bodies[robot] += 1
        try:
            return await _body(request, most)
        finally:
            self.bodies[robot] -= 1
            if not self.bodies[robot]:
                del self.bodies[robot]

    async def _answer(
        self, robot: str, session: str, kind: str, call: Call
    ) -> AsyncIterator[list[dict[str, Any]]]:
        """Lines of the answer, piece by piece. Closed early, since the robot hung up, it stops the
        model.
        """
        loop, queue = asyncio.get_running_loop(), asyncio.Queue[dict[str, Any]]()
        begun = time.perf_counter()

        def put(**line: Any) -> None:
            with suppress(RuntimeError):  # of a loop that ended with its replica
                loop.call_soon_threadsafe(queue.put_nowait, line)

        def on_done(answer: Any, error: BaseException | None) -> None:
            if error is None:
                put(answer=to_json(answer), server_s=time.perf_counter() - begun)
                return
            if not isinstance(error, Ada3DError):
                logger.error("%s of %s failed", kind, robot, exc_info=error)
            put(error=error_to_json(error), status=status_of(error))

        hooks = AskHooks(
            on_stage=lambda stage: put(stage=stage.value),
            on_text=lambda delta, tokens: put(text=delta, tokens=tokens),
        )
        job = self._host.start(robot, session, kind, call, hooks, on_done)
        ended = False
        try:
            while not ended:
                lines = await next_lines(queue) or [{"waiting": self._host.waiting}]
                ended = _is_last(lines[-1])
                yield lines
            self._metrics.answered(kind, time.perf_counter() - begun, "error" not in lines[-1])
        finally:
            if not ended:
                self._host.cancel(job)
                self._metrics.hung_up()

    def _admit(self, request: Request, robot: str, session: str = "s") -> None:
        """Raises InvalidRequestError, AccessDeniedError."""
        for name in (robot, session):
            if not re.fullmatch(NAME, name):
                raise InvalidRequestError(f"{name[:80]!r} is no name; allowed: {NAME}.")
        if self._settings.secret:
            check_token(self._settings.secret, robot, request.headers.get("authorization"))
        if request.headers.get(SESSION_HEADER) != robot:
            raise InvalidRequestError(
                f"the header {SESSION_HEADER} must be the robot's id, {robot}: its scene is kept"
                " where that leads."
            )
