"""Phrases in one batch on the cached scene: the states, and the boxes, of each phrase alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from ada3d_ros.engine.phrases import question_states
from ada3d_ros.engine.prefill import FinalStates
from ada3d_ros.engine.query_context import (
    encode_scene,
    prefill_pruned,
    select_context,
    timed_prompt,
)
from ada3d_ros.engine.scene_prefix import ScenePrefix
from ada3d_ros.errors import ModelError, QuestionTooLongError
from ada3d_ros.grounding.from_head import SceneStates, SearchLimits, point_at_each
from ada3d_ros.grounding.from_text import GROUNDING_PROMPT, refine_boxes
from ada3d_ros.lab.evaluation.pipelines import load_room, open_pipeline
from ada3d_ros.lab.world.generated import GeneratedRoom, generate_room
from ada3d_ros.model.startup import embedded_model_path
from ada3d_ros.pipeline import Ada3DPipeline
from ada3d_ros.types import AskHooks, Question

WHOLE = {"pruning.strategy": "none"}
# Settings, and the keep ratio that asks all of what the prefix holds.
PREFIXES = {
    "whole": (WHOLE, None),
    "question": ({"pruning.strategy": "adatoken3d", "cache.prune": "question"}, 1.0),
    "pruned while it is built": ({"pruning.strategy": "adatoken3d", "cache.prune": "build"}, None),
    "chosen before the model": ({"pruning.strategy": "voxel_dpp", "pruning.keep_ratio": 0.6}, None),
}


@pytest.fixture(scope="module")
def room() -> GeneratedRoom:
    return generate_room(12, side_px=96, split="val")


def opened(settings: dict[str, object], room: GeneratedRoom) -> Ada3DPipeline:
    others = {name: value for name, value in settings.items() if name != "pruning.strategy"}
    pipeline = open_pipeline(embedded_model_path(), str(settings["pruning.strategy"]), None, others)
    load_room(pipeline, room.frames)
    return pipeline


def alone(
    pipeline: Ada3DPipeline, phrase: str, keep: float | None
) -> tuple[FinalStates, torch.Tensor, ScenePrefix]:
    """The states that one phrase is grounded with, where the tokens lie, and the prefix."""
    asked = Question(GROUNDING_PROMPT.format(phrase=phrase), phrase=phrase)
    if keep is not None:
        asked = replace(asked, keep_ratio=keep)
    query, cache = pipeline.open_query(asked, AskHooks())
    context = select_context(query, encode_scene(query, cache.encoder), cache)
    prefilled = prefill_pruned(query, context, timed_prompt(query, context))
    assert prefilled.states is not None
    assert context.prefix is not None
    xyz_m = query.in_world(context.chosen.tokens.xyz_m[prefilled.kept[-1]])
    return prefilled.states, xyz_m, context.prefix


@pytest.mark.parametrize("name", PREFIXES)
def test_states_and_boxes_are_those_of_each_phrase_alone(name: str, room: GeneratedRoom) -> None:
    settings, keep = PREFIXES[name]
    pipeline = opened(settings, room)
    phrases = [f"the {box.label}" for box in room.boxes] + ["the lamp", "a sofa, or a very big bed"]
    singles = [alone(pipeline, phrase, keep) for phrase in phrases]
    prefix, scene = singles[0][2], SceneStates(singles[0][0].spatial, singles[0][1])
    if name == "pruned while it is built":
        assert prefix.held is not None

    questions = [GROUNDING_PROMPT.format(phrase=phrase) for phrase in phrases]
    prefix.crop()
    held = [prefix.cache.keys(layer).clone() for layer in range(len(prefix.lengths))]
    states = question_states(pipeline.model, prefix, questions, "llava_v1")
    for layer, keys in enumerate(held):
        assert torch.equal(prefix.cache.keys(layer), keys)
    for state, (single, _, _) in zip(states, singles, strict=True):
        assert torch.allclose(state, single.query, atol=1e-4)
    assert torch.equal(scene.spatial, prefix.final_states())

    # The same boxes as `ground` has, after the same refinement.
    assert pipeline.model.head is not None
    least = pipeline.model.head.threshold
    found = point_at_each(pipeline.model.head.head, states, scene, phrases, SearchLimits(10, least))
    frames, num_boxes = pipeline.scene.frames, 0
    for phrase, guesses in zip(phrases, found, strict=True):
        boxes = refine_boxes(guesses, frames, 20, lambda: None)
        asked = Question(phrase, keep_ratio=keep) if keep is not None else Question(phrase)
        expected = pipeline.ground(asked).boxes
        num_boxes += len(expected)
        assert [box.label for box in boxes] == [box.label for box in expected]
        for box, other in zip(boxes, expected, strict=True):
            assert np.allclose(box.center_m, other.center_m, atol=1e-4)
            assert np.allclose(box.size_m, other.size_m, atol=1e-4)
            assert box.score == pytest.approx(other.score, abs=1e-4)
    assert num_boxes >= 4


def test_a_phrase_is_the_same_in_any_batch(room: GeneratedRoom) -> None:
    pipeline = opened(WHOLE, room)
    _, _, prefix = alone(pipeline, "the red chair", None)
    questions = [f"Where is {word}?" for word in ("it", "the red chair over there", "a", "the bed")]
    together = question_states(pipeline.model, prefix, questions, "llava_v1")
    for i, question in enumerate(questions):
        single = question_states(pipeline.model, prefix, [question], "llava_v1")[0]
        assert torch.allclose(together[i], single, atol=1e-5)


def test_a_scene_whose_floor_is_elsewhere_gives_boxes_in_the_world(room: GeneratedRoom) -> None:
    """Places of the model's world are moved to the world's; the head's boxes with them."""
    pipeline = opened(WHOLE, room)
    state, xyz_m, _ = alone(pipeline, f"the {room.boxes[0].label}", None)
    head = pipeline.model.head
    assert head is not None
    up = torch.tensor([0.0, 0.0, 1.5])
    query, labels = state.query[None], ["it"]
    low = point_at_each(
        head.head, query, SceneStates(state.spatial, xyz_m), labels, SearchLimits(4, 0.1)
    )[0]
    high = point_at_each(
        head.head, query, SceneStates(state.spatial, xyz_m + up), labels, SearchLimits(4, 0.1)
    )
    assert len(low) >= 1
    for box, other in zip(low, high[0], strict=True):
        assert np.allclose(other.center_m - box.center_m, up.numpy(), atol=1e-5)


def test_without_tokens_there_is_no_box(room: GeneratedRoom) -> None:
    pipeline = opened(WHOLE, room)
    state, xyz_m, _ = alone(pipeline, "the red chair", None)
    head = pipeline.model.head
    assert head is not None
    none = SceneStates(state.spatial[:0], xyz_m[:0])
    assert point_at_each(head.head, state.query[None], none, ["it"], SearchLimits(4, 0.1)) == [[]]


def test_a_name_without_end_is_refused(room: GeneratedRoom) -> None:
    pipeline = opened(WHOLE, room)
    _, _, prefix = alone(pipeline, "the red chair", None)
    with pytest.raises(QuestionTooLongError, match="positions are left"):
        question_states(pipeline.model, prefix, ["chair " * 9000], "llava_v1")


def test_states_that_are_no_numbers_are_refused(room: GeneratedRoom) -> None:
    pipeline = opened(WHOLE, room)
    _, _, prefix = alone(pipeline, "the red chair", None)
    norm = pipeline.model.model.decoder.norm.weight
    before = norm.detach().clone()
    with torch.no_grad():
        norm.fill_(float("nan"))
    with pytest.raises(ModelError, match="not finite"):
        question_states(pipeline.model, prefix, ["Where?"], "llava_v1")
    with torch.no_grad():
        norm.copy_(before)
