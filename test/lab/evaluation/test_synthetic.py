"""The evaluator counts what was asked, with chance beside it; a question without text is wrong."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

from ada3d_ros.config import from_flat
from ada3d_ros.errors import (
    AmbiguousError,
    ConfigError,
    ModelError,
    NoFramesError,
    OutOfMemoryError,
    UnknownKindError,
)
from ada3d_ros.lab.evaluation.command import main
from ada3d_ros.lab.evaluation.pipelines import load_room, open_pipeline
from ada3d_ros.lab.evaluation.selection import ASKED, RoomSelection, rooms_of
from ada3d_ros.lab.evaluation.synthetic import ask_room, evaluate
from ada3d_ros.lab.evaluation.tally import METRICS, Tally, summary
from ada3d_ros.lab.world.generated import frames_of
from ada3d_ros.lab.world.graph import graphs
from ada3d_ros.lab.world.questions import make_questions
from ada3d_ros.lab.world.render import render
from ada3d_ros.lab.world.room_question import RoomQuestion
from ada3d_ros.lab.world.rooms import make_rooms
from ada3d_ros.model.startup import embedded_model_path
from ada3d_ros.pipeline import Ada3DPipeline
from ada3d_ros.types import AskHooks, Box3D, Question
from ada3d_ros.usage import TokenUsage
from test.support.pointing import write_pointing_checkpoint

GROUNDING = {
    f"grounding_{group}_acc{percent}" for group in ("unique", "distractor") for percent in (25, 50)
}
KEYS = {
    "existence",
    "color",
    "category",
    "count",
    "relation",
    "multihop",
    "nearest",
    "absent_false_box_rate",
} | GROUNDING


@pytest.fixture(scope="module")
def results(model: Path) -> dict[str, Any]:
    """Of the test rooms 400000 to 400002."""
    pipeline = open_pipeline(model, "none", None)
    return evaluate(pipeline, RoomSelection(seed=4, scenes=3))


def raising(error: Exception) -> Callable[..., None]:
    def fail(*args: object) -> None:
        raise error

    return fail


def all_raising(error: Exception) -> Callable[..., list[Exception]]:
    return lambda pipeline, asked: [error for _ in asked]


def test_n_is_what_the_rooms_were_asked(results: dict[str, Any]) -> None:
    known = graphs(make_rooms("test", torch.arange(3) + 400_000))
    each = (make_questions(g, 400_000 + i, ASKED, len(ASKED)) for i, g in enumerate(known))
    asked = [question for questions in each for question in questions]
    details = results["details"]
    assert set(details) == set(results["metrics"]) == set(METRICS) >= KEYS
    for kind in set(ASKED) - {"grounding", "absent"}:
        assert details[kind]["n"] == sum(q.kind == kind for q in asked), kind
    assert details["absent_false_box_rate"]["n"] == sum(q.kind == "absent" for q in asked)
    for group, unique in (("unique", True), ("distractor", False)):
        expected = sum(q.kind == "grounding" and q.unique == unique for q in asked)
        for percent in (25, 50):
            assert details[f"grounding_{group}_acc{percent}"]["n"] == expected
    assert results["n"] == len(asked)
    assert results["unanswered"] == 0


def test_chance_is_one_over_the_possible_answers(results: dict[str, Any]) -> None:
    details = results["details"]
    possible = {"existence": 2, "color": 8, "category": 10, "relation": 3, "multihop": 8}
    for kind, number in possible.items():
        assert details[kind]["chance"] == pytest.approx(1 / number), kind
    for name in GROUNDING & {name for name, detail in details.items() if detail["n"]}:
        # The target is one of 6 to 9 objects.
        assert 1 / 9 - 1e-9 <= details[name]["chance"] <= 1 / 6 + 1e-9, name


def test_a_model_without_words_is_wrong_everywhere_and_said_so(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("ask", "ground"):
        monkeypatch.setattr(Ada3DPipeline, name, raising(ModelError("no text")))
    monkeypatch.setattr(Ada3DPipeline, "ask_together", all_raising(ModelError("no text")))
    out = tmp_path / "out.json"
    assert main(["synthetic", "--model", str(model), "--scenes", "1", "--json", str(out)]) == 0
    results = json.loads(out.read_text())
    assert results["unanswered"] == results["n"] > 0
    assert all(not value for value in results["metrics"].values())
    said_so = rf"{results['n']} of {results['n']} questions got no text"
    assert re.search(said_so, capsys.readouterr().out)


def test_a_failure_of_the_machine_is_no_wrong_answer(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Ada3DPipeline, "ask_together", all_raising(OutOfMemoryError("2 GiB")))
    assert main(["synthetic", "--model", str(model), "--scenes", "1"]) == 2
    assert "2 GiB" in capsys.readouterr().err


def test_the_file_says_where_its_numbers_come_from(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    selection = ["--scenes", "2", "--seeds", "7", "--shuffle-scenes"]
    assert main(["synthetic", "--model", str(model), *selection, "--json", str(out)]) == 0
    results = json.loads(out.read_text())
    assert results["provenance"]["seed"] == 7
    assert {"commit", "date", "versions"} <= set(results["provenance"])
    assert results["provenance"]["device"] == "cpu"
    assert "over rooms" in results["intervals"]
    assert (results["scenes"], results["split"], results["shuffled"]) == (2, "test", True)
    assert results["random_weights"]
    assert len(results["sha256"]) == 64


def test_results_have_every_key_with_n_and_chance(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.json"
    selection = ["--scenes", "3", "--seeds", "5"]
    assert main(["synthetic", "--model", str(model), *selection, "--json", str(out)]) == 0
    results = json.loads(out.read_text())
    assert set(results["metrics"]) >= KEYS
    for name, detail in results["details"].items():
        if name not in KEYS and not detail["n"]:  # nothing was right, nothing measured
            continue
        assert detail["n"] >= detail["rooms"] > 0
        if detail["chance"] is not None:  # a distance has none
            assert 0.0 < detail["chance"] <= 1.0 or name.startswith("grounding")
        assert detail["interval"][0] <= results["metrics"][name] <= detail["interval"][1] + 1e-9
    assert results["provenance"]["seed"] == 5
    assert results["spatial_tokens"] > 100
    assert results["keep_ratio"] == 1.0
    shown = capsys.readouterr().out
    assert "RANDOM WEIGHTS" in shown
    assert "existence" in shown


def test_seeds_are_pooled_and_each_stands_beside(model: Path, results: dict[str, Any]) -> None:
    pipeline = open_pipeline(model, "none", None)
    another = RoomSelection(seed=6, scenes=1)
    pooled = evaluate(pipeline, RoomSelection(seed=4, scenes=3), another)
    other = evaluate(pipeline, another)
    assert pooled["seeds"] == [4, 6]
    assert set(pooled["by_seed"]) == {"4", "6"}
    for name, detail in pooled["details"].items():
        parts = [one["details"][name]["n"] for one in (results, other)]
        assert detail["n"] == sum(parts)
        values = [pooled["by_seed"][seed].get(name) for seed in ("4", "6")]
        alone = [one["metrics"][name] for one in (results, other)]
        for value, expected, n in zip(values, alone, parts, strict=True):
            assert value == expected if n else value is None or math.isnan(value)
        if all(parts):
            mean = np.average(alone, weights=parts)
            assert pooled["metrics"][name] == pytest.approx(mean, abs=1e-12)


def test_in_a_batch_the_answers_are_those_of_one_by_one() -> None:
    """Of the model that ships, unpruned, pruned while the scene is built, and chosen before it."""
    for strategy in ("none", "adatoken3d", "voxel_dpp"):
        pipeline = open_pipeline(embedded_model_path(), strategy, None)
        (room,) = rooms_of(RoomSelection("val", scenes=1), pipeline.view_side)
        load_room(pipeline, room.frames)
        tally = Tally()
        ask_room(pipeline, [q for q in room.questions if not q.phrase], room.boxes, tally)
        load_room(pipeline, room.frames)
        alone = [
            pipeline.ask(Question(q.text, want_boxes=False, max_new_tokens=12)).text
            for q in room.questions
            if not q.phrase and q.kind not in ("caption", "relation")
        ]
        assert [text for text, _ in tally.texts] == alone
        assert len(alone) >= 8


def test_tokens_chosen_for_each_question_are_asked_for_one_by_one(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Ada3DPipeline, "ask_together", raising(AssertionError("a batch")))
    pipeline = open_pipeline(model, "adatoken3d", 0.5, {"cache.prune": "question"})
    (room,) = rooms_of(RoomSelection(scenes=1), pipeline.view_side)
    load_room(pipeline, room.frames)
    tally = Tally()
    ask_room(pipeline, room.questions[:3], room.boxes, tally)
    assert tally.asked == 3
    assert summary(tally)["keep_ratio"] == pytest.approx(0.5, abs=0.02)


def test_a_refused_question_is_wrong_and_counted() -> None:
    tally = Tally()
    tally.next_room()
    assert tally.reply(UnknownKindError("how tall")) is None
    assert tally.reply(AmbiguousError("two chairs")) is None
    assert tally.reply(UnknownKindError("when")) is None
    results = summary(tally)
    assert results["refused"] == {"UnknownKind": 2, "Ambiguous": 1}
    assert (results["n"], results["unanswered"]) == (3, 0)
    with pytest.raises(NoFramesError):
        tally.reply(NoFramesError("no view"))


def test_pruning_and_shuffling_are_said(model: Path) -> None:
    pipeline = open_pipeline(model, "adatoken3d", 0.5)
    results = evaluate(pipeline, RoomSelection(scenes=3, shuffle=True))
    assert results["shuffled"]
    assert results["keep_ratio"] == pytest.approx(0.5, abs=0.02)
    assert results["details"]["existence"]["n"] == 4  # two rooms of three are asked about


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--scenes", "0"], "at least 1"),
        (["--scenes", "100001"], "at most 100000"),
        (["--scenes", "1", "--shuffle-scenes"], "at least 2"),
        (["--seeds", "-1"], "seed -1"),
        (["--seeds", "0,a"], "--seeds '0,a'"),
        (["--blind", "--shuffle-scenes"], "--blind"),
        (["--blind", "--strategy", "fastv"], "--blind"),
        (["--threads", "0"], "--threads 0"),
        (["--device", "cuda:77"], "cuda:77"),
        (["--keep", "0.4"], "--strategy"),
        (["--strategy", "fastv", "--keep", "2"], "keep_ratio = 2.0"),
        (["--model", "/nowhere"], "/nowhere"),
        (["--strategy", "fastw"], "fastv"),
        (["--weights", "int5"], "model.weights"),
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


@pytest.mark.parametrize(
    "arguments", [[], ["real"], ["synthetic", "--level", "3"], ["synthetic", "--split", "train"]]
)
def test_what_the_parser_refuses_exits_with_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert "usage: ada3d eval" in capsys.readouterr().err


def test_without_the_embedded_model_the_sentence_names_the_option(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("ada3d_ros.model.startup.__file__", str(tmp_path / "model" / "startup.py"))
    assert main(["synthetic", "--scenes", "1"]) == 2
    assert "--model" in capsys.readouterr().err


def test_every_view_becomes_a_keyframe_or_it_is_said(model: Path) -> None:
    pipeline = open_pipeline(model, "none", None)
    rooms = make_rooms("test", torch.arange(2), 2)
    views = render(rooms, pipeline.view_side)
    for b in range(2):
        frames = frames_of(rooms, views, b)
        load_room(pipeline, frames)
        assert pipeline.scene_state().num_keyframes == int(rooms.num_views[b]) == len(frames)
    pipeline.set_config(from_flat({"keyframe.max_views": 4}, pipeline.config))
    with pytest.raises(ConfigError, match=f"4 of {len(frames)} views became keyframes"):
        load_room(pipeline, frames)


def test_torchs_own_failure_is_no_wrong_answer(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = open_pipeline(model, "none", None)
    monkeypatch.setattr(pipeline.model.model, "encode_views", raising(RuntimeError("shapes")))
    with pytest.raises(ModelError, match="shapes"):
        evaluate(pipeline, RoomSelection(scenes=1))


def test_an_empty_tally_has_every_key_and_no_number() -> None:
    results = summary(Tally())
    assert tuple(results["metrics"]) == tuple(results["details"]) == METRICS
    assert np.isnan(list(results["metrics"].values())).all()
    assert all(detail["n"] == 0 for detail in results["details"].values())


def test_a_tally_counts() -> None:
    tally = Tally()
    tally.next_room()
    tally.add("x", 1.0, 0.5)
    tally.add("x", 0.0, 0.25)
    tally.next_room()
    tally.add("x", 1.0, 0.25)
    assert np.mean(tally.right["x"]) == pytest.approx(2 / 3)
    assert tally.chance["x"] == [0.5, 0.25, 0.25]
    assert tally.room["x"] == [0, 0, 1]


# -- the box that counts


def box_at(x: float, score: float, size: float = 1.0) -> Box3D:
    return Box3D(np.array([x, 0.0, 0.5]), np.full(3, size), score=score)


def grounded(*found: Box3D, target: int | None = 0, unique: bool = True) -> Tally:
    """The tally after one phrase that got these boxes; the true ones lie at 0, 3 and 6 m."""
    answer = SimpleNamespace(boxes=found, tokens=TokenUsage(keep_ratio_achieved=1.0))
    pipeline = SimpleNamespace(ground=lambda question: answer)
    question = RoomQuestion(
        kind="grounding", text="", answer="", phrase="the chair", target=target, unique=unique
    )
    tally, boxes = Tally(), {0: box_at(0.0, 1.0), 1: box_at(3.0, 1.0), 2: box_at(6.0, 1.0)}
    ask_room(cast(Ada3DPipeline, pipeline), [question], boxes, tally)
    return tally


def test_the_box_of_the_best_score_counts_and_not_the_nearest() -> None:
    nearest, best, unsure = box_at(0.0, 0.6), box_at(3.0, 0.9), box_at(0.0, math.nan)
    for found in ([nearest, best], [best, nearest], [unsure, best], [best, unsure]):
        tally = grounded(*found)
        assert tally.ious == [0.0]
        assert tally.right["grounding_unique_acc25"] == [0.0]
    assert grounded(box_at(0.0, 0.9), box_at(3.0, 0.6)).ious == [1.0]
    assert grounded(unsure).ious == [1.0]
    assert grounded().ious == [0.0]


@pytest.mark.parametrize(("shift", "acc25", "acc50"), [(0.3, 1, 1), (0.5, 1, 0), (0.7, 0, 0)])
def test_a_box_is_right_from_its_overlap_on(shift: float, acc25: int, acc50: int) -> None:
    """Unit cubes shifted by s overlap by (1 - s) / (1 + s): 0.54, 0.33 and 0.18."""
    tally = grounded(box_at(shift, 0.9), unique=False)
    assert tally.ious == [pytest.approx((1 - shift) / (1 + shift))]
    assert tally.right["grounding_distractor_acc25"] == [acc25]
    assert tally.right["grounding_distractor_acc50"] == [acc50]
    assert tally.chance["grounding_distractor_acc25"] == [pytest.approx(1 / 3)]


def test_a_box_for_what_is_absent_is_false() -> None:
    assert grounded(box_at(0.0, 0.9), target=None).right["absent_false_box_rate"] == [1.0]
    assert grounded(target=None).right["absent_false_box_rate"] == [0.0]


def test_a_moved_room_is_moved_with_all_that_is_told_of_it() -> None:
    """Views, true boxes and coordinates in questions, so that it scores as where it was."""
    here, there = (
        next(iter(rooms_of(RoomSelection(scenes=1, floor_z_m=z_m), 96))) for z_m in (0.0, -1.5)
    )
    for frame, moved in zip(here.frames, there.frames, strict=True):
        assert moved.T_world_cam[:3, 3] - frame.T_world_cam[:3, 3] == pytest.approx([0, 0, -1.5])
    for number, box in here.boxes.items():
        assert there.boxes[number].center_m - box.center_m == pytest.approx([0, 0, -1.5])
    heights = [
        [float(text.split(",")[2].split("]")[0]) for text in texts if "[" in text]
        for texts in ([asked.text for asked in room.questions] for room in (here, there))
    ]
    assert heights[0]
    assert np.subtract(heights[1], heights[0]) == pytest.approx(-1.5)


@pytest.mark.parametrize("floor_z", ["nan", "1e9", "-1001"])
def test_a_room_is_not_moved_out_of_the_world(
    floor_z: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["synthetic", "--floor-z", floor_z]) == 2
    assert "--floor-z" in capsys.readouterr().err


def test_without_chains_no_answer_points(tmp_path: Path) -> None:
    """Of a model that points in most of its answers where it may."""
    folder = write_pointing_checkpoint(tmp_path)
    places, texts = [], []
    for points in (True, False):
        pipeline = open_pipeline(folder, "none", None, {"question.point": points})
        (room,) = rooms_of(RoomSelection(scenes=1), pipeline.view_side)
        load_room(pipeline, room.frames)
        asked = [Question(q.text, want_boxes=False, max_new_tokens=12) for q in room.questions[:6]]
        answers = [pipeline.ask(question) for question in asked]
        together = pipeline.ask_together([(question, AskHooks()) for question in asked])
        assert [a.text for a in answers] == [getattr(a, "text", a) for a in together]
        places.append([len(answer.places) for answer in answers])
        texts.append([answer.text for answer in answers])
    assert sum(places[0]) >= 3
    assert places[1] == [0] * len(places[1])
    assert texts[0] != texts[1]
