"""~/list_scenes, ~/save_scene, ~/load_scene: the disk is read and written on an own thread."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup, ReentrantCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.task import Future

from ada3d_ros.config.scene import check_scene_name
from ada3d_ros.errors import Ada3DError, InvalidRequestError, StoreError, UnknownSceneError
from ada3d_ros.msg import SavedScene
from ada3d_ros.ros.conversions import error_of, ns_to_time
from ada3d_ros.ros.guard import guarded
from ada3d_ros.srv import ListScenes, LoadScene, SaveScene

if TYPE_CHECKING:
    from ada3d_ros.ros.node import AgentNode
    from ada3d_ros.ros.scenes import SceneServer
    from ada3d_ros.store.named_scenes import NamedScenes

T = TypeVar("T")
RETRY_S = 5.0  # a store that was in trouble is tried again


class SceneServices:
    """One request at a time changes the scene; the others wait for it."""

    def __init__(self, node: AgentNode, scenes: SceneServer) -> None:
        self._node, self._scenes = node, scenes
        self._lock = threading.Lock()
        group = ReentrantCallbackGroup()
        node.create_service(ListScenes, "~/list_scenes", self._on_list, callback_group=group)
        node.create_service(SaveScene, "~/save_scene", self._on_save, callback_group=group)
        node.create_service(LoadScene, "~/load_scene", self._on_load, callback_group=group)
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        alone = MutuallyExclusiveCallbackGroup()
        node.create_timer(RETRY_S, self._on_retry, callback_group=alone, clock=steady)

    def report_error(self, where: str, error: BaseException, trace: str) -> None:
        self._node.report_error(where, error, trace)

    def _failed(self, error: Exception, request: Any, response: Any) -> Any:
        response.error_code, response.error_msg = error_of(error)
        return response

    @guarded(_failed)
    async def _on_list(self, request: Any, response: Any) -> Any:
        scenes = self._scenes
        try:
            store = scenes.needed_store()
            response.scenes = await self._aside(lambda: _saved(store))
        except Ada3DError as error:
            return self._failed(error, request, response)
        response.success, response.scene_in_use = True, scenes.name
        return response

    @guarded(_failed)
    async def _on_save(self, request: Any, response: Any) -> Any:
        scenes = self._scenes
        try:
            name = request.scene or scenes.name or self._node.config.scene.name_in_use
            if not name:
                raise InvalidRequestError(
                    "scene is empty, and the scene in use has no name: say under which name to save"
                    " it."
                )
            check_scene_name(name)
            summary = await self._aside(lambda: scenes.save(name))
            self._node.standing.follow_scene()  # it may have got its name just now
        except Ada3DError as error:
            return self._failed(error, request, response)
        response.success, response.scene = True, name
        response.path = str(scenes.needed_store().path / name)
        response.keyframes, response.objects = summary.keyframes, summary.objects
        return response

    @guarded(_failed)
    async def _on_load(self, request: Any, response: Any) -> Any:
        scenes, node = self._scenes, self._node
        try:
            name = check_scene_name(request.scene)
            pipeline = node.active_pipeline()
            if name == scenes.name:
                await self._aside(scenes.flush)
            saved = await self._aside(lambda: scenes.read(name))
            if saved.missing and not saved.scene.keyframes:
                raise StoreError(
                    f"scene {name!r} is not loaded, none of its {saved.missing} keyframes in use"
                    f" can be read: {saved.note} The one in use stays."
                )
            node.drop_scene()
            await self._aside(lambda: scenes.swap(pipeline, saved))
            node.scene_changed()
        except Ada3DError as error:
            return self._failed(error, request, response)
        state = pipeline.scene_state()
        response.note = saved.note
        response.success, response.keyframes = True, state.num_keyframes
        response.objects = len(saved.objects.kept) if saved.objects is not None else 0
        response.scene_epoch = state.epoch
        return response

    @guarded()
    async def _on_retry(self) -> None:
        if self._scenes.is_to_resume:
            await self._aside(self._scenes.resume)

    async def _aside(self, work: Callable[[], T]) -> T:
        """The result of work that may wait for a disk; raises what it raises."""
        executor = self._node.executor
        assert executor is not None  # a callback of this node is running
        future: Future = Future(executor=executor)

        def run() -> None:
            try:
                with self._lock:
                    future.set_result((work(), None))
            except Exception as error:
                future.set_result((None, error))
            executor.wake()

        threading.Thread(target=run, name="ada3d-scenes", daemon=True).start()
        result, error = await future
        if error is not None:
            raise error
        return result


def _saved(store: NamedScenes) -> list[SavedScene]:
    """The scenes of a store; one that is deleted meanwhile is left out. Raises StoreError."""
    found = []
    for name in store.names():
        with suppress(UnknownSceneError):
            summary = store.summary(name)
            found.append(
                SavedScene(
                    name=name,
                    keyframes=summary.keyframes,
                    objects=summary.objects,
                    bytes=summary.bytes,
                    newest=ns_to_time(max(summary.newest_ns, 0)),
                    problem=summary.problem,
                )
            )
    return found
