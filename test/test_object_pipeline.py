"""A detector without a language model: what is answered, what is refused, what is loaded."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ada3d_ros.config import from_flat
from ada3d_ros.create_pipeline import create_pipeline
from ada3d_ros.errors import (
    Ada3DError,
    ConfigError,
    DetectorError,
    InvalidRequestError,
    LoadingError,
    NoFramesError,
    NotGroundedError,
    NotMeasurableError,
    QuestionTooLongError,
    UnknownKindError,
)
from ada3d_ros.lab.world.generated import GeneratedRoom, generate_room
from ada3d_ros.measures import MeasureKind, MeasureRequest, Reference
from ada3d_ros.object_pipeline import ObjectPipeline
from ada3d_ros.pipeline import Ada3DPipeline
from ada3d_ros.types import (
    Answer,
    AnswerMethod,
    AskHooks,
    GroundingMethod,
    Question,
    Scope,
    Stage,
    StopReason,
)
from ada3d_ros.usage import TokenUsage
from test.support.scripted_detector import ScriptedDetector
from test.support.sources import ROOT

SEED = 5
SETTINGS = {
    "detector.min_views": 2,
    "keyframe.min_translation_m": 0.0,
    "keyframe.min_rotation_deg": 0.0,
}
NO_MODEL = r"no language model is loaded \(model\.path: none\)"


@pytest.fixture(scope="module")
def room() -> GeneratedRoom:
    return generate_room(SEED, side_px=96, split="val")


@pytest.fixture(scope="module")
def seen(room: GeneratedRoom) -> ObjectPipeline:
    """A pipeline that has seen the room."""
    pipeline = opened(room)
    for frame in room.frames:
        pipeline.observe(frame)
    return pipeline


def opened(room: GeneratedRoom, **settings: Any) -> ObjectPipeline:
    config = from_flat({"model.path": "none"} | SETTINGS | settings)
    pipeline = create_pipeline(config, detector=ScriptedDetector(room.boxes))
    assert isinstance(pipeline, ObjectPipeline)
    pipeline.check()
    pipeline.load()
    return pipeline


# -- what is opened


@pytest.mark.parametrize(
    ("path", "error", "text"),
    [
        ("", ConfigError, "detector.path is empty"),
        ("topic", ConfigError, "only the node has topics"),
        ("/no/such/detector.onnx", DetectorError, "/no/such/detector.onnx"),
    ],
)
def test_settings_without_a_detector_fail_early(
    path: str, error: type[Ada3DError], text: str
) -> None:
    pipeline = create_pipeline(from_flat({"model.path": "none", "detector.path": path}))
    with pytest.raises(error, match=text):
        pipeline.check()
    assert not pipeline.ready


def test_a_file_that_is_no_detector_fails_early(tmp_path: Path) -> None:
    path = tmp_path / "text.onnx"
    path.write_text("not a network")
    for model in ("none", "embedded"):
        pipeline = create_pipeline(from_flat({"model.path": model, "detector.path": str(path)}))
        with pytest.raises(DetectorError, match=r"text\.onnx"):
            pipeline.check()


def test_it_says_what_answers(seen: ObjectPipeline) -> None:
    info = seen.info
    assert info is not None
    assert (info.name, info.revision, info.device) == ("scripted", "topic", "cpu")
    assert (info.parameters, info.max_input_tokens, info.random_weights) == (0, 0, False)
    assert (info.has_3d, info.has_grounding_head) == (True, False)
    assert seen.pruning_in_force() == ("none", ())
    assert seen.cache_report().kv_bytes == 0
    assert all(math.isnan(mib) for mib in seen.device_memory_mib())


def test_before_it_is_loaded_and_before_a_frame(room: GeneratedRoom) -> None:
    config = from_flat({"model.path": "none"} | SETTINGS)
    pipeline = create_pipeline(config, detector=ScriptedDetector(room.boxes))
    pipeline.check()
    assert not pipeline.ready
    assert pipeline.detector_report() is None
    assert not pipeline.run_background_step()
    assert pipeline.objects().why_not
    with pytest.raises(LoadingError):
        pipeline.ask(Question("Is there a sofa?"))
    pipeline.load()
    assert pipeline.ready
    for call in (pipeline.ask, pipeline.ground):
        with pytest.raises(NoFramesError):
            call(Question("Is there a sofa?"))
    with pytest.raises(NoFramesError):
        pipeline.inventory_now()


def test_nothing_of_the_model_is_loaded() -> None:
    code = """
import sys
from ada3d_ros.config import from_flat
from ada3d_ros.create_pipeline import create_pipeline
from ada3d_ros.errors import Ada3DError, NoFramesError, UnknownKindError
from ada3d_ros.types import Question
class Detector:
    from ada3d_ros.perception.detector import DetectorInfo
    info = DetectorInfo("mine", "topic")
pipeline = create_pipeline(from_flat({"model.path": "none"}), detector=Detector())
pipeline.check()
pipeline.load()
for question, error in (("Is there a sofa?", NoFramesError), ("Why?", UnknownKindError)):
    try:
        pipeline.ask(Question(question))
    except error as raised:
        assert type(raised) is error
    else:
        raise AssertionError(question)
heavy = ("transformers", "safetensors", "onnxruntime", "torch._dynamo", "ada3d_ros.pipeline",
         "ada3d_ros.model.checkpoint", "ada3d_ros.engine.prefix_cache", "ada3d_ros.grounding",
         "ada3d_ros.pruning")
print([name for name in heavy if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


# -- what is answered


def test_a_measured_answer_says_what_it_rests_on(seen: ObjectPipeline, room: GeneratedRoom) -> None:
    texts: list[tuple[str, int]] = []
    stages: list[Stage] = []
    hooks = AskHooks(on_stage=stages.append, on_text=lambda text, n: texts.append((text, n)))
    answer = seen.ask(Question("How far is the green sofa from the blue sofa?"), hooks)
    first, second = (b for b in room.boxes if b.label in ("green sofa", "blue sofa"))
    gap = np.abs(first.center_m - second.center_m) - (first.size_m + second.size_m) / 2
    true_m = float(np.linalg.norm(np.maximum(gap, 0.0)))
    assert answer.measurement is not None
    (value_m,) = answer.measurement.values
    assert value_m == pytest.approx(true_m, abs=0.15)

    assert (answer.method, answer.stop_reason) == (AnswerMethod.MEASURED, StopReason.EOS)
    assert answer.question == "How far is the green sofa from the blue sofa?"
    assert answer.text == answer.measurement.sentence
    assert texts == [(answer.text, 0)]
    assert stages == [Stage.PREFILL, Stage.POSTPROCESS]
    assert [box.method for box in answer.boxes] == [GroundingMethod.DETECTOR] * 2
    assert answer.keyframe_stamps_ns == tuple(frame.stamp_ns for frame in room.frames)
    assert (answer.stamp_ns, answer.frame_id) == (room.frames[-1].stamp_ns, "map")
    assert (answer.scene_epoch, answer.scene_version) == (0, len(room.frames))
    assert (answer.scene_cached, answer.cold_reason) == (False, "")
    spent = answer.timings
    assert 0 < spent.scene_s + spent.postprocess_s <= spent.total_s
    assert all(math.isnan(s) for s in (spent.vision_s, spent.prefill_s, spent.decode_s))
    assert str(answer.tokens) == str(TokenUsage())


def test_a_request_is_measured(seen: ObjectPipeline) -> None:
    answer = seen.measure(MeasureRequest(MeasureKind.COUNT, category="sofa"))
    assert answer.measurement is not None
    assert answer.measurement.values == (2.0,)
    table = Reference(phrase="table", label="the table")
    height = seen.measure(MeasureRequest(MeasureKind.HEIGHT, of=table)).measurement
    assert height is not None
    assert height.values[0] == pytest.approx(0.61, abs=0.08)


def test_a_phrase_has_the_boxes_of_the_objects_it_names(seen: ObjectPipeline) -> None:
    answer = seen.ground(Question("sofa"))
    assert len(answer.boxes) == 2
    assert {box.method for box in answer.boxes} == {GroundingMethod.DETECTOR}
    assert len(seen.ground(Question("sofa", max_boxes=1)).boxes) == 1
    (blue,) = seen.ground(Question("the blue sofa")).boxes
    assert blue.center_m[1] == pytest.approx(-1.38, abs=0.1)
    assert (answer.method, answer.scene_version) == (AnswerMethod.MEASURED, 8)
    with pytest.raises(NotGroundedError, match="unicorn"):
        seen.ground(Question("unicorn"))


# -- what is refused


@pytest.mark.parametrize(
    "question",
    [
        Question("Why is the sofa green?"),
        Question("What is the weather like in Paris?"),
    ],
)
def test_what_only_a_model_answers_is_refused(seen: ObjectPipeline, question: Question) -> None:
    with pytest.raises(UnknownKindError, match=NO_MODEL) as raised:
        seen.ask(question)
    assert "Is there a red chair?" in str(raised.value)  # what can be asked
    assert question.text in str(raised.value)


def test_the_newest_image_alone_is_not_asked_about(seen: ObjectPipeline) -> None:
    for text in ("Is there a sofa?", "Why?"):
        with pytest.raises(UnknownKindError, match=NO_MODEL) as raised:
            seen.ask(Question(text, scope=Scope.LATEST_IMAGE))
        assert str(raised.value).endswith("is not looked at: ask about the scene.")


def test_a_phrase_of_two_things_names_neither(seen: ObjectPipeline) -> None:
    """The sofa next to the table is no table."""
    for phrase in ("the sofa next to the table", "the thing on the table"):
        with pytest.raises(NotGroundedError, match="is no kind of thing that the detector knows"):
            seen.ground(Question(phrase))


def test_few_kinds_are_named_where_none_fits(seen: ObjectPipeline) -> None:
    with pytest.raises(NotGroundedError) as raised:
        seen.ask(Question("Is there a piano?"))
    assert "it knows 4 kinds: 'barrel', 'crate', 'sofa' or 'table'. Whether" in str(raised.value)


def test_boxes_that_are_not_sure_enough_are_told(seen: ObjectPipeline) -> None:
    with pytest.raises(NotGroundedError) as raised:
        seen.ground(Question("sofa", min_score=0.95))
    assert str(raised.value) == (
        "of 'sofa' 2 found, and none has the score 0.95: the surest is the green sofa with 0.90."
        " Ask with a lower score (boxes.min_score)."
    )
    assert len(seen.ground(Question("sofa", min_score=0.85)).boxes) == 2


def test_nothing_is_measured_where_that_is_off(room: GeneratedRoom) -> None:
    pipeline = opened(room, **{"question.measure": False})
    pipeline.observe(room.frames[0])
    with pytest.raises(UnknownKindError, match=r"question\.measure is false: set it to true\.$"):
        pipeline.ask(Question("Is there a sofa?"))


def test_a_bad_question_is_refused_as_ever(seen: ObjectPipeline) -> None:
    for text, error in (
        ("", InvalidRequestError),
        ("a [1, 2] b", InvalidRequestError),
        ("a" * 2001, QuestionTooLongError),
    ):
        with pytest.raises(error):
            seen.check_question(text)
        with pytest.raises(error):
            seen.ground(Question(text))


def test_asked_together_each_has_its_own_outcome(seen: ObjectPipeline) -> None:
    texts = ("Is there a sofa?", "Why is the sofa green?", "How many sofas are there?")
    yes, refused, count = seen.ask_together([(Question(text), AskHooks()) for text in texts])
    assert isinstance(yes, Answer)
    assert yes.text.startswith("Yes")
    assert isinstance(refused, UnknownKindError)
    assert isinstance(count, Answer)
    assert count.text.startswith("There are 2")


# -- beside a model


def test_with_a_model_the_objects_are_the_detectors(room: GeneratedRoom) -> None:
    detector = ScriptedDetector(room.boxes)
    config = from_flat({"model.path": "embedded", "cache.settle_sec": 0.0} | SETTINGS)
    pipeline = create_pipeline(config, background=True, detector=detector)
    assert isinstance(pipeline, Ada3DPipeline)
    pipeline.check()
    pipeline.load()
    for frame in room.frames:
        pipeline.observe(frame)

    # Turn about: a keyframe for the detector, and a step of the model.
    turns = []
    for _ in range(6):
        before = len(detector.calls)
        assert pipeline.run_background_step()
        turns.append(len(detector.calls) - before)
    assert turns == [1, 0, 1, 0, 1, 0]
    while pipeline.run_background_step():
        pass
    assert detector.calls == [frame.stamp_ns for frame in room.frames]
    assert pipeline.prefix_cache is not None
    assert pipeline.prefix_cache.active is not None
    assert pipeline.prefix_cache.active.ready

    # The list, a measurement and a phrase rest on the detector's boxes.
    snapshot = pipeline.objects()
    assert snapshot.complete
    assert len(snapshot.objects) == 6
    answer = pipeline.ask(Question("How far is the green sofa from the blue sofa?"))
    assert answer.method is AnswerMethod.MEASURED
    assert [box.method for box in answer.boxes] == [GroundingMethod.DETECTOR] * 2
    grounded = pipeline.ground(Question("the blue sofa"))
    assert [box.method for box in grounded.boxes] == [GroundingMethod.DETECTOR]
    report = pipeline.detector_report()
    assert report is not None
    assert report.looked_at == len(room.frames)


# -- what is at a place


def test_what_is_at_a_place_is_the_object_there(seen: ObjectPipeline, room: GeneratedRoom) -> None:
    for thing in seen.objects().present:
        true = min(room.boxes, key=lambda box: np.linalg.norm(box.center_m - thing.center_m))
        color, kind = true.label.split()
        at = "[" + ", ".join(f"{v:.2f}" for v in thing.center_m) + "]"
        answer = seen.ask(Question(f"What is at {at}?"))
        assert answer.measurement is not None
        assert answer.measurement.word == kind
        assert answer.method is AnswerMethod.MEASURED
        assert answer.boxes[0].center_m == pytest.approx(thing.center_m)
        if thing.label == true.label:
            asked = seen.ask(Question(f"What is the color of {at}?"))
            assert asked.measurement is not None
            assert asked.measurement.word == color


def test_a_place_of_nothing_is_refused(seen: ObjectPipeline, room: GeneratedRoom) -> None:
    with pytest.raises(InvalidRequestError, match="outside"):
        seen.ask(Question("What is at [50, 0, 0]?"))
    with pytest.raises(NotGroundedError, match="nothing is at"):
        seen.ask(Question("What is at [0, 0, 2.3]?"))
    with pytest.raises(UnknownKindError, match="no language model"):
        seen.ask(Question("Describe the object at [0, 0, 0.5]."))


def test_an_unnamed_surface_is_not_said_to_be_nothing(room: GeneratedRoom) -> None:
    """Its things are there, but the detector has found none of them."""
    pipeline = create_pipeline(
        from_flat({"model.path": "none"} | SETTINGS), detector=ScriptedDetector(())
    )
    pipeline.load()
    for frame in room.frames:
        pipeline.observe(frame)
    at = ", ".join(f"{v:.2f}" for v in room.boxes[0].center_m)
    with pytest.raises(NotMeasurableError, match="of no thing that the detector has found"):
        pipeline.ask(Question(f"What is at [{at}]?"))


FIRST_QUESTION = """
import sys
from ada3d_ros.lab.world.generated import generate_room
from ada3d_ros.types import Question
from test.test_object_pipeline import SEED, opened
room = generate_room(SEED, side_px=96, split="val")
pipeline = opened(room)
for frame in room.frames:
    pipeline.observe(frame)
before = set(sys.modules)
assert pipeline.ask(Question("Is there a sofa?")).text
assert pipeline.ground(Question("the sofa")).boxes
print(sorted(name for name in set(sys.modules) - before if name.startswith("ada3d_ros")))
"""


def test_the_first_question_imports_nothing_of_the_package() -> None:
    """It took 0.3 to 0.7 s more than the second one."""
    run = subprocess.run(
        [sys.executable, "-c", FIRST_QUESTION],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[-1] == "[]"
