"""The comparison of pruned cached scenes: paired, counted as held, written row by row."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ada3d_ros.config import load_config, to_flat
from ada3d_ros.errors import ConfigError
from ada3d_ros.lab.evaluation import scene_pruning, scene_variants
from ada3d_ros.lab.evaluation.command import main
from ada3d_ros.lab.evaluation.pipelines import open_pipeline
from ada3d_ros.lab.evaluation.scene_pruning import (
    GROUPS,
    KINDS,
    WHOLE,
    Comparison,
    Measured,
    beside,
    compare,
    measure,
    remember_views,
)
from ada3d_ros.lab.evaluation.scene_variants import KEEP_RATIOS, NAMES, Variant, parse, table
from ada3d_ros.lab.evaluation.selection import Room, RoomSelection, rooms_of
from ada3d_ros.lab.results import Tree
from ada3d_ros.lab.train.embedded import EMBEDDED_CONFIG
from ada3d_ros.pipeline import Ada3DPipeline

WIDTH, LAYERS = EMBEDDED_CONFIG.decoder.hidden_size, EMBEDDED_CONFIG.decoder.num_layers
THIRD = Variant("voxel_dpp", 0.3, {"pruning.strategy": "voxel_dpp", "pruning.keep_ratio": 0.3})


@pytest.fixture(scope="module")
def comparison(model: Path) -> Comparison:
    return Comparison(model, {}, RoomSelection(seed=3, scenes=2))


@pytest.fixture(scope="module")
def rooms(comparison: Comparison) -> list[Room]:
    return list(rooms_of(comparison.selection, EMBEDDED_CONFIG.vision.image_size))


@pytest.fixture(scope="module")
def results(comparison: Comparison) -> dict[str, Any]:
    """The whole scene beside itself, and a third of it."""
    again = Variant("again", 1.0, WHOLE.settings)
    return compare(comparison, [again, THIRD])


def test_the_whole_scene_beside_itself_differs_in_nothing(results: dict[str, Any]) -> None:
    row = results["rows"][0]
    assert set(row["metrics"]) == set(GROUPS)
    for name, metric in row["metrics"].items():
        if results["n"][name]:
            assert metric["points"] == 0.0, name
            assert metric["standard_error"] in (0.0, None), name  # of one room there is none
            assert metric["value"] == results["unpruned"]["metrics"][name]["value"]
    assert (row["kv_share"], row["build_share"]) == (1.0, 1.0)


def test_bytes_are_those_of_the_tokens_held(results: dict[str, Any]) -> None:
    """Two vectors of the model's width in float32 per layer and token."""
    for row in results["rows"]:
        assert len(row["tokens_held"]) == LAYERS
        assert row["kv_bytes"] == pytest.approx(2 * 4 * WIDTH * sum(row["tokens_held"]))
        assert row["kv_bytes_with_room"] > row["kv_bytes"]
    whole, third = results["rows"]
    system = whole["tokens_held"][0] - whole["spatial_tokens"]
    kept = third["tokens_held"][0] - system
    assert kept == pytest.approx(0.3 * whole["spatial_tokens"], abs=1.0)
    assert third["kv_share"] == pytest.approx(third["kv_bytes"] / whole["kv_bytes"])
    assert 0.25 < third["build_share"] < third["kv_share"]  # attention falls with its square


def test_all_of_a_rooms_questions_of_the_kinds_are_asked(
    results: dict[str, Any], rooms: list[Room]
) -> None:
    asked = [question for room in rooms for question in room.questions if question.kind in KINDS]
    n = results["n"]
    assert n["text"] + n["acc25"] + n["absent_false_box_rate"] == len(asked)
    assert n["text"] == sum(n[kind] for kind in GROUPS["text"])
    assert n["acc25"] == n["acc50"] == sum(question.kind == "grounding" for question in asked)


def by_hand(right: list[float], asked: list[float]) -> Measured:
    return Measured(
        right=dict.fromkeys(GROUPS, np.array(right)),
        asked=dict.fromkeys(GROUPS, np.array(asked)),
        kv_bytes=[100, 300],
        reserved_bytes=[1000, 1000],
        flops=[2.0, 6.0],
        lengths=[(3, 1), (5, 3)],
    )


def test_differences_by_hand() -> None:
    """Three rooms, two questions each: one more right in the first, one less in the others."""
    whole = by_hand([1.0, 2.0, 2.0], [2.0, 2.0, 2.0])
    pruned = by_hand([2.0, 1.0, 1.0], [2.0, 2.0, 2.0])
    pruned.kv_bytes, pruned.flops = [50, 50], [1.0, 1.0]
    row = beside(pruned, whole)
    metric = row["metrics"]["text"]
    assert metric["value"] == pytest.approx(4 / 6)
    assert metric["points"] == pytest.approx(-100 / 6)
    # Per room +1, -1, -1: their deviation 1.1547, over sqrt(3), over two questions a room.
    assert metric["standard_error"] == pytest.approx(100 * 1.1547 / 3**0.5 / 2, rel=1e-4)
    assert metric["interval"] == pytest.approx((-50.0, 50.0))  # all of one kind: 4 % and 30 %
    assert (row["kv_share"], row["build_share"]) == (0.25, 0.25)
    assert row["tokens_held"] == [4.0, 2.0]
    with pytest.raises(ConfigError, match="same questions"):
        beside(by_hand([1.0, 1.0, 1.0], [2.0, 2.0, 1.0]), whole)


def test_a_rival_stands_beside_every_row(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Beside itself it differs in nothing; the whole scene gains what the rival lost."""
    one = Comparison(model, {}, RoomSelection(seed=3, scenes=1), against=THIRD)
    whole = Variant("whole", 1.0, WHOLE.settings)
    results = compare(one, [Variant("again", 0.3, THIRD.settings), whole])
    again, unpruned = results["rows"]
    assert results["against"]["metrics"] == again["metrics"]
    for name, metric in results["against"]["metrics"].items():
        if results["n"][name]:
            assert again["against"][name]["points"] == 0.0
            assert unpruned["against"][name]["points"] == pytest.approx(-metric["points"])
    assert capsys.readouterr().out.count("against the rival") == 2


def test_views_seen_before_change_no_answer(model: Path, rooms: list[Room]) -> None:
    class _Counting:
        def __init__(self, encode: Callable[[torch.Tensor], torch.Tensor]) -> None:
            self.encode, self.calls = encode, 0

        def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            return self.encode(pixels)

    seen: dict[bytes, torch.Tensor] = {}
    found, calls = [], []
    for _ in range(2):
        pipeline = open_pipeline(model, "none", None)
        tower = _Counting(pipeline.model.model.encode_views)
        pipeline.model.model.encode_views = tower  # type: ignore[method-assign]
        found.append(measure(pipeline, rooms[:1], seen))
        calls.append(tower.calls)
    assert calls == [len(rooms[0].frames), 0]
    for group in GROUPS:
        assert np.array_equal(found[0].right[group], found[1].right[group])
    assert found[0].kv_bytes == found[1].kv_bytes


def test_a_view_that_differs_passes_the_tower(model: Path) -> None:
    pipeline = open_pipeline(model, "none", None)
    seen: dict[bytes, torch.Tensor] = {}
    encode = pipeline.model.model.encode_views
    remember_views(pipeline, seen)
    side = pipeline.view_side
    pixels = torch.rand(1, 3, side, side)
    other = pixels.clone()
    other[0, 0, 0, 0] += 1e-3
    for each in (pixels, other, pixels):
        assert torch.equal(pipeline.model.model.encode_views(each), encode(each))
    assert len(seen) == 2


def test_rows_are_written_at_once_and_not_measured_again(
    comparison: Comparison, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = Tree("0" * 40, changed=False)
    for module in ("evaluation.scene_pruning", "results"):
        monkeypatch.setattr(f"ada3d_ros.lab.{module}.tree", lambda: found)
    file, measured = tmp_path / "out.json", []

    def counted(pipeline: Ada3DPipeline, rooms: list[Room], *others: Any) -> Measured:
        measured.append(pipeline.config.pruning.strategy)
        if len(measured) == 3:
            raise KeyboardInterrupt
        return by_hand([1.0, 2.0], [2.0, 2.0])

    monkeypatch.setattr(scene_pruning, "measure", counted)
    second = parse("pruning.strategy=random pruning.keep_ratio=0.5")
    with pytest.raises(KeyboardInterrupt):
        compare(comparison, [THIRD, second], file)
    assert not json.loads(file.read_text())["complete"]
    written = json.loads(file.read_text())["rows"]
    assert [row["variant"] for row in written] == ["voxel_dpp"]
    results = compare(comparison, [THIRD, second], file)
    assert measured == ["none", "voxel_dpp", "random", "none", "random"]
    assert results["rows"][0] == written[0]
    assert json.loads(file.read_text())["rows"] == results["rows"]

    # Of another commit, or of changes that none names, nothing is taken over.
    for other in (Tree("1" * 40, changed=False), Tree("1" * 40, changed=True)):
        found = other
        measured.clear()
        compare(comparison, [THIRD], file)
        assert measured == ["none", "voxel_dpp"], other


def test_what_was_refused_is_a_row_with_its_sentence(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.json"
    given = ["--model", str(model), "--scenes", "1", "--json", str(out)]
    bad = "cache.mode=paper pruning.keep_ratio=0.1"
    assert main(["scene-pruning", *given, "--variant", bad]) == 0
    (row,) = json.loads(out.read_text())["rows"]
    assert "keep_ratio = 0.1" in row["refused"]
    assert "keep_ratio = 0.1" in capsys.readouterr().out


def test_appended_views_are_appended(model: Path) -> None:
    selection = RoomSelection(seed=3, scenes=1)
    variant = scene_variants.variant(scene_variants.ARRIVAL, 1.0)
    (row,) = compare(Comparison(model, {}, selection, appended=True), [variant])["rows"]
    assert "refused" not in row
    assert row["kv_share"] == 1.0  # as many tokens, in another order


def test_the_table_holds_every_variant_at_every_ratio() -> None:
    rows = table(KEEP_RATIOS)
    assert len({(row.name, row.keep_ratio) for row in rows}) == len(rows)
    for name in NAMES:
        if name not in ("prompts12 even", "prompts12 late"):
            assert {row.keep_ratio for row in rows if row.name == name} == set(KEEP_RATIOS)
    twelve = next(row for row in rows if row.name == "prompts12")
    assert str(twelve.settings["cache.prompts"]).count("|") == 11
    many = next(row for row in rows if row.name == "vocabulary")
    assert str(many.settings["cache.prompts"]).count("|") == 35


def test_the_preset_small_is_one_of_the_table() -> None:
    preset = to_flat(load_config(Path(__file__).parents[3] / "config" / "small.yaml"))
    for name, value in scene_variants.variant("expected", 0.1).settings.items():
        assert preset[name] == value, name
    prompts = scene_variants.variant("prompts4", 0.1).settings  # where no file says what to expect
    assert preset["cache.prompts"] == prompts["cache.prompts"]


def test_settings_of_a_variant_are_read_as_a_shell_reads() -> None:
    text = "cache.ranking=prompts 'cache.prompts=What is here?|Where?' pruning.keep_ratio=0.2"
    found = parse(text)
    assert found.keep_ratio == 0.2
    assert found.settings["cache.prompts"] == "What is here?|Where?"
    assert found.settings["pruning.strategy"] == "adatoken3d"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--variant", "nothing"], "no name=value"),
        (["--variant", "'open=1"], "--variant"),
        (["--variant", ""], "name=value"),
        (["--only", "prompt"], "prompts12"),
        (["--keep", "1.5"], "--keep 1.5"),
        (["--keep", "much"], "--keep"),
        (["--scenes", "0"], "at least 1"),
        (["--threads", "0"], "--threads 0"),
    ],
)
def test_what_cannot_be_compared_is_one_sentence(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["scene-pruning", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("ada3d eval: ")
    assert words in error
