"""`ada3d eval scanqa` and its kin from files to numbers, with the embedded model on drawn rooms."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ada3d_ros.lab.evaluation.command import main
from ada3d_ros.lab.evaluation.field import command
from ada3d_ros.lab.evaluation.field.benchmark import Item, Record
from ada3d_ros.lab.evaluation.field.harness import PipelineAsker
from ada3d_ros.lab.evaluation.metrics import exact_match
from ada3d_ros.lab.evaluation.selection import RoomSelection, questions_of, rooms_of
from ada3d_ros.lab.world.export import export, export_scene, scene_name
from ada3d_ros.lab.world.graph import graphs
from ada3d_ros.lab.world.rooms import make_rooms
from ada3d_ros.types import Question

ROOT = Path(__file__).resolve().parents[3]
SELECTION = RoomSelection("val", 0, 3, 1)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three rooms and their questions in the files of the field's benchmarks."""
    folder = tmp_path_factory.mktemp("exported")
    seeds = SELECTION.room_seeds()
    asked = []
    known = graphs(make_rooms(SELECTION.split, seeds, SELECTION.level))
    rooms = rooms_of(SELECTION, 128)
    for seed, graph, room in zip(seeds.tolist(), known, rooms, strict=True):
        name = scene_name(SELECTION.split, SELECTION.level, seed)
        asked.append((name, graph, questions_of(graph, seed)))
        export_scene(room.frames, folder / "scenes" / name)
    export(asked, folder)
    return folder


def files_of(name: str, folder: Path) -> list[str]:
    if name in ("scanrefer", "multi3drefer"):
        return ["--phrases", str(folder / f"{name}.json")]
    if name == "scan2cap":
        return ["--questions", str(folder / "scan2cap.json")]
    pair = (("--questions", "questions"), ("--references", "answers"))
    return [part for option, file in pair for part in (option, str(folder / f"{name}_{file}.json"))]


def arguments(name: str, folder: Path, out: Path, *more: str) -> list[str]:
    places = ["--scenes", str(folder / "scenes"), "--out", str(out), "--tokens", "none"]
    return [name, *files_of(name, folder), *places, "--device", "cpu", *more]


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def rows_in(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def answered(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ScanQA's run over all rooms."""
    out = tmp_path_factory.mktemp("scanqa")
    assert main(arguments("scanqa", exported, out)) == 0
    return out


def test_scanqa_from_files_to_numbers(exported: Path, answered: Path) -> None:
    results, answers = read(answered / "results.json"), rows_in(answered / "answers.jsonl")
    true = {row["question_id"]: row["text"] for row in read(exported / "scanqa_answers.json")}
    assert [row["id"] for row in answers] == list(true)
    right = [exact_match(row["text"], true[row["id"]])[0] for row in answers]
    assert results["metrics"]["EM1"] == sum(right) / len(right) > 0.75  # majority: about .35
    assert (results["n"], results["scenes"], results["errors"]) == (len(true), 3, {})
    assert results["left_out"] == 0
    low, high = results["score"]["ci95"]
    assert low <= results["score"]["mean"] <= high
    assert {"commit", "versions", "device"} <= set(results["provenance"])
    assert len(results["revision_sha256"]) >= 64
    assert "/" not in json.dumps(results["files"])


@pytest.mark.parametrize(
    ("name", "metric", "least"),
    [
        ("sqa3d", "EM1", 2 / 3),
        ("scanrefer", "overall_acc25", 0.7),
        ("multi3drefer", "overall_f1_25", 0.8),
        ("scan2cap", "EM1", 2 / 3),
    ],
)
def test_others_from_files_to_numbers(
    exported: Path, tmp_path: Path, name: str, metric: str, least: float
) -> None:
    assert main(arguments(name, exported, tmp_path)) == 0
    assert read(tmp_path / "results.json")["metrics"][metric] >= least


def test_a_benchmark_is_asked_as_the_pipeline_is_asked_by_hand(
    exported: Path, answered: Path
) -> None:
    from ada3d_ros.lab.evaluation.field.scenes import SceneFolder
    from ada3d_ros.lab.evaluation.pipelines import load_room, open_pipeline
    from ada3d_ros.model.startup import embedded_model_path

    said = {row["id"]: row["text"] for row in rows_in(answered / "answers.jsonl")}
    first = read(exported / "scanqa_questions.json")[:5]
    pipeline = open_pipeline(embedded_model_path(), "none", None, {"model.device": "cpu"})
    frames = SceneFolder(exported / "scenes", 20).frames(Item("0", first[0]["video"], ""))
    load_room(pipeline, frames)
    for row in first:
        answer = pipeline.ask(Question(row["text"], want_boxes=False, routed=False))
        assert said[row["question_id"]] == answer.text


def test_a_stopped_run_goes_on_where_it_was(
    exported: Path, answered: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    plainly = PipelineAsker.answer

    def stopped(self: PipelineAsker, items: Sequence[Item]) -> list[Record]:
        if len(asked) == 20:
            raise KeyboardInterrupt
        asked.extend(item.id for item in items)
        return plainly(self, items)

    monkeypatch.setattr(PipelineAsker, "answer", stopped)
    with pytest.raises(KeyboardInterrupt):
        main(arguments("scanqa", exported, tmp_path))
    assert not (tmp_path / "results.json").exists()

    # The last record is cut short, as a machine that went down leaves it.
    path = tmp_path / "records.jsonl"
    path.write_bytes(path.read_bytes()[:-4])
    again: list[str] = []

    def counted(self: PipelineAsker, items: Sequence[Item]) -> list[Record]:
        again.extend(item.id for item in items)
        return plainly(self, items)

    monkeypatch.setattr(PipelineAsker, "answer", counted)
    assert main(arguments("scanqa", exported, tmp_path)) == 0
    assert again[0] == asked[19]
    assert not set(again) & set(asked[:19])
    whole = answered / "answers.jsonl"
    assert (tmp_path / "answers.jsonl").read_bytes() == whole.read_bytes()
    assert read(tmp_path / "results.json")["metrics"] == read(answered / "results.json")["metrics"]


def test_a_run_does_not_go_on_with_other_settings(
    exported: Path, answered: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (answered / "records.jsonl").read_bytes()
    assert main(arguments("scanqa", exported, answered, "--views", "4")) == 2
    assert "views was 20, now 4" in capsys.readouterr().err
    assert (answered / "records.jsonl").read_bytes() == before


def test_other_references_score_the_answers_that_are_there(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(arguments("sqa3d", exported, tmp_path)) == 0
    references = tmp_path / "other.json"
    rows = [row | {"text": "nothing"} for row in read(exported / "sqa3d_answers.json")]
    references.write_text(json.dumps(rows))
    monkeypatch.setattr(PipelineAsker, "answer", None)  # nothing is asked again
    run = arguments("sqa3d", exported, tmp_path)
    run[run.index("--references") + 1] = str(references)
    assert main(run) == 0
    assert read(tmp_path / "results.json")["metrics"]["EM1"] == 0.0


def test_two_processes_score_as_one(exported: Path, answered: Path, tmp_path: Path) -> None:
    pytest.importorskip("accelerate", reason="several processes need Accelerate")
    launcher = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    launcher += ["--main_process_port", "0"]
    run = ["-m", "ada3d_ros", "eval", *arguments("scanqa", exported, tmp_path)]
    done = subprocess.run(
        [sys.executable, *launcher, *run], cwd=ROOT, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    for rank in ("", "1"):
        assert len(rows_in(tmp_path / f"records{rank}.jsonl")) > 1
    whole = answered / "answers.jsonl"
    assert (tmp_path / "answers.jsonl").read_bytes() == whole.read_bytes()
    assert read(tmp_path / "results.json")["metrics"] == read(answered / "results.json")["metrics"]


def test_a_batch_gives_the_answers_of_one_by_one(
    exported: Path, answered: Path, tmp_path: Path
) -> None:
    assert main(arguments("scanqa", exported, tmp_path, "--together", "7")) == 0
    whole = answered / "answers.jsonl"
    assert (tmp_path / "answers.jsonl").read_bytes() == whole.read_bytes()


# -- answers alone


def scored(name: str, folder: Path, answers: Path, *more: str) -> int:
    options = ["--answers", str(answers), "--tokens", "none"]
    return main([name, *files_of(name, folder), *options, *more])


def test_a_file_of_answers_is_scored_without_a_model(
    exported: Path, answered: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "open_pipeline", None)
    wanted = read(answered / "results.json")["metrics"]
    rows = rows_in(answered / "answers.jsonl")
    theirs = tmp_path / "llava.json"  # LLaVA-3D's: JSON lines
    theirs.write_text(
        "".join(
            json.dumps({"question_id": row["id"], "prompt": "", "text": row["text"]}) + "\n"
            for row in reversed(rows)
        )
    )
    for number, file in enumerate((answered / "answers.jsonl", theirs, answered / "records.jsonl")):
        out = tmp_path / str(number)
        assert scored("scanqa", exported, file, "--out", str(out)) == 0
        assert read(out / "results.json")["metrics"] == wanted
        assert "No picture" in (out / "worst.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda rows: rows[1:], "has no answer to 1 of"),
        (lambda rows: [*rows, {"id": "other", "text": "x"}], "do not ask: 'other'"),
        (lambda rows: [*rows, rows[0]], "is there twice"),
        (lambda rows: [], "no entry"),
        (lambda rows: [{"id": row["id"]} for row in rows], "has no 'text'"),
    ],
)
def test_a_file_of_answers_that_does_not_fit_is_refused(
    exported: Path,
    answered: Path,
    tmp_path: Path,
    change: Any,
    told: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "answers.json"
    path.write_text(json.dumps(change(rows_in(answered / "answers.jsonl"))))
    assert scored("scanqa", exported, path) == 2
    assert told in capsys.readouterr().err


def test_what_has_no_answer_may_be_left_out(
    exported: Path, answered: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "answers.jsonl"
    rows = rows_in(answered / "answers.jsonl")
    path.write_text("".join(json.dumps(row) + "\n" for row in rows[:10]))
    json_file = tmp_path / "results.json"
    assert scored("scanqa", exported, path, "--partial", "--json", str(json_file)) == 0
    results = read(json_file)
    assert (results["n"], results["left_out"]) == (10, len(rows) - 10)
    assert f"PARTIAL: {len(rows) - 10} items" in capsys.readouterr().out


# -- refused before a model is opened


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--views", "0"], "--views 0: at least 1"),
        (["--threads", "0"], "--threads 0"),
        (["--together", "0"], "--together 0"),
        (["--keep", "0.4"], "name one with --strategy"),
        (["--strategy", "random", "--cache-prune", "auto"], "differ from run to run"),
        (["--scenes", "/nowhere"], "no folder at /nowhere"),
    ],
)
def test_options_that_cannot_be_are_refused(
    exported: Path,
    tmp_path: Path,
    more: list[str],
    told: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(command, "open_pipeline", None)
    assert main(arguments("scanqa", exported, tmp_path, *more)) == 2
    assert told in capsys.readouterr().err


def test_without_scenes_or_answers_nothing_can_be_done(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = files_of("scanqa", exported)
    assert main(["scanqa", *files]) == 2
    assert "--answers FILE" in capsys.readouterr().err
    assert main(["scanqa", *files, "--out", str(tmp_path)]) == 2
    assert "--scenes FOLDER" in capsys.readouterr().err


def test_a_scene_that_is_not_there_is_named_before_the_model_is_opened(
    exported: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    few = tmp_path / "few"
    first = "generated/val1_000001"
    (few / "generated").mkdir(parents=True)
    (few / first).symlink_to(exported / "scenes" / first)
    run = arguments("sqa3d", exported, tmp_path / "out", "--scenes", str(few))
    with monkeypatch.context() as patched:
        patched.setattr(command, "open_pipeline", None)
        assert main(run) == 2
    told = capsys.readouterr().err
    assert "lacks 2 of 3 that are asked about: 'generated/val1_000000'" in told
    assert "--partial" in told
    assert main([*run, "--partial"]) == 0
    results = read(tmp_path / "out" / "results.json")
    assert (results["n"], results["left_out"], results["scenes"]) == (1, 2, 1)


def test_java_is_missed_before_the_model_is_opened(
    exported: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(command, "open_pipeline", None)
    monkeypatch.setenv("PATH", "")
    assert main(arguments("scanqa", exported, tmp_path, "--tokens", "ptb")) == 2
    assert "needs Java" in capsys.readouterr().err


# -- the page


def test_the_page_shows_true_and_answered_boxes(exported: Path, tmp_path: Path) -> None:
    boxes = [
        {"id": f"{row['scene_id'].rsplit('/', 1)[-1]}|{row['object_id']}|{row['ann_id']}"}
        | {"boxes": [[*(v + 0.1 for v in row["box"][:3]), *row["box"][3:], 0.5]]}
        for row in read(exported / "scanrefer.json")
    ]
    answers = tmp_path / "answers.json"
    answers.write_text(json.dumps(boxes))
    places = ["--scenes", str(exported / "scenes"), "--out", str(tmp_path), "--worst", "2"]
    assert scored("scanrefer", exported, answers, *places) == 0
    page = (tmp_path / "worst.html").read_text(encoding="utf-8")
    assert page.count("data:image/jpeg") == 2
    assert ">1 answered</text>" in page
    assert ">true</text>" in page
    assert "The 2 items with the lowest score" in page


def test_the_page_escapes_what_files_say(tmp_path: Path) -> None:
    bad = "<script>alert('&')</script>"
    questions, references, answers = (tmp_path / f"{name}.json" for name in "qra")
    questions.write_text(json.dumps([{"question_id": bad, "video": bad, "text": bad}]))
    references.write_text(json.dumps([{"question_id": bad, "text": [bad]}]))
    answers.write_text(json.dumps([{"question_id": bad, "text": "no <b>such</b> thing"}]))
    files = ["--questions", str(questions), "--references", str(references)]
    options = ["--answers", str(answers), "--tokens", "none", "--out", str(tmp_path)]
    assert main(["scanqa", *files, *options]) == 0
    page = (tmp_path / "worst.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "<b>such" not in page
    assert len(re.findall("&lt;script&gt;", page)) == 4
