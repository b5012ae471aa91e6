"""The report as a file: everything of the run is in it, escaped, laid out for desk and phone, and
it needs no network."""

from __future__ import annotations

import dataclasses
import html
import re
import shutil
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import minimize

from ada3d_ros.geometry.boxes import corners
from ada3d_ros.lab.report import (
    AskedQuestion,
    Evidence,
    FoundObject,
    GivenAnswer,
    KeptTokens,
    Round,
    RunReport,
    write_report,
)
from ada3d_ros.lab.report.content import Points
from ada3d_ros.lab.report.labels import place_labels
from ada3d_ros.lab.report.page import TEMPLATES, bar_of, explain_times, score_rounds
from ada3d_ros.lab.report.pictures import draw_crop, nearest_points, visible_edges
from ada3d_ros.lab.report.room_map import draw_evidence, draw_layers, draw_map
from ada3d_ros.types import Box3D, Intrinsics, RgbdFrame

NASTY = """<script>alert("x & 'y'")</script>"""
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)


def frame(stamp_ns: int, x: float, wall_m: float = 6.0) -> RgbdFrame:
    """From (x, -4, 0.5) along +y; all it sees is a wall_m away, or a cube of 1 m at the origin."""
    T = np.eye(4)
    T[:3, :3] = [[1, 0, 0], [0, 0, 1], [0, -1, 0]]
    T[:3, 3] = x, -4.0, 0.5
    depth = np.full((48, 64), wall_m, np.float32)
    camera = Intrinsics(60.0, 60.0, 31.5, 23.5, 64, 48)
    columns = np.arange(64)
    cube = np.abs((columns - 31.5) / 60.0 * 3.5 + x) <= 0.5
    depth[15:33, cube] = np.minimum(depth[15:33, cube], 3.5)
    return RgbdFrame(stamp_ns, np.zeros((48, 64, 3), np.uint8), depth, camera, T, "map", "camera")


def box(x: float, label: str, y: float = 0.0) -> Box3D:
    """A cube of 1 m on the floor."""
    return Box3D(np.array([x, y, 0.5]), np.ones(3), label=label)


FRAMES = (frame(1_000_000_000, 0.0), frame(1_200_000_000, 0.3))
TRUE = (box(0.0, "red chair"), box(2.0, NASTY))
TIMES = {"prefill": 20.0, "rank": 5.0, "first_token": 21.0, "decode": 4.0, "total": 32.0}
RIGHT = GivenAnswer(
    "one", method="measured", right=True, note="IoU 0.64", details=["584 in"], latency_ms=TIMES,
    evidence=Evidence((box(0.1, "red chair"),)),
)  # fmt: skip
WRONG = GivenAnswer("two", method="by the model", right=False, latency_ms={"total": 64.0})
REFUSED = GivenAnswer("", f"NO_VIEWS: {NASTY}", NASTY, None, NASTY, [NASTY], {"total": 1.0})
QUESTIONS = (
    AskedQuestion("count", "How many chairs?", "one", (RIGHT, WRONG)),
    AskedQuestion(NASTY, f"{NASTY}?", NASTY, (REFUSED, dataclasses.replace(WRONG, text=NASTY))),
)
ROUNDS = (Round("pruned", 100, 536, 1.5, 1.4), Round("unpruned", 536, 536, 3.0, 2.8))
TOKENS = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]])
# Every text that comes from outside holds HTML once.
REPORT = RunReport(
    title=f"run {NASTY}",
    lead=NASTY,
    warning=NASTY,
    frames=FRAMES,
    walls_m=(6.0, 4.0),
    true_boxes=TRUE,
    found=[box(0.25, NASTY)],
    rounds=ROUNDS,
    questions=QUESTIONS,
    facts={NASTY: {NASTY: NASTY}},
    objects=[FoundObject("red chair", TRUE[0], "red chair", 0.7), FoundObject("", None, NASTY)],
    tokens=KeptTokens(TOKENS, (TOKENS, TOKENS[:2]), np.array([[0.0, -1.0, 0.5], [1.0, 0.0, 0.5]])),
)


def write(folder: Path, **changes: object) -> str:
    """The report as text."""
    report = dataclasses.replace(REPORT, **changes)  # type: ignore[arg-type]
    return write_report(folder / "new" / "report.html", report).read_text(encoding="utf-8")


def words(text: str) -> list[str]:
    """The texts that a reader sees, style sheet left out, spaces joined."""
    body = text.split("</style>")[1]
    parts = (html.unescape(part).split() for part in re.split(r"<[^>]+>", body))
    return [" ".join(part) for part in parts if part]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write(tmp_path_factory.mktemp("report"))


# -- what it says


def test_a_question_stands_once_with_its_answers_beside_each_other(text: str) -> None:
    seen = words(text)
    start = seen.index("How many chairs?")
    assert seen.count("How many chairs?") == 1
    row = seen[start : seen.index(f"{NASTY}?")]
    assert row == [
        "How many chairs?",
        "count",
        "true answer: one",
        *("pruned, measured", "one", "✓ right", "IoU 0.64", "32.0 ms", "details", "584 in"),
        *("unpruned, by the model", "two", "✗ wrong", "64.0 ms"),
        "No place was pointed at.",  # in the next one
    ]


def test_the_score_of_each_round_comes_first(text: str) -> None:
    seen = words(text)
    tiles = ["1 of 1", "right, pruned", "0 of 2", "right, unpruned"]
    tiles += ["16 ms", "an answer, pruned", "64 ms", "an answer, unpruned"]
    start = seen.index("1 of 1")
    assert seen[start : start + 8] == tiles
    assert seen.index("Questions and answers") > start


def test_nobody_can_say_is_neither_right_nor_wrong() -> None:
    first, second = score_rounds(REPORT)
    assert (first.right, first.of, first.median_ms) == (1, 1, 16.5)
    assert (second.right, second.of, second.median_ms) == (0, 2, 64.0)


def test_objects_are_counted_against_the_truth(text: str) -> None:
    seen = words(text)
    assert "1 of 2 objects found with the right name; 1 in the list." in seen
    start = seen.index("missed")
    assert seen[start + 1] == NASTY
    assert seen[start - 3 : start] == ["red chair", "red chair", "0.70"]


def test_no_objects_no_table(tmp_path: Path) -> None:
    assert "Objects kept with the scene" not in words(write(tmp_path, objects=None))


def test_no_warning_without_cause(tmp_path: Path) -> None:
    assert 'class="warning"' in write(tmp_path)
    assert 'class="warning"' not in write(tmp_path, warning="")


# -- times


def test_a_bar_holds_the_stages_that_follow_one_another() -> None:
    bar = bar_of(RIGHT, 64.0)
    assert [(s.stage, s.ms, s.percent) for s in bar.segments] == [
        ("prefill", 20.0, 31.25),
        ("decode", 4.0, 6.25),
        ("other", 8.0, 12.5),
    ]
    assert bar.total_ms == 32.0
    assert bar_of(GivenAnswer(""), 64.0).segments == []


def test_it_says_why_pruned_is_faster_or_not() -> None:
    said = " ".join(explain_times(score_rounds(REPORT), QUESTIONS[:1]))
    assert "16 ms pruned and within 64 ms unpruned: 3.9 times as long unpruned" in said
    assert "1.5 instead of 3 MiB" in said
    assert "1.4 instead of 2.8 GFLOP" in said
    alike = AskedQuestion("", "", "", (RIGHT, dataclasses.replace(RIGHT, latency_ms=TIMES)))
    report = dataclasses.replace(REPORT, questions=[alike])
    said = " ".join(explain_times(score_rounds(report), report.questions))
    assert "about the same" in said
    assert "prefill 20.0 instead of 20.0 ms" in said


# -- what must not happen


def test_every_text_arrives_as_it_is_and_none_is_markup(text: str) -> None:
    """Titles, answers, labels, stages and facts hold HTML; none of it acts."""
    assert "<script" not in text
    assert "alert" not in re.sub(r"&lt;script&gt;alert\(.*?\)&lt;/script&gt;", "", text)
    assert sum(NASTY in each for each in words(text)) >= 15


def test_values_cannot_leave_an_attribute() -> None:
    """Whatever a template puts between quotes, of either kind, stays there."""
    source = TEMPLATES.from_string("""<i a="{{ value }}" b='{{ value }}'></i>""")
    for value in (NASTY, '" onclick="alert(1)', "' onclick='alert(1)"):
        element = ET.fromstring(source.render(value=value))
        assert element.attrib == {"a": value, "b": value}


def test_it_opens_offline(text: str) -> None:
    assert not re.search(r"https?:|//\w+\.|@import|url\(|<link|<iframe|<script", text)
    sources = re.findall(r'(?:src|href)="(?!#)([^"]*)"', text)
    assert len(sources) == 4  # hero, one crop, two views
    assert all(source.startswith("data:image/jpeg;base64,") for source in sources)


def test_every_picture_says_what_it_shows(text: str) -> None:
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in text
    pictures = [ET.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", text, re.DOTALL)]
    named = [picture.get("aria-label") or "" for picture in pictures]
    assert len(pictures) == 7  # hero, map, two views, crop, two layers
    assert all(len(name) > 10 for name in named)
    assert len(set(named)) == len(named)


def test_nothing_is_wider_than_a_phone(text: str) -> None:
    """By the style sheet: no fixed width above 350 px, and columns that may shrink."""
    style = text.split("<style>")[1].split("</style>")[0]
    widths = re.findall(r"(?<!max-)(?:width|flex-basis):\s*(\d+)px", style)
    assert all(int(width) <= 350 for width in widths)
    assert re.search(r"svg, img \{[^}]*max-width: 100%", style)
    phone = style.split("@media (max-width: 760px)")[1]
    for place in (".top", ".question", ".views", ".layers", ".tiles"):
        assert place in phone
    columns = re.findall(r"grid-template(?:-columns)?: ([^;]+);", phone)
    assert columns
    assert all("minmax(0, 1fr)" in each for each in columns)


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium, to lay the page out")
@pytest.mark.parametrize("width", [390, 1280])
def test_a_browser_scrolls_only_downwards(width: int, text: str, tmp_path: Path) -> None:
    """Laid out by a browser that may ask nobody outside."""
    assert CHROMIUM is not None
    (tmp_path / "report.html").write_text(text, encoding="utf-8")
    page = tmp_path / "page.html"
    page.write_text(
        f'<iframe src="report.html" style="border:0;width:{width}px;height:800px" onload="'
        "document.title = this.contentDocument.documentElement.scrollWidth + ' wide'\"></iframe>"
    )
    command = [CHROMIUM, "--headless", "--no-sandbox", "--hide-scrollbars", "--dump-dom"]
    command += ["--allow-file-access-from-files", "--host-resolver-rules=MAP * ~NOTFOUND"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=5000"]
    done = subprocess.run([*command, page.as_uri()], capture_output=True, text=True, timeout=120)
    assert f"<title>{width} wide</title>" in done.stdout, done.stderr


# -- pictures


def test_the_map_has_walls_boxes_and_camera_where_they_are() -> None:
    drawn = draw_map(REPORT)
    assert drawn.walls is not None
    low, high = drawn.walls.min(axis=0), drawn.walls.max(axis=0)
    assert (high - low) / drawn.metre == pytest.approx([6.0, 4.0])
    middle = (low + high) / 2
    kinds = [(outline.kind, *(outline.points.mean(0) - middle)) for outline in drawn.outlines]
    assert [kind for kind, *_ in kinds] == ["true", "true", "found"]
    places = [(x / drawn.metre, y / drawn.metre) for _, x, y in kinds]
    assert np.array(places) == pytest.approx(np.array([[0, 0], [2, 0], [0.25, 0]]))
    # y grows upwards on the map, downwards in the picture: the cameras stand below the middle.
    assert (drawn.path - middle) / drawn.metre == pytest.approx(np.array([[0, 4], [0.3, 4]]))
    assert (drawn.ticks[0][-2][1], drawn.ticks[1][-1 - 2][1]) == ("2", "0")


def test_labels_lie_on_nothing_else() -> None:
    random = np.random.default_rng(0)
    anchors = list(random.uniform((50, 50), (510, 450), (14, 2)))
    anchors[1] = anchors[0]  # what stands on a table
    placed = place_labels(["yellow cabinet"] * 14, anchors, 19.0, (560.0, 500.0))
    for i, a in enumerate(placed):
        assert a.width / 2 <= a.at[0] <= 560 - a.width / 2
        assert a.height / 2 <= a.at[1] <= 500 - a.height / 2
        for b in placed[:i]:
            apart = np.abs(a.at - b.at)
            assert apart[0] >= (a.width + b.width) / 2 or apart[1] >= (a.height + b.height) / 2


def lengths(lines: list[Points]) -> float:
    return float(sum(np.linalg.norm(b - a) for a, b in lines))


def test_edges_that_something_hides_are_not_drawn() -> None:
    """Of a cube before a wall the front's edges; behind a nearer wall none."""
    cube = box(0.0, "cube")
    front = 4 * 60.0 / 3.5  # px: four edges of 1 m, 3.5 m away
    assert lengths(visible_edges(FRAMES[0], cube)) == pytest.approx(front, rel=0.1)
    assert visible_edges(frame(0, 0.0, wall_m=2.0), cube) == []


def test_evidence_is_cut_out_of_the_view_that_shows_it() -> None:
    crop = draw_crop(FRAMES, RIGHT.evidence)
    assert crop is not None
    assert [label.text for label in crop.labels] == ["red chair"]
    ends = np.concatenate([ends for ends, _ in crop.edges])
    assert (ends >= 0).all()
    assert (ends <= (crop.width, crop.height)).all()
    # What no view shows is drawn on the map, places numbered and joined in their order.
    unseen = Evidence(places=(box(2.0, "a", 3.0), box(-2.0, "", 3.0)))
    assert draw_crop(FRAMES, unseen) is None
    drawn = draw_evidence(REPORT, unseen)
    assert [label.text for label in drawn.labels] == ["1 a", "2"]
    assert (drawn.arrows[0][1] - drawn.arrows[0][0]) / drawn.metre == pytest.approx([-4.0, 0.0])


def test_a_measured_line_joins_the_nearest_points() -> None:
    """The shortest way between two boxes, as scipy finds it."""
    random = np.random.default_rng(1)
    for _ in range(8):
        a, b = (
            Box3D(random.uniform(-2, 2, 3), random.uniform(0.2, 1.5, 3), label="") for _ in range(2)
        )
        limits = [*zip(corners(a).min(0), corners(a).max(0), strict=True)]
        limits += [*zip(corners(b).min(0), corners(b).max(0), strict=True)]
        start = np.concatenate((a.center_m, b.center_m))
        found = minimize(lambda p: ((p[:3] - p[3:]) ** 2).sum(), start, bounds=limits)
        ends = nearest_points(a, b)
        assert np.linalg.norm(ends[1] - ends[0]) == pytest.approx(found.fun**0.5, abs=1e-3)
        for point, limit in zip(ends.ravel(), limits, strict=True):
            assert limit[0] - 1e-9 <= point <= limit[1] + 1e-9


def test_the_value_of_a_measured_line_stands_in_the_picture(tmp_path: Path) -> None:
    evidence = Evidence((box(-0.3, "a"), box(0.3, "b")), (), ((0, 1),), "1.25 m")
    crop = draw_crop(FRAMES, evidence)
    assert crop is not None
    assert [label.text for label in crop.labels] == ["a", "b", "1.25 m"]
    asked = AskedQuestion(
        "distance", "How far?", "1.3 m", (GivenAnswer("1.25 m", evidence=evidence),)
    )
    seen = words(write(tmp_path, questions=[asked], rounds=ROUNDS[:1]))
    assert seen.count("1.25 m") == 2  # the answer, and the line


def test_layers_show_what_they_hold(text: str) -> None:
    layers = draw_layers(REPORT)
    assert [(layer.layer, layer.count, layer.total) for layer in layers] == [(1, 3, 3), (2, 2, 3)]
    assert [layer.kept.count("M") for layer in layers] == [3, 2]
    assert {"Layer 1: 3 of 3", "Layer 2: 2 of 3"} <= set(words(text))
    many = dataclasses.replace(REPORT, tokens=KeptTokens(TOKENS, (TOKENS,) * 32))
    assert [layer.layer for layer in draw_layers(many)] == [1, 5, 10, 14, 19, 23, 28, 32]
