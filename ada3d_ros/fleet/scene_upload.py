"""A robot's scene on its way to the server: what is there, what is missing, and the next piece."""

from __future__ import annotations

import json
import secrets
from typing import Any

from ada3d_ros.errors import KeyframesMissingError, RemoteLostError
from ada3d_ros.fleet.connection import Connection
from ada3d_ros.fleet.protocol import SceneList
from ada3d_ros.scene.keyframes import SceneSnapshot
from ada3d_ros.store.json_form import to_json
from ada3d_ros.store.keyframe_bytes import pack_keyframe


class SceneUpload:
    """One session: a robot's process. sent: keyframes; again: times that the server lacked a scene
    which it had been given.
    """

    def __init__(self, connection: Connection) -> None:
        self.connection, self.session = connection, secrets.token_hex(8)
        self.sent = self.again = 0
        self.missing: tuple[int, ...] = ()  # stamps of keyframes that the server lacks
        self._listed = ""  # digest of the list that it has
        self._known: tuple[tuple[int, int], str] = (-1, -1), ""  # scene version, and its digest

    def path(self, *parts: str) -> str:
        """Of a resource of this session's scene."""
        return self.connection.address.path("scenes", self.session, *parts)

    def digest(self, scene: SceneSnapshot) -> str:
        if self._known[0] != scene.version:
            self._known = scene.version, SceneList.from_snapshot(scene).digest()
        return self._known[1]

    def has(self, scene: SceneSnapshot) -> bool:
        """Whether the server has all of it, as far as it said."""
        return self._listed == self.digest(scene) and not self.missing

    def forget(self) -> None:
        """It may be another server by now: what it has is asked anew."""
        self._listed, self.missing = "", ()

    def lacked(self) -> None:
        """The server says that it lacks the scene."""
        self.again += 1
        self.forget()

    def send_piece(self, scene: SceneSnapshot) -> None:
        """The scene's list, or one keyframe that the server lacks. Raises RemoteLostError, or what
        the server told.
        """
        connection, digest = self.connection, self.digest(scene)
        if digest != self._listed:
            listed = dumped(to_json(SceneList.from_snapshot(scene)))
            self.missing = _stamps(connection.request("PUT", self.path(), listed))
            self._listed = digest
            return
        if not self.missing:
            return
        wanted = self.missing[0]
        keyframe = next((k for k in scene.keyframes if k.frame.stamp_ns == wanted), None)
        if keyframe is None:
            raise RemoteLostError(f"{connection.address.url} asks for keyframes that are not ours.")
        try:
            connection.request("POST", self.path("keyframes"), pack_keyframe(keyframe))
        except KeyframesMissingError:
            self.lacked()
            return
        self.sent += 1
        self.missing = self.missing[1:]


def dumped(data: Any) -> bytes:
    """JSON without blanks."""
    return json.dumps(data, separators=(",", ":"), allow_nan=False).encode()


def _stamps(told: Any) -> tuple[int, ...]:
    missing = told.get("missing") if isinstance(told, dict) else None
    if not isinstance(missing, list) or not all(type(s) is int for s in missing):
        raise RemoteLostError("the server does not say which keyframes it lacks.")
    return tuple(missing)
