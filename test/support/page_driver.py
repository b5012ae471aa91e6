"""What tests of the page in a browser share: its processes, and how a person asks on it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, expect

from test.support.sources import ROOT

CHROMIUM = os.environ.get("ADA3D_CHROMIUM") or shutil.which("chromium") or ""
NEEDED = os.environ.get("ADA3D_NEEDS_CHROMIUM", "") not in ("", "0")
WAIT_MS = 20_000  # for what takes a moment, on a busy machine
WIDE, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
READY = "Ask about the scene."
# No name but this machine's leads anywhere.
FLAGS = ["--no-sandbox", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
OpenPage = Callable[..., Page]


class Processes:
    """The agent and the page's server; either can be killed and started again."""

    def __init__(self, domain: int, logs: Path) -> None:
        self.env = {**os.environ, "ROS_DOMAIN_ID": str(domain), "OMP_NUM_THREADS": "1"}
        self._logs, self._running = logs, {}
        self.url = ""

    def start(self, name: str, *args: str) -> subprocess.Popen[str]:
        with (self._logs / f"{name}.log").open("a") as log:
            self._running[name] = subprocess.Popen(
                [sys.executable, "-m", *args],
                cwd=ROOT,
                env=self.env,
                stdout=log if name == "agent" else subprocess.PIPE,
                stderr=log,
                text=True,
            )
        return self._running[name]

    def start_agent(self) -> None:
        self.start("agent", "test.support.fake_agent")

    def start_page(self, port: int = 0) -> None:
        """Until it says where it is."""
        self.url = self.start_server("page", port)

    def start_server(self, name: str, port: int, *options: str) -> str:
        """`ada3d web`; the address that it prints."""
        process = self.start(name, "ada3d_ros", "web", "--port", str(port), *options)
        assert process.stdout is not None
        found = re.search(r"http://127\.0\.0\.1:\S+", process.stdout.readline())
        assert found is not None, (self._logs / f"{name}.log").read_text()
        return found.group()

    def kill(self, name: str) -> None:
        process = self._running.pop(name)
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()

    def close(self) -> None:
        for name in list(self._running):
            self.kill(name)


def field(page: Page) -> Any:
    return page.get_by_label("Question, or what to find")


def ask(page: Page, text: str, button: str = "Ask") -> Any:
    """Ask or find; the turn, which is the last one."""
    field(page).fill(text)
    page.get_by_role("button", name=button, exact=True).click()
    turn = page.get_by_role("log").locator("article").last
    expect(turn).to_contain_text(text)
    return turn
