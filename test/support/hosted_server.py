"""The server of `fleet_server` with a model behind it: a SceneHost answers, as in a replica."""

from __future__ import annotations

from queue import SimpleQueue
from typing import Any, cast

from ada3d_ros.fleet.protocol import Call, SceneList, error_to_json
from ada3d_ros.fleet.scene_host import SceneHost
from ada3d_ros.fleet.scene_store import Key, SceneStore
from ada3d_ros.store.json_form import to_json
from ada3d_ros.types import AskHooks
from test.support.fleet_server import Lines, ScriptedServer


class HostStore:
    """Where a SceneStore is asked for."""

    def __init__(self, host: SceneHost) -> None:
        self._host = host

    def put_scene(self, key: Key, listed: SceneList) -> tuple[int, ...]:
        return self._host.put_scene(*key, listed)

    def put_keyframe(self, key: Key, data: bytes) -> int:
        return self._host.put_keyframe(*key, data)


class HostedServer(ScriptedServer):
    """keys: robot and session of each question."""

    def __init__(self, host: SceneHost) -> None:
        super().__init__()
        assert host.info is not None
        self.host, self.info, self.keys = host, host.info, list[Key]()
        self.store = cast("SceneStore[None]", HostStore(host))

    def lines(self, key: Key, kind: str, call: Call) -> Lines:
        queue: SimpleQueue[dict[str, Any]] = SimpleQueue()
        self.keys.append(key)

        def on_done(answer: Any, error: BaseException | None) -> None:
            queue.put({"error": error_to_json(error)} if error else {"answer": to_json(answer)})

        hooks = AskHooks(
            on_stage=lambda stage: queue.put({"stage": stage.value}),
            on_text=lambda delta, tokens: queue.put({"text": delta, "tokens": tokens}),
        )
        self.host.start(*key, kind, call, hooks, on_done)
        return self._until_answered(queue)

    @staticmethod
    def _until_answered(queue: SimpleQueue[dict[str, Any]]) -> Lines:
        line: dict[str, Any] = {}
        while "answer" not in line and "error" not in line:
            line = queue.get()
            yield line
