"""A machine without rosbags: verbs that need it say so in a sentence."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from ada3d_ros import cli

PROGRAM = """
import sys
sys.modules["rosbags"] = None  # as if it were not installed
from ada3d_ros.cli import main
sys.exit(main(["make-bag", *sys.argv[1:]]))
"""
NEEDS = "needs the Python package {}, which is not installed: `pip install"


def run(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, *args], capture_output=True, text=True, check=False
    )


def test_what_is_missing_is_named_with_the_way_to_get_it() -> None:
    done = run("folder", "-o", "bag")
    assert done.returncode == 2
    assert done.stderr.startswith(f"ada3d make-bag: {NEEDS.format('rosbags')}")
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""


def test_help_is_told_where_the_verb_cannot_run() -> None:
    """Every option, and what is missing."""
    done = run("--help")
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert lines[0] == "ada3d make-bag"
    assert any(line.startswith("- --synthetic: ") for line in lines)
    assert any(line.startswith("- -o, --output BAG: ") for line in lines)
    assert "ada3d random-model" not in done.stdout  # the next one
    assert "`" not in done.stdout
    assert done.stderr.startswith(f"ada3d make-bag: {NEEDS.format('rosbags')}")


@pytest.mark.parametrize("verb", sorted(cli.VERBS))
def test_help_without_ros_is_that_of_the_page(
    verb: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "has_ros", lambda: False)
    assert len(cli.written_help(verb).splitlines()) > 2
    if cli.VERBS[verb].needs_ros:
        assert cli.main([verb, "--help"]) == 0
        told = capsys.readouterr()
        assert told.out == cli.written_help(verb) + "\n\n"
        assert "`make setup`" in told.err
        assert cli.main([verb]) == 2
        assert capsys.readouterr().out == ""


def missing(name: str) -> ModuleNotFoundError:
    return ModuleNotFoundError(f"No module named {name!r}", name=name)


@pytest.mark.parametrize("late", [False, True], ids=["at once", "where it is needed"])
@pytest.mark.parametrize(
    ("module", "package"), [("cv2", "opencv-python-headless"), ("rosbags.rosbag2", "rosbags")]
)
def test_packages_are_named_as_they_are_installed(
    late: bool,
    module: str,
    package: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*args: Any) -> Any:
        raise missing(module)

    found = SimpleNamespace(main=fail)
    monkeypatch.setattr(cli.importlib, "import_module", (lambda name: found) if late else fail)
    assert cli.main(["calibrate"]) == 2
    assert capsys.readouterr().err.startswith(f"ada3d calibrate: {NEEDS.format(package)}")


def test_a_module_of_ours_that_is_not_there_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> Any:
        raise missing("ada3d_ros.lab.nothing")

    monkeypatch.setattr(cli.importlib, "import_module", fail)
    with pytest.raises(ModuleNotFoundError):
        cli.main(["calibrate"])
