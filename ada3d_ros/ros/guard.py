"""Nothing raises out of a callback, and nothing floods the log.

An exception in an async service callback ends `spin()` and the node is deaf; one in a lifecycle
transition is swallowed without a line. `guarded` turns either into a log line, a counter and a
result the caller can read. Warnings repeat at most once in ten seconds; those of the package's core
come through stdlib `logging`.
"""

import functools
import inspect
import logging
import time
import traceback
from collections.abc import Callable
from typing import Any, Protocol

MAX_CHARS = 1000  # of a sentence


class ThrottledWarning:
    """A warning at most once per `period_s` and key; the next says how many were held back.

    rclpy's own throttling looks up the caller's file for every call, some milliseconds each, also
    for what it then drops.
    """

    def __init__(self, warn: Callable[[str], Any], period_s: float = 10.0) -> None:
        self._warn, self._period_s = warn, period_s
        self._last_s: dict[str, float] = {}  # time.monotonic() of the last warning of a key
        self._held_back: dict[str, int] = {}

    def __call__(self, key: str, text: str) -> None:
        now = time.monotonic()
        if now - self._last_s.get(key, -self._period_s) < self._period_s:
            self._held_back[key] = self._held_back.get(key, 0) + 1
            return
        self._last_s[key] = now
        held_back = self._held_back.pop(key, 0)
        self._warn(text + (f" ({held_back} more like this)" if held_back else ""))


class CoreLog(logging.Handler):
    """Hands every warning of `ada3d_ros.*` (stdlib `logging`) to `warn` until closed."""

    def __init__(self, warn: Callable[[str], Any]) -> None:
        super().__init__(logging.WARNING)
        self._warn = ThrottledWarning(warn)
        logging.getLogger("ada3d_ros").addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        self._warn(str(record.msg), record.getMessage())

    def close(self) -> None:
        logging.getLogger("ada3d_ros").removeHandler(self)
        super().close()


class Reporter(Protocol):
    """Whoever counts and logs unexpected errors (the node)."""

    def report_error(self, where: str, error: BaseException, trace: str) -> None: ...


def capped(text: str) -> str:
    """A sentence that quotes what somebody sent, its middle left out where it is very long."""
    half = MAX_CHARS // 2
    return text if len(text) <= MAX_CHARS else f"{text[:half]} ... {text[-half:]}"


def guarded(
    fallback: Callable[..., Any] | None = None,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorate a method of an object that has `report_error`.

    On an exception the error is reported and `fallback(self, error, *args)` gives the result
    (default: None). Works for plain and `async def` methods.
    """

    def decorate(method: Callable[..., Any]) -> Callable[..., Any]:
        # what both kinds of method do with an error
        def recover(self: Reporter, error: Exception, args: tuple[Any, ...]) -> Any:
            self.report_error(method.__name__, error, traceback.format_exc())
            return fallback(self, error, *args) if fallback else None

        # A coroutine has to be awaited inside the try, or its error passes by.
        if inspect.iscoroutinefunction(method):

            @functools.wraps(method)
            async def run_async(self: Any, *args: Any) -> Any:
                try:
                    return await method(self, *args)
                except Exception as error:
                    return recover(self, error, args)

            return run_async

        @functools.wraps(method)
        def run(self: Any, *args: Any) -> Any:
            try:
                return method(self, *args)
            except Exception as error:
                return recover(self, error, args)

        return run

    return decorate
