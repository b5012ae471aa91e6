"""Ctrl-C at any moment of `ada3d`: at most one line, exit code 130."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from ada3d_ros.cli import VERBS

ROOT = Path(__file__).resolve().parents[1]
INTERRUPTED = 130

# Interrupts itself when the module with the number given is looked for, or a step later.
PROGRAM = """
import os, signal, sys

class Interrupter:
    seen = 0

    def find_spec(self, name, path=None, target=None):
        Interrupter.seen += 1
        if Interrupter.seen == int(sys.argv[1]):
            os.kill(os.getpid(), signal.SIGINT)

from ada3d_ros.__main__ import run

sys.meta_path.insert(0, Interrupter())
run(sys.argv[2:])
"""

# What a verb may do with an interrupt while it works.
WORK = """
import os, signal, sys, time
import ada3d_ros.cli

def interrupted():
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(60.0)

def waits(args):
    interrupted()

def returns(args):
    try:
        interrupted()
    except KeyboardInterrupt:
        print("stopped.", flush=True)
    return 0

def fails(args):
    try:
        interrupted()
    finally:
        raise RuntimeError("the context was closed under me")

def cleans_up(args):
    try:
        interrupted()
    finally:
        print("cleaned up", flush=True)

module = sys.modules["ada3d_ros.working"] = sys
for name in ("waits", "returns", "fails", "cleans_up"):
    setattr(module, name, globals()[name])
ada3d_ros.cli.VERBS = {"verb": ada3d_ros.cli.Verb("working:" + sys.argv[1], "")}
from ada3d_ros.__main__ import run
run(["verb"])
"""


def run_program(program: str, *args: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, args)],
        cwd=ROOT,
        env={**os.environ, "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.parametrize(
    ("verb", "number"),
    [*((verb, number) for verb in sorted(VERBS) for number in (1, 30)), ("agent", 400)],
)
def test_while_the_modules_of_a_verb_load(verb: str, number: int) -> None:
    if VERBS[verb].needs_ros and find_spec("rclpy") is None:
        pytest.skip("rclpy is not importable")
    done = run_program(PROGRAM, number, verb, "--help")
    assert (done.returncode, done.stdout) == (INTERRUPTED, ""), done.stdout + done.stderr
    assert done.stderr == f"ada3d {verb}: interrupted.\n"


def test_python_m() -> None:
    """`python -m ada3d_ros` is the same program."""
    command = [sys.executable, "-m", "ada3d_ros", "--version"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout.count("."), done.stderr) == (0, 2, "")


@pytest.mark.parametrize(
    ("work", "stdout", "stderr"),
    [
        ("waits", "", "ada3d verb: interrupted.\n"),
        ("fails", "", "ada3d verb: interrupted.\n"),
        ("cleans_up", "cleaned up\n", "ada3d verb: interrupted.\n"),
        ("returns", "stopped.\n", ""),
    ],
)
def test_while_a_verb_works(work: str, stdout: str, stderr: str) -> None:
    """It may tidy up, fail of it or say something itself: the exit code is the same."""
    done = run_program(WORK, work)
    assert (done.returncode, done.stdout, done.stderr) == (INTERRUPTED, stdout, stderr)


@pytest.mark.parametrize("lines", [1, 100_000])
def test_where_nobody_reads_what_is_printed(lines: int) -> None:
    """As before `| head`: no traceback, the exit code of SIGPIPE; at the end or on the way."""
    program = WORK.replace(
        "    interrupted()\n\ndef returns",
        f"    print('line\\n' * {lines})\n    return 0\n\ndef returns",
    )
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-c", program, "waits"]
    done = subprocess.run(command, cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (128 + 13, "")


def test_an_error_without_an_interrupt_is_told() -> None:
    done = run_program(WORK.replace("os.kill(os.getpid(), signal.SIGINT)", "1 / 0"), "waits")
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr
