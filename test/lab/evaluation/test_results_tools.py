"""The embedded model's tables: what is missing is said with its command, old files are read."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest

from ada3d_ros.lab.evaluation import command
from test.support.sources import ROOT, load

TOOLS = ROOT / "tools"


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """tools/embedded_results.py with an empty folder of results."""
    module = load(TOOLS / "embedded_results.py")
    monkeypatch.setattr(module, "RESULTS", module.ROOT / "docs" / "results" / "none")
    return module


def test_every_command_is_one_that_the_evaluator_takes(results: ModuleType) -> None:
    names = [each.name for each in results.EVALUATIONS]
    assert len(set(names)) == len(names)
    for each in results.EVALUATIONS:
        _, verb, *arguments = each.arguments(Path("out.json"))
        options = command.make_parser().parse_args([verb, *arguments])
        assert command.selections_of(options), each.name
        assert each.command.endswith(f"--json docs/results/none/{each.name}.json")


def test_a_missing_result_is_said_with_the_command_that_makes_it(results: ModuleType) -> None:
    with pytest.raises(SystemExit, match=r"embedded_level1_blind.json is not there") as stopped:
        results.load("embedded_level1_blind")
    assert "ada3d eval synthetic --blind --json" in str(stopped.value)


def metric(
    value: float | None, low: float, n: int, chance: float | None = 0.5
) -> dict[str, object]:
    return {
        "value": value,
        "detail": {"n": n, "chance": chance, "majority": None, "interval": [low, 1.0]},
    }


def file_of(**metrics: dict[str, object]) -> dict[str, object]:
    return {
        "metrics": {name: each["value"] for name, each in metrics.items()},
        "details": {name: each["detail"] for name, each in metrics.items()},
    }


def test_a_row_has_a_cell_for_every_file_and_none_for_what_a_file_does_not_know() -> None:
    card = load(TOOLS / "write_model_card.py")
    old = file_of(count=metric(0.594, 0.52, 200, 0.14))
    new = file_of(
        count=metric(0.72, 0.66, 600, 0.14),
        coherence=metric(0.81, 0.77, 900, None),
        nothing=metric(None, 0.0, 0),
    )
    blind = {"words_alone": {"count": {"value": 0.27}}}
    assert card.row("count", [old, new], blind) == (
        "| count | 200 | .72 | .85 | 0.14 |  | 0.27 | 0.59 (0.52-1.00) | 0.72 (0.66-1.00) |"
    )
    assert card.row("coherence", [old, new]) == (
        "| coherence | 900 | .80 | .80 |  |  |  |  | 0.81 (0.77-1.00) |"
    )
    assert card.row("nothing", [old, new]) == ""


def test_files_of_before_seeds_and_coherence_are_read() -> None:
    card = load(TOOLS / "write_model_card.py")
    old = json.loads((ROOT / "docs" / "results" / "embedded_headless.json").read_text())
    assert card.rooms_of(old) == 60
    assert card.row("color", [old]).count("|") == 9
    assert card.rooms_of({"scenes": 200, "seeds": [0, 1, 2]}) == 600


def test_what_is_made_of_other_weights_or_options_is_due(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = load(TOOLS / "remake_embedded_results.py")
    monkeypatch.setattr(tool, "MADE", tmp_path)
    made = []

    def run(arguments: list[str]) -> None:
        made.append(arguments)
        Path(arguments[-1]).write_text(json.dumps({"revision_sha256": "now head:h"}))

    monkeypatch.setattr(tool, "run", run)
    each = tool.EVALUATIONS[0]
    assert not tool.is_made(each, "now head:h")
    tool.make(each)
    assert made == [each.arguments(tmp_path / f"{each.name}.json")]
    assert tool.is_made(each, "now head:h")
    assert not tool.is_made(each, "now head:other")
    other = tool.Evaluation(each.name, each.heading, "--blind", 1)
    assert not tool.is_made(other, "now head:h")
