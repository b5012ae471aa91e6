"""A robot's connection to its server: one that is kept, HTTP of the standard library. No torch."""

from __future__ import annotations

import http.client
import json
import math
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from types import MappingProxyType
from typing import Any
from urllib.parse import quote, urlsplit

from ada3d_ros.config import AgentConfig
from ada3d_ros.errors import (
    Ada3DError,
    BusyError,
    ConfigError,
    InvalidRequestError,
    RemoteLostError,
)
from ada3d_ros.fleet.protocol import (
    CALL_HEADER,
    LAST,
    MAX_HEADER_BYTES,
    NAME,
    SESSION_HEADER,
    VERSION,
    error_from_json,
)

CONNECT_S = 2.0  # for a connection to be made
SILENCE_S = 5.0  # after which a server that sends nothing is lost; it sends a line every second
CHECK_S = 0.05  # between two looks at whether a question is to be stopped
BUSY_S = 1.0  # to wait where a busy server does not say how long
MAX_LINE_BYTES = 32 << 20
NOTHING: Mapping[str, str] = MappingProxyType({})
LOST = (OSError, http.client.HTTPException, ValueError)  # ValueError: of a socket that was closed


@dataclass(frozen=True, slots=True)
class Address:
    """Where the server is, and who asks. ca_file: '' = what the system trusts."""

    url: str
    robot: str
    token: str = ""
    ca_file: str = ""

    @classmethod
    def from_config(cls, config: AgentConfig) -> Address:
        """Raises ConfigError for a token_file without one, and a host name that is no id."""
        remote, token = config.remote, ""
        if remote.token_file:
            try:
                token = Path(remote.token_file).expanduser().read_text(encoding="ascii").strip()
            except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: ~ of nobody
                raise ConfigError(
                    f"remote.token_file = {remote.token_file!r} cannot be read: {error}."
                ) from None
            if not token or not token.isprintable():
                raise ConfigError(f"remote.token_file = {remote.token_file!r} holds no token.")
        robot = remote.robot_id or socket.gethostname()
        if not re.fullmatch(NAME, robot):
            raise ConfigError(
                f"remote.robot_id is empty, and this machine's name, {robot!r}, is no robot's id"
                f" (allowed: {NAME}): set remote.robot_id."
            )
        return cls(config.model.remote, robot, token, remote.ca_file)

    def path(self, *parts: str) -> str:
        """Of a resource of this robot."""
        return "/".join(("", VERSION, "robots", *(quote(p, safe="") for p in (self.robot, *parts))))


@dataclass(slots=True)
class Traffic:
    """Bytes of bodies and calls, requests, and connections that were made."""

    sent: int = 0
    received: int = 0
    requests: int = 0
    connections: int = 0


class Connection:
    """One request at a time. Raises RemoteLostError where the server does not answer, and the error
    that it told where it does.
    """

    def __init__(self, address: Address) -> None:
        self._open: http.client.HTTPConnection | None = None
        self._reader: threading.Thread | None = None  # that reads the end of an answer
        self.address, self.traffic = address, Traffic()
        self._context: ssl.SSLContext | None = None
        if address.url.startswith("https"):
            try:
                file = Path(address.ca_file).expanduser() if address.ca_file else None
                self._context = ssl.create_default_context(cafile=file)
            except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: ~ of nobody
                raise ConfigError(
                    f"remote.ca_file = {address.ca_file!r} is no certificate: {error}."
                ) from None

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Hang up, also while another thread reads."""
        connection, self._open = self._open, None
        if connection is not None:
            with suppress(*LOST):
                if connection.sock is not None:
                    connection.sock.shutdown(socket.SHUT_RDWR)
            with suppress(*LOST):
                connection.close()

    def request(self, method: str, path: str, body: bytes = b"") -> Any:
        """The JSON of the response."""
        self._await_reader()
        response = self._send(method, path, body)
        data = self._read(response.read)
        self._raise_unless_fine(response, data)
        return _parsed(data)

    def lines(
        self, path: str, call: bytes, check: Callable[[], None]
    ) -> Iterator[Mapping[str, Any]]:
        """The lines of JSON that answer a call, as they come; check is called meanwhile. Where it
        raises, or who reads stops before one of LAST, the connection is hung up: the server stops
        working on it. After it the connection is kept for the next request.
        """
        self._await_reader()
        queue: SimpleQueue[Any] = SimpleQueue()
        thread = threading.Thread(
            target=self._read_lines, args=(path, call, queue), name="ada3d-remote", daemon=True
        )
        self._reader = thread
        thread.start()
        ended = told = False
        try:
            while not ended:
                check()
                try:
                    item = queue.get(timeout=CHECK_S)
                except Empty:
                    continue
                ended = not isinstance(item, bytes)
                if isinstance(item, BaseException):
                    raise item
                if not ended:
                    line = _parsed(item)
                    if not isinstance(line, Mapping):
                        raise RemoteLostError(f"{self.address.url} sent a line that is no JSON.")
                    told = any(name in line for name in LAST)
                    yield line
        finally:
            if not (ended or told):
                self.close()
                thread.join(CONNECT_S + SILENCE_S)
                self.close()  # one that was made meanwhile

    def _await_reader(self) -> None:
        """Until the end of the last answer has come, or silence: then the connection is closed."""
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.join(SILENCE_S)
            if reader.is_alive():
                self.close()

    def _read_lines(self, path: str, call: bytes, queue: SimpleQueue[Any]) -> None:
        """On a thread of its own: lines, then None or what went wrong."""
        try:
            if len(call) <= MAX_HEADER_BYTES:
                response = self._send("POST", path, b"", {CALL_HEADER: call.decode("ascii")})
            else:
                response = self._send("POST", path, call)
            if response.status != 200:
                self._raise_unless_fine(response, self._read(response.read))
            while line := self._read(lambda: response.readline(MAX_LINE_BYTES)):
                queue.put(line)
            queue.put(None)
        except Exception as error:
            queue.put(error)

    def _send(
        self, method: str, path: str, body: bytes, more: Mapping[str, str] = NOTHING
    ) -> http.client.HTTPResponse:
        """Where a kept connection was closed by the server meanwhile, a new one is made once. more:
        headers.
        """
        headers = {SESSION_HEADER: self.address.robot, "Content-Type": "application/octet-stream"}
        headers |= more
        if self.address.token:
            headers["Authorization"] = f"Bearer {self.address.token}"
        kept = self._open is not None
        try:
            return self._exchange(method, path, body, headers)
        except LOST as error:
            self.close()
            stale = isinstance(error, (ConnectionError, http.client.HTTPException))
            if kept and stale:
                try:
                    return self._exchange(method, path, body, headers)
                except LOST as again:
                    self.close()
                    error = again
            raise self._lost(error) from None

    def _exchange(
        self, method: str, path: str, body: bytes, headers: Mapping[str, str]
    ) -> http.client.HTTPResponse:
        connection = self._open or self._connected()
        self._open = connection
        connection.request(method, path, body, dict(headers))
        self.traffic.requests += 1
        self.traffic.sent += len(body) + len(headers.get(CALL_HEADER, ""))
        return connection.getresponse()

    def _connected(self) -> http.client.HTTPConnection:
        parts = urlsplit(self.address.url)
        host = parts.hostname or ""
        connection: http.client.HTTPConnection
        if self._context is not None:
            connection = http.client.HTTPSConnection(
                host, parts.port or 443, timeout=CONNECT_S, context=self._context
            )
        else:
            connection = http.client.HTTPConnection(host, parts.port or 80, timeout=CONNECT_S)
        connection.connect()
        connection.sock.settimeout(SILENCE_S)
        self.traffic.connections += 1
        return connection

    def _read(self, read: Callable[[], bytes]) -> bytes:
        try:
            data = read()
        except LOST as error:
            self.close()
            raise self._lost(error) from None
        self.traffic.received += len(data)
        return data

    def _lost(self, error: BaseException) -> RemoteLostError:
        if isinstance(error, ssl.SSLCertVerificationError):
            signed_by = self.address.ca_file or "what this system trusts"
            return RemoteLostError(
                f"the server {self.address.url} is not trusted: its certificate against {signed_by}"
                f" ({error.verify_message}). Name the certificate that signed it (remote.ca_file),"
                " and the server as the certificate does (model.remote)."
            )
        if isinstance(error, ssl.SSLError) and error.reason == "WRONG_VERSION_NUMBER":
            return RemoteLostError(
                f"the server {self.address.url} speaks no TLS: is it http:// (model.remote), or is"
                " --tls-cert missing at `ada3d serve`?"
            )
        why = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        broke_off = (ConnectionResetError, http.client.HTTPException)  # as a port of TLS does
        is_plain = self._context is None and isinstance(error, broke_off)
        return RemoteLostError(
            f"the server {self.address.url} cannot be reached ({why}): is `ada3d serve` running"
            f" there, and the network up?{' Or does it take https:// alone?' * is_plain}"
            " (model.remote)"
        )

    def _raise_unless_fine(self, response: http.client.HTTPResponse, data: bytes) -> None:
        if response.status == 200:
            return
        told = _parsed(data)
        if isinstance(told, Mapping) and isinstance(told.get("error"), Mapping):
            raise error_from_json(told["error"])
        raise self._untold(response)

    def _untold(self, response: http.client.HTTPResponse) -> Ada3DError:
        """What a status means that came without our JSON: from the proxy, not from a replica."""
        url, status = self.address.url, response.status
        if status == 503:
            after_s = _seconds(response.getheader("Retry-After"))
            return BusyError(f"{url} is busy; ask again in {after_s:g} s.", after_s)
        if status in (400, 413, 422):
            return InvalidRequestError(f"{url} refused the request (HTTP {status}).")
        return RemoteLostError(
            f"{url} answered HTTP {status}, which `ada3d serve` does not: does model.remote name"
            " one of this version?"
        )


class Backoff:
    """When a lost server is tried again: after 0.1 s, then twice as long each time, 5 s at most."""

    FIRST_S, MOST_S = 0.1, 5.0

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now, self._wait_s, self._at = now, 0.0, -math.inf

    @property
    def due(self) -> bool:
        return self._now() >= self._at

    @property
    def left_s(self) -> float:
        return max(self._at - self._now(), 0.0)

    def failed(self) -> None:
        self._wait_s = min(max(2 * self._wait_s, self.FIRST_S), self.MOST_S)
        self._at = self._now() + self._wait_s

    def worked(self) -> None:
        self._wait_s, self._at = 0.0, -math.inf


def _parsed(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        return None


def _seconds(header: str | None) -> float:
    try:
        value = float(header or BUSY_S)
    except ValueError:
        return BUSY_S
    return value if 0.0 < value < 3600.0 else BUSY_S
