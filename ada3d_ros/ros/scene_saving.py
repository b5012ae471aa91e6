"""How the scene in use gets to the disk: its writer, and what is said where there is none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ada3d_ros.ros.diagnostics import OK, WARN, Report

if TYPE_CHECKING:
    from ada3d_ros.config import AgentConfig
    from ada3d_ros.create_pipeline import AnyPipeline
    from ada3d_ros.ros.scenes import SceneServer
    from ada3d_ros.scene.objects import KeptObjects
    from ada3d_ros.store.named_scenes import NamedScenes
    from ada3d_ros.store.writer import SceneWriter

SAVE_S = 60.0  # for all that waits to be on the disk


def new_writer(
    config: AgentConfig, store: NamedScenes, name: str
) -> tuple[SceneWriter, Sequence[str]]:
    """Of the folder of a scene, and what was mended in it. Raises StoreError."""
    from ada3d_ros.store.writer import SceneWriter  # where there is a store

    folder = store.open(name, config.world_frame)
    writer = SceneWriter(folder, config.scene.images == "lossless", config.scene.max_mb)
    return writer, folder.notes


def write_now(writer: SceneWriter, pipeline: AnyPipeline, known: KeptObjects | None) -> None:
    """Have the scene on the disk, and its objects where they are known. Raises StoreError."""
    writer.note_scene(pipeline.scene)
    if known is not None and known.epoch == pipeline.scene.state.epoch:
        writer.note_objects(known)
    writer.flush(SAVE_S)


def why_not_kept(config: AgentConfig, writer: SceneWriter | None, problem: str) -> str:
    """Why what is kept with the scene now would not be there after a restart, and what to do; ''
    where it would. problem: of the store.
    """
    if writer is not None:
        found = writer.report.problem
        return f"it is not on the disk yet: {found}" if found else ""
    text = "it will not be there after a restart: "
    if problem:
        return text + problem
    if not config.scene.folder:
        return f"{text}this node has no store. Set scene.autosave to a folder to keep it."
    return f"{text}the scene is not saved by itself. Call ~/save_scene now, or set scene.autosave."


def store_task(scenes: SceneServer) -> Report:
    """The task of /diagnostics that shows the store."""
    values = scenes.report()
    if scenes.problem:
        return WARN, scenes.problem, values
    if not values["scene.store"]:
        return OK, "no store (scene.autosave, scene.store)", values
    return OK, f"scene {scenes.name!r}" if scenes.name else "the scene is not saved", values
