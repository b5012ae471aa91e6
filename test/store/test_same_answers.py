"""Saved, and loaded by another process's pipeline: the same answers, ids and epoch; then it goes
on.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from ada3d_ros.config import AgentConfig, from_flat
from ada3d_ros.create_pipeline import create_pipeline
from ada3d_ros.errors import NotGroundedError
from ada3d_ros.lab.world.generated import GeneratedRoom, generate_room
from ada3d_ros.object_pipeline import ObjectPipeline
from ada3d_ros.pipeline import Ada3DPipeline
from ada3d_ros.store.contents import SavedScene
from ada3d_ros.store.named_scenes import NamedScenes
from ada3d_ros.store.writer import SceneWriter
from ada3d_ros.types import Answer, AnswerMethod, Question
from test.support.scripted_detector import ScriptedDetector
from test.support.sources import ROOT
from test.support.stored import assert_same_keyframe

AnyPipeline = Ada3DPipeline | ObjectPipeline
SETTINGS = {
    "model.path": "embedded",
    "keyframe.max_views": 6,
    "keyframe.min_translation_m": 0.0,
    "keyframe.min_rotation_deg": 0.0,
}
QUESTIONS = (
    "What is nearest to the {0}?",
    "What color is the {0}?",
    "Is there a {0}?",
    "How many {0}s are there?",
    "Where is the {0}?",
    "Where did I last see the {0}?",
)
LOADED_S = 5.0  # a restarted node answers within


@pytest.fixture(scope="module")
def room() -> GeneratedRoom:
    return generate_room(7, side_px=96, split="val")


def settings(**changed: object) -> AgentConfig:
    return from_flat(SETTINGS | changed)


def opened(config: AgentConfig, room: GeneratedRoom) -> AnyPipeline:
    """A pipeline of a process that has just begun, the model shared."""
    detector = ScriptedDetector(room.boxes) if config.model.path == "none" else None
    pipeline = create_pipeline(config, detector=detector)
    assert isinstance(pipeline, Ada3DPipeline | ObjectPipeline)
    pipeline.check()
    pipeline.load()
    return pipeline


def saved(pipeline: AnyPipeline, store: Path, lossless: bool) -> None:
    with_objects = pipeline.kept_objects()
    writer = SceneWriter(NamedScenes(store).open("kitchen", "map"), lossless)
    writer.note_scene(pipeline.scene)
    if with_objects is not None:
        writer.note_objects(with_objects)
    assert writer.close(60.0)


def loaded(pipeline: AnyPipeline, store: Path) -> SavedScene:
    scene = NamedScenes(store).read("kitchen", "map")
    pipeline.load_scene(scene.scene)
    if scene.objects is not None:
        pipeline.restore_objects(scene.objects)
    return scene


def asked(pipeline: AnyPipeline, room: GeneratedRoom) -> list[Answer]:
    """Answers to all questions about what stands once in the room."""
    once = [
        thing.category
        for thing in room.graph.things
        if sum(other.category == thing.category for other in room.graph.things) == 1
    ]
    return [pipeline.ask(Question(text.format(name))) for name in once[:2] for text in QUESTIONS]


@pytest.mark.parametrize("lossless", [True, False], ids=["lossless", "jpeg"])
def test_a_model_answers_the_same(room: GeneratedRoom, tmp_path: Path, lossless: bool) -> None:
    before = opened(settings(), room)
    for frame in room.frames[:-1]:
        before.observe(frame)
    answers = asked(before, room)
    before.inventory_now()
    saved(before, tmp_path, lossless)

    after = opened(settings(), room)
    begun = time.perf_counter()
    scene = loaded(after, tmp_path)
    first = after.ask(Question(answers[0].question))
    assert time.perf_counter() - begun < LOADED_S
    assert scene.notes == ()

    # Scene, objects and answers.
    assert after.scene.state == before.scene.state
    assert after.scene.floor == before.scene.floor
    assert after.scene.anchor_xy_m == before.scene.anchor_xy_m
    for ours, theirs in zip(after.scene.keyframes, before.scene.keyframes, strict=True):
        assert_same_keyframe(ours, theirs, lossless)
    kept = [(item.id, item.label, item.last_seen_ns) for item in before.objects().objects]
    assert [(item.id, item.label, item.last_seen_ns) for item in after.objects().objects] == kept
    assert len(kept) >= 2
    assert after.objects().complete
    assert first.text == answers[0].text
    for ours, theirs in zip(asked(after, room), answers, strict=True):
        assert ours.text == theirs.text
        assert (ours.scene_epoch, ours.scene_version) == (theirs.scene_epoch, theirs.scene_version)
        assert len(ours.boxes) == len(theirs.boxes)
        if lossless:
            for a, b in zip(ours.boxes, theirs.boxes, strict=True):
                assert np.array_equal(a.center_m, b.center_m)
                assert np.array_equal(a.size_m, b.size_m)

    # It goes on: a new frame comes after the old ones, and changes the same scene.
    keyframe = after.observe(room.frames[-1])
    assert keyframe is not None
    assert keyframe.index == before.scene.keyframes[-1].index + 1
    assert after.scene.state.epoch == before.scene.state.epoch
    assert after.scene.state.version == before.scene.state.version + 1


def test_a_detectors_objects_keep_their_ids(room: GeneratedRoom, tmp_path: Path) -> None:
    config = settings(**{"model.path": "none", "detector.min_views": 2})
    before = opened(config, room)
    for frame in room.frames[:-1]:
        before.observe(frame)
    before.inventory_now()
    answers = asked(before, room)
    saved(before, tmp_path, lossless=True)

    after = opened(config, room)
    loaded(after, tmp_path)
    kept = {item.id: item.label for item in before.objects().objects}
    assert {item.id: item.label for item in after.objects().objects} == kept
    assert len(kept) >= 3
    assert [a.text for a in asked(after, room)] == [a.text for a in answers]

    # Frames that come are matched with them.
    after.observe(room.frames[-1])
    after.inventory_now()
    assert {item.id: item.label for item in after.objects().objects} == kept


def test_what_was_seen_before_a_reset_is_found_in_the_store(
    room: GeneratedRoom, tmp_path: Path
) -> None:
    config = settings(**{"model.path": "none", "detector.min_views": 2})
    other = generate_room(8, side_px=96, split="val")
    pipeline = create_pipeline(config, detector=ScriptedDetector(room.boxes))
    assert isinstance(pipeline, ObjectPipeline)
    pipeline.check()
    pipeline.load()
    for frame in room.frames:
        pipeline.observe(frame)
    pipeline.inventory_now()
    names = [item.label for item in pipeline.objects().objects]
    store = NamedScenes(tmp_path)
    writer = SceneWriter(store.open("kitchen", "map"))
    writer.note_scene(pipeline.scene)
    known = pipeline.kept_objects()
    assert known is not None
    writer.note_objects(known)
    writer.flush(60.0)

    # The scene begins anew in another place: the list has none of it any more.
    pipeline.reset_scene()
    for frame in other.frames[:3]:
        pipeline.observe(frame)
    writer.note_scene(pipeline.scene)
    assert writer.close(60.0)
    pipeline.object_history = lambda: store.history("kitchen")
    asked_for = next(name for name in names if names.count(name) == 1)
    answer = pipeline.ask(Question(f"Where did I last see the {asked_for}?"))
    before = next(item for item in known.snapshot.objects if item.label == asked_for)
    assert answer.method is AnswerMethod.MEASURED
    assert np.allclose(answer.boxes[0].center_m, before.center_m)
    assert "was last seen at" in answer.text
    with pytest.raises(NotGroundedError, match="was ever seen in this scene"):
        pipeline.ask(Question("Where did I last see the piano?"))

    # The disk is away: what is known now is asked for all the same.
    store.delete("kitchen")
    with pytest.raises(NotGroundedError, match="could not be looked through: no scene 'kitchen'"):
        pipeline.ask(Question("Where did I last see the piano?"))


def test_in_the_place_of_another_scene_it_gets_an_epoch_of_its_own(
    room: GeneratedRoom, tmp_path: Path
) -> None:
    config = settings()
    before = opened(config, room)
    for frame in room.frames:
        before.observe(frame)
    expected = [a.text for a in asked(before, room)]
    saved(before, tmp_path, lossless=True)

    # As many keyframes of another room: the same epoch and version, were they kept.
    other = generate_room(8, side_px=96, split="val")
    after = opened(config, room)
    for frame in other.frames[: len(room.frames)]:
        after.observe(frame)
    after.ask(Question("What is the largest object?"))
    loaded(after, tmp_path)
    assert after.scene.state.epoch == before.scene.state.epoch + 1
    assert [a.text for a in asked(after, room)] == expected


def test_fewer_views_than_were_saved_keep_the_place_covered(
    room: GeneratedRoom, tmp_path: Path
) -> None:
    before = opened(settings(), room)
    for frame in room.frames:
        before.observe(frame)
    saved(before, tmp_path, lossless=True)
    after = opened(settings(**{"keyframe.max_views": 3}), room)
    loaded(after, tmp_path)
    assert len(after.scene.keyframes) == 3
    assert after.scene.keyframes[-1].index == before.scene.keyframes[-1].index


def test_the_store_loads_neither_torch_nor_ros() -> None:
    code = (
        "import sys, ada3d_ros.store.command, ada3d_ros.store.writer;"
        " print([name for name in ('torch', 'transformers', 'rclpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
