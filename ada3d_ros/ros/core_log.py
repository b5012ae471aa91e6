"""Warnings of the package's core (stdlib `logging`) in the node's log, each at most once in ten
seconds.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from ada3d_ros.ros.guard import ThrottledWarning


class CoreLog(logging.Handler):
    """Hands every warning of `ada3d_ros.*` to `warn` until closed."""

    def __init__(self, warn: Callable[[str], Any]) -> None:
        super().__init__(logging.WARNING)
        self._warn = ThrottledWarning(warn)
        logging.getLogger("ada3d_ros").addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        self._warn(str(record.msg), record.getMessage())

    def close(self) -> None:
        logging.getLogger("ada3d_ros").removeHandler(self)
        super().close()
