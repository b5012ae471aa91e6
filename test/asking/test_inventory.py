"""The list of objects between questions: bounded pieces, versions, resets, and what is gone."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ada3d_ros.asking import inventory as inventory_module
from ada3d_ros.config import from_flat
from ada3d_ros.engine.phrases import question_states
from ada3d_ros.errors import NoFramesError
from ada3d_ros.geometry.boxes import iou_axis_aligned
from ada3d_ros.grounding.from_text import GROUNDING_PROMPT
from ada3d_ros.lab.evaluation.objects import path_within, without
from ada3d_ros.lab.evaluation.pipelines import open_pipeline
from ada3d_ros.lab.world.generated import GeneratedRoom, frames_of, generate_room
from ada3d_ros.lab.world.render import render
from ada3d_ros.lab.world.rooms import make_rooms
from ada3d_ros.measures import ObjectsSnapshot, SceneObject
from ada3d_ros.model.grounding_head import HEAD_FILE
from ada3d_ros.model.startup import embedded_model_path
from ada3d_ros.pipeline import Ada3DPipeline
from ada3d_ros.scene.floor import stand_on_floor
from ada3d_ros.types import AskHooks, Question, RgbdFrame
from test.support.pipelines import settle, show

SEED = 3
QUESTION = Question("Is there a red chair?", want_boxes=False, max_new_tokens=4)
AT_ONCE = {"cache.settle_sec": 0.0, "objects.enabled": True}


@pytest.fixture(scope="module")
def room() -> GeneratedRoom:
    return generate_room(SEED, side_px=96, split="val")


def opened(background: bool = True, **settings: Any) -> Ada3DPipeline:
    named = AT_ONCE | {name.replace("__", "."): value for name, value in settings.items()}
    return open_pipeline(embedded_model_path(), "adatoken3d", None, named, background)


@pytest.fixture(scope="module")
def complete(room: GeneratedRoom) -> ObjectsSnapshot:
    """What a library user gets of the room at once."""
    pipeline = opened(background=False)
    show(pipeline, room.frames)
    return pipeline.inventory_now()


def told(snapshot: ObjectsSnapshot) -> list[tuple[str, str, tuple[float, ...]]]:
    return [(o.id, o.label, tuple(o.box.center_m.round(3).tolist())) for o in snapshot.objects]


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many names each batch had."""
    sizes: list[int] = []

    def counted(loaded: Any, prefix: Any, questions: Any, conversation: str) -> torch.Tensor:
        sizes.append(len(questions))
        return question_states(loaded, prefix, questions, conversation)

    monkeypatch.setattr(inventory_module, "question_states", counted)
    return sizes


def test_the_objects_of_a_room(room: GeneratedRoom, complete: ObjectsSnapshot) -> None:
    assert complete.complete
    assert (complete.scene_epoch, complete.scene_version) == (0, len(room.frames))
    assert complete.stamp_ns == room.frames[-1].stamp_ns
    assert complete.frame_id == "map"
    assert [o.id for o in complete.objects] == [str(i + 1) for i in range(len(complete.objects))]
    stamps = {frame.stamp_ns for frame in room.frames}
    right = 0
    for thing in complete.objects:
        assert {thing.first_seen_ns, thing.last_seen_ns} <= stamps
        assert thing.first_seen_ns <= thing.last_seen_ns
        assert set(thing.box.evidence_stamps_ns) <= stamps
        assert thing.box.support_points >= 20
        assert 0.3 <= thing.box.score <= 1.0
        right += any(
            iou_axis_aligned(thing.box, box) >= 0.25 and thing.label == box.label
            for box in room.boxes
        )
    assert right >= len(room.boxes) - 2
    assert len(complete.objects) - right <= 2


def test_between_questions_it_is_the_same_list(
    room: GeneratedRoom, complete: ObjectsSnapshot, batches: list[int]
) -> None:
    pipeline = opened(objects__phrases_per_step=7)
    assert pipeline.objects() is pipeline.objects()
    show(pipeline, room.frames)
    seen: list[ObjectsSnapshot] = []
    while pipeline.run_background_step():
        assert len(batches) <= len(seen) + 1  # at most one batch a step
        seen.append(pipeline.objects())
        del batches[1:]
        batches.clear()
    assert told(pipeline.objects()) == told(complete)
    assert pipeline.objects().complete
    assert any(not snapshot.complete and snapshot.scene_version for snapshot in seen)
    assert pipeline.objects() is pipeline.objects()
    assert pipeline.inventory_now() is pipeline.objects()  # nothing is due
    assert not pipeline.run_background_step()


def test_each_piece_is_one_chunk_of_names(room: GeneratedRoom, batches: list[int]) -> None:
    pipeline = opened(objects__phrases_per_step=32)
    show(pipeline, room.frames)
    settle(pipeline)
    assert batches == [32, 32, 16]


def test_a_question_in_the_middle_changes_nothing(
    room: GeneratedRoom, complete: ObjectsSnapshot, batches: list[int]
) -> None:
    pipeline, undisturbed = opened(), opened(objects__enabled=False)
    for each in (pipeline, undisturbed):
        show(each, room.frames)
    settle(undisturbed)
    expected = undisturbed.ask(QUESTION)
    while len(batches) < 2:
        assert pipeline.run_background_step()
    answer = pipeline.ask(QUESTION)
    assert (answer.text, answer.confidence) == (expected.text, expected.confidence)
    settle(pipeline)
    assert len(batches) == 5  # none was done again
    assert told(pipeline.objects()) == told(complete)


def test_a_scene_that_changes_meanwhile_is_finished_and_begun_again(
    room: GeneratedRoom, complete: ObjectsSnapshot, batches: list[int]
) -> None:
    pipeline = opened()
    show(pipeline, room.frames[:-1])
    while len(batches) < 2:
        assert pipeline.run_background_step()
    show(pipeline, room.frames[-1:])
    versions = []
    while pipeline.run_background_step():
        snapshot = pipeline.objects()
        if not versions or versions[-1] != (snapshot.scene_version, snapshot.complete):
            versions.append((snapshot.scene_version, snapshot.complete))
    last = len(room.frames)
    assert versions == [(last - 1, False), (last, False), (last, True)]
    assert len(batches) == 10  # 80 names twice
    labels = sorted(thing.label for thing in pipeline.objects().present)
    assert len(set(labels) ^ {thing.label for thing in complete.objects}) <= 1


def test_a_list_made_in_an_older_prefix_is_of_that_scene(
    room: GeneratedRoom, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = opened()
    show(pipeline, room.frames[:-1])
    cache, inventory = pipeline.prefix_cache, pipeline.inventory
    assert cache is not None
    assert inventory is not None
    while cache.active is None or not cache.active.ready:
        assert pipeline.run_background_step()
    older = cache.active
    show(pipeline, room.frames[-1:])
    monkeypatch.setattr(cache, "ensure_usable", lambda query: older)
    for _ in range(2):
        snapshot = pipeline.inventory_now()
        assert snapshot.objects
        assert (snapshot.scene_version, snapshot.complete) == (len(room.frames) - 1, False)
    monkeypatch.undo()
    settle(pipeline)
    snapshot = pipeline.objects()
    assert (snapshot.scene_version, snapshot.complete) == (len(room.frames), True)


def test_a_reset_empties_the_list_at_once_and_numbers_begin_anew(room: GeneratedRoom) -> None:
    pipeline = opened()
    show(pipeline, room.frames)
    settle(pipeline)
    assert pipeline.objects().objects
    pipeline.reset_scene()
    empty = pipeline.objects()
    assert (empty.objects, empty.scene_epoch, empty.complete) == ((), 1, False)
    assert not pipeline.run_background_step()
    assert pipeline.objects() is empty
    later = [replace(f, stamp_ns=f.stamp_ns + 10**10) for f in room.frames[:3]]
    show(pipeline, tuple(later))
    settle(pipeline)
    again = pipeline.objects()
    assert (again.scene_epoch, again.complete) == (1, True)
    assert again.objects[0].id == "1"
    assert all(thing.first_seen_ns >= later[0].stamp_ns for thing in again.objects)


def test_a_reset_while_names_are_looked_for_leaves_nothing_behind(
    room: GeneratedRoom, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As from another thread: within a step."""
    pipeline = opened(objects__phrases_per_step=80)
    show(pipeline, room.frames)

    def reset_within(loaded: Any, prefix: Any, questions: Any, conversation: str) -> torch.Tensor:
        pipeline.reset_scene()
        return question_states(loaded, prefix, questions, conversation)

    monkeypatch.setattr(inventory_module, "question_states", reset_within)
    settle(pipeline)
    assert pipeline.objects().objects == ()
    assert pipeline.objects().scene_epoch == 1


def views_without(room: GeneratedRoom, label: str) -> tuple[RgbdFrame, ...]:
    """Views of the room without a thing, taken from elsewhere, after those it has."""
    rooms = make_rooms("val", torch.tensor([SEED]))
    number = next(thing.number for thing in room.graph.things if thing.name == label)
    path = path_within(rooms, make_rooms("val", torch.tensor([SEED + 1])))
    later = replace(without(rooms, number), T_world_cam=path)
    last = room.frames[-1].stamp_ns
    frames = frames_of(later, render(later, 96), 0)
    return tuple(replace(frame, stamp_ns=frame.stamp_ns + last) for frame in frames)


def test_what_was_taken_away_is_gone_though_old_images_show_it(
    room: GeneratedRoom, complete: ObjectsSnapshot
) -> None:
    """Of the room's things, each found one in turn; the model sees it still in the first views."""
    names = [box.label for box in room.boxes]
    label = next(
        thing.label
        for thing in complete.objects
        if thing.label in names and names.count(thing.label) == 1
    )
    pipeline = opened()
    show(pipeline, room.frames)
    settle(pipeline)
    (before,) = (thing for thing in pipeline.objects().present if thing.label == label)
    frames = views_without(room, label)
    show(pipeline, frames[:4])
    settle(pipeline)
    after = {thing.id: thing for thing in pipeline.objects().objects}
    assert after[before.id].is_gone
    assert after[before.id].gone_ns in {frame.stamp_ns for frame in frames[:4]}
    assert after[before.id].last_seen_ns <= room.frames[-1].stamp_ns
    for thing in pipeline.objects().present:
        assert iou_axis_aligned(thing.box, before.box) < 0.25
    # All others are there, and seen.
    others = [thing for thing in complete.objects if thing.label != label]
    for thing in others:
        assert not after[thing.id].is_gone
    assert max(after[thing.id].last_seen_ns for thing in others) == frames[3].stamp_ns


def test_fewer_views_make_nothing_gone(room: GeneratedRoom) -> None:
    pipeline = opened()
    show(pipeline, room.frames)
    settle(pipeline)
    before = pipeline.objects().present
    pipeline.set_config(
        replace(pipeline.config, keyframe=replace(pipeline.config.keyframe, max_views=2))
    )
    settle(pipeline)
    assert pipeline.scene_state().num_keyframes == 2
    assert {thing.id for thing in before} <= {thing.id for thing in pipeline.objects().present}


def test_a_vocabulary_of_five_thousand_words(
    room: GeneratedRoom, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In chunks; the unknown names are all taken for one thing that is not there, for speed."""
    unknown = "\n".join(f"thing number {i}" for i in range(4920))
    known = (embedded_model_path() / "vocabulary.txt").read_text()
    (tmp_path / "many.txt").write_text(f"{unknown}\n{known}")
    pipeline = opened(objects__vocabulary=str(tmp_path / "many.txt"), objects__phrases_per_step=256)
    absent = next(name for name in known.split("\n") if not room.graph.matching(name.split()[1]))
    sizes: list[int] = []
    first: list[torch.Tensor] = []

    def once(loaded: Any, prefix: Any, questions: Any, conversation: str) -> torch.Tensor:
        sizes.append(len(questions))
        if "thing number" not in questions[-1]:
            return question_states(loaded, prefix, questions, conversation)
        if not first:
            nothing = [GROUNDING_PROMPT.format(phrase=f"the {absent}")]
            first.append(question_states(loaded, prefix, nothing, conversation))
        return first[0].expand(len(questions), -1)

    monkeypatch.setattr(inventory_module, "question_states", once)
    show(pipeline, room.frames)
    settle(pipeline)
    assert (max(sizes), sum(sizes)) == (256, 5000)
    assert pipeline.objects().complete
    labels = {thing.label for thing in pipeline.objects().objects}
    assert len(labels & {box.label for box in room.boxes}) >= len(room.boxes) - 3


def test_a_scene_on_another_floor_has_its_objects_there(
    room: GeneratedRoom, complete: ObjectsSnapshot
) -> None:
    pipeline = opened()
    show(pipeline, tuple(stand_on_floor(room.frames, -1.5)))
    settle(pipeline)
    raised = pipeline.objects()
    assert [o.label for o in raised.objects] == [o.label for o in complete.objects]
    for thing, low in zip(raised.objects, complete.objects, strict=True):
        assert np.allclose(thing.box.center_m - low.box.center_m, (0.0, 0.0, 1.5), atol=0.02)


def test_another_least_score_is_taken_up(room: GeneratedRoom, complete: ObjectsSnapshot) -> None:
    pipeline = opened()
    show(pipeline, room.frames)
    settle(pipeline)
    config = pipeline.config
    pipeline.set_config(replace(config, objects=replace(config.objects, min_score=0.05)))
    assert settle(pipeline) > 5
    assert len(pipeline.objects().objects) >= len(complete.objects)
    assert pipeline.objects().complete


def test_fewer_objects_are_kept_where_that_is_asked(room: GeneratedRoom) -> None:
    pipeline = opened(objects__max_count=2)
    show(pipeline, room.frames)
    settle(pipeline)
    assert len(pipeline.objects().objects) == 2


# -- where no list is kept


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"objects__enabled": False}, "objects.enabled is false"),
        ({"cache__mode": "paper"}, "these settings keep none"),
        ({"objects__vocabulary": "/nowhere/names.txt"}, "/nowhere/names.txt"),
    ],
)
def test_why_no_objects_are_kept(room: GeneratedRoom, settings: dict[str, Any], why: str) -> None:
    pipeline = opened(**settings)
    show(pipeline, room.frames[:2])
    settle(pipeline)
    for snapshot in (pipeline.objects(), pipeline.inventory_now()):
        assert why in snapshot.why_not
        assert snapshot.is_fault == ("vocabulary" in "".join(settings))
        assert snapshot.objects == ()


@pytest.mark.parametrize(
    ("missing", "why"), [(HEAD_FILE, "no grounding head"), ("vocabulary.txt", "brings no vocab")]
)
def test_a_model_that_cannot_says_so(tmp_path: Path, missing: str, why: str) -> None:
    folder = tmp_path / "model"
    shutil.copytree(embedded_model_path(), folder, ignore=shutil.ignore_patterns(missing))
    pipeline = open_pipeline(folder, "none", None, AT_ONCE, background=True)
    assert why in pipeline.objects().why_not
    assert not pipeline.objects().is_fault


def test_switched_off_and_on_again(room: GeneratedRoom) -> None:
    pipeline = opened()
    show(pipeline, room.frames)
    settle(pipeline)
    config = pipeline.config
    pipeline.set_config(replace(config, objects=replace(config.objects, enabled=False)))
    assert not pipeline.run_background_step()
    assert "objects.enabled" in pipeline.objects().why_not
    assert pipeline.objects().objects == ()
    pipeline.set_config(config)
    settle(pipeline)
    assert pipeline.objects().complete
    assert pipeline.objects().objects


def test_before_a_model_and_before_a_scene() -> None:
    pipeline = Ada3DPipeline(from_flat({"model.path": "embedded"}))
    assert "not loaded" in pipeline.objects().why_not
    empty = opened()
    assert empty.objects() is empty.objects()
    assert (empty.objects().objects, empty.objects().why_not) == ((), "")
    with pytest.raises(NoFramesError):
        empty.inventory_now()


def test_a_scene_without_depth_has_no_objects(room: GeneratedRoom) -> None:
    pipeline = opened()
    blind = [replace(f, depth_m=np.full_like(f.depth_m, np.nan)) for f in room.frames[:2]]
    show(pipeline, tuple(blind))
    settle(pipeline)
    assert pipeline.objects().objects == ()
    with pytest.raises(NoFramesError, match="depth"):
        pipeline.ask(QUESTION, AskHooks())


def test_memory_that_runs_out_ends_the_survey_not_the_node(
    room: GeneratedRoom, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pipeline = opened()
    show(pipeline, room.frames)

    def no_memory(*args: object) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(inventory_module, "question_states", no_memory)
    settle(pipeline)
    assert "objects.phrases_per_step" in caplog.text
    assert not pipeline.objects().complete
    assert pipeline.ask(QUESTION).text in ("yes", "no")


@pytest.mark.parametrize(
    ("seed", "first", "named"),
    [
        (1029, "white table", "white sofa"),
        (1053, "blue barrel", "blue crate"),
        (1044, "red lamp", "red lamp"),
    ],
)
def test_where_two_names_fit_one_thing_a_closer_look_decides(
    seed: int, first: str, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their order by score alone is the first; the third is sure enough as it is."""
    room = generate_room(seed, side_px=128, split="val")
    truth = next(box for box in room.boxes if box.label == named)

    def there() -> SceneObject:
        pipeline = opened(background=False, pruning__strategy="none")
        show(pipeline, room.frames)
        found = pipeline.inventory_now().present
        return max(found, key=lambda thing: iou_axis_aligned(thing.box, truth))

    thing = there()
    assert thing.label == thing.box.label == named
    assert {first, *thing.alternatives} - {named} == set(thing.alternatives)
    with monkeypatch.context() as patch:
        patch.setattr(inventory_module, "BETTER_NAME", np.inf)
        assert there().label == first
        patch.setattr(inventory_module, "SURE_NAME", 0.0)
        patch.setattr(inventory_module, "look_at", None)  # nobody looks closer
        assert there().label == first
