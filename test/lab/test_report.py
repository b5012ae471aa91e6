"""The report as a file: everything of the run is in it, nothing of the run is HTML, and it needs no
network.
"""

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest

from ada3d_ros.lab.report import (
    FOUND_COLOUR,
    TRUE_COLOUR,
    AskedQuestion,
    ComparedBox,
    map_svg,
    write_report,
)
from ada3d_ros.types import Box3D, Intrinsics, RgbdFrame

NASTY = '<script>alert("x & y")</script>'


def frame(stamp_ns: int, x: float) -> RgbdFrame:
    """A small black view from (x, -1, 1.5)."""
    T = np.eye(4)
    T[:3, 3] = x, -1.0, 1.5
    depth = np.ones((6, 8), np.float32)
    return RgbdFrame(
        stamp_ns,
        np.zeros((6, 8, 3), np.uint8),
        depth,
        Intrinsics(8.0, 8.0, 3.5, 2.5, 8, 6),
        T,
        "map",
        "camera",
    )


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
QUESTIONS = (
    AskedQuestion(
        "How many chairs? (pruned)",
        "one",
        "",
        {"prefill": 20.7, "total": 26.54},
        "584 in",
        "one",
        True,
    ),
    AskedQuestion(
        "How many chairs? (unpruned)", "two", "", {"total": 47.1}, "584 in", "one", False
    ),
    AskedQuestion(f"{NASTY}?", NASTY, f"NO_VIEWS: {NASTY}", {}, NASTY, NASTY),
)


@pytest.fixture
def text(tmp_path: Path) -> str:
    """A report in which every text that comes from outside holds HTML once."""
    path = write_report(
        tmp_path / "new" / "report.html",
        f"run {NASTY}",
        NASTY,
        FRAMES,
        TRUE,
        COMPARED,
        QUESTIONS,
        {NASTY: NASTY},
    )
    return path.read_text(encoding="utf-8")


def row(text: str, start: str) -> str:
    """The last table row that begins with this cell."""
    rows = [
        r for r in re.findall(r"<tr>.*?</tr>", text, re.DOTALL) if r.startswith(f"<tr><td>{start}<")
    ]
    assert rows, start
    return rows[-1]


def test_answers_stand_beside_the_true_ones(text: str) -> None:
    first, second = (
        next(r for r in re.findall(r"<tr>.*?</tr>", text) if f"How many chairs? ({how})" in r)
        for how in ("pruned", "unpruned")
    )
    assert '<div class="answer">one</div>' in first
    assert "<td>one</td>" in first
    assert ">right<" in first
    assert '<div class="answer">two</div>' in second
    assert "<td>one</td>" in second
    assert ">wrong<" in second
    unknown = next(r for r in re.findall(r"<tr>.*?</tr>", text) if "NO_VIEWS" in r)
    assert ">right<" not in unknown
    assert ">wrong<" not in unknown


def test_latency_has_a_row_per_run_and_a_gap_where_a_stage_did_not_run(text: str) -> None:
    assert '<td class="number">20.7</td><td class="number">26.5</td>' in row(
        text, r"How many chairs? (pruned)"
    )
    assert '<td class="number"></td><td class="number">47.1</td>' in row(
        text, r"How many chairs? (unpruned)"
    )


def test_iou_stands_where_there_are_two_boxes_to_compare(text: str) -> None:
    found = row(text, "the red chair (pruned)")
    assert '<td class="number">0.60</td>' in found
    assert "0.25, 0.00, 0.50" in found
    absent = row(text, "the blue bed (pruned)")
    assert "not in the room" in absent
    assert ">none<" in absent
    assert "0.00" not in absent
    assert row(text, r"the blue bed (unpruned)").endswith(
        '<td class="number"></td></tr>'
    )  # nothing to compare with


def test_what_comes_from_outside_is_escaped(text: str) -> None:
    assert "<script" not in text
    assert text.count("&lt;script&gt;alert(&quot;x &amp; y&quot;)&lt;/script&gt;") >= 10


def test_it_opens_offline(text: str) -> None:
    assert not re.search(r"https?:|//\w+\.|@import|url\(|<link|<iframe", text)
    assert all(
        source.startswith("data:image/jpeg;base64,")
        for source in re.findall(r'src="([^"]*)"', text)
    )
    assert text.count("<img ") == len(FRAMES)


def test_no_warning_without_cause(tmp_path: Path) -> None:
    path = write_report(tmp_path / "report.html", "run", "", FRAMES, TRUE, COMPARED, QUESTIONS, {})
    assert '<p class="warning">' not in path.read_text(encoding="utf-8")


def test_map_is_well_formed_with_labels_and_boxes_where_they_are() -> None:
    svg = ET.fromstring(map_svg(FRAMES, TRUE, [box(0.25, "the red chair")]))
    polygons = svg.findall("polygon")
    assert [p.get("stroke") for p in polygons] == [TRUE_COLOUR, TRUE_COLOUR, FOUND_COLOUR]
    assert [t.text for t in svg.findall("text")] == ["red chair", NASTY]

    def middle(shape: ET.Element) -> tuple[float, float]:
        points = np.array(
            [[float(v) for v in p.split(",")] for p in (shape.get("points") or "").split()]
        )
        return tuple(points.mean(axis=0))

    (x0, y0), (x1, _), (x2, _) = map(middle, polygons)
    assert (x2 - x0) / (x1 - x0) == pytest.approx(0.25 / 2.0, abs=0.01)
    camera = svg.findall("polyline")[0]
    assert middle(camera)[1] > y0  # y = -1 m lies below y = 0


def test_labels_of_objects_on_top_of_each_other_stay_readable() -> None:
    svg = ET.fromstring(
        map_svg(FRAMES, (box(0.0, "red table"), box(0.05, "white ball"), box(0.0, "blue lamp")), [])
    )
    heights = sorted(float(t.get("y") or "nan") for t in svg.findall("text"))
    assert np.diff(heights).min() >= 12.0  # the font's size
