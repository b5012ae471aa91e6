"""The program `ada3d`, also `python -m ada3d_ros`: what Ctrl-C does, and how the process ends.

While modules load, an interrupt ends the process at once. Later it is a KeyboardInterrupt, so that
files are closed and child processes ended. Both leave at most one line and exit code 130; the node
takes interrupts over and ends with 0. Where nobody reads what is printed any more (`| head`), the
process ends at once, without a line, with 141.
"""

import os
import select
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import FrameType
from typing import NoReturn

INTERRUPTED = 128 + signal.SIGINT  # exit codes, as shells have them
NOBODY_READS = 128 + signal.SIGPIPE


class _Interrupts:
    """The handler of SIGINT from the first line of the program on."""

    def __init__(self, name: str) -> None:
        self.seen = self.working = False
        self._line = f"{name}: interrupted.\n".encode()
        signal.signal(signal.SIGINT, self._handle)  # also where a shell has it ignored

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.seen = True
        if self.working:
            raise KeyboardInterrupt
        self.end()

    def end(self) -> NoReturn:
        os.write(2, self._line)
        os._exit(INTERRUPTED)


def run(args: Sequence[str] | None = None) -> NoReturn:
    """Run the verb of `args` (default: of the command line), and end the process."""
    args = sys.argv[1:] if args is None else args
    interrupts = _Interrupts(" ".join(["ada3d", *args[:1]]))

    # load the verb; then an interrupt is its own to handle
    from ada3d_ros.cli import ends_at_once, find_verb

    work: Callable[[], int] = find_verb(args)
    interrupts.working = True
    try:
        code = work()
        sys.stdout.flush()
    except BaseException as error:  # after an interrupt anything may fail, and nobody asks what
        if interrupts.seen:
            _flush()
            interrupts.end()
        if isinstance(error, BrokenPipeError) and not _is_read():
            os._exit(NOBODY_READS)
        raise

    # the node has closed what it opened: tearing down its libraries takes seconds, for nothing
    if interrupts.seen:
        code = INTERRUPTED
    elif not ends_at_once(args):
        sys.exit(code)
    _flush()
    os._exit(code)


def _is_read() -> bool:
    """Whether someone still reads standard output, where it is a pipe or a socket."""
    poll = select.poll()
    poll.register(1, 0)  # errors are always reported
    return not any(state & (select.POLLERR | select.POLLHUP) for _, state in poll.poll(0))


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):  # who read it is gone
            stream.flush()


if __name__ == "__main__":
    run()
