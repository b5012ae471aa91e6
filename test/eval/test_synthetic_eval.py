"""The evaluator runs the real pipeline and tells chance from skill; its numbers are derived from what the pipeline said."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from ada3d_ros.eval.synthetic import Tally, evaluate, main, normal_form, open_pipeline, wilson
from ada3d_ros.model.grounding_head import GroundingHead, save_grounding_head
from ada3d_ros.model.random_checkpoint import write_random_checkpoint
from ada3d_ros.train.embedded import EMBEDDED_CONFIG

ANSWERS = {"existence", "color", "category", "count", "relation", "multihop", "nearest"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    decoder = dataclasses.replace(EMBEDDED_CONFIG.decoder, vocab_size=512)
    write_random_checkpoint(folder, config=dataclasses.replace(EMBEDDED_CONFIG, decoder=decoder, random_weights=True))
    save_grounding_head(GroundingHead(decoder.hidden_size), folder, 0.0)
    return folder


def test_results_have_every_key_with_n_and_chance(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.json"
    assert main(["synthetic", "--model", str(model), "--scenes", "3", "--seed", "5", "--json", str(out)]) == 0
    results = json.loads(out.read_text())
    assert set(results["metrics"]) >= ANSWERS | {"absent_false_box_rate"}
    assert any(name.startswith("grounding_") and name.endswith("acc25") for name in results["metrics"])
    for name, detail in results["details"].items():
        assert detail["n"] > 0
        assert 0.0 < detail["chance"] <= 1.0 or name.startswith("grounding")
        assert detail["interval"][0] <= results["metrics"][name] <= detail["interval"][1] + 1e-9
    assert results["provenance"]["seed"] == 5
    assert results["spatial_tokens"] > 100
    assert results["keep_ratio"] == 1.0
    shown = capsys.readouterr().out
    assert "RANDOM WEIGHTS" in shown
    assert "existence" in shown


def test_pruning_and_shuffling_are_said(model: Path) -> None:
    pipeline = open_pipeline(model, "adatoken3d", 0.5)
    results = evaluate(pipeline, "test", 0, 3, 1, True, pipeline.view_side)
    assert results["shuffled"]
    assert results["keep_ratio"] == pytest.approx(0.5, abs=0.02)
    assert results["details"]["existence"]["n"] == 4  # two rooms of three are asked about


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--scenes", "0"], "at least 1"),
        (["--scenes", "1", "--shuffle-scenes"], "at least 2"),
        (["--model", "/nowhere"], "/nowhere"),
        (["--strategy", "fastw"], "fastv"),
    ],
)
def test_what_cannot_be_is_one_sentence(
    model: Path, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [] if "--model" in arguments else ["--model", str(model)]
    assert main(["synthetic", *given, *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("ada3d eval: ")
    assert words in error


def test_answers_are_compared_without_case_and_marks() -> None:
    assert normal_form(" A red-ish Chair. ") == "a red ish chair"


def test_interval_is_wilsons() -> None:
    assert wilson(0.5, 100) == pytest.approx((0.4038, 0.5962), abs=1e-4)
    low, high = wilson(0.0, 10)
    assert (low, high) == pytest.approx((0.0, 0.2775), abs=1e-3)


def test_a_tally_counts() -> None:
    tally = Tally()
    tally.add("x", 1.0, 0.5)
    tally.add("x", 0.0, 0.25)
    assert np.mean(tally.right["x"]) == 0.5
    assert tally.chance["x"] == [0.5, 0.25]
