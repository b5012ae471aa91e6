"""What is watched, and saved scenes, on the page in a real Chromium: by text and role."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("playwright", reason="playwright is absent: pip install playwright")

from playwright.sync_api import Browser, Page, expect

from test.support.fake_agent import (
    HTML,
    HTML_TEXT,
    NEWS,
    NEWS_TEXT,
    NO_STORE,
    NO_STORE_TEXT,
    REFUSAL,
    REFUSED,
    words_of,
)
from test.support.page_driver import PHONE, READY, OpenPage, Processes, ask


def unfold(page: Page, group: str) -> Any:
    """A group, open."""
    node = page.locator(f"#{group}")
    if node.get_attribute("open") is None:
        node.locator("summary").click()
    return node


def watch(page: Page, text: str, kind: str = "a question") -> Any:
    """Have it watched; the group."""
    group = unfold(page, "watched")
    group.get_by_label("Kind of what is watched").select_option(kind)
    group.get_by_label("What to watch").fill(text)
    group.get_by_role("button", name="Watch", exact=True).click()
    return group


def test_what_is_watched_is_listed_until_it_is_ended(wide: Page, open_page: OpenPage) -> None:
    group = watch(wide, "Is the door open?")
    items = group.get_by_role("list", name="Standing questions").get_by_role("listitem")
    expect(items).to_have_count(1)
    expect(items.first).to_contain_text("Is the door open?")
    expect(items.first).to_contain_text(words_of("Is the door open?"))
    expect(items.first).to_contain_text("question")
    expect(group.get_by_label("What to watch")).to_have_value("")
    watch(wide, "the red chair", "a kept object")
    expect(items).to_have_count(2)
    expect(items.last).to_contain_text("kept object")
    expect(group.locator("summary")).to_contain_text("2")

    # Its age goes on; the button that is about to be pressed stays the same one.
    end = group.get_by_role("button", name="End watching Is the door open?").element_handle()
    expect(items.first).to_contain_text(re.compile(r"question, stands for \d+ s"))
    age = items.first.locator(".age").inner_text()
    expect(items.first.locator(".age")).not_to_have_text(age)
    assert end.evaluate("button => button.isConnected")

    # Another page has the list too, and may end one.
    other = open_page(PHONE)
    listed = unfold(other, "watched")
    listed.get_by_role("button", name="End watching Is the door open?").click()
    expect(items).to_have_count(1)
    expect(items.first).to_contain_text("the red chair")
    assert other.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    other.close()


def test_a_watch_that_is_refused_is_told_and_its_text_stays(wide: Page) -> None:
    group = watch(wide, REFUSED)
    expect(group.get_by_role("alert")).to_have_text(REFUSAL)
    expect(group.get_by_label("What to watch")).to_have_value(REFUSED)
    group.get_by_label("What to watch").fill("   ")
    group.get_by_role("button", name="Watch", exact=True).click()
    expect(group.get_by_role("alert")).to_have_text(REFUSAL)  # nothing was asked
    watch(wide, HTML)
    expect(group.get_by_role("alert")).to_be_hidden()
    expect(group.get_by_label("Standing questions")).to_contain_text(HTML_TEXT)
    assert group.locator("img").count() == 0


def test_news_are_sentences_and_counted_until_they_are_looked_at(wide: Page) -> None:
    unfold(wide, "watched").locator("summary").click()
    ask(wide, NEWS)
    group = wide.locator("#watched")
    expect(group.locator("summary")).to_contain_text("1 new")
    unfold(wide, "watched")
    expect(group.get_by_role("list", name="News")).to_contain_text(NEWS_TEXT)
    expect(group.locator("summary")).not_to_contain_text("new")
    assert group.locator("#news b").count() == 0
    ask(wide, NEWS)  # while it is open
    expect(group.get_by_role("list", name="News").get_by_role("listitem")).to_have_count(2)
    expect(group.locator("summary")).not_to_contain_text("new")


def test_scenes_are_listed_saved_and_loaded(wide: Page) -> None:
    group = unfold(wide, "scenes")
    saved = group.get_by_role("list", name="Saved scenes").get_by_role("listitem")
    expect(saved).to_have_count(2)
    expect(saved.first).to_contain_text("hall")
    expect(saved.first).to_contain_text("12 views, 5 objects, 2.8 MB")
    expect(saved.first).to_contain_text("seen until Jun 15, 2025")
    expect(saved.last).not_to_contain_text("seen until")
    expect(group.locator("#in-use")).to_contain_text("has no name yet")

    name = group.get_by_label("Name to save the scene in view under")
    save = group.get_by_role("button", name="Save")
    name.fill("hall")
    save.click()
    expect(group.get_by_role("alert")).to_have_text("the store has a scene 'hall' already.")
    name.fill("<b>x</b>")
    save.click()
    expect(saved).to_have_count(3)
    expect(group.get_by_role("alert")).to_be_hidden()
    expect(group.locator("#in-use")).to_have_text("In view is <b>x</b>.")
    expect(saved.first).to_contain_text("in view")
    expect(wide.locator("#facts")).to_contain_text("<b>x</b>")

    # Loading is for everybody, and so is asked twice.
    ask(wide, "the red chair", "Find")
    boxes = wide.locator("#labels .box")
    expect(boxes).to_have_count(1)
    load = group.get_by_role("button", name="Load kitchen")
    load.click()
    expect(load).to_have_text("For everybody?")
    expect(group.locator("#in-use")).to_have_text("In view is <b>x</b>.")
    load.click()
    expect(group.locator("#in-use")).to_have_text("In view is kitchen.")
    expect(wide.locator("#facts")).to_contain_text("kitchen")
    expect(boxes).to_have_count(0)
    assert group.locator("li b, #in-use b").count() == 0


def test_without_a_store_a_sentence_says_how_to_get_one(wide: Page) -> None:
    expect(ask(wide, NO_STORE)).to_contain_text(re.compile("You asked"))
    group = unfold(wide, "scenes")
    group.locator("summary").click()
    unfold(wide, "scenes")
    expect(group).to_contain_text(NO_STORE_TEXT)
    expect(group.get_by_role("button", name="Save")).to_be_hidden()
    expect(group.get_by_role("listitem")).to_have_count(0)


def test_a_token_is_brought_once_and_then_kept(
    browser: Browser, processes: Processes, tmp_path: Path
) -> None:
    """The address changes to one without it, which opens from then on; for this browser alone."""
    (tmp_path / "token").write_text("abcdefgh12345678")
    url = processes.start_server("guarded", 0, "--token", str(tmp_path / "token"))
    page_url = url.split("?")[0]
    with browser.new_context() as context, browser.new_context() as stranger:
        page = context.new_page()
        for wrong in (page_url, f"{page_url}?token=abcdefgh87654321"):
            told = page.goto(wrong)
            assert told is not None
            assert told.status == 401
            expect(page.locator("body")).to_contain_text("holds the token")
        page.goto(url)
        page.wait_for_url(page_url)
        expect(page.get_by_role("status")).to_have_text(READY)
        expect(ask(page, "Is there a bed?")).to_contain_text(words_of("Is there a bed?"))
        page.reload()
        expect(page.get_by_role("status")).to_have_text(READY)
        told = stranger.new_page().goto(page_url)
        assert told is not None
        assert told.status == 401
    processes.kill("guarded")
