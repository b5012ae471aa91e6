"""The page of `ada3d web` beside the demo's room, docs/images/web_page.png.

    python tools/draw_web_page.py [--out docs/images/web_page.png] [--size 1280x800] [--port 8098]

The embedded model, the room of `ada3d demo`, its bag played into the node, four questions typed.
Needs chromium, and the packages of the page and its test (`make setup`).
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from playwright.sync_api import Error, Page, expect, sync_playwright

from ada3d_ros.lab.demo import GENERATION, KEYFRAMES, REMAPS, SIDE_PX
from ada3d_ros.lab.demo_node import collect
from ada3d_ros.lab.world.generated import generate_room
from ada3d_ros.ros.peer import AgentPeer, start_verb
from ada3d_ros.sources.bag_writer import BagOptions, write_bag

ROOT = Path(__file__).resolve().parents[1]
SEED, RATE = 0, 1.0
COLOURS, VIVID = 160, 96  # of the palette, a fifth of the bytes: of all, and of what is not grey
LEAST_VIVID = 70  # strongest channel over weakest
WAIT_MS = 60_000
FLAGS = ["--no-sandbox", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
ASKED = (  # button, text; each once before, so that no time is that of the first question
    ("Find", "the sofa"),
    ("Ask", "How many chairs are there?"),
    ("Ask", "Is there a lamp?"),
    ("Ask", "How far is the sofa from the purple chair?"),
)
WHOLE = "Is there a lamp?"  # asked once more, with all tokens


def ask(page: Page, button: str, text: str) -> None:
    """One question, until it is answered."""
    turns = page.get_by_role("log").locator("article")
    turn = turns.nth(turns.count())
    page.get_by_label("Question, or what to find").fill(text)
    page.get_by_role("button", name=button, exact=True).click()
    expect(turn).to_have_attribute("aria-busy", "false", timeout=WAIT_MS)


def fill(page: Page) -> None:
    """Questions, one of them with all tokens, and the times beside each other."""
    for button, text in ASKED:
        ask(page, button, text)
    page.reload()
    expect(page.get_by_role("status")).to_have_text("Ask about the scene.", timeout=WAIT_MS)
    for button, text in ASKED:
        if text == WHOLE:
            page.locator("#pruning summary").click()
            page.get_by_role("slider").press("End")
            ask(page, button, text)
            page.get_by_role("button", name="Robot's own").click()
            page.locator("#pruning summary").click()
        ask(page, button, text)
    if page.viewport_size is not None and page.viewport_size["width"] > 760:
        page.locator("#time summary").click()
    page.locator("header").click()
    page.mouse.move(1, 1)


def draw(out: Path, size: tuple[int, int], port: int, browser: str) -> None:
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        room, bag = generate_room(SEED, level=1, side_px=SIDE_PX), Path(folder, "bag")
        write_bag(room.frames, bag, BagOptions(overwrite=True))
        settings: dict[str, Any] = {"model.path": "embedded", **GENERATION, **KEYFRAMES}
        inputs = {"use_sim_time": "true", "rgb_transport": "compressed"}
        with AgentPeer({**settings, **inputs}, REMAPS) as peer:
            # The page first: where the robot is is told while it moves.
            with start_verb("web", "--port", str(port)):
                collect(peer, bag, RATE, len(room.frames))
                made = playwright.chromium.launch(executable_path=browser, args=FLAGS)
                page = made.new_page(viewport={"width": size[0], "height": size[1]})
                open_page(page, f"http://127.0.0.1:{port}/")
                fill(page)
                page.wait_for_timeout(1500)  # for the last drawing
                shot = Path(folder, "shot.png")
                page.screenshot(path=shot)
                made.close()
                reduced(Image.open(shot).convert("RGB")).save(out, optimize=True)
    print(f"wrote {out}, {out.stat().st_size // 1000} kB")


def reduced(picture: Image.Image) -> Image.Image:
    """With a palette in which tokens and boxes, which are few pixels, have colours of their own."""
    pixels = np.asarray(picture).reshape(-1, 3)
    vivid = pixels[np.ptp(pixels, axis=1) > LEAST_VIVID]
    parts = [(picture, COLOURS), (Image.fromarray(vivid[None]), VIVID)]
    palette = Image.new("P", (1, 1))
    palette.putpalette(
        [value for part, n in parts for value in (part.quantize(n).getpalette() or [])[: 3 * n]]
    )
    return picture.quantize(palette=palette, dither=Image.Dither.NONE)


def open_page(page: Page, url: str) -> None:
    """Once the server is there, until the scene is drawn."""
    end = time.monotonic() + WAIT_MS / 1e3
    while True:
        try:
            page.goto(url)
            break
        except Error:
            if time.monotonic() > end:
                raise
            time.sleep(0.2)
    expect(page.get_by_role("status")).to_have_text("Ask about the scene.", timeout=WAIT_MS)
    expect(page.locator("#empty")).to_be_hidden(timeout=WAIT_MS)


def main() -> None:
    parser = argparse.ArgumentParser(description="draw the page of `ada3d web`")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/images/web_page.png")
    parser.add_argument("--size", default="1280x800", help="of the window, px")
    parser.add_argument("--port", type=int, default=8098)
    options = parser.parse_args()
    browser = shutil.which("chromium")
    if browser is None:
        parser.error("chromium is not installed: `sudo apt install chromium`.")
    width, height = map(int, options.size.split("x"))
    draw(options.out, (width, height), options.port, browser)


if __name__ == "__main__":
    main()
