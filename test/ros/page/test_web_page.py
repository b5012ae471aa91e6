"""The page in a real Chromium: by text and role, never by pixels.

The last two cases take agent and page process away.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time

import pytest

pytest.importorskip("playwright", reason="playwright is absent: pip install playwright")

from playwright.sync_api import Page, expect

from test.support.fake_agent import (
    HTML,
    HTML_TEXT,
    IN_KITCHEN,
    REFUSAL,
    REFUSED,
    RESET,
    SLOW,
    words_of,
)
from test.support.page_driver import PHONE, READY, WIDE, OpenPage, Processes, ask, field
from test.support.sources import ROOT

LOST_S = 6.0  # until a question to a robot that went away is closed
SMALL_TARGETS = """() => [...document.querySelectorAll('button, input, select, summary')]
    .filter(each => each.offsetParent && !each.classList.contains('label'))
    .filter(each => each.getBoundingClientRect().height < 43.9)
    .map(each => each.outerHTML)"""
NAMELESS = """() => [...document.querySelectorAll('button, input, select')]
    .filter(each => !(each.textContent.trim() || each.ariaLabel || each.labels?.length))
    .map(each => each.outerHTML)"""


def test_what_is_typed_fast_is_what_is_asked(wide: Page) -> None:
    """15 ms a key and Enter at once, three times; the field is free for the next one at once."""
    page = wide
    asked = ["What color is the sofa?", "Is there a red chair?", "How tall is the lamp?"]
    for question in asked:
        field(page).press_sequentially(question, delay=15)
        field(page).press("Enter")
    turns = page.get_by_role("log").locator("article")
    expect(turns).to_have_count(3)
    expect(turns.locator(".question .words")).to_have_text(asked)
    for turn, question in zip(turns.all(), asked, strict=True):
        expect(turn).to_contain_text(words_of(question))
    expect(field(page)).to_have_value("")


def test_the_answer_is_that_of_the_command(wide: Page, processes: Processes) -> None:
    """Which shows as asked elsewhere."""
    page, question = wide, "Where is the table?"
    turn = ask(page, question)
    expect(turn).to_have_attribute("aria-busy", "false")
    done = subprocess.run(
        [sys.executable, "-m", "ada3d_ros", "ask", question, "--json"],
        cwd=ROOT,
        env=processes.env,
        capture_output=True,
        text=True,
    )
    answer = json.loads(done.stdout)
    tokens = answer["tokens"]
    expect(turn.locator(".answer").first).to_have_text(answer["text"])
    kept = f"kept {tokens['spatial_kept']} of {tokens['spatial_total']} tokens"
    expect(turn.locator(".note summary")).to_contain_text(kept)
    elsewhere = page.get_by_role("log").locator("article").last
    expect(elsewhere).to_contain_text("asked elsewhere")
    expect(elsewhere).to_contain_text(answer["text"])


def test_what_is_found_is_labelled_looked_at_and_asked_about(wide: Page) -> None:
    page = wide
    turn = ask(page, "the red chair", "Find")
    labels = page.locator("#labels")
    expect(labels.get_by_role("button", name="the red chair")).to_be_visible()
    turn.get_by_role("button", name="Look at the red chair").click()
    expect(page.get_by_role("application")).to_have_attribute("aria-label", re.compile("1 boxes"))

    # Its label in the scene opens a menu.
    labels.get_by_role("button", name="the red chair").click()
    menu = page.get_by_role("group", name="This box")
    menu.get_by_role("button", name="Ask about it").click()
    expect(menu).to_be_hidden()
    expect(field(page)).to_have_value("What is nearest to the red chair?")
    page.keyboard.type("What color is")  # over the words that are selected
    expect(field(page)).to_have_value("What color is the red chair?")


def test_the_whole_scene_is_kept_at_a_keep_ratio_of_one(wide: Page) -> None:
    page = wide
    pruning = page.locator("#pruning")
    pruning.locator("summary").click()
    expect(pruning).to_contain_text("the robot's own, 0.2")
    expect(pruning.get_by_label("Strategy")).to_have_value("adatoken3d")
    slider = pruning.get_by_role("slider")
    slider.focus()
    slider.press("End")
    turn = ask(page, "How many chairs are there?")
    expect(turn).to_contain_text("536 of 536")
    expect(page.locator("#tokens")).to_contain_text("536 of 536")
    pruning.get_by_role("button", name="Robot's own").click()
    expect(ask(page, "How many sofas are there?")).to_contain_text("107 of 536")

    # One bar an answer, the newest first, each with its stages.
    page.locator("#time summary").click()
    bars = page.locator("#bars .timed")
    expect(bars.nth(0)).to_contain_text("107 of 536")
    expect(bars.nth(1)).to_contain_text("536 of 536")
    expect(bars.nth(1).get_by_role("img")).to_have_attribute("aria-label", re.compile("reading"))
    assert "queue" not in page.locator("#legend").inner_text()  # 0.0 ms

    # The strategy is set at the robot; one that it refuses is told.
    pruning.get_by_label("Strategy").select_option("none")
    expect(ask(page, "Is there a lamp?").locator("details.note")).to_contain_text("none")
    pruning.get_by_label("Strategy").select_option("random")
    expect(pruning.get_by_role("alert")).to_have_text("random is refused here.")
    expect(pruning.get_by_label("Strategy")).to_have_value("none")
    pruning.get_by_label("Strategy").select_option("adatoken3d")
    expect(pruning.get_by_role("alert")).to_be_hidden()


def test_what_is_refused_and_what_looks_like_html(wide: Page) -> None:
    page = wide
    expect(ask(page, REFUSED)).to_contain_text(REFUSAL)
    turn = ask(page, HTML)
    expect(turn).to_contain_text(HTML_TEXT)
    turn = ask(page, '<img src=x onerror="document.title=2">the "chair"', "Find")
    expect(turn.get_by_role("button", name="Look at")).to_be_visible()
    assert page.locator("#chat img, #labels img, #chat b:not(.question b)").count() == 0
    assert page.title() == "ada3d: ask the robot"


def test_a_question_beyond_what_is_taken_is_told_in_words(wide: Page, wrong: list[str]) -> None:
    page, text = wide, "Is there a chair? " * 4000
    field(page).fill(text)
    page.get_by_role("button", name="Ask", exact=True).click()
    refused = page.get_by_role("log").locator(".bad").last
    expect(refused).to_have_text(re.compile(r"^\d{5} bytes; at most 65536: write less\.$"))
    expect(field(page)).to_have_value(text)  # to be shortened
    field(page).fill("")
    assert [told for told in wrong if "413" not in told] == []  # what the browser says of it
    wrong.clear()


def test_what_was_found_in_another_scene_is_not_drawn(wide: Page) -> None:
    """Neither boxes nor kept tokens: of a room that was named, of a scene before a reset."""
    page = wide
    boxes = page.locator("#labels .box")
    ask(page, "the red chair", "Find")
    expect(boxes).to_have_count(1)
    turn = ask(page, IN_KITCHEN, "Find")
    expect(turn.get_by_role("button", name="Look at the oven")).to_be_visible()
    expect(boxes).to_have_text(["the red chair"])
    expect(ask(page, RESET)).to_contain_text(words_of(RESET))
    expect(boxes).to_have_count(0)
    ask(page, "the red chair", "Find")
    expect(boxes).to_have_text(["the red chair"])


def test_a_long_answer_streams_and_is_stopped(wide: Page) -> None:
    page = wide
    stop = page.get_by_role("button", name="Stop")
    expect(stop).to_be_hidden()
    turn = ask(page, SLOW)
    expect(turn).to_contain_text("You asked: Tell me")
    expect(turn).to_have_attribute("aria-busy", "true")
    stop.click()
    expect(turn).to_have_attribute("aria-busy", "false")
    expect(turn).to_contain_text("Stopped.")
    expect(stop).to_be_hidden()
    expect(ask(page, "And now?")).to_contain_text(words_of("And now?"))


def test_two_pages_show_one_conversation(wide: Page, open_page: OpenPage) -> None:
    first, second = wide, open_page()
    field(second).fill("half a que")
    ask(first, "Is there a bed?")
    shown = second.get_by_role("log").locator("article").last
    expect(shown).to_contain_text(words_of("Is there a bed?"))
    expect(shown).to_contain_text("asked on another page")
    expect(field(second)).to_have_value("half a que")

    # One goes away in the middle of its answer.
    expect(ask(second, SLOW)).to_contain_text("You asked")
    second.close()
    expect(ask(first, "Is there a table?")).to_contain_text(words_of("Is there a table?"))


def test_views_and_the_view_by_keyboard(wide: Page) -> None:
    page = wide
    page.locator("#pictures summary").click()
    views = page.locator("#strip").get_by_role("button")
    expect(views).to_have_count(4)
    views.first.press("Enter")
    expect(page.locator("#peek")).to_contain_text("View 1")
    scene = page.get_by_role("application")
    expect(scene).to_have_attribute("aria-label", re.compile(r"\d{4,} points, 4 views"))
    scene.press("ArrowLeft")
    scene.press("+")
    points = page.get_by_role("button", name="Points")
    points.press("Enter")
    expect(points).to_have_attribute("aria-pressed", "false")
    for name in ("From above", "From the robot", "Fit"):
        page.get_by_role("button", name=name).press("Enter")


def test_on_a_phone_nothing_is_cut_off_or_small(open_page: OpenPage) -> None:
    page = open_page(PHONE)
    ask(page, "the red chair", "Find")
    page.get_by_role("button", name="From above").click()
    labels = page.locator("#labels .label:visible")
    expect(labels).to_have_count(2)  # the robot stands where the chair does
    chair, robot = labels.nth(1).bounding_box(), labels.nth(0).bounding_box()
    assert chair is not None
    assert robot is not None
    assert robot["y"] + robot["height"] <= chair["y"] or robot["x"] >= chair["x"] + chair["width"]
    for group in ("pruning", "time", "watched", "scenes", "pictures"):
        page.locator(f"#{group} summary").click()
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    assert page.evaluate(NAMELESS) == []
    small = [each for each in page.evaluate(SMALL_TARGETS) if 'type="range"' not in each]
    assert small == []
    log = page.get_by_role("log").bounding_box()
    assert log is not None
    assert log["height"] >= 8 * 15


def test_without_webgl_the_conversation_goes_on(open_page: OpenPage) -> None:
    none = "HTMLCanvasElement.prototype.getContext = () => null"
    page = open_page(WIDE, none)
    expect(page.get_by_text("This browser gives no WebGL")).to_be_visible()
    expect(ask(page, "Is there a bed?")).to_contain_text(words_of("Is there a bed?"))


def test_the_pages_server_is_started_again(wide: Page, processes: Processes) -> None:
    """A question that is half typed stays."""
    page = wide
    field(page).fill("What is on the ta")
    processes.kill("page")
    expect(page.get_by_role("status")).to_contain_text("server does not answer")
    processes.start_page(int(processes.url.rsplit(":", 1)[1].strip("/")))
    expect(page.get_by_role("status")).to_have_text(READY)
    expect(field(page)).to_have_value("What is on the ta")
    expect(ask(page, "Is there a bed?")).to_contain_text(words_of("Is there a bed?"))


def test_the_robot_goes_in_the_middle_of_an_answer(wide: Page, processes: Processes) -> None:
    """The turn is closed, and without a reload the next robot is asked."""
    page = wide
    turn = ask(page, SLOW)
    expect(turn).to_contain_text("You asked")
    begun = time.monotonic()
    processes.kill("agent")
    expect(turn).to_have_attribute("aria-busy", "false")
    assert time.monotonic() - begun < LOST_S
    expect(turn).to_contain_text("The robot does not answer")
    expect(page.get_by_role("status")).to_contain_text("does not answer any more")
    expect(ask(page, "Are you there?")).to_contain_text("Ask once more when it is back")
    processes.start_agent()
    expect(page.get_by_role("status")).to_have_text(READY)
    expect(page.locator("#labels .box")).to_have_count(0)  # its scene went with it
    expect(ask(page, "Is there a bed?")).to_contain_text(words_of("Is there a bed?"))
