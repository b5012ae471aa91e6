"""Fixtures of the tests in a real Chromium, without a window: an agent without a model
(test/support/fake_agent.py), one `ada3d web` and one browser for all cases of a file.

Debian's /usr/bin/chromium, or $ADA3D_CHROMIUM; where $ADA3D_NEEDS_CHROMIUM is set, a machine
without it fails instead of skipping.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.importorskip("rclpy")
pytest.importorskip("nicegui", reason="nicegui is absent: pip install 'ada3d_ros[web]'")
pytest.importorskip("playwright", reason="playwright is absent: pip install playwright")

from playwright.sync_api import Browser, Page, expect, sync_playwright

from test.support.page_driver import (
    CHROMIUM,
    FLAGS,
    NEEDED,
    READY,
    WAIT_MS,
    WIDE,
    OpenPage,
    Processes,
)
from test.support.ros_harness import free_domain


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    if not CHROMIUM:
        missing = "no chromium on this machine (apt install chromium, or ADA3D_CHROMIUM=path)"
        (pytest.fail if NEEDED else pytest.skip)(missing)
    with free_domain() as domain:
        started = Processes(domain, tmp_path_factory.mktemp("web"))
        try:
            started.start_agent()
            started.start_page()
            yield started
        finally:
            started.close()


@pytest.fixture(scope="module")
def browser(processes: Processes) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield made
        made.close()


@pytest.fixture(scope="module")
def wrong() -> list[str]:
    """What pages complained about or asked others for; no test may leave anything in it."""
    return []


@pytest.fixture(scope="module")
def open_page(browser: Browser, processes: Processes, wrong: list[str]) -> Iterator[OpenPage]:
    """open_page(viewport) -> a page that is ready."""
    contexts = []

    def is_told(text: str) -> bool:
        """Not what a test itself brings about: a server that is away, drawing in software, none."""
        return not any(words in text for words in ("ERR_", "ReadPixels", "WebGL context"))

    def start(viewport: dict[str, int] = WIDE, script: str = "") -> Page:
        context = browser.new_context(viewport=viewport)
        contexts.append(context)
        if script:
            context.add_init_script(script)
        page = context.new_page()
        page.set_default_timeout(WAIT_MS)
        expect.set_options(timeout=WAIT_MS)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on(
            "console",
            lambda said: (
                said.type in ("error", "warning") and is_told(said.text) and wrong.append(said.text)
            ),
        )
        page.on(
            "request",
            lambda asked: asked.url.startswith(processes.url) or wrong.append(asked.url),
        )
        page.goto(processes.url)
        expect(page.get_by_role("status")).to_have_text(READY)
        return page

    yield start
    for context in contexts:
        context.close()


@pytest.fixture(scope="module")
def wide(open_page: OpenPage) -> Page:
    """The one that most cases share: what is shown of those before must not matter."""
    return open_page(WIDE)


@pytest.fixture(autouse=True)
def nothing_wrong(wrong: list[str]) -> Iterator[None]:
    yield
    told, wrong[:] = list(wrong), []
    assert told == []
