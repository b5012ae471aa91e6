"""A detector beside a language model: who answers what; on a generated room."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest

from ada3d_ros.config import from_flat
from ada3d_ros.errors import DetectorError, NotGroundedError, NotMeasurableError, UnknownKindError
from ada3d_ros.geometry.boxes import iou_axis_aligned
from ada3d_ros.lab.world.generated import GeneratedRoom, generate_room
from ada3d_ros.perception.detector import DetectorInfo, FrameDetections
from ada3d_ros.pipeline import Ada3DPipeline
from ada3d_ros.types import AnswerMethod, Box3D, GroundingMethod, Question, RgbdFrame
from test.support.scripted_detector import ScriptedDetector, knows_nothing

SETTINGS = {
    "model.path": "embedded",
    "pruning.strategy": "none",
    "generation.max_new_tokens": 8,
    "detector.min_views": 2,
}


class PhraseDetector(ScriptedDetector):
    """Sees some kinds of a room, and finds any thing of it by its name."""

    def __init__(self, boxes: Sequence[Box3D], listed: Sequence[Box3D]) -> None:
        super().__init__(listed)
        self._all = ScriptedDetector(boxes)
        self.phrases: list[str] = []
        self.takes_phrases = True

    @property
    def info(self) -> DetectorInfo:
        return replace(super().info, takes_phrases=self.takes_phrases)

    def find(self, frame: RgbdFrame, phrases: Sequence[str]) -> FrameDetections:
        self.phrases += phrases
        seen = self._all.see(frame).detections
        return FrameDetections(tuple(each for each in seen if each.label in phrases))


@pytest.fixture(scope="module")
def room() -> GeneratedRoom:
    return generate_room(7, side_px=96, split="val")


def opened(room: GeneratedRoom, detector: ScriptedDetector) -> Ada3DPipeline:
    pipeline = Ada3DPipeline(from_flat(SETTINGS), detector=detector)
    pipeline.load()
    for frame in room.frames:
        pipeline.observe(frame)
    return pipeline


@pytest.fixture(scope="module")
def pipeline(room: GeneratedRoom) -> Ada3DPipeline:
    return opened(room, ScriptedDetector(room.boxes))


@pytest.fixture(scope="module")
def sofas(room: GeneratedRoom) -> PhraseDetector:
    """Of the things it lists sofas alone."""
    return PhraseDetector(room.boxes, by_category(room, "sofa"))


@pytest.fixture(scope="module")
def knowing_sofas(room: GeneratedRoom, sofas: PhraseDetector) -> Ada3DPipeline:
    return opened(room, sofas)


@pytest.fixture
def open_model(pipeline: Ada3DPipeline) -> Iterator[Ada3DPipeline]:
    """The same with a model that lists no kinds: it answers whatever is asked."""
    config = pipeline.model.model.config
    kinds = config.question_kinds
    object.__setattr__(config, "question_kinds", ())
    yield pipeline
    object.__setattr__(config, "question_kinds", kinds)


def by_category(room: GeneratedRoom, category: str) -> list[Box3D]:
    things = zip(room.graph.things, room.boxes, strict=True)
    return [box for thing, box in things if thing.category == category]


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("Is there a couch?", "yes"),
        ("Is there a shelf?", "yes"),
        ("How many sofas are there?", "two"),
        ("How many crates do you see?", "two"),
        ("What do you see?", "nine"),
        ("What is the largest object?", None),
        ("What color is the chair?", "blue"),
    ],
)
def test_what_the_objects_tell_is_measured(
    pipeline: Ada3DPipeline, text: str, word: str | None
) -> None:
    """Also what the model was taught to say: a detector has looked."""
    assert "existence" in pipeline.model.model.config.question_kinds
    answer = pipeline.ask(Question(text))
    assert answer.method is AnswerMethod.MEASURED
    assert answer.measurement is not None
    assert word in (None, answer.measurement.word)
    assert all(box.method is GroundingMethod.DETECTOR for box in answer.boxes)


@pytest.mark.parametrize("waiting", [1, 2, 3])
def test_background_work_ends_where_the_detector_knows_nothing_yet(
    room: GeneratedRoom, waiting: int
) -> None:
    """However many frames wait for their detections: each is asked for once, then it rests."""
    detector = ScriptedDetector(room.boxes, dict.fromkeys(range(100), knows_nothing))
    pipeline = Ada3DPipeline(from_flat(SETTINGS), background=True, detector=detector)
    pipeline.load()
    for frame in room.frames[:waiting]:
        assert pipeline.observe(frame) is not None
    steps = 0
    while pipeline.run_background_step():
        steps += 1
        assert steps < 60, "it never rests"
    assert 0 < len(detector.calls) <= 2 * waiting + 1


def test_a_model_of_few_kinds_says_nothing_of_what_the_detector_does_not_know(
    pipeline: Ada3DPipeline,
) -> None:
    for text in ("Is there a lamp?", "Is there a piano?", "How many lamps are there?"):
        with pytest.raises(NotMeasurableError, match=r"is no kind .* that the detector knows"):
            pipeline.ask(Question(text))
    with pytest.raises(UnknownKindError, match="What do you see"):
        pipeline.ask(Question("Why is the sofa blue?"))


def test_an_open_model_answers_what_the_detector_does_not_know(open_model: Ada3DPipeline) -> None:
    for text, method in {
        "Is there a shelf?": AnswerMethod.MEASURED,
        "What do you see?": AnswerMethod.MEASURED,
        "Is there a piano?": AnswerMethod.MODEL,
        "What color is the lamp?": AnswerMethod.MODEL,
        "Why is the sofa blue?": AnswerMethod.MODEL,
    }.items():
        assert open_model.ask(Question(text)).method is method, text


def test_phrases_have_the_detectors_boxes_or_the_models(
    room: GeneratedRoom,
    sofas: PhraseDetector,
    knowing_sofas: Ada3DPipeline,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The head points at what the detector has no kind for."""
    monkeypatch.setattr(sofas, "takes_phrases", False)
    pipeline = knowing_sofas
    found = pipeline.ground(Question("the couches")).boxes
    assert [box.method for box in found] == [GroundingMethod.DETECTOR] * 2
    for true in by_category(room, "sofa"):
        assert max(iou_axis_aligned(box, true) for box in found) > 0.25
    others = pipeline.ground(Question("the orange bed")).boxes
    assert [box.method for box in others] == [GroundingMethod.HEAD]


def test_a_detector_of_phrases_finds_what_is_no_kind(
    room: GeneratedRoom, sofas: PhraseDetector, knowing_sofas: Ada3DPipeline
) -> None:
    pipeline, detector = knowing_sofas, sofas
    detector.phrases.clear()
    (bed,), (chair,) = by_category(room, "bed"), by_category(room, "chair")

    answer = pipeline.ground(Question("the bed"))
    assert [box.method for box in answer.boxes] == [GroundingMethod.DETECTOR]
    assert iou_axis_aligned(answer.boxes[0], bed) > 0.25
    assert answer.boxes[0].label == "the bed"
    assert set(detector.phrases) == {"bed"}

    far = pipeline.ask(Question("How far is the chair from the bed?")).measurement
    assert far is not None
    apart = np.abs(chair.center_m - bed.center_m) - (chair.size_m + bed.size_m) / 2
    true_m = float(np.linalg.norm(np.maximum(apart, 0.0)))
    assert far.values[0] == pytest.approx(true_m, abs=0.25)
    assert set(detector.phrases) == {"bed", "chair"}

    asked = len(detector.phrases)
    assert pipeline.ask(Question("How many couches are there?")).text.startswith("There are 2")
    assert len(detector.phrases) == asked  # of a kind: the list knows
    with pytest.raises(NotGroundedError, match="no piano has been seen"):
        pipeline.ask(Question("Where is the piano?"))


@pytest.fixture
def choosing(pipeline: Ada3DPipeline) -> Iterator[Ada3DPipeline]:
    """The same with detector.proposals."""
    config = pipeline.config
    pipeline.set_config(from_flat({**SETTINGS, "detector.proposals": True}))
    yield pipeline
    pipeline.set_config(config)


def test_the_head_chooses_among_proposals(room: GeneratedRoom, pipeline: Ada3DPipeline) -> None:
    """Of the true boxes the one that it is asked for, as it was offered."""
    boxes = tuple(replace(box, score=0.9) for box in room.boxes)
    (bed,), (chair,) = by_category(room, "bed"), by_category(room, "chair")
    for true in (bed, chair):
        phrase = f"the {true.label}"
        asked = Question(f"Where is {phrase}?", phrase=phrase, proposals=boxes, max_boxes=1)
        (best,) = pipeline.ask(asked).boxes
        assert best.center_m.tolist() == true.center_m.tolist()
        assert (best.label, best.method) == (phrase, true.method)
        assert best.score != 0.9  # the head's


def test_with_proposals_the_head_chooses_among_the_detectors_objects(
    choosing: Ada3DPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []

    def last(*given: object) -> list[Box3D]:
        proposals = given[3]
        assert isinstance(proposals, tuple)
        asked.append([box.label for box in proposals])
        return [replace(proposals[-1], score=0.75)]

    monkeypatch.setattr("ada3d_ros.grounding.best_proposals", last)
    among = choosing.ground(Question("the couch")).boxes
    assert [(box.score, box.method) for box in among] == [(0.75, GroundingMethod.DETECTOR)]
    assert [len(labels) for labels in asked] == [2]

    # One alone, and the one of a superlative, are taken as they are.
    assert len(choosing.ground(Question("the chair")).boxes) == 1
    assert len(choosing.ground(Question("the largest couch")).boxes) == 1
    assert len(asked) == 1

    # Where it sees none of them there, they stay: the detector has seen them.
    monkeypatch.setattr("ada3d_ros.grounding.best_proposals", lambda *given: [])
    assert len(choosing.ground(Question("the couch")).boxes) == 2


def test_without_proposals_all_objects_of_the_name_are_given(pipeline: Ada3DPipeline) -> None:
    assert not pipeline.config.detector.proposals
    assert len(pipeline.ground(Question("the couch")).boxes) == 2


def test_it_is_ready_once_the_detector_is(
    room: GeneratedRoom, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = Ada3DPipeline(from_flat({**SETTINGS, "detector.path": "detector"}))
    opened, seen = ScriptedDetector(room.boxes), list[bool]()

    def open_late(*settings: object) -> ScriptedDetector:
        seen.append(pipeline.ready)
        if len(seen) == 1:
            raise DetectorError("no such folder")
        return opened

    monkeypatch.setattr("ada3d_ros.perception.open_detector.open_detector", open_late)
    with pytest.raises(DetectorError):
        pipeline.load()
    assert not pipeline.ready
    pipeline.load()
    assert pipeline.ready
    assert pipeline.detector is opened
    assert seen == [False, False]
