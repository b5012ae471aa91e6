"""What is counted: kernels, launches and bytes per phase, and every wait of the host."""

from __future__ import annotations

import inspect
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

OWN = str(Path(__file__).resolve().parent)
PACKAGE = "/ada3d_ros/"
TESTS = "/test/"


@dataclass(frozen=True, slots=True)
class Sync:
    """The host waited for the device, or for a copy that the device waits for.

    kind: `item`, `host to device`, `device to host`, `event`, `stream`, `device`, or an operator
    whose result depends on values. place: file and line of the package (else of the test) that
    asked, as engine/decode.py:120.
    """

    kind: str
    place: str
    phase: str


class Counters:
    """Counts per phase, since made or since `clear`.

    kernels: run on the device, those of replayed graphs included; launches: by the host, a replay
    being one; moved_bytes: read and written by kernels, from the sizes of their tensors; names: of
    the kernels. One operator counts as one kernel, a view or an empty tensor as none.
    """

    def __init__(self) -> None:
        self._phase = ""
        self.clear()

    def clear(self) -> None:
        self.syncs: list[Sync] = []
        self.kernels: Counter[str] = Counter()
        self.launches: Counter[str] = Counter()
        self.moved_bytes: Counter[str] = Counter()
        self.names: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self.captures: Counter[str] = Counter()
        self.replays: Counter[str] = Counter()
        self.uploads = self.downloads = 0  # copies from and to the host

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count under this name inside."""
        before, self._phase = self._phase, name
        try:
            yield
        finally:
            self._phase = before

    def kernel(self, name: str, num_bytes: int, launched: bool = True) -> None:
        self.kernels[self._phase] += 1
        self.launches[self._phase] += launched
        self.moved_bytes[self._phase] += num_bytes
        self.names[self._phase][name] += 1

    def capture(self) -> None:
        self.captures[self._phase] += 1

    def replay(self) -> None:
        self.replays[self._phase] += 1
        self.launches[self._phase] += 1

    def sync(self, kind: str) -> None:
        self.syncs.append(Sync(kind, calling_place(), self._phase))

    def syncs_in(self, phase: str, *but: str) -> list[Sync]:
        """Those of a phase, without some kinds."""
        return [s for s in self.syncs if s.phase == phase and s.kind not in but]


def calling_place() -> str:
    """File and line of the innermost frame of the package, else of a test."""
    frame: FrameType | None = inspect.currentframe()
    test = ""
    while frame is not None:
        name = frame.f_code.co_filename
        if PACKAGE in name:
            return f"{name.rsplit(PACKAGE, 1)[1]}:{frame.f_lineno}"
        if not test and TESTS in name and not name.startswith(OWN):
            test = f"{name.rsplit(TESTS, 1)[1]}:{frame.f_lineno}"
        frame = frame.f_back
    return test
