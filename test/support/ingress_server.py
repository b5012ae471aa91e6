"""The HTTP resources of a replica as Ray Serve runs them, on this machine without a cluster."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from types import MappingProxyType, SimpleNamespace
from typing import Any

import pytest

from ada3d_ros.fleet.protocol import SESSION_HEADER, token_of

NONE: Mapping[str, str] = MappingProxyType({})


class IngressServer:
    """replica: the instance behind the resources; secret: of its robots' tokens."""

    def __init__(self, replica: Any, secret: bytes, address: tuple[str, int]) -> None:
        self.replica, self.secret, self.address = replica, secret, address

    def request(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        robot: str = "r1",
        headers: Mapping[str, str] = NONE,
    ) -> tuple[int, Any]:
        """Status, and the last line of JSON. path: below the robot's, or from / on."""
        whole = path if path.startswith("/") else f"/v1/robots/{robot}/{path}"
        with closing(http.client.HTTPConnection(*self.address, timeout=60)) as connection:
            connection.request(method, whole, body, {**self.own_headers(robot), **headers})
            response = connection.getresponse()
            return response.status, json.loads(response.read().splitlines()[-1])

    def own_headers(self, robot: str) -> dict[str, str]:
        token = token_of(self.secret, robot)
        return {SESSION_HEADER: robot, "Authorization": f"Bearer {token}"}

    def begin(self, method: str, path: str, length: int, robot: str = "r1") -> socket.socket:
        """A request whose body of this length has not come yet; to send it, and read the answer."""
        headers = {**self.own_headers(robot), "Host": "x", "Content-Length": str(length)}
        lines = [f"{method} /v1/robots/{robot}/{path} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        opened = socket.create_connection(self.address, 60)
        opened.sendall("\r\n".join([*lines, "", ""]).encode())
        return opened


def answered(opened: socket.socket) -> tuple[int, Any]:
    """Status and JSON of what comes on such a connection."""
    response = http.client.HTTPResponse(opened)
    response.begin()
    return response.status, json.loads(response.read())


@contextmanager
def ingress_server(settings: Any) -> Iterator[IngressServer]:
    """settings: ReplicaSettings. Needs ray."""
    import uvicorn
    from ray import serve

    from ada3d_ros.fleet.ingress import Replica, app

    replica = Replica.__mro__[1](settings)  # as it was written, without Serve's wrapping
    context = SimpleNamespace(servable_object=replica)
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, log_level="critical", lifespan="off")
    server = uvicorn.Server(config)
    started = threading.Event()
    startup = server.startup

    async def noted(sockets: Any = None) -> None:
        await startup(sockets)
        started.set()

    server.startup = noted  # type: ignore[method-assign]
    thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(serve, "get_replica_context", lambda: context)
        thread.start()
        assert started.wait(60)
        try:
            yield IngressServer(replica, settings.secret, listening.getsockname())
        finally:
            server.should_exit = True
            thread.join()
            listening.close()
            replica.close()
