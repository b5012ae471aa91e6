"""What is told of things that only a closer look shows, and of what is not there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from ada3d_ros.asking.words import fits
from ada3d_ros.engine.closer_look import MAX_VIEWS, CloserLook
from ada3d_ros.engine.phrases import answer_probabilities
from ada3d_ros.errors import NotGroundedError
from ada3d_ros.lab.evaluation.pipelines import load_room, open_pipeline
from ada3d_ros.lab.world.generated import GeneratedRoom, generate_room
from ada3d_ros.model.startup import embedded_model_path
from ada3d_ros.pipeline import Ada3DPipeline
from ada3d_ros.scene.cutouts import QUARTERS
from ada3d_ros.types import AnswerMethod, AskHooks, Question

SIDE = "I am standing at the {} and facing the {}. Where is the {}?"


@pytest.fixture(scope="module")
def room() -> GeneratedRoom:
    """With a small black ball that no object of the list is."""
    return generate_room(1439, side_px=128, split="val")


@pytest.fixture(scope="module")
def pipeline(room: GeneratedRoom) -> Ada3DPipeline:
    settings = {"question.measure": True, "objects.enabled": True}
    pipeline = open_pipeline(embedded_model_path(), "none", None, settings)
    load_room(pipeline, room.frames)
    return pipeline


def listed(pipeline: Ada3DPipeline) -> list[str]:
    return [thing.label for thing in pipeline.inventory_now().present]


def asked(pipeline: Ada3DPipeline, name: str) -> Question:
    """Where a thing is, seen from one that is listed towards another."""
    known = listed(pipeline)
    ends = [label for label in known if known.count(label) == 1 and label != name][:2]
    return Question(SIDE.format(*ends, name), max_new_tokens=12)


def test_a_side_of_a_thing_that_is_not_listed(pipeline: Ada3DPipeline, room: GeneratedRoom) -> None:
    truth = next(box for box in room.boxes if box.label == "black ball")
    assert not any(fits("black ball", label) for label in listed(pipeline))
    answer = pipeline.ask(asked(pipeline, "black ball"))
    assert answer.method is AnswerMethod.MEASURED
    assert answer.measurement is not None
    assert answer.measurement.word in ("left", "right", "behind", "in front")
    assert any("A closer look shows the black ball" in a for a in answer.measurement.assumptions)
    (found,) = [box for box in answer.boxes if box.label == "black ball"]
    assert np.linalg.norm(found.center_m - truth.center_m) < 0.15


def test_it_has_a_place_under_any_of_its_names(
    pipeline: Ada3DPipeline, room: GeneratedRoom
) -> None:
    truth = next(box for box in room.boxes if box.label == "black ball")
    scene = pipeline.open_scene(Question("look"), AskHooks())
    finder = scene.resolver(pipeline.objects()).finder
    assert finder is not None
    for name in ("black ball", "black sphere", "the black balls"):
        found = finder.find_closer(name)
        assert found is not None
        assert np.linalg.norm(found.center_m - truth.center_m) < 0.15
    assert finder.find_closer("object") is None


@pytest.mark.parametrize("name", ["bed", "black barrel", "orange sofa", "yellow cabinet"])
def test_what_is_not_there_has_no_side(pipeline: Ada3DPipeline, name: str) -> None:
    """Though the model has a word for it."""
    question = asked(pipeline, name)
    with pytest.raises(NotGroundedError, match=name):
        pipeline.ask(question)
    assert pipeline.ask(replace(question, routed=False)).text


def test_the_prefix_of_a_look_is_made_once_a_scene(room: GeneratedRoom) -> None:
    """Of quarters that are encoded once, and of no more than a few views."""
    settings = {"objects.enabled": True, "keyframe.max_views": 32}
    pipeline = open_pipeline(embedded_model_path(), "none", None, settings)
    load_room(pipeline, room.frames[:2])
    look, encoded = CloserLook(pipeline.model), counted(pipeline)
    query, _ = pipeline.open_query(Question("look"), AskHooks())
    first = look.prefix(query)
    assert look.prefix(query) is first
    assert first.scene is query.scene
    assert len(encoded) == 2 * QUARTERS
    for frame in room.frames[2:]:
        pipeline.observe(frame)
    query, _ = pipeline.open_query(Question("look"), AskHooks())
    second = look.prefix(query)
    assert len(encoded) == QUARTERS * len(room.frames)
    assert len(second.embeds) > len(first.embeds)

    assert len(room.frames) == MAX_VIEWS
    later_ns = room.frames[-1].stamp_ns
    more = [replace(frame, stamp_ns=frame.stamp_ns + later_ns) for frame in room.frames[:3]]
    load_room(pipeline, [*room.frames, *more])
    encoded.clear()
    query, _ = pipeline.open_query(Question("look"), AskHooks())
    look.prefix(query)
    assert len(encoded) == QUARTERS * MAX_VIEWS
    look.forget()
    assert look.prefix(query) is not second


def counted(pipeline: Ada3DPipeline) -> list[int]:
    """Grows by one number a view that passes the vision tower from now on."""
    model, passed = pipeline.model.model, list[int]()
    encode = model.encode_views

    def encode_views(pixels: Sequence[object]) -> object:
        passed.extend([1] * len(pixels))
        return encode(pixels)  # type: ignore[arg-type]

    model.encode_views = encode_views  # type: ignore[assignment, method-assign]
    return passed


def test_probabilities_are_those_of_the_answer(
    pipeline: Ada3DPipeline, room: GeneratedRoom
) -> None:
    """What the model says is likely, token after token; the words in one batch or alone."""
    query, cache = pipeline.open_query(Question("look"), AskHooks())
    prefix = cache.ensure_usable(query)
    assert prefix is not None
    things = [thing for thing in room.graph.things if thing.name in listed(pipeline)]
    for thing in things[:3]:
        what = f"What is at {list(thing.center_m)}?"
        answer = pipeline.ask(Question(what, routed=False))
        of = [(what, word) for word in (answer.text, "left", f"{answer.text} {answer.text}")]
        together = answer_probabilities(pipeline.model, prefix, of, "llava_v1")
        alone = [answer_probabilities(pipeline.model, prefix, [one], "llava_v1") for one in of]
        assert together == pytest.approx([one for (one,) in alone], rel=1e-3, abs=1e-9)
        said, left, twice = together
        # The mean of this token's probability and the end's.
        assert said == pytest.approx(2 * answer.confidence - 1, abs=1 - answer.confidence + 1e-4)
        assert left < 1e-3
        assert twice < said
