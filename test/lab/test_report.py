"""The report as a file: everything of the run is in it, escaped, and it needs no network."""

import dataclasses
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from ada3d_ros.lab.report import (
    FOUND_COLOUR,
    TEMPLATES,
    TRUE_COLOUR,
    AnsweredQuestion,
    ComparedBox,
    RunReport,
    write_report,
)
from ada3d_ros.types import Box3D, Intrinsics, RgbdFrame

NASTY = """<script>alert("x & 'y'")</script>"""


def frame(stamp_ns: int, x: float) -> RgbdFrame:
    """A small black view from (x, -1, 1.5)."""
    T = np.eye(4)
    T[:3, 3] = x, -1.0, 1.5
    rgb, depth = np.zeros((6, 8, 3), np.uint8), np.ones((6, 8), np.float32)
    camera = Intrinsics(8.0, 8.0, 3.5, 2.5, 8, 6)
    return RgbdFrame(stamp_ns, rgb, depth, camera, T, "map", "camera")


def box(x: float, label: str) -> Box3D:
    """A cube of 1 m on the floor."""
    return Box3D(np.array([x, 0.0, 0.5]), np.ones(3), label=label)


FRAMES = (frame(1_000_000_000, -1.0), frame(1_200_000_000, 1.0))
TRUE = (box(0.0, "red chair"), box(2.0, NASTY))
COMPARED = (
    ComparedBox("the red chair (pruned)", TRUE[0], box(0.25, "the red chair"), 0.6),
    ComparedBox("the blue bed (pruned)", None, None, 0.0),
    ComparedBox("the blue bed (unpruned)", None, box(1.0, "the blue bed"), 0.0),
    ComparedBox(f"{NASTY} (pruned)", TRUE[1], None, 0.0),
)
TIMES = {"prefill": 20.7, "total": 26.54}
QUESTIONS = (
    AnsweredQuestion("How many? (pruned)", "one", "", TIMES, "584 in", "one", True),
    AnsweredQuestion("How many? (unpruned)", "two", "", {"total": 47.1}, "584 in", "one", False),
    AnsweredQuestion(f"{NASTY}?", NASTY, f"NO_VIEWS: {NASTY}", {NASTY: 1.0}, NASTY, NASTY),
)
# Every text that comes from outside holds HTML once.
REPORT = RunReport(
    title=f"run {NASTY}",
    warning=NASTY,
    frames=FRAMES,
    true_boxes=TRUE,
    compared=COMPARED,
    questions=QUESTIONS,
    facts={NASTY: NASTY},
    kept_for=NASTY,
    kept_xyz_m=np.array([[0.0, 0.0, 0.5], [1.0, 0.0, 0.5]]),
)


class Page(HTMLParser):
    """A report as a browser reads it: tags, attributes, texts, and tables as rows of cells."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self.texts: list[str] = []
        self.tables: list[list[list[str]]] = []
        self._in_cell = False
        self.feed(source)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attributes
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self._in_cell = True

    def handle_endtag(self, tag: str) -> None:
        self._in_cell = self._in_cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        text = data.strip()
        if not text:
            return
        self.texts.append(text)
        if self._in_cell:
            row = self.tables[-1][-1]
            row[-1] = f"{row[-1]} {text}".strip()

    def row(self, table: int, first: str) -> list[str]:
        """The other cells of the one row that begins so."""
        (cells,) = [row[1:] for row in self.tables[table] if row and row[0] == first]
        return cells


def write(folder: Path, **changes: object) -> str:
    """The report as text."""
    report = dataclasses.replace(REPORT, **changes)  # type: ignore[arg-type]
    return write_report(folder / "new" / "report.html", report).read_text(encoding="utf-8")


def read_map(text: str) -> ET.Element:
    """The map, which must be well-formed XML."""
    (svg,) = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    return ET.fromstring(svg)


@pytest.fixture
def text(tmp_path: Path) -> str:
    return write(tmp_path)


@pytest.fixture
def page(text: str) -> Page:
    return Page(text)


def test_answers_stand_beside_the_true_ones(page: Page) -> None:
    assert page.row(0, "How many? (pruned)") == ["one 584 in", "one", "right"]
    assert page.row(0, "How many? (unpruned)") == ["two 584 in", "one", "wrong"]
    # What nobody can say is neither right nor wrong.
    assert page.row(0, f"{NASTY}?") == [f"{NASTY} NO_VIEWS: {NASTY} {NASTY}", NASTY, ""]


def test_latency_has_a_row_per_run_and_a_gap_where_a_stage_did_not_run(page: Page) -> None:
    assert page.tables[1][0] == ["question", "prefill", "total", NASTY]
    assert page.row(1, "How many? (pruned)") == ["20.7", "26.5", ""]
    assert page.row(1, "How many? (unpruned)") == ["", "47.1", ""]


def test_iou_stands_where_there_are_two_boxes_to_compare(page: Page) -> None:
    cube = "1.00, 1.00, 1.00"
    assert page.row(2, "the red chair (pruned)") == [
        "0.00, 0.00, 0.50",
        cube,
        "0.25, 0.00, 0.50",
        cube,
        "0.60",
    ]
    assert page.row(2, "the blue bed (pruned)") == ["not in the room", "", "none", "", ""]
    found = page.row(2, "the blue bed (unpruned)")
    assert found == ["not in the room", "", "1.00, 0.00, 0.50", cube, ""]


def test_every_text_arrives_as_it_is_and_none_is_markup(text: str, page: Page) -> None:
    """Title, heading, warning, answers, stages, map, boxes and facts hold HTML; none of it acts."""
    assert "script" not in page.tags
    assert "alert" not in re.sub(r"&lt;script&gt;alert\(.*?\)&lt;/script&gt;", "", text)
    assert page.texts.count(f"run {NASTY}") == 2  # title and heading
    assert sum(NASTY in each for each in page.texts) >= 13
    assert page.tables[3][1:] == [[NASTY, NASTY]]


def test_the_label_of_a_box_is_text_in_the_map(text: str) -> None:
    assert [t.text for t in read_map(text).iter("text")] == ["red chair", NASTY]


def test_values_cannot_leave_an_attribute() -> None:
    """Whatever a template puts between quotes, of either kind, stays there."""
    source = TEMPLATES.from_string("""<i a="{{ value }}" b='{{ value }}'></i>""")
    for value in (NASTY, '" onclick="alert(1)', "' onclick='alert(1)"):
        page = Page(source.render(value=value))
        assert page.attributes == [("a", value), ("b", value)]
        assert page.tags == {"i"}


def test_it_opens_offline(text: str, page: Page) -> None:
    assert not re.search(r"https?:|//\w+\.|@import|url\(|<link|<iframe", text)
    sources = [value or "" for name, value in page.attributes if name == "src"]
    assert len(sources) == len(FRAMES)
    assert all(source.startswith("data:image/jpeg;base64,") for source in sources)


def test_no_warning_without_cause(tmp_path: Path) -> None:
    assert ("class", "warning") in Page(write(tmp_path)).attributes
    assert ("class", "warning") not in Page(write(tmp_path, warning="")).attributes


def test_kept_tokens_are_said_and_drawn(text: str, tmp_path: Path) -> None:
    assert "Yellow: the 2 spatial tokens" in text
    assert len(list(read_map(text).iter("circle"))) == 2
    without = write(tmp_path, kept_for="", kept_xyz_m=np.empty((0, 3)))
    assert "Yellow" not in without
    assert not list(read_map(without).iter("circle"))


def test_the_map_has_boxes_and_camera_where_they_are(text: str) -> None:
    svg = read_map(text)
    polygons = list(svg.iter("polygon"))
    colours = [TRUE_COLOUR, TRUE_COLOUR, FOUND_COLOUR, FOUND_COLOUR]
    assert [p.get("stroke") for p in polygons] == colours

    def middle(shape: ET.Element) -> tuple[float, float]:
        pairs = [pair.split(",") for pair in (shape.get("points") or "").split()]
        return tuple(np.array(pairs, dtype=float).mean(axis=0))

    (x0, y0), (x1, _), (x2, _), _ = map(middle, polygons)
    assert (x2 - x0) / (x1 - x0) == pytest.approx(0.25 / 2.0, abs=0.01)
    assert middle(next(svg.iter("polyline")))[1] > y0  # y = -1 m lies below y = 0


def test_labels_of_objects_on_top_of_each_other_stay_readable(tmp_path: Path) -> None:
    stacked = (box(0.0, "red table"), box(0.05, "white ball"), box(0.0, "blue lamp"))
    svg = read_map(write(tmp_path, true_boxes=stacked, compared=()))
    heights = sorted(float(t.get("y") or "nan") for t in svg.iter("text"))
    assert len(heights) == 3
    assert np.diff(heights).min() >= 12.0  # the font's size
