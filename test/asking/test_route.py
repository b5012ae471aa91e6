"""Who answers a question: geometry, the model that ships, or nobody; on a generated room."""

import contextlib
import math
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from ada3d_ros.asking import route
from ada3d_ros.asking.grammar import read_question
from ada3d_ros.asking.model_task import ModelTask
from ada3d_ros.asking.presupposed import answer_from_list
from ada3d_ros.asking.references import parse_reference
from ada3d_ros.asking.taught import CAPTION_PROMPT
from ada3d_ros.asking.words import with_article
from ada3d_ros.config import from_flat
from ada3d_ros.errors import (
    Ada3DError,
    AmbiguousError,
    CanceledError,
    InvalidRequestError,
    NotGroundedError,
    NotMeasurableError,
    QuestionTooLongError,
    UnknownKindError,
)
from ada3d_ros.geometry.boxes import iou_axis_aligned
from ada3d_ros.lab.world.generated import GeneratedRoom, generate_room
from ada3d_ros.lab.world.rooms import CATEGORIES, COLORS
from ada3d_ros.measures import (
    MeasureKind,
    MeasureRequest,
    ObjectsSnapshot,
    Reference,
    SceneObject,
)
from ada3d_ros.pipeline import Ada3DPipeline
from ada3d_ros.types import Answer, AnswerMethod, AskHooks, Box3D, Question, Scope, Stage
from ada3d_ros.usage import StageTimings

TAUGHT = (
    *("existence", "color", "category", "count", "nearest", "relation", "superlative", "multihop"),
    "caption",
)


@pytest.fixture(scope="module")
def room() -> GeneratedRoom:
    return generate_room(503, side_px=96, split="val")


@pytest.fixture(scope="module")
def pipeline(room: GeneratedRoom) -> Ada3DPipeline:
    """Of a model that lists what it was taught; it has seen the room."""
    flat = {"model.path": "embedded", "generation.max_new_tokens": 12, "pruning.strategy": "none"}
    pipeline = Ada3DPipeline(from_flat(flat))
    pipeline.load()
    teach(pipeline, TAUGHT)
    for frame in room.frames:
        pipeline.observe(frame)
    return pipeline


def teach(pipeline: Ada3DPipeline, kinds: tuple[str, ...]) -> None:
    """Have the model's card list these kinds of questions."""
    object.__setattr__(pipeline.model.model.config, "question_kinds", kinds)


def ask(pipeline: Ada3DPipeline, text: str) -> Answer:
    return pipeline.ask(Question(text))


def alone(room: GeneratedRoom) -> list[int]:
    """Numbers of the things whose colour and category name them alone."""
    names = [thing.name for thing in room.graph.things]
    return [i for i, name in enumerate(names) if names.count(name) == 1]


def test_a_distance_is_measured(pipeline: Ada3DPipeline, room: GeneratedRoom) -> None:
    """Within 0.25 m of the true boxes' for most pairs, from boxes of those very things."""
    things, right, grounded = room.graph.things, 0, 0
    named = alone(room)
    pairs = [(a, b) for a in named for b in named if a < b][:8]
    for a, b in pairs:
        try:
            answer = ask(pipeline, f"How far is the {things[a].name} from the {things[b].name}?")
        except Ada3DError:
            continue
        assert answer.method is AnswerMethod.MEASURED
        assert answer.measurement is not None
        (value,), (half_width,) = answer.measurement.values, answer.measurement.uncertainty
        assert answer.text == answer.measurement.sentence
        assert f"{value:.2f} m" in answer.text
        assert half_width > 0
        grounded += 1
        # Surface to surface between the true boxes.
        apart = np.abs(room.boxes[a].center_m - room.boxes[b].center_m)
        gaps = np.maximum(apart - (room.boxes[a].size_m + room.boxes[b].size_m) / 2, 0.0)
        near = abs(value - float(np.linalg.norm(gaps))) < 0.25
        true = room.boxes[a], room.boxes[b]
        ious = [iou_axis_aligned(f, t) for f, t in zip(answer.boxes, true, strict=True)]
        right += near and min(ious) > 0.25
    assert grounded >= 0.75 * len(pairs)
    assert right >= 0.6 * len(pairs)


def test_a_list_of_objects_is_not_read_without_a_detector(pipeline: Ada3DPipeline) -> None:
    with pytest.raises(UnknownKindError, match=r"'What do you see\?' is of no kind") as refused:
        ask(pipeline, "What do you see?")
    assert "/ What do you see" not in str(refused.value)


def test_measured_words_are_those_of_the_room(pipeline: Ada3DPipeline, room: GeneratedRoom) -> None:
    asked = 0
    for i in alone(room):
        anchor = room.graph.things[i]
        nearest = room.graph.nearest(anchor, 0.25)
        if nearest is not None:
            answer = ask(pipeline, f"Hey robot, what's closest to the {anchor.name}?")
            assert answer.method is AnswerMethod.MEASURED
            assert answer.measurement is not None
            asked += answer.measurement.word == nearest.category
            assert answer.measurement.word in answer.text
    assert asked >= 2
    counted = ask(pipeline, "How many objects are there?")
    assert counted.measurement is not None
    assert abs(counted.measurement.values[0] - len(room.graph.things)) <= 2


def test_a_measured_answer_has_what_any_answer_has(
    pipeline: Ada3DPipeline, room: GeneratedRoom
) -> None:
    """Text once, stages in order, times, tokens, stamps; nothing was generated."""
    name = room.graph.things[alone(room)[0]].name
    stages: list[Stage] = []
    pieces: list[str] = []
    hooks = AskHooks(on_stage=stages.append, on_text=lambda piece, _: pieces.append(piece))
    answer = pipeline.ask(Question(f"Where is the {name}?"), hooks)
    assert pieces == [answer.text]
    assert stages == [Stage.ENCODING, Stage.PREFILL, Stage.POSTPROCESS]
    assert answer.question == f"Where is the {name}?"
    assert answer.tokens.generated == 0
    assert answer.tokens.spatial_total > 0
    assert 0 < answer.timings.prefill_s < answer.timings.total_s
    assert np.isnan(answer.confidence)
    assert answer.keyframe_stamps_ns == tuple(frame.stamp_ns for frame in room.frames)
    assert answer.scene_cached


@pytest.mark.parametrize(
    ("text", "method"),
    [
        ("What color is a table?", AnswerMethod.MODEL),
        ("What is at [0.4, 0.9, 0.6]?", AnswerMethod.MODEL),
        ("Is there a red chair?", AnswerMethod.MODEL),
        ("How many chairs are there?", AnswerMethod.MEASURED),
        ("What is the largest object?", AnswerMethod.MEASURED),
        ("What color is the largest object?", AnswerMethod.MEASURED),
        ("What is the tallest object?", AnswerMethod.MEASURED),
    ],
)
def test_each_kind_goes_where_it_is_answered_best(
    pipeline: Ada3DPipeline, text: str, method: AnswerMethod
) -> None:
    assert ask(pipeline, text).method is method


def test_what_a_question_takes_to_be_there_is_looked_for(
    pipeline: Ada3DPipeline, room: GeneratedRoom
) -> None:
    """Colour and kind of a thing that is not there are not made up; nor refused without a scene."""
    absent = next(k for k in CATEGORIES if not room.graph.matching(category=k))
    with pytest.raises(NotGroundedError, match=absent):
        ask(pipeline, f"What color is the {absent}?")
    there = room.graph.things[alone(room)[0]]
    alike = room.graph.matching(category=there.category)
    if len(alike) == 1:
        assert ask(pipeline, f"What color is the {there.category}?").text == there.color
    config = pipeline.config
    pipeline.set_config(replace(config, cache=replace(config.cache, mode="paper")))
    try:
        assert ask(pipeline, f"What color is the {there.category}?").text
    finally:
        pipeline.set_config(config)


def test_a_colour_of_several_is_asked_back(pipeline: Ada3DPipeline, room: GeneratedRoom) -> None:
    """As a length is; any of them is one that the model may choose."""
    assert len(room.graph.matching(category="table")) == 2
    with pytest.raises(AmbiguousError, match=r"the white table at .* the red table at"):
        ask(pipeline, "What color is the table?")
    assert ask(pipeline, "What color is any table?").text in ("red", "white")


@pytest.mark.parametrize(
    "text",
    [
        "What is nearest to the {absent}?",
        "What color is the object nearest to the {absent}?",
        "I am standing at the {absent} and facing the red table. Is the white table on my left?",
        "I am standing at the red table and facing the {absent}. Where is the white table?",
    ],
)
def test_what_is_not_there_is_no_anchor(
    pipeline: Ada3DPipeline, room: GeneratedRoom, text: str
) -> None:
    """Though the model was taught such questions, and has a word for this one."""
    absent = next(k for k in CATEGORIES if not room.graph.matching(category=k))
    question = text.format(absent=absent)
    assert pipeline.ask(Question(question, routed=False)).text
    with pytest.raises(NotGroundedError, match=absent):
        ask(pipeline, question)


NOT_FOUND = "no red barrel is found"


def find_nothing(
    pipeline: Ada3DPipeline,
    monkeypatch: pytest.MonkeyPatch,
    said: tuple[str, float],
) -> list[tuple[str, bool]]:
    """Nothing has a box; what is there is told by `said`, text and confidence. What is asked of the
    model, and whether it is routed, as it comes.
    """
    asked: list[tuple[str, bool]] = []

    def measure(*arguments: object) -> Answer:
        raise NotGroundedError(NOT_FOUND)

    def told(question: Question, hooks: AskHooks) -> SimpleNamespace:
        asked.append((question.text, question.routed))
        return SimpleNamespace(text=said[0], confidence=said[1])

    monkeypatch.setattr(pipeline, "measure", measure)
    monkeypatch.setattr(pipeline, "objects", lambda: ObjectsSnapshot())
    monkeypatch.setattr(pipeline, "ask", told)
    return asked


@pytest.mark.parametrize(
    ("said", "is_asked_on"), [(("Yes.", 0.6), True), (("no", 0.98), True), (("no", 0.999), False)]
)
def test_what_has_no_box_is_left_to_the_model_unless_it_denies_it(
    pipeline: Ada3DPipeline,
    monkeypatch: pytest.MonkeyPatch,
    said: tuple[str, float],
    is_asked_on: bool,
) -> None:
    """Its word for what is there counts before a question about it is refused."""
    asked = find_nothing(pipeline, monkeypatch, said)
    question = Question("What is nearest to the red barrel?")
    refused = pytest.raises(NotGroundedError, match=NOT_FOUND)
    with contextlib.nullcontext() if is_asked_on else refused:
        assert isinstance(route.measured_answer(pipeline, question, AskHooks()), ModelTask)
    assert asked == [("Is there a red barrel?", False)]


def test_a_side_of_what_has_no_box_is_left_to_nobody(
    pipeline: Ada3DPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the model says of it: a closer look was at it."""
    asked = find_nothing(pipeline, monkeypatch, ("Yes.", 1.0))
    text = "I am standing at the red barrel and facing the white table. Where is the lamp?"
    with pytest.raises(NotGroundedError, match=NOT_FOUND):
        route.measured_answer(pipeline, Question(text), AskHooks())
    assert not asked
    teach(pipeline, tuple(kind for kind in TAUGHT if kind != "caption"))
    try:  # a model that could not tell in a closer look
        assert isinstance(route.measured_answer(pipeline, Question(text), AskHooks()), ModelTask)
    finally:
        teach(pipeline, TAUGHT)
    assert asked


@pytest.mark.parametrize("text", ["What is at {}?", "Describe the object at {}."])
def test_nothing_is_said_of_empty_air(
    pipeline: Ada3DPipeline, room: GeneratedRoom, text: str
) -> None:
    """Nor of what is under the ceiling; the nearest thing is told."""
    pipeline.inventory_now()
    for place in ((0.0, 0.0, 1.5), (0.0, 0.0, 2.5)):
        with pytest.raises(NotGroundedError, match=r"nothing is at .* the nearest thing is the"):
            ask(pipeline, text.format(list(place)))
    for thing in room.graph.things:
        assert ask(pipeline, text.format(list(thing.center_m))).text


def test_the_model_is_not_asked_for_forms_that_it_was_not_taught(
    pipeline: Ada3DPipeline, room: GeneratedRoom
) -> None:
    """A superlative of a name, what of a name is nearest: measured, or not grounded."""
    missing = next(k for k in CATEGORIES if not room.graph.matching(category=k))
    for text in (f"Which {missing} is the tallest?", f"Which {missing} is nearest to [0, 0, 0.5]?"):
        with pytest.raises(NotGroundedError):
            ask(pipeline, text)


@pytest.mark.parametrize(
    "text",
    [
        "How heavy is the table?",
        "Where did I leave my keys?",
        "Who painted it?",
        "Open the door.",
        "Wo ist der rote Stuhl?",
    ],
)
def test_a_question_of_no_kind_is_refused_with_what_can_be_asked(
    pipeline: Ada3DPipeline, text: str
) -> None:
    with pytest.raises(UnknownKindError, match="What can be asked") as refused:
        ask(pipeline, text)
    assert "How far is the red chair from the table?" in str(refused.value)
    assert "What color is the table?" in str(refused.value)


def test_a_kind_that_the_model_was_not_taught_is_refused(pipeline: Ada3DPipeline) -> None:
    teach(pipeline, ("count",))
    try:
        with pytest.raises(UnknownKindError) as refused:
            ask(pipeline, "What color is the table?")
        assert "What color is the table?" not in str(refused.value).split("can be asked", 1)[1]
    finally:
        teach(pipeline, TAUGHT)


def test_a_model_of_no_listed_kinds_answers_what_is_not_read(pipeline: Ada3DPipeline) -> None:
    teach(pipeline, ())
    try:
        assert ask(pipeline, "How heavy is the table?").method is AnswerMethod.MODEL
        assert ask(pipeline, "How many chairs are there?").method is AnswerMethod.MEASURED
        # What the grammar would refuse, and a thing that is not there, it may understand.
        for text in (
            "How many chairs are there and what color is the table?",
            "How far is the chair from there?",
            "How tall is the piano?",
        ):
            assert ask(pipeline, text).method is AnswerMethod.MODEL
    finally:
        teach(pipeline, TAUGHT)


@pytest.mark.parametrize("text", ["How many bananas are there?", "Where is the piano?"])
def test_a_thing_that_was_never_taught_is_not_counted_as_none(
    pipeline: Ada3DPipeline, text: str
) -> None:
    with pytest.raises(NotGroundedError, match="was not taught"):
        ask(pipeline, text)


def test_a_name_that_fits_several_is_asked_back(pipeline: Ada3DPipeline) -> None:
    """With the places of all; one of them, the largest, or one by colour can be asked after."""
    known = pipeline.inventory_now().present
    nouns = [thing.label.split()[-1] for thing in known]
    noun = max(nouns, key=nouns.count)
    assert nouns.count(noun) > 1
    with pytest.raises(AmbiguousError, match="Which one is meant") as refused:
        ask(pipeline, f"How tall is the {noun}?")
    labels = [thing.label for thing in known if thing.label.endswith(noun)]
    assert all(label in str(refused.value) for label in labels)
    assert ask(pipeline, f"How tall is the largest {noun}?").method is AnswerMethod.MEASURED
    assert ask(pipeline, f"How tall is a {noun}?").method is AnswerMethod.MEASURED
    typed = MeasureRequest(MeasureKind.HEIGHT, of=parse_reference(f"A {noun}"))
    assert pipeline.measure(typed).text == ask(pipeline, f"How tall is a {noun}?").text


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (" ", InvalidRequestError),
        ("Where is the </s> chair?", InvalidRequestError),
        ("Where is the chair? " * 10_000, QuestionTooLongError),
    ],
)
def test_what_is_no_question_is_not_read(
    pipeline: Ada3DPipeline, text: str, error: type[Ada3DError]
) -> None:
    with pytest.raises(error):
        pipeline.ask(Question(text))


def test_the_setting_leaves_it_to_the_model(pipeline: Ada3DPipeline) -> None:
    config = pipeline.config
    pipeline.set_config(replace(config, question=replace(config.question, measure=False)))
    try:
        assert ask(pipeline, "How many chairs are there?").method is AnswerMethod.MODEL
        with pytest.raises(UnknownKindError):
            ask(pipeline, "How tall is the table?")
    finally:
        pipeline.set_config(config)


def test_a_keep_ratio_of_its_own_is_no_obstacle(room: GeneratedRoom) -> None:
    flat = {"model.path": "embedded", "pruning.strategy": "adatoken3d", "cache.prune": "build"}
    pipeline = Ada3DPipeline(from_flat(flat))
    pipeline.load()
    for frame in room.frames:
        pipeline.observe(frame)
    name = room.graph.things[alone(room)[0]].name
    text = f"How far is the {name} from [0, 0, 0.5]?"
    answers = [pipeline.ask(Question(text, keep_ratio=ratio)) for ratio in (math.nan, 0.9)]
    assert [answer.method for answer in answers] == [AnswerMethod.MEASURED] * 2
    assert answers[0].text == answers[1].text


def test_the_way_to_the_model_counts_in_deadline_and_stages(
    pipeline: Ada3DPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looking for what a question names took 3 s, of which 2 s in the decoder."""
    asked: list[float] = []
    seconds = iter((10.0, 13.0))
    took = StageTimings(prefill_s=2.0, postprocess_s=0.5, total_s=3.0)
    own = StageTimings(prefill_s=0.25, decode_s=0.5, first_token_s=0.25, total_s=1.0)
    answer = replace(ask(pipeline, "Is there a chair?"), timings=own)
    task = ModelTask(Question("Is it?", deadline_s=5.0, routed=False), took=took)
    monkeypatch.setattr(route, "measured_answer", lambda *given: task)

    def answered(_: object, question: Question, hooks: AskHooks) -> Answer:
        asked.append(question.deadline_s)
        return answer

    seen = SimpleNamespace(now=lambda: next(seconds))
    told = route.routed(answered)(seen, task.question)
    assert asked == [2.0]
    sums = {"prefill_s": 2.25, "postprocess_s": 0.5, "decode_s": 0.5}
    sums |= {"first_token_s": 3.25, "total_s": 4.0}
    assert {name: getattr(told.timings, name) for name in sums} == sums
    assert math.isnan(told.timings.vision_s)


def test_free_floor_needs_no_list_of_objects(pipeline: Ada3DPipeline, room: GeneratedRoom) -> None:
    config = pipeline.config
    pipeline.set_config(replace(config, objects=replace(config.objects, enabled=False)))
    told: list[str] = []
    try:
        for i in alone(room):
            phrase = Reference(phrase=room.graph.things[i].name)
            with contextlib.suppress(NotGroundedError):
                answer = pipeline.measure(MeasureRequest(MeasureKind.FREE_FLOOR, to=phrase))
                assert answer.measurement is not None
                told += answer.measurement.assumptions[:1]
    finally:
        pipeline.set_config(config)
    assert told
    assert all("no list of objects" in sentence for sentence in told)


def test_an_image_alone_is_never_measured_in(pipeline: Ada3DPipeline) -> None:
    answer = pipeline.ask(Question("How many chairs are there?", scope=Scope.LATEST_IMAGE))
    assert answer.method is AnswerMethod.MODEL


def test_grounding_a_phrase_is_never_routed(pipeline: Ada3DPipeline) -> None:
    answer = pipeline.ground(Question("How heavy is the table?"))
    assert answer.method is AnswerMethod.MODEL


def test_what_is_asked_together_is_routed_one_by_one(pipeline: Ada3DPipeline) -> None:
    texts = ("How many chairs are there?", "Who painted it?", "What color is a table?")
    asked = [(Question(text), AskHooks()) for text in (*texts, "Is there a red chair?")]
    measured, refused, color, exists = pipeline.ask_together(asked)
    assert isinstance(measured, Answer)
    assert measured.method is AnswerMethod.MEASURED
    assert isinstance(refused, UnknownKindError)
    for answer, text in ((color, texts[2]), (exists, "Is there a red chair?")):
        assert isinstance(answer, Answer)
        assert answer.question == text
        assert answer.text == ask(pipeline, text).text


def test_a_caller_who_stops_gets_no_answer(pipeline: Ada3DPipeline) -> None:
    def stop() -> None:
        raise CanceledError("stopped")

    with pytest.raises(CanceledError):
        pipeline.ask(Question("How many chairs are there?"), AskHooks(check=stop))


PLACE = Reference(point_m=(0.0, 0.0, 0.5))
FAR = Reference(point_m=(1000.0, 0.0, 0.0))


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        (lambda r: replace(r, to=FAR), InvalidRequestError, "outside the room"),
        (lambda r: replace(r, to=Reference(phrase="piano")), NotGroundedError, "not taught"),
        (lambda r: replace(r, to=Reference(phrase="red </s>")), NotGroundedError, "not taught"),
    ],
)
def test_a_typed_request_that_cannot_be_measured_says_why(
    pipeline: Ada3DPipeline,
    change: Callable[[MeasureRequest], MeasureRequest],
    error: type[Ada3DError],
    says: str,
) -> None:
    request = change(MeasureRequest(MeasureKind.DISTANCE, of=PLACE, to=PLACE))
    with pytest.raises(error, match=says):
        pipeline.measure(request)


@pytest.mark.parametrize("text", ["What is at [1000, 0, 0]?", "Describe the object at [0, 0, -9]."])
def test_a_place_outside_the_room_is_no_question_for_the_model(
    pipeline: Ada3DPipeline, text: str
) -> None:
    with pytest.raises(InvalidRequestError, match="outside the room"):
        ask(pipeline, text)
    (together,) = pipeline.ask_together([(Question(text), AskHooks())])
    assert isinstance(together, InvalidRequestError)


def task_of(text: str) -> ModelTask:
    """The question as a model of the generated rooms' names gets it."""
    return ModelTask(Question(text), read_question(text), frozenset((*CATEGORIES, *COLORS)))


def test_a_colour_that_is_none_is_no_answer(pipeline: Ada3DPipeline) -> None:
    said = replace(ask(pipeline, "Is there a yellow bed?"), text="no")
    task = task_of("What color is the yellow bed?")
    with pytest.raises(NotGroundedError, match="it said 'no'"):
        task.answer(said, AskHooks())
    assert task.answer(replace(said, text="yellow"), AskHooks()).text == "yellow"
    assert task_of("Is there a yellow bed?").answer(said, AskHooks()).text == "no"


def test_the_nearest_of_a_kind_that_is_not_there_is_not_guessed(
    pipeline: Ada3DPipeline, room: GeneratedRoom
) -> None:
    there = {thing.name.split()[-1] for thing in room.graph.things}
    missing = next(noun for noun in ("chair", "lamp", "bed", "shelf", "crate") if noun not in there)
    for text in (f"What is the largest {missing}?", f"What is the nearest {missing}?"):
        with pytest.raises((NotGroundedError, UnknownKindError)):
            ask(pipeline, text)


def test_none_nearest_things_cannot_be_asked_for(pipeline: Ada3DPipeline) -> None:
    with pytest.raises(InvalidRequestError, match="0 nearest things"):
        ask(pipeline, "What are the 0 objects nearest to the table?")


def test_the_model_is_handed_what_it_was_taught(
    pipeline: Ada3DPipeline, room: GeneratedRoom
) -> None:
    """In whatever words it was asked, which stay the answer's question."""
    for thing in (room.graph.things[i] for i in alone(room)):
        name = thing.name
        plain = ask(pipeline, f"Is there {with_article(name)}?")
        for form in ("Have we got {} in here?", "I am looking for {}, is there one?"):
            text = form.format(with_article(name))
            answer = ask(pipeline, text)
            assert (answer.text, answer.question) == (plain.text, text)
        for form in ("In which colour is the {} painted?", "What's the shade of the {}?"):
            assert ask(pipeline, form.format(name)).text == thing.color
    task = route.measured_answer(pipeline, Question("In which colour is a desk?"), AskHooks())
    assert isinstance(task, ModelTask)
    assert task.handed.text == "What color is the table?"
    assert task.question.text == "In which colour is a desk?"


def test_an_open_model_gets_the_question_as_it_is(pipeline: Ada3DPipeline) -> None:
    teach(pipeline, ())
    try:
        for text in ("In which colour is the desk?", "Is the desk red?", "Describe the desk."):
            task = route.measured_answer(pipeline, Question(text), AskHooks())
            assert isinstance(task, ModelTask)
            assert task.handed == task.question == Question(text)
            said = replace(ask(pipeline, "Is there a table?"), text="It has four legs.")
            assert task.answer(said, AskHooks()).text == "It has four legs."
    finally:
        teach(pipeline, TAUGHT)


def test_a_colour_is_compared_with_the_one_that_was_asked(
    pipeline: Ada3DPipeline, room: GeneratedRoom
) -> None:
    """Asked alone, in a batch, or of two; told at once, in the words of the answer."""
    thing = next(room.graph.things[i] for i in alone(room))
    name, color = thing.name, thing.color
    other = next(each for each in COLORS if each != color)
    wanted = {
        f"Is the {name} {color}?": f"Yes: the {thing.category} is {color}.",
        f"Is the {name} {other}?": f"No: the {thing.category} is {color}.",
        f"Is the {name} {other} or {color}?": (
            f"{color.capitalize()}: the {thing.category} is {color}."
        ),
    }
    pieces: list[str] = []
    hooks = AskHooks(on_text=lambda piece, _: pieces.append(piece))
    for text, said in wanted.items():
        answer = pipeline.ask(Question(text), hooks)
        assert (answer.text, answer.method) == (said, AnswerMethod.MODEL)
    assert pieces == list(wanted.values())
    pieces.clear()
    together = pipeline.ask_together([(Question(text), hooks) for text in wanted])
    assert [one.text for one in together if isinstance(one, Answer)] == list(wanted.values())
    assert sorted(pieces) == sorted(wanted.values())
    with pytest.raises(AmbiguousError, match="Which one is meant"):
        ask(pipeline, "Are the tables red?")


def test_a_measured_colour_is_compared_too(pipeline: Ada3DPipeline, room: GeneratedRoom) -> None:
    about = f"the object nearest to the {room.graph.things[alone(room)[0]].name}"
    plain = ask(pipeline, f"What color is {about}?")
    assert plain.measurement is not None
    color = plain.measurement.word
    said = plain.text.removeprefix(f"{color.capitalize()}: ")
    assert said != plain.text
    other = next(each for each in COLORS if each != color)
    pieces: list[str] = []
    hooks = AskHooks(on_text=lambda piece, _: pieces.append(piece))
    for given, word in ((color, "yes"), (other, "no")):
        answer = pipeline.ask(Question(f"Is {about} {given}?"), hooks)
        assert answer.measurement is not None
        assert answer.measurement.word == word
        assert answer.text == answer.measurement.sentence == f"{word.capitalize()}: {said}"
    assert pieces == [f"Yes: {said}", f"No: {said}"]


def test_what_a_named_thing_looks_like_is_told_of_its_place(
    pipeline: Ada3DPipeline, room: GeneratedRoom
) -> None:
    for thing in (room.graph.things[i] for i in alone(room)):
        assert ask(pipeline, f"describe the {thing.name}").text == with_article(thing.name)
        place = list(thing.center_m)
        assert ask(pipeline, f"What colour is the object at {place}?").text == thing.color
    with pytest.raises(AmbiguousError, match="the white table at"):
        ask(pipeline, "Tell me about the table.")
    absent = next(k for k in CATEGORIES if not room.graph.matching(category=k))
    with pytest.raises(NotGroundedError, match=absent):
        ask(pipeline, f"Describe the {absent}.")
    config = pipeline.config
    pipeline.set_config(replace(config, question=replace(config.question, measure=False)))
    try:
        with pytest.raises(NotMeasurableError, match="needs the place"):
            ask(pipeline, f"Describe the {absent}.")
    finally:
        pipeline.set_config(config)


@pytest.mark.parametrize(
    ("name", "said", "sure", "complete", "is_there"),
    [
        ("barrel", "a black barrel", 0.95, True, True),
        ("black barrel", "a black barrel", 0.94, True, True),
        ("barrel", "a black barrel", 0.93, True, False),
        ("barrel", "a black crate", 0.99, True, False),
        ("barrel", "a black barrel", 0.99, False, False),
        ("red barrel", "a red barrel", 0.99, True, False),
    ],
)
def test_what_is_listed_and_described_is_not_denied(
    pipeline: Ada3DPipeline, name: str, said: str, sure: float, complete: bool, is_there: bool
) -> None:
    """The list has a black barrel; the model says of its place what it says."""
    box = Box3D(np.array([1.0, 2.0, 0.4]), np.ones(3), label="black barrel", score=0.8)
    objects = ObjectsSnapshot((SceneObject("1", "black barrel", box),), complete=complete)
    any_answer = ask(pipeline, "Is there a red chair?")
    asked: list[str] = []

    def told(question: Question, hooks: AskHooks) -> Answer:
        asked.append(question.text)
        assert not question.routed
        return replace(any_answer, text=said, confidence=sure)

    model = SimpleNamespace(abilities=route.Abilities(TAUGHT), objects=lambda: objects, ask=told)
    question = Question(f"Have we got a {name}?")
    pieces: list[str] = []
    hooks = AskHooks(on_text=lambda piece, _: pieces.append(piece))
    answer = answer_from_list(model, question, hooks, name)
    assert asked in ([], [CAPTION_PROMPT.format(place="[1.000, 2.000, 0.400]")])
    assert (answer is not None) is is_there
    if answer is not None:
        assert (answer.text, answer.question) == ("yes", question.text)
        assert (answer.places, answer.method) == ((box,), AnswerMethod.MODEL)
        assert pieces == ["yes"]


def test_what_is_listed_is_there(pipeline: Ada3DPipeline) -> None:
    """Said as the model says it, so that no watched answer changes when the list is complete."""
    present = pipeline.inventory_now().present
    assert len(present) >= 5
    for thing in present:
        answer = ask(pipeline, f"Have we got {with_article(thing.label)}?")
        assert (answer.text, answer.method) == ("yes", AnswerMethod.MODEL)
        assert answer.places
        apart = [np.linalg.norm(place.center_m - thing.center_m) for place in answer.places]
        assert min(apart) < 0.5
