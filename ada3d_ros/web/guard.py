"""Who may use the page: checks in front of every route, and headers on every response.

Against other web pages in the same browser: the name in Host must be this server's own (a name that
was bound anew to this address is not), and Origin must be the server itself. Against other
machines: a token, which a link brings once and a cookie keeps.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
import socket
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import HTMLResponse, PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY = 64 * 1024
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'self';"
    " frame-ancestors 'none'; object-src 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
# Once the cookie is set the page is opened by itself: a cookie that is SameSite=Strict does not go
# along where a link of another site led here, nor where that is redirected.
WELCOME = (
    '<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="0;url=/">'
    '<title>ada3d</title><p><a href="/">Open the page</a></p>'
)
NO_TOKEN = "This page needs the address that `ada3d web` printed: it holds the token.\n"


def is_loopback(host: str) -> bool:
    """Whether an address or name is reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def own_names(host: str) -> frozenset[str]:
    """Names under which the server may be called, beside numbers: a number cannot be rebound."""
    if is_loopback(host):
        return frozenset({"localhost"})
    machine = socket.gethostname().lower()
    return frozenset({"localhost", host.lower(), machine, f"{machine}.local"})


class Guard:
    """ASGI middleware. token "": none is asked for; cookie: its name."""

    def __init__(self, app: ASGIApp, host: str, token: str = "", cookie: str = "ada3d") -> None:
        self._app, self._token, self._cookie = app, token, cookie
        self._names, self._loopback = own_names(host), is_loopback(host)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return  # no websocket is served
        send = _with_headers(send)
        refusal = self._refusal(HTTPConnection(scope))
        if refusal is not None:
            await refusal(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _refusal(self, request: HTTPConnection) -> Any | None:
        """The response to what is not let through; None else."""
        headers, path = request.headers, request.scope["path"]
        host = headers.get("host", "")
        if not self._is_own(host):
            return PlainTextResponse(f"Host {host[:80]!r} is not this server.\n", 403)
        origin = headers.get("origin")
        if origin is not None and not _is_of(origin, host):
            return PlainTextResponse("Other pages may not use this one.\n", 403)
        if headers.get("sec-fetch-site", "none") == "cross-site" and path != "/":
            return PlainTextResponse("Other pages may not use this one.\n", 403)

        if request.scope["method"] == "POST":
            if headers.get("content-type", "").split(";")[0].strip() != "application/json":
                return PlainTextResponse("Send JSON.\n", 415)
            length = headers.get("content-length", "")
            if not re.fullmatch("[0-9]{1,9}", length) or int(length) > MAX_BODY:
                return PlainTextResponse(
                    f"{length or 'An untold number of'} bytes; at most {MAX_BODY}: write less.\n",
                    413,
                )
        return self._refusal_of_token(request)

    def _refusal_of_token(self, request: HTTPConnection) -> Any | None:
        if not self._token:
            return None
        if request.scope["path"] == "/" and self._is_token(request.query_params.get("token", "")):
            welcome = HTMLResponse(WELCOME, headers={"Cache-Control": "no-store"})
            welcome.set_cookie(
                self._cookie, self._token, httponly=True, samesite="strict", path="/"
            )
            return welcome
        if not self._is_token(request.cookies.get(self._cookie, "")):
            return PlainTextResponse(NO_TOKEN, 401)
        return None

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), self._token.encode())

    def _is_own(self, host: str) -> bool:
        """Whether a Host header names this server; the port may be another where one is passed
        on, as by `ssh -L`.
        """
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if name in self._names:
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return address.is_loopback or not self._loopback


def _is_of(origin: str, host: str) -> bool:
    """Whether an Origin header names the server that a Host header names."""
    try:
        return urlsplit(origin).netloc.lower() == host.lower()
    except ValueError:
        return False


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers[name] = value
            headers.setdefault("Cache-Control", "no-store")
        await send(message)

    return sending
