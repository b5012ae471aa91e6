"""The scene that survives: loaded when the node is activated, saved while it grows or on
~/save_scene, another one taken on ~/load_scene, others opened for questions that name them.

Whatever the store does, the node serves on; what is wrong is a sentence (`problem`).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from ada3d_ros.asking.words import duration
from ada3d_ros.config.scene import check_scene_name
from ada3d_ros.errors import (
    Ada3DError,
    NoFramesError,
    NotActiveError,
    StoreError,
    UnknownSceneError,
)
from ada3d_ros.measures import ObjectsSnapshot, SceneObject
from ada3d_ros.msg import Answer as AnswerMsg
from ada3d_ros.ros.other_scenes import OtherScenes
from ada3d_ros.ros.scene_saving import SAVE_S, new_writer, why_not_kept, write_now
from ada3d_ros.ros.scene_services import SceneServices
from ada3d_ros.types import AnswerMethod

if TYPE_CHECKING:
    from ada3d_ros.create_pipeline import AnyPipeline
    from ada3d_ros.ros.node import AgentNode
    from ada3d_ros.scene.objects import KeptObjects
    from ada3d_ros.store.contents import SavedScene
    from ada3d_ros.store.named_scenes import NamedScenes, SceneSummary
    from ada3d_ros.store.writer import SceneWriter

BEHIND = 8  # keyframes that wait to be saved: worth a sentence


class SceneServer:
    """The node's part of the store. name: of the scene in use; '' = it has none."""

    def __init__(self, node: AgentNode) -> None:
        self._node = node
        self.name = ""
        self.states: dict[str, str] = {}  # texts that are kept with it, by key
        self._pipeline: AnyPipeline | None = None  # the one that was opened for
        self._writer: SceneWriter | None = None
        self._objects: KeptObjects | None = None  # as they were told last
        self._told: ObjectsSnapshot | None = None
        self._problem, self._loaded_text, self._loaded_ns = "", "", -1
        self._unsaved = ""  # why there is no writer where there should be one
        self._others = OtherScenes(self.read)
        self._services = SceneServices(node, self)

    @property
    def store(self) -> NamedScenes | None:
        """None without a folder for it. Raises StoreError where that is no path."""
        folder = self._node.config.scene.folder
        if not folder:
            return None
        from ada3d_ros.store.named_scenes import NamedScenes  # where there is one

        return NamedScenes(folder)

    def needed_store(self, name: str = "") -> NamedScenes:
        """The store. Raises StoreError without one; UnknownSceneError where a scene is wanted."""
        store = self.store
        if store is not None:
            return store
        text = (
            "this node has no store: set scene.store, or scene.autosave, to a folder and start it"
            " again."
        )
        if name:
            raise UnknownSceneError(f"no scene {check_scene_name(name)!r}: {text}")
        raise StoreError(text)

    # -- with the lifecycle

    def open(self) -> None:
        """Go on with the saved scene, before the first frame comes; nothing here raises."""
        pipeline, settings = self._node.pipeline, self._node.config.scene
        if pipeline is None or pipeline is self._pipeline:  # activated again: it has its scene
            return
        self._pipeline = pipeline
        name = settings.name_in_use
        try:
            store = self.store
            if store is None or not name:
                return
            if store.has(name) or settings.autosave:
                self._go_on(pipeline, store, name)
        except Exception as error:
            self._trouble(error)
            self._node.get_logger().error(f"scene {name!r} is not used: {error}")

    def close(self, timeout_s: float = 2.0) -> None:
        """The pipeline goes: write what waits."""
        writer, self._writer, self._pipeline = self._writer, None, None
        self._others.clear()
        self.name, self._objects, self._told = "", None, None
        self._problem, self._unsaved, self._loaded_text, self._loaded_ns = "", "", "", -1
        if writer is not None and not writer.close(timeout_s):
            self._node.get_logger().warning("the store was not done within its time.")

    def _go_on(self, pipeline: AnyPipeline, store: NamedScenes, name: str) -> None:
        """With the scene of this name in the store, and save it from now on where that is asked
        for. What cannot be read raises StoreError; what cannot be written is told.
        """
        # Nothing of the scene before may reach this one's folder: the writer comes last.
        from ada3d_ros.store.contents import few

        notes: list[str] = []
        states: dict[str, str] = {}
        writer, unsaved, there = None, "", store.has(name)
        if self._node.config.scene.autosave:
            try:
                writer, mended = self._new_writer(store, name)
                notes += mended
            except StoreError as error:
                unsaved = str(error)
        try:
            if there:
                saved = store.read(name, self._node.config.world_frame)
                self._take(pipeline, saved)
                states = dict(saved.states)
                notes += [note for note in saved.notes if note not in notes]
            if self._pipeline is not pipeline:
                raise NotActiveError("the node was taken down while the scene was being loaded.")
        except BaseException:
            if writer is not None:
                writer.abandon()
            raise
        self.states, self.name, self._objects, self._told = states, name, None, None
        self._problem, self._unsaved = few(notes), unsaved
        for note in filter(None, [*notes, unsaved]):
            self._node.get_logger().warning(note)
        pipeline.object_history = self._history
        self._writer = writer
        self.note_scene()  # what came meanwhile

    def _new_writer(self, store: NamedScenes, name: str) -> tuple[SceneWriter, Sequence[str]]:
        return new_writer(self._node.config, store, name)

    def _take(self, pipeline: AnyPipeline, saved: SavedScene) -> None:
        """Its keyframes now; its objects on the thread that asks, once what finds them is there."""
        scene = pipeline.load_scene(saved.scene)
        known, state = saved.objects, scene.state
        if known is not None:
            self._node.worker.run_later(lambda: self._restore_objects(pipeline, known, state.epoch))
        self._loaded_ns = state.newest_ns
        self._loaded_text = f"scene {saved.name!r} was loaded, {state.num_keyframes} keyframes"
        self._node.get_logger().info(f"{self._loaded_text}, {saved.in_store} in the store.")

    def _restore_objects(self, pipeline: AnyPipeline, known: KeptObjects, epoch: int) -> None:
        try:
            if pipeline.scene.state.epoch == epoch:
                pipeline.restore_objects(known)
        except Exception as error:  # they are looked for again
            self._trouble(error)

    def note_trouble(self, text: str) -> None:
        """Something is wrong with what is kept with the scene."""
        self._problem = f"{self._problem} {text}".strip()
        self._node.get_logger().warning(text)

    def _trouble(self, error: Exception) -> None:
        self._problem = str(error) or repr(error)
        if not isinstance(error, Ada3DError):
            self._node.report_error("the store", error, "")

    # -- what is told

    @property
    def problem(self) -> str:
        """What is wrong with the store, and what that means; '' while all is well."""
        writer = self._writer
        if writer is None:
            return f"{self._problem} {self._unsaved}".strip()
        report = writer.report
        found = [self._problem, report.problem if report.problem not in self._problem else ""]
        if report.lost:
            found.append(
                f"{report.lost} keyframes could not be saved before they were replaced: the disk of"
                " the store is slower than the camera."
            )
        elif report.waiting >= BEHIND and not report.problem:
            found.append(f"{report.waiting} keyframes wait to be saved: the store is behind.")
        return " ".join(filter(None, found))

    def loaded_text(self, now_ns: int) -> str:
        """A sentence while the newest keyframe is still one that was loaded; else ''."""
        pipeline = self._pipeline
        if pipeline is None or pipeline.scene_state().newest_ns != self._loaded_ns:
            return ""
        if self._loaded_ns < 0:
            return ""
        age_s = (now_ns - self._loaded_ns) / 1e9
        if age_s < 0 and now_ns > 0:
            return (
                f"{self._loaded_text}; the node's clock is {duration(-age_s)} behind the newest of"
                " them, and images that are stamped before it are refused: set the clock, or call"
                " ~/reset_scene to begin anew."
            )
        return f"{self._loaded_text}; the newest was taken {duration(max(age_s, 0.0))} ago."

    def clock_came_right(self, before_ns: int) -> bool:
        """Whether images were stamped before the scene that was loaded until now, by a clock that
        was not set yet: that it goes ahead is no jump into another recording.
        """
        pipeline = self._pipeline
        loaded = pipeline is not None and pipeline.scene_state().newest_ns == self._loaded_ns
        return loaded and before_ns < self._loaded_ns

    def report(self) -> dict[str, object]:
        """For diagnostics."""
        told: dict[str, object] = {
            "scene.name": self.name,
            "scene.store": self._node.config.scene.folder,
            "scene.problem": self.problem,
        }
        writer = self._writer
        if writer is not None:
            report = writer.report
            told |= {
                "scene.keyframes_in_store": report.stored,
                "scene.keyframes_waiting": report.waiting,
                "scene.keyframes_lost": report.lost,
                "scene.keyframes_deleted": report.deleted,
                "scene.size_mb": report.bytes / 1e6,
            }
        return told

    # -- while it grows

    def note_scene(self) -> None:
        """There is a keyframe, or the scene began anew. Any thread; never waits."""
        writer, pipeline = self._writer, self._pipeline
        if writer is not None and pipeline is not None:
            writer.note_scene(pipeline.scene)

    def note_objects(self) -> None:
        """The objects may have changed. On the thread that asks."""
        pipeline = self._pipeline
        if pipeline is None or pipeline.objects() is self._told:
            return
        self._told, known = pipeline.objects(), pipeline.kept_objects()
        if known is None or known.epoch != pipeline.scene.state.epoch:  # of the scene before
            return
        self._objects = known
        if self._writer is not None:
            self._writer.note_objects(known)

    def note_answer(self, answer: AnswerMsg) -> None:
        writer = self._writer
        if writer is None or not answer.success or answer.scene != self.name:
            return
        from ada3d_ros.store.scene_index import AnswerRow

        method = AnswerMethod(answer.method).name.lower()
        now_ns = self._node.get_clock().now().nanoseconds
        writer.note_answer(AnswerRow(now_ns, answer.question, answer.text, method))

    def keep(self, key: str, text: str) -> None:
        """Keep a text with the scene in use under a key; in memory until that is saved."""
        self.states[key] = text
        if self._writer is not None:
            self._writer.note_state(key, text)

    def why_not_kept(self) -> str:
        """Why what is kept with the scene now would be lost by a restart; '' where it would not."""
        return why_not_kept(
            self._node.config, self._writer, f"{self._problem} {self._unsaved}".strip()
        )

    def _history(self) -> Sequence[SceneObject]:
        """All objects that the scene in use ever kept. Raises StoreError."""
        store = self.store
        return () if store is None or not self.name else store.history(self.name)

    # -- on demand

    def save(self, name: str) -> SceneSummary:
        """Write the scene in use under a name; what the store has of it then. Not on a thread that
        must not wait. Raises StoreError, NoFramesError, NotActiveError.
        """
        pipeline, store = self._node.active_pipeline(), self.needed_store()
        if not pipeline.scene.keyframes:
            raise NoFramesError("no keyframe yet: there is nothing to save.")
        writer, is_new = self._writer, not store.has(name)
        if writer is not None and name == self.name:
            write_now(writer, pipeline, self._objects)
        elif not is_new and name != self.name:
            raise StoreError(
                f"the store {store.path} has a scene {name!r} already, and the one in use is"
                f" another: load it (~/load_scene), delete it (`ada3d scenes delete {store.path}"
                f" {name} --yes`), or save under another name."
            )
        else:
            self._save_once(store, name, pipeline)
        return store.summary(name)

    def _save_once(self, store: NamedScenes, name: str, pipeline: AnyPipeline) -> None:
        is_new = not store.has(name)
        writer, _ = self._new_writer(store, name)
        try:
            if self.name in ("", name):  # a copy under another name has questions of its own
                for key, text in list(self.states.items()):
                    writer.note_state(key, text)
            write_now(writer, pipeline, self._objects)
        except BaseException:
            if writer.abandon(SAVE_S) and is_new:
                with suppress(Ada3DError):
                    store.delete(name)
            raise
        writer.close(SAVE_S)
        if not self.name:
            self.name, pipeline.object_history = name, self._history

    @property
    def is_to_resume(self) -> bool:
        """Whether the scene is to be saved by itself, and is not."""
        lost = self._writer is None or self._writer.is_lost
        return bool(self._node.config.scene.autosave and self._pipeline and self.name and lost)

    def resume(self) -> None:
        """Try again to save the scene by itself: the store was full, read-only or gone, or another
        process had it. As `save`, but what goes wrong is told.
        """
        pipeline, lost, store = self._pipeline, self._writer, self.store
        if not self.is_to_resume or pipeline is None or store is None:
            return
        if lost is not None:
            self._writer = None
            lost.abandon(SAVE_S)
        try:
            writer, notes = self._new_writer(store, self.name)
        except StoreError as error:
            self._unsaved = str(error)
            return
        for key, text in self.states.items():
            writer.note_state(key, text)
        if self._objects is not None:
            writer.note_objects(self._objects)
        if self._pipeline is not pipeline:  # the node was taken down meanwhile
            writer.abandon()
            return
        self._writer, self._unsaved = writer, ""
        self.note_scene()
        self._node.get_logger().info(" ".join([f"scene {self.name!r} is saved again.", *notes]))

    def swap(self, pipeline: AnyPipeline, saved: SavedScene) -> None:
        """Another scene in the place of the one in use. As `save`. Raises StoreError."""
        writer, self._writer, store = self._writer, None, self.needed_store()
        if writer is not None:
            writer.close(SAVE_S)
        self._others.forget(saved.name)
        before = self.name
        try:
            self._go_on(pipeline, store, saved.name)
        except BaseException:  # somebody changed it just now: the old one stays, and is saved
            if writer is not None and self._pipeline is pipeline:
                self._writer, _ = self._new_writer(store, before)
                self.note_scene()
            raise

    def flush(self) -> None:
        """Have on the disk what the store does not have yet of the scene in use. As `save`."""
        writer, pipeline = self._writer, self._pipeline
        if writer is not None and pipeline is not None:
            write_now(writer, pipeline, self._objects)

    # -- scenes that a question names

    def pipeline_of(self, name: str) -> AnyPipeline | None:
        """Of another scene than that in use; None for that one. On the thread that asks. Raises
        InvalidRequestError, UnknownSceneError, StoreError.
        """
        pipeline, store = self._node.pipeline, self.store
        if not self.check_named(name) or pipeline is None or store is None:
            return None
        other = self._others.pipeline_of(name, pipeline, store.written_ns(name))
        other.object_history = lambda: store.history(name)
        return other

    def check_named(self, name: str) -> bool:
        """Whether a question is about another scene than that in use. Raises InvalidRequestError,
        UnknownSceneError, StoreError.
        """
        if not name or name == self.name:
            return False
        self.needed_store(name).folder(name)
        return True

    def read(self, name: str) -> SavedScene:
        """A scene of the store, as it was left. Raises as `pipeline_of`."""
        return self.needed_store(name).read(name, self._node.config.world_frame)
