"""The README's `From a bag`, the tutorial, and the commands that make-bag ends with, pasted into a
shell.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("rclpy")

from ada3d_ros.sources.make_bag import main
from test.support.posed_folders import N, write_tum

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = ("ada3d ", "python ", "echo ", "make ", "export ", "git ")
Shell = Callable[[str], subprocess.CompletedProcess[str]]


@pytest.fixture
def environment(domain_id: int) -> dict[str, str]:
    """`ada3d` on the path, alone in its domain."""
    return {
        **os.environ,
        "ROS_DOMAIN_ID": str(domain_id),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }


@pytest.fixture
def paste(environment: dict[str, str], tmp_path: Path) -> Shell:
    """paste(command): to its end, which must be a good one."""

    def run(command: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    return run


@pytest.fixture
def start(environment: dict[str, str], tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """start(command) -> its log; it runs until the test ends."""
    processes: list[subprocess.Popen[bytes]] = []

    def run(command: str) -> Path:
        with (tmp_path / "node.log").open("wb") as log:
            processes.append(
                subprocess.Popen(
                    ["bash", "-c", f"exec {command}"],
                    cwd=tmp_path,
                    env=environment,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
            )
        return tmp_path / "node.log"

    yield run
    for process in processes:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()


def commands_in(text: str) -> dict[str, str]:
    """Verb: command, of lines that begin with one; continued lines joined."""
    lines = re.sub(r"\\\n\s*", " ", text).splitlines()
    return {line.split()[1]: line for line in lines if line.startswith(("ada3d ", "ros2 "))}


def test_the_commands_of_a_bag_bring_every_frame_into_the_node(
    paste: Shell, start: Callable[[str], Path], tmp_path: Path
) -> None:
    write_tum(tmp_path / "in", lambda i: f"{1305031102.1 + 0.3 * i:.1f}")  # below the rate limit
    printed = commands_in(paste("ada3d make-bag in -o 'my bag'").stdout)
    log = start(printed["agent"])
    played = paste(printed["replay"])
    assert "nobody has subscribed" not in played.stdout
    answer = json.loads(paste('ada3d ask --json "Is there a table?"').stdout)
    assert len(answer["keyframe_stamps"]) == N, answer  # 0.3 m apart: each is one
    said = log.read_text()
    assert "not used" not in said, said


def test_the_readme_s_from_a_bag(
    paste: Shell, start: Callable[[str], Path], tmp_path: Path
) -> None:
    """As written, from the first command to the answer; its node's command is the printed one."""
    readme = (ROOT / "README.md").read_text()
    section = readme.split("## From a bag")[1].split("\n## ")[0]
    written = commands_in(section)
    printed = commands_in(paste(written["make-bag"]).stdout)
    assert written["agent"].split() == printed["agent"].split()
    here = str((tmp_path / "room").resolve())
    assert written["replay"] == printed["replay"].replace(here, "room")
    assert written["launch"].split() == shlex.split(printed["launch"].replace(here, "room"))
    start(written["agent"])
    assert "nobody has subscribed" not in paste(written["replay"]).stdout
    assert paste(written["ask"]).stdout.strip()
    # The page's first examples, to the same node.
    for command in re.findall(r"^```\n(ada3d ask .*?)^```$", readme, re.M | re.S)[0].splitlines():
        assert paste(command).stdout.strip()


def blocks_of(page: Path) -> list[str]:
    """What stands between fences, in order; continued lines joined."""
    text = re.sub(r"\\\n\s*", " ", page.read_text())
    return re.findall(r"^```\w*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def test_the_tutorial(
    paste: Shell, start: Callable[[str], Path], tmp_path: Path, shared_dir: Path
) -> None:
    """Its commands as written, in order; but for the set-up and the demo, which have tests of their
    own, the download, which is given, and the checkpoint that only a reader has.
    """
    given = tmp_path / "runs" / "cube_slam" / "object_slam"
    given.mkdir(parents=True)
    (given / "data").symlink_to(shared_dir / "data" / "tum_fr3_cabinet")
    (tmp_path / "tools").symlink_to(ROOT / "tools")
    left_out = ("make setup", "export ", "ada3d demo", "git clone", "/path/to/")

    blocks = blocks_of(ROOT / "docs" / "tutorial.md")
    ran, printed = [], ""
    for block in blocks:
        commands = [line for line in block.splitlines() if line.startswith(COMMANDS)]
        for command in commands:
            if any(words in command for words in left_out):
                continue
            ran.append(command.split()[:2])
            if command.startswith("ada3d agent"):
                start(command)
            else:
                printed = paste(command).stdout
        # What it shows of the last command is what came, where no time and no path is in it.
        if not commands:
            for line in block.splitlines():
                if line.startswith(("wrote ", "box: ", "no box", "cabinet_bag ")) or line.endswith(
                    "messages published"
                ):
                    assert line in printed, (line, printed)
    assert ran == [
        ["ada3d", "make-bag"],
        ["ada3d", "agent"],
        ["ada3d", "replay"],
        ["ada3d", "ask"],
        ["python", "tools/measure_box.py"],
        ["echo", '"Is'],
        ["ada3d", "analyze"],
    ]

    # The table of more questions to the same node.
    rows = re.findall(
        r"^\| `(ada3d (?:ask|ground) .*?)` \| (.*?) \|",
        (ROOT / "docs" / "tutorial.md").read_text(),
        re.M,
    )
    assert len(rows) == 4
    for command, said in rows:
        told = json.loads(paste(f"{command} --json || true").stdout)
        answer = told.get("answer", told)
        words = re.match(r"`(.*)`$", said)
        if words:  # on a busy machine fewer keyframes come through, and the words may be others
            all_came = len(answer["keyframe_stamps"]) == 20
            assert answer["text"] == words[1] if all_came else answer["text"], told
        elif "NOT_GROUNDED" in said:
            assert answer["error_code"] == 21012, told
        else:
            assert said == "no box"
            assert not answer["boxes"]


def test_make_bag_prints_the_same_from_anywhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bag is named by its whole path: the commands work in any folder."""
    write_tum(tmp_path / "in")
    monkeypatch.chdir(tmp_path)
    assert main(["in", "-o", "bag"]) == 0
    printed = commands_in(capsys.readouterr().out)
    assert str(tmp_path / "bag") in printed["replay"]
    assert f"bag:={tmp_path / 'bag'}" in printed["launch"]
