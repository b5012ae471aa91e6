"""What robot and server tell each other beside keyframes: the scene's list, calls, errors.

Resources of one robot's scene, below /v1/robots/{robot}/scenes/{session}:

    PUT     .                SceneList -> {"missing": [stamps in ns]}
    POST    /keyframes       one keyframe's bytes -> {"missing": how many}
    POST    /ask, /ground, /measure    Call -> lines of JSON: stage, text, then answer or error
    DELETE  .

and GET /v1/robots/{robot}/model. The robot decides which keyframes its scene has; a call carries
the digest of that list, so that a scene which is not the robot's can never answer. A short call is
a header: Ray Serve's proxy hands a body to the replica by a second message, which takes 2 ms. Needs
no torch.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ada3d_ros import errors
from ada3d_ros.config import SETTINGS
from ada3d_ros.errors import (
    Ada3DError,
    BusyError,
    ErrorCode,
    InvalidRequestError,
    KeyframesMissingError,
)
from ada3d_ros.measures import NUMBER, RADIUS_M, MeasureRequest
from ada3d_ros.rigid import MAX_POSITION_M
from ada3d_ros.scene.floor import Floor
from ada3d_ros.scene.keyframes import SceneSnapshot
from ada3d_ros.store.json_form import from_json, to_json
from ada3d_ros.types import Keyframe, Question, SceneState

VERSION = "v1"
SESSION_HEADER = "x-session-id"  # that the router hashes: the robot's id
CALL_HEADER = "x-ada3d-call"  # a Call of up to MAX_HEADER_BYTES; a longer one is the body
MAX_HEADER_BYTES = 4096
NAME = "[A-Za-z0-9][A-Za-z0-9._-]{0,63}"  # of robots and sessions
MAX_JSON_BYTES = 256 << 10
CALLS = ("ask", "ground", "measure")
LAST = ("answer", "error")  # one of these is in the last line of what a call is told
LIMITS = {  # numbers of a Question, and the setting whose range they keep
    "max_new_tokens": "generation.max_new_tokens",
    "keep_ratio": "pruning.keep_ratio",
    "max_boxes": "boxes.max_count",
    "min_score": "boxes.min_score",
}

# What HTTP calls each error; the body says more.
STATUS: dict[type[Ada3DError], int] = {
    errors.AccessDeniedError: 403,
    errors.KeyframesMissingError: 409,
    errors.BusyError: 503,
    errors.LoadingError: 503,
    errors.RequestTimeoutError: 504,
    errors.OutOfMemoryError: 507,
    errors.NotGroundedError: 422,
    errors.UnknownKindError: 422,
    errors.AmbiguousError: 422,
    errors.NoFramesError: 422,
    errors.CanceledError: 499,
    errors.RequestError: 400,
    errors.ConfigError: 400,
}


@dataclass(frozen=True, slots=True)
class SceneList:
    """A robot's scene without its images. keyframes: index and stamp in ns of each, in order."""

    epoch: int
    version: int
    floor: Floor
    anchor_xy_m: tuple[float, float]
    keyframes: tuple[tuple[int, int], ...]

    @classmethod
    def from_snapshot(cls, scene: SceneSnapshot) -> SceneList:
        listed = tuple((k.index, k.frame.stamp_ns) for k in scene.keyframes)
        state = scene.state
        return cls(state.epoch, state.version, scene.floor, scene.anchor_xy_m, listed)

    @classmethod
    def read(cls, data: Any) -> SceneList:
        """From JSON. Raises InvalidRequestError, also where indices or stamps do not rise."""
        read = from_json(cls, data)
        last_index = last_stamp = -1
        for index, stamp_ns in read.keyframes:
            if index <= last_index or stamp_ns <= max(last_stamp, 0):
                raise InvalidRequestError(
                    f"keyframe {index} of {stamp_ns} ns comes after {last_index} of"
                    f" {last_stamp} ns: indices and stamps of a scene must rise, from 0 and 1 on."
                )
            last_index, last_stamp = index, stamp_ns
        numbers = (read.floor.z_m, *read.anchor_xy_m)
        if not all(abs(number) <= MAX_POSITION_M for number in numbers):  # NaN, too
            raise InvalidRequestError(
                f"floor and anchor of a scene are finite metres within +-{MAX_POSITION_M:g}; got"
                f" {numbers}."
            )
        if min(read.epoch, read.version) < 0:
            raise InvalidRequestError(
                "epoch and version of a scene are at least 0; got epoch"
                f" {read.epoch}, version {read.version}."
            )
        return read

    def digest(self) -> str:
        """Of all that an answer depends on beside the images."""
        text = json.dumps(to_json(self), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def snapshot(self, keyframes: Mapping[int, Keyframe]) -> SceneSnapshot:
        """The scene, made of the keyframes by index."""
        stamps = [stamp_ns for _, stamp_ns in self.keyframes]
        oldest, newest = (stamps[0], stamps[-1]) if stamps else (-1, -1)
        state = SceneState(len(stamps), self.epoch, self.version, oldest, newest)
        kept = tuple(keyframes[index] for index, _ in self.keyframes)
        return SceneSnapshot(kept, state, self.floor, self.anchor_xy_m)


@dataclass(frozen=True, slots=True)
class Call:
    """One question: digest of the SceneList that it is about; request: of `measure` alone;
    timeout_s: from now on, after which nobody waits for it.
    """

    digest: str
    question: Question
    timeout_s: float
    request: MeasureRequest | None = None

    @classmethod
    def read(cls, kind: str, data: Any) -> Call:
        """From JSON, for a resource of CALLS. Raises InvalidRequestError."""
        call = from_json(cls, data)
        if (kind == "measure") != (call.request is not None):
            raise InvalidRequestError(f"Call.request belongs to measure, and to it alone: {kind}.")
        if not 0.0 < call.timeout_s <= 600.0:
            raise InvalidRequestError(
                f"Call.timeout_s = {call.timeout_s}; allowed: above 0, up to 600 s."
            )
        check_question_numbers(call.question)
        if call.request is not None:
            check_request_numbers(call.request)
        return call


def check_question_numbers(question: Question) -> None:
    """Raise InvalidRequestError where a number is outside its setting's range; 0 and NaN mean the
    server's default.
    """
    for name, setting in LIMITS.items():
        value, known = getattr(question, name), SETTINGS[setting]
        _check_range(f"Question.{name}", value, float(known.low or 0.0), float(known.high or 0.0))
    _check_range("Question.deadline_s", question.deadline_s, 0.001, 600.0)
    if question.proposals:
        raise InvalidRequestError("Question.proposals: a server takes none.")


def check_request_numbers(request: MeasureRequest) -> None:
    """The same of a request to measure."""
    _check_range("MeasureRequest.k", request.k, *NUMBER)
    _check_range("MeasureRequest.radius_m", request.radius_m, *RADIUS_M)
    for thing in (request.of, request.to, request.third):
        if thing is not None and not all(map(math.isfinite, thing.point_m or ())):
            raise InvalidRequestError(f"Reference.point_m = {thing.point_m}: not finite.")


def _check_range(name: str, value: float, low: float, high: float) -> None:
    if value != 0 and not math.isnan(value) and not low <= value <= high:
        raise InvalidRequestError(f"{name} = {value:g}; allowed: {low:g} to {high:g}, or 0.")


def error_to_json(error: BaseException) -> dict[str, Any]:
    """code, name and text, and what belongs to the kind. Of a fault of ours nothing but its kind
    goes out: its text may name paths.
    """
    if not isinstance(error, Ada3DError):
        text = "the server failed; its log says more."
        return {"code": ErrorCode.UNKNOWN.value, "name": type(error).__name__, "text": text}
    data: dict[str, Any] = {
        "code": error.code.value,
        "name": type(error).__name__,
        "text": str(error),
    }
    if isinstance(error, BusyError) and math.isfinite(error.retry_after_s):
        data["retry_after_s"] = error.retry_after_s
    if isinstance(error, KeyframesMissingError):
        data["missing"] = list(error.stamps_ns)
    return data


def error_from_json(data: Any) -> Ada3DError:
    """The error that a server told: of its own class where that is known here."""
    told = data if isinstance(data, Mapping) else {}
    text, name = str(told.get("text", "the server gave no reason.")), told.get("name")
    kind = getattr(errors, name, None) if isinstance(name, str) else None
    if kind is BusyError:
        seconds = told.get("retry_after_s")
        return BusyError(text, float(seconds) if isinstance(seconds, (int, float)) else math.nan)
    if kind is KeyframesMissingError:
        missing = told.get("missing")
        stamps = missing if isinstance(missing, list) else []
        return KeyframesMissingError(text, tuple(s for s in stamps if isinstance(s, int)))
    plain = (errors.RequestError, errors.ModelError, errors.ConfigError, errors.PoseError)
    if isinstance(kind, type) and issubclass(kind, plain):
        return kind(text)
    return errors.ModelError(text)


def status_of(error: BaseException) -> int:
    """The HTTP status of an error; 500 for a fault."""
    for kind in type(error).__mro__:
        if kind in STATUS:
            return STATUS[kind]
    return 500


def token_of(secret: bytes, robot: str) -> str:
    """A robot's bearer token: HMAC-SHA256 of its id with the server's secret, in hex."""
    return hmac.new(secret, robot.encode(), hashlib.sha256).hexdigest()


def check_token(secret: bytes, robot: str, header: str | None) -> None:
    """Raise AccessDeniedError unless the header is `Bearer` with this robot's token."""
    scheme, _, token = (header or "").partition(" ")
    given = token.strip() if scheme.lower() == "bearer" else ""
    if not hmac.compare_digest(given.encode(), token_of(secret, robot).encode()):
        raise errors.AccessDeniedError(
            f"the token is not robot {robot}'s: `ada3d serve --token-of {robot}` prints it where"
            " the server's secret is; write it into the file that remote.token_file names."
        )
