"""Video-3D-LLM on the main path, from frames to answers, on a tiny checkpoint with random weights.

What is appended to its cached scene is exact, a frame that goes is cut out, its ground heads choose
among a detector's objects.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ada3d_ros.config import from_flat
from ada3d_ros.engine.prefix_state import PrefixState
from ada3d_ros.errors import ConfigError, InvalidRequestError, NoFramesError, OutOfReachError
from ada3d_ros.grounding.from_ground_heads import along_axes
from ada3d_ros.lab.world.generated import generate_room
from ada3d_ros.model.random_checkpoint import TINY_VIDEO3D, write_random_checkpoint
from ada3d_ros.model.video3dllm.backbone import Video3DLLM
from ada3d_ros.pipeline import Ada3DPipeline
from ada3d_ros.types import (
    Answer,
    AskHooks,
    Box3D,
    GroundingMethod,
    Question,
    RgbdFrame,
    Scope,
)
from test.support.pipelines import ASK, MANY, ROOM, cache_of, start, start_background
from test.support.scripted_detector import ScriptedDetector

DRAWN = generate_room(7, side_px=96, split="val")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("video3d") / "tiny"
    return write_random_checkpoint(folder, config=TINY_VIDEO3D)


def with_proposals(folder: Path, boxes: Sequence[Box3D]) -> Ada3DPipeline:
    """Of the drawn room, whose objects a detector finds; the model chooses among them."""
    settings = {"model.path": str(folder), "detector.min_views": 2, "detector.proposals": True}
    pipeline = Ada3DPipeline(from_flat(settings), detector=ScriptedDetector(boxes))
    pipeline.load()
    for frame in DRAWN.frames:
        pipeline.observe(frame)
    return pipeline


def run_all(pipeline: Ada3DPipeline) -> None:
    while pipeline.run_background_step():
        pass


def keys_of(pipeline: Ada3DPipeline) -> list[torch.Tensor]:
    prefix = cache_of(pipeline).active
    assert prefix is not None
    prefix.crop()
    return [prefix.cache.held(layer)[0] for layer in range(len(prefix.lengths))]


def backbone_of(pipeline: Ada3DPipeline) -> Video3DLLM:
    assert isinstance(pipeline.model.model, Video3DLLM)
    return pipeline.model.model


def test_it_is_recognised_and_answers(model: Path) -> None:
    pipeline = start(model)
    assert pipeline.info is not None
    assert pipeline.info.random_weights
    assert backbone_of(pipeline).name == "video3dllm"
    answer = pipeline.ask(ASK)
    per_frame = backbone_of(pipeline).config.max_spatial_tokens(1)
    assert 0 < answer.tokens.spatial_total <= 5 * per_frame
    assert answer.scene_cached
    assert answer.scene_staleness == 0.0
    assert pipeline.ask(ASK).text == answer.text


@pytest.mark.parametrize("mode", ["cached", "paper"])
def test_one_image_is_answered_too(model: Path, mode: str) -> None:
    pipeline = start(model, **{"cache.mode": mode})
    answer = pipeline.ask(replace(ASK, scope=Scope.LATEST_IMAGE))
    assert answer.tokens.spatial_total == backbone_of(pipeline).config.max_spatial_tokens(1)


def test_a_keyframe_that_is_appended_makes_the_scene_that_a_fresh_build_makes(
    model: Path,
) -> None:
    """Key by key: nothing of LLaVA-3D's frozen means, and no rebuild is due."""
    growing = start_background(model, MANY[:4])
    run_all(growing)
    cache = cache_of(growing)
    builds = cache.report.builds
    for frame in MANY[4:7]:
        growing.observe(frame)
        run_all(growing)
        assert cache.state is PrefixState.READY
        assert cache.staleness == 0.0
    assert cache.report.builds == builds
    assert cache.report.appends == 3
    fresh = start_background(model, MANY[:7])
    run_all(fresh)
    for ours, theirs in zip(keys_of(growing), keys_of(fresh), strict=True):
        assert ours.shape == theirs.shape
        assert (ours - theirs).abs().max() <= 2e-5 * theirs.abs().max()
    question = Question("What is near the door?")
    assert growing.ask(question).text == fresh.ask(question).text


def test_a_keyframe_that_goes_is_cut_out_and_what_came_after_is_stale(model: Path) -> None:
    limits = {"keyframe.max_views": 5, "cache.settle_sec": 60.0, "cache.max_staleness": 1.0}
    pipeline = start_background(model, MANY[:5], **limits)
    run_all(pipeline)
    prefix = cache_of(pipeline).active
    assert prefix is not None
    before = prefix.made_of.names  # type: ignore[attr-defined]
    cache, places = prefix.cache, [buffer.data_ptr() for buffer in prefix.cache.buffers]
    pipeline.observe(MANY[5])
    run_all(pipeline)
    assert prefix.cache is cache  # where a graph works in it already
    assert [buffer.data_ptr() for buffer in cache.buffers] == places
    after = prefix.made_of.names  # type: ignore[attr-defined]
    kept = [keyframe.index for keyframe in pipeline.scene.keyframes]
    assert list(after) == kept
    assert set(before) - set(after)  # one is gone, and is not held any more
    assert cache_of(pipeline).active is prefix  # no new build
    answer = pipeline.ask(ASK)
    assert answer.tokens.spatial_total == len(prefix.embeds)
    assert 0.0 < answer.scene_staleness < 1.0
    assert len(answer.keyframe_stamps_ns) == 5

    # Quiet for long enough, it is made anew, and nothing is stale any more.
    pipeline.set_config(
        replace(pipeline.config, cache=replace(pipeline.config.cache, settle_sec=0))
    )
    run_all(pipeline)
    assert cache_of(pipeline).active is not prefix
    assert pipeline.ask(ASK).scene_staleness == 0.0


def test_a_robot_that_stands_renews_its_last_view_exactly(model: Path) -> None:
    """The newest goes as the next comes: what is held is what a fresh scene would hold, always."""
    limits = {"keyframe.max_views": 3, "cache.settle_sec": 60.0, "cache.max_staleness": 1.0}
    pipeline = start_background(model, MANY[:3], **limits)
    run_all(pipeline)
    prefix, standing = cache_of(pipeline).active, MANY[2]
    assert prefix is not None
    stamps_ns = [standing.stamp_ns + number * 6_000_000_000 for number in range(1, 5)]
    for stamp_ns in stamps_ns:
        pipeline.observe(replace(standing, stamp_ns=stamp_ns, depth_stamp_ns=None))
        run_all(pipeline)
    assert cache_of(pipeline).active is prefix
    assert pipeline.scene.keyframes[-1].frame.stamp_ns == stamps_ns[-1]
    assert prefix.num_evicted == 0
    assert cache_of(pipeline).staleness == 0.0
    fresh = start_background(model, tuple(k.frame for k in pipeline.scene.keyframes), **limits)
    run_all(fresh)
    for ours, theirs in zip(keys_of(pipeline), keys_of(fresh), strict=True):
        assert ours.shape == theirs.shape
        assert (ours - theirs).abs().max() <= 2e-5 * theirs.abs().max()


def test_a_keyframe_that_is_restored_stands_where_it_belongs(model: Path) -> None:
    """An older list of the same epoch arrives late: stale and said so, then as a fresh scene."""
    limits = {"cache.settle_sec": 60.0, "cache.max_staleness": 1.0}
    pipeline = start_background(model, MANY[:5], **limits)
    whole = pipeline.scene
    without = replace(
        whole,
        keyframes=(whole.keyframes[0], *whole.keyframes[2:]),
        state=replace(whole.state, version=whole.state.version + 1),
    )
    assert pipeline.restore(without)
    run_all(pipeline)
    assert cache_of(pipeline).state is PrefixState.READY
    assert pipeline.restore(whole)
    run_all(pipeline)  # appended behind the newest
    prefix = cache_of(pipeline).active
    assert prefix is not None
    assert prefix.made_of.names == (0, 2, 3, 4, 1)  # type: ignore[attr-defined]
    assert cache_of(pipeline).state is PrefixState.STALE
    sizes = [len(part) for part in cache_of(pipeline).encoder.table.frames]  # type: ignore[attr-defined]
    assert cache_of(pipeline).staleness == pytest.approx(1 - sizes[0] / sum(sizes))

    # What is made anew, and what a question brings along, is in order.
    pipeline.set_config(
        replace(pipeline.config, cache=replace(pipeline.config.cache, settle_sec=0))
    )
    run_all(pipeline)
    assert cache_of(pipeline).state is PrefixState.READY
    fresh = start_background(model, MANY[:5])
    run_all(fresh)
    for ours, theirs in zip(keys_of(pipeline), keys_of(fresh), strict=True):
        assert torch.equal(ours, theirs)
    assert pipeline.ask(ASK).text == fresh.ask(ASK).text


@pytest.mark.parametrize("up_m", [0.0, 1.0])
def test_where_the_map_begins_does_not_matter(model: Path, up_m: float) -> None:
    """Far from the map's origin, where the model knows no voxel, the same answer."""
    by = np.array([37.0, -52.0, up_m])

    def moved(frame: RgbdFrame) -> RgbdFrame:
        T = frame.T_world_cam.copy()
        T[:3, 3] += by
        return replace(frame, T_world_cam=T)

    here = start(model, 0)
    there = start(model, 0)
    for frame in ROOM.frames:
        here.observe(frame)
        there.observe(moved(frame))
    x, y, z = (*here.scene.anchor_xy_m, here.scene.floor.z_m)
    near = here.ask(Question(f"What is at [{x + 1:.1f}, {y:.1f}, {z + 1:.1f}]?"))
    x, y, z = (*there.scene.anchor_xy_m, there.scene.floor.z_m)
    far = there.ask(Question(f"What is at [{x + 1:.1f}, {y:.1f}, {z + 1:.1f}]?"))
    assert here.scene.floor.known == there.scene.floor.known
    assert near.tokens.spatial_total == far.tokens.spatial_total
    if here.scene.floor.known:
        assert near.text == far.text
        assert near.kept_xyz_m is not None
        assert far.kept_xyz_m is not None
        shift = np.nanmean(far.kept_xyz_m.astype(np.float64) - near.kept_xyz_m, axis=0)
        assert shift == pytest.approx(by, abs=1e-3)


@pytest.mark.parametrize("scope", [Scope.SCENE, Scope.LATEST_IMAGE])
def test_three_numbers_in_its_text_are_no_place(
    model: Path, scope: Scope, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was never taught to write one: nothing is moved by its origin, nothing read as a box."""
    pipeline = start(model)
    assert any(pipeline.scene.anchor_xy_m)
    text = "shelves [1, 2, 3] and [0.5, 1, 0.5, 1, 1, 1]"
    monkeypatch.setattr(pipeline.model.tokenizer, "decode", lambda ids: text)
    monkeypatch.setattr(pipeline.model.tokenizer, "pending_characters", lambda ids: 0)
    pieces: list[str] = []
    hooks = AskHooks(on_text=lambda piece, count: pieces.append(piece))
    answer = pipeline.ask(replace(ASK, scope=scope, want_boxes=True), hooks)
    assert answer.text == "".join(pieces) == text
    assert answer.boxes == ()


def test_a_point_beyond_its_voxels_is_refused_by_its_number(model: Path) -> None:
    pipeline = start(model)
    with pytest.raises(InvalidRequestError, match="outside of what the model can place"):
        pipeline.ask(Question("What is at [40, 0, 1]?"))
    assert pipeline.ask(ASK).text


def test_a_scene_without_depth_says_so(model: Path) -> None:
    pipeline = start(model, 0)
    frame = ROOM.frames[0]
    pipeline.observe(replace(frame, depth_m=np.full_like(frame.depth_m, np.nan)))
    with pytest.raises(NoFramesError, match="depth"):
        pipeline.ask(ASK)


@pytest.mark.parametrize("strategy", ["voxel_dpp", "adatoken3d", "fastv", "pdrop", "random"])
@pytest.mark.parametrize("prune", ["question", "build"])
def test_strategies_prune_its_tokens(model: Path, strategy: str, prune: str) -> None:
    settings = {"pruning.strategy": strategy, "pruning.keep_ratio": 0.6, "pruning.n_min": 2}
    answer = start(model, **settings, **{"cache.prune": prune}).ask(ASK)
    assert answer.tokens.keep_ratio_achieved == pytest.approx(0.6, abs=0.06)
    assert answer.text


# -- grounding


BOXES = tuple(
    Box3D(np.array(center), np.array([0.8, 0.6, 1.0]), yaw_rad=yaw, label="thing")
    for center, yaw in (((0.5, 1.0, 0.5), 0.0), ((-1.0, 0.5, 0.5), 0.7), ((1.0, -1.0, 1.2), 1.6))
)


def test_ground_heads_choose_among_proposals_and_name_the_method(model: Path) -> None:
    pipeline = start(model)
    question = Question("the brown thing", phrase="the brown thing", proposals=BOXES)
    answer = pipeline.choose_proposals(question, AskHooks())
    assert answer.question == "the brown thing"
    assert answer.tokens.generated == 0
    for box in answer.boxes:
        assert box.method is GroundingMethod.PROPOSAL
        assert box.label == "the brown thing"
        assert 0.0 < box.score <= 1.0
        assert any(np.array_equal(box.center_m, other.center_m) for other in BOXES)
    assert answer.text == (
        f"Found {len(answer.boxes)} of 3 proposals." if answer.boxes else answer.text
    )


@pytest.mark.parametrize(
    "phrase", ["<GROUND>", "a <|IM_END|> chair", "<IMAGE>", "the <Boxes>", "<COORD> chair"]
)
def test_a_phrase_that_steers_the_model_is_refused(model: Path, phrase: str) -> None:
    """Also where small letters make it one."""
    pipeline = start(model)
    question = Question(phrase, phrase=phrase, proposals=BOXES)
    with pytest.raises(InvalidRequestError, match="steers the model"):
        pipeline.choose_proposals(question, AskHooks())


def test_a_proposal_s_box_is_what_encloses_it_in_the_model_s_world() -> None:
    boxes_m = along_axes(BOXES, (0.5, 0.0, 0.25))
    assert boxes_m[0].tolist() == pytest.approx([0.0, 1.0, 0.25, 0.8, 0.6, 1.0])
    c, s = np.cos(0.7), np.sin(0.7)
    wide = [0.8 * c + 0.6 * s, 0.8 * s + 0.6 * c, 1.0]
    assert boxes_m[1].tolist() == pytest.approx([-1.5, 0.5, 0.25, *wide], abs=1e-6)


def test_the_scores_are_those_of_the_whole_prompt(model: Path) -> None:
    """Of the cached scene, against one pass of a prompt with what follows in training."""
    pipeline = start(model)
    asked = Question("a chair", phrase="a chair", proposals=BOXES)
    answer = pipeline.choose_proposals(asked, AskHooks())
    backbone, loaded = backbone_of(pipeline), pipeline.model
    table = cache_of(pipeline).encoder.table
    tokens = backbone.spatial_tokens(table)  # type: ignore[arg-type]
    ids = backbone.grounding_ids(loaded.tokenizer, "a chair")  # type: ignore[arg-type]
    end = loaded.tokenizer.encode("<|im_end|>\n")
    prompt = backbone.build_prompt([*ids, *end], tokens.features)
    with torch.inference_mode():
        hidden = backbone.decoder.run_layers(
            0, backbone.config.decoder.num_layers, prompt.embeds[None], prompt.positions
        )
        state = backbone.decoder.norm(hidden[0, -1 - len(end)])
        origin = backbone.origin_of(pipeline.scene)
        shares = backbone.score_proposals(state, along_axes(BOXES, origin), table)  # type: ignore[arg-type]
    expected = sorted((share for share in shares.tolist() if share > 0), reverse=True)
    assert [box.score for box in answer.boxes] == pytest.approx(expected, abs=1e-5)


def test_with_a_detector_all_its_objects_are_proposals(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever their names: the model reads a description."""
    pipeline = with_proposals(model, DRAWN.boxes)
    asked: list[Question] = []
    phrase = "what one sits on"

    def choose(question: Question, hooks: AskHooks) -> Answer:
        asked.append(question)
        return real(question, hooks)

    real = pipeline.choose_proposals
    monkeypatch.setattr(pipeline, "choose_proposals", choose)
    answer = pipeline.ground(Question(phrase, min_score=1e-6))
    (question,) = asked
    assert question.phrase == phrase
    assert 1 < len(question.proposals) <= len(DRAWN.boxes)
    assert all(box.method is GroundingMethod.DETECTOR for box in question.proposals)
    centers = [box.center_m.tolist() for box in question.proposals]
    for box in answer.boxes:
        assert box.method is GroundingMethod.PROPOSAL
        assert box.center_m.tolist() in centers


def test_where_no_object_can_be_placed_names_and_relevance_are_left(tmp_path: Path) -> None:
    """The objects stand above what this model knows; what is seen of the floor is in its world."""
    low = replace(TINY_VIDEO3D, max_xyz_m=(15.0, 15.0, 0.12))
    folder = write_random_checkpoint(tmp_path / "low", config=low)
    boxes = tuple(box for box in DRAWN.boxes if box.center_m[2] > 0.2)
    assert len(boxes) > 2
    pipeline = with_proposals(folder, boxes)
    every = replace(ASK, phrase="a", proposals=boxes)
    with pytest.raises(OutOfReachError, match="outside of what the model can place"):
        pipeline.choose_proposals(every, AskHooks())
    kind = boxes[0].label.split()[-1]
    named = pipeline.ground(Question(f"the {kind}"))
    assert named.boxes
    assert all(box.method is GroundingMethod.DETECTOR for box in named.boxes)
    assert all(box.label == f"the {kind}" for box in named.boxes)
    other = pipeline.ground(Question("what one sits on", min_score=1e-6))
    assert all(box.method is GroundingMethod.RELEVANCE for box in other.boxes)


def test_no_object_of_the_ground_heads_is_an_answer(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the phrase is the name of one: nothing else is tried."""
    pipeline = with_proposals(model, DRAWN.boxes)

    def none(state: torch.Tensor, boxes_m: torch.Tensor, frames: object) -> torch.Tensor:
        return torch.cat((torch.zeros(len(boxes_m)), torch.ones(1)))

    monkeypatch.setattr(backbone_of(pipeline), "ground_scores", none)
    phrase = f"the {DRAWN.boxes[0].label.split()[-1]}"
    answer = pipeline.ground(Question(phrase))
    assert answer.boxes == ()
    assert answer.text == f"I have not seen {phrase}."


def test_without_a_detector_a_phrase_is_located_by_relevance(model: Path) -> None:
    answer = start(model).ground(Question("the chair", min_score=1e-6))
    assert all(box.method is GroundingMethod.RELEVANCE for box in answer.boxes)


def test_training_asks_for_llava3d(model: Path) -> None:
    loaded = start(model).model
    with pytest.raises(ConfigError, match="video3dllm"):
        _ = loaded.llava3d
