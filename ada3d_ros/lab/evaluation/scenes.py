"""Scenes for calibration, analysis and benchmarks, from any source to spatial tokens and prompts.

A source is a bag, an RGB-D folder or a generated room. The frames go through the node's own
keyframe buffer and views; only their source differs.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ada3d_ros.config import AgentConfig, from_flat, load_config
from ada3d_ros.engine.token_selection import ChosenTokens, choose_tokens
from ada3d_ros.errors import ConfigError, SourceError
from ada3d_ros.geometry.voxel import voxel_coords, voxel_ids
from ada3d_ros.lab.command_line import add_model_folders, model_folders
from ada3d_ros.lab.world.generated import generate_room
from ada3d_ros.model.backbone import Backbone, EncoderInput, Origin
from ada3d_ros.model.checkpoint import LoadedModel
from ada3d_ros.model.prompt import check_question, parse_coordinates
from ada3d_ros.model.spatial import sample_patch_points
from ada3d_ros.model.startup import open_model
from ada3d_ros.pruning.policy import Policy
from ada3d_ros.scene.floor import stand_on_floor
from ada3d_ros.scene.keyframes import KeyframeBuffer, SceneSnapshot
from ada3d_ros.sources.bag import BagSource
from ada3d_ros.sources.bag_reader import is_bag
from ada3d_ros.sources.folder import FolderSource
from ada3d_ros.types import ModelInfo, MultiViewInput, PromptSequence, RgbdFrame, SpatialTokens

logger = logging.getLogger(__name__)

SOURCE_HELP = (
    "a rosbag2 folder or file, a posed RGB-D folder, or a generated room: room:SEED (split val,"
    " level 2), test-room:SEED (split test, level 1)"
)
ROOMS = {"room": ("val", 2), "test-room": ("test", 1)}  # kind of source -> split, level
DEFAULT_QUESTIONS = (
    "What is in the room?",
    "How many chairs are there?",
    "What color is the largest object?",
    "Is there a door?",
    "What is next to the table?",
    "Describe the scene concisely.",
)


@dataclass(frozen=True, eq=False, slots=True)
class Scene:
    """One scene ready to be asked about, moved to where the model's world begins; of a 2D model its
    newest image. origin_m: of the model's world in the scene's.
    """

    name: str
    frames: tuple[RgbdFrame, ...]
    tokens: SpatialTokens
    origin_m: Origin


@dataclass(frozen=True, eq=False, slots=True)
class VoxelScene(Scene):
    """A scene of LLaVA-3D. patch_token (V, P) int64: the spatial token that each patch of each view
    went into, -1 where it has no depth or its token fell to the cap.
    """

    views: MultiViewInput
    patch_token: torch.Tensor


def room_of(source: str) -> tuple[str, int, int] | None:
    """Split, level and seed of a generated room; None for a source that is none."""
    kind, _, seed = source.partition(":")
    if kind not in ROOMS or not (seed.isdigit() or not seed):
        return None
    return (*ROOMS[kind], int(seed or 0))


def open_frames(source: str, config: AgentConfig) -> Iterable[RgbdFrame]:
    """The frames of a source as SOURCE_HELP describes it. Raises SourceError."""
    room = room_of(source)
    if room is not None:
        split, level, seed = room
        return generate_room(seed, level, split=split).frames
    path = Path(source)
    if not path.exists():
        raise SourceError(f"{source} is not a folder or file; give {SOURCE_HELP}.")
    return BagSource(path, config=config) if is_bag(path) else FolderSource(path)


@torch.inference_mode()
def read_scene(loaded: LoadedModel, source: str, config: AgentConfig) -> Scene:
    """Keyframes of the source as the model has them; of a 2D model the newest one's image.

    Raises SourceError, or NoFramesError without usable depth.
    """
    model, scene = loaded.model, _snapshot(source, config)
    origin_m = model.origin_of(scene)
    frames = _in_model(scene, origin_m)
    name = Path(source).name or source
    if not model.config.has_video_tower:
        image = model.prepare_image(frames[-1])
        tokens = model.image_tokens(model.encode_views(image.pixels), image)
        return Scene(name, frames[-1:], tokens, origin_m)
    views = model.prepare_views(scene.frames, origin_m)
    return Scene(name, frames, _pooled(model, views), origin_m)


@torch.inference_mode()
def read_voxel_scene(loaded: LoadedModel, source: str, config: AgentConfig) -> VoxelScene:
    """The same of LLaVA-3D, with what became of each patch. Raises ConfigError for other models."""
    model, scene = loaded.model, _snapshot(source, config)
    if model.name != "llava3d":
        raise ConfigError(
            f"the checkpoint's backbone is {model.name}; this follows patches into LLaVA-3D's"
            " voxels, which no other has: give a LLaVA-3D checkpoint."
        )
    origin_m = model.origin_of(scene)
    views = loaded.llava3d.prepare_views(scene.frames, origin_m)
    tokens = _pooled(model, views)
    patch_token = _patch_tokens(loaded, views, tokens)
    name = Path(source).name or source
    return VoxelScene(name, _in_model(scene, origin_m), tokens, origin_m, views, patch_token)


def _snapshot(source: str, config: AgentConfig) -> SceneSnapshot:
    """The keyframes that the node would keep, one at least. Raises SourceError."""
    buffer = KeyframeBuffer(config.keyframe, config.world.floor_z)
    opened = open_frames(source, config)
    for frame in opened:
        buffer.offer(frame)
    scene = buffer.snapshot()
    if not scene.frames:
        dropped = getattr(opened, "dropped", None)
        reasons = f": {'; '.join(dropped.lines())}" if dropped else "."
        raise SourceError(f"{source} has no frame that could become a keyframe{reasons}")
    return scene


def _in_model(scene: SceneSnapshot, origin_m: Origin) -> tuple[RgbdFrame, ...]:
    x_m, y_m, z_m = origin_m
    return tuple(stand_on_floor(scene.frames, z_m, (x_m, y_m)))


def _pooled(model: Backbone, views: EncoderInput) -> SpatialTokens:
    table = model.new_table()
    for view, part in enumerate(model.view_parts(model.encode_views(views.pixels), views)):
        table.add(view, part)
    return model.spatial_tokens(table)


def _patch_tokens(
    loaded: LoadedModel, views: MultiViewInput, tokens: SpatialTokens
) -> torch.Tensor:
    """(V, P) as VoxelScene.patch_token.

    Pooling orders tokens by voxel; the cap keeps every N/cap-th (model/spatial.py).
    """
    xyz = sample_patch_points(views, loaded.model.config.vision.patches_per_side)
    xyz = xyz.flatten(1, 2)  # (V, P, 3)
    valid = torch.isfinite(xyz).all(dim=-1)
    ids, occupied = voxel_ids(voxel_coords(xyz[valid], tokens.voxel_size_m))
    total, kept = len(occupied), tokens.features.shape[0]
    token_of = torch.full((total,), -1, dtype=torch.int64)
    token_of[torch.arange(kept) * total // kept] = torch.arange(kept)
    result = torch.full(valid.shape, -1, dtype=torch.int64)
    result[valid.cpu()] = token_of[ids.cpu()]
    return result


@torch.inference_mode()
def scene_prompt(
    loaded: LoadedModel, scene: Scene, question: str, policy: Policy, conversation: str = "llava_v1"
) -> tuple[PromptSequence, ChosenTokens]:
    """The prompt of one question about a scene, after the policy's selection before the LLM."""
    model, (text, clicked) = loaded.model, parse_coordinates(question)
    points = [
        [round(at - begin, 3) for at, begin in zip(point, scene.origin_m, strict=True)]
        for point in clicked
    ]
    ids = loaded.tokenizer.encode_question(text, conversation)
    chosen = choose_tokens(model, scene.tokens, policy, loaded.tokenizer.encode_text(question))
    embeds, clicks = model.project(chosen.tokens.features), model.encode_clicks(points)
    prompt = model.build_prompt(ids, embeds, clicks, chosen.tokens.xyz_m)
    return chosen.in_prompt(prompt), chosen


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """--model, --vision-path, --device, --precision, --config, --questions: of every verb that runs
    a model.
    """
    add = parser.add_argument
    add_model_folders(add, required=True)
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N (default auto)")
    add("--precision", default="auto", help="auto, fp32, bf16 or fp16 (default auto)")
    add(
        "--config",
        type=Path,
        help="parameter file as the node takes: keyframes, depth, pruning (default: the defaults)",
    )
    add(
        "--questions",
        type=Path,
        help="text file, one question a line (default: six about rooms in general)",
    )


def load_for(
    options: argparse.Namespace, **settings: object
) -> tuple[LoadedModel, ModelInfo, AgentConfig]:
    """The model, what is known of it, and the configuration that those arguments name.

    Raises Ada3DError.
    """
    given = {
        **model_folders(options),
        "model.device": options.device,
        "model.precision": options.precision,
    }
    base = load_config(options.config) if getattr(options, "config", None) else None
    config = from_flat(given | settings, base)
    loaded, info = open_model(config.model)
    for note in loaded.info.notes:  # the node says them when it checks
        logger.warning(note)
    return loaded, info, config


def read_questions(path: Path | None) -> Sequence[str]:
    """The questions of a file, empty lines left out.

    Raises SourceError where there are none, RequestError for a line that is no question.
    """
    if path is None:
        return DEFAULT_QUESTIONS
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise SourceError(f"{path} cannot be read as questions ({error}).") from None
    questions = [check_question(line, AgentConfig().question.max_chars) for line in lines if line]
    if not questions:
        raise SourceError(f"{path} holds no question; write one a line.")
    return questions
