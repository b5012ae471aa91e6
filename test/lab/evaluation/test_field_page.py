"""The page of the field's benchmarks quotes what was measured on drawn rooms, as a whole."""

from __future__ import annotations

import json

import pytest

from test.support.sources import ROOT, load

TOOL = load(ROOT / "tools" / "write_field_table.py")


def test_the_table_of_drawn_rooms_is_current() -> None:
    page = TOOL.PAGE.read_text(encoding="utf-8")
    assert TOOL.render(page) == page, "run tools/write_field_table.py"


@pytest.mark.parametrize("name", TOOL.QUOTED)
def test_what_is_quoted_is_a_whole_run(name: str) -> None:
    results = json.loads((TOOL.DOCS / "results" / f"field_{name}.json").read_text("utf-8"))
    assert results["benchmark"] == name
    assert results["left_out"] == 0
    assert results["errors"] == {}
    assert not results["random_weights"]
