"""What the page has the agent do beside answering: settings, standing questions, saved scenes.

Each call gives a future of plain values for the page: the fields of the response, or `error`, a
sentence. All of them end, also where the agent goes meanwhile.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from rcl_interfaces.msg import Parameter as ParameterMsg
from rcl_interfaces.srv import GetParameters, SetParameters
from rclpy.node import Node
from rclpy.parameter import Parameter, parameter_value_to_python

from ada3d_ros.ros.page_messages import scenes_for_page
from ada3d_ros.srv import ListScenes, LoadScene, SaveScene, Unwatch, Watch

FIND_S = 5.0  # until an agent that is alive must have been found
FORGET_S = 600.0  # without a response: it is waited for no more
MAX_OPEN = 8  # calls that wait for their response
SETTINGS = ("pruning.strategy", "pruning.keep_ratio")
GONE = "The robot does not answer: it may be starting again. Ask once more when it is back."
TOO_MANY = "Too much waits for the robot already: try again when some of it is done."
TYPES = {
    "watch": Watch,
    "unwatch": Unwatch,
    "list_scenes": ListScenes,
    "save_scene": SaveScene,
    "load_scene": LoadScene,
}
KINDS = ("ask", "ground", "object")  # of what is watched; each at the place of its number
Fields = dict[str, Any]


@dataclass(eq=False, slots=True)
class _Call:
    """One that waits: to be sent while the service is not found, then for its response."""

    service: str
    request: Any
    to_fields: Callable[[Any], Fields]
    told: Future[Fields] = field(default_factory=Future)
    begun_s: float = field(default_factory=time.monotonic)
    sent: Any = None  # the middleware's future

    def end(self, fields: Fields) -> None:
        if self.told.set_running_or_notify_cancel():  # else the browser went away
            self.told.set_result(fields)


class PageServices:
    """later: has work done on the node's thread; on_settings: takes the node's settings, or the
    `error` of one that was refused. The methods that give a future are for any thread, the others
    for the node's.
    """

    def __init__(
        self,
        node: Node,
        agent: str,
        later: Callable[[Callable[[], None]], None],
        on_settings: Callable[[Fields], None],
    ) -> None:
        self._later, self._tell_settings = later, on_settings
        self._clients = {
            name: node.create_client(type_, f"{agent}/{name}") for name, type_ in TYPES.items()
        }
        self._reading = node.create_client(GetParameters, f"{agent}/get_parameters")
        self._setting = node.create_client(SetParameters, f"{agent}/set_parameters")
        self._calls: list[_Call] = []
        self._is_gone = False

    # -- standing questions and scenes

    def begin_watch(self, kind: str, text: str, every_s: float) -> Future[Fields]:
        """kind: one of KINDS; every_s 0: the node's. Gives {watch}."""
        request = Watch.Request(kind=KINDS.index(kind), question=text, min_period_sec=every_s)
        return self._begin("watch", request, lambda response: {"watch": response.watch_id})

    def end_watch(self, watch_id: str) -> Future[Fields]:
        """Gives {ended}, how many."""
        request = Unwatch.Request(watch_id=watch_id)
        return self._begin("unwatch", request, lambda response: {"ended": response.ended})

    def list_scenes(self) -> Future[Fields]:
        """Gives {scenes, in_use}."""
        return self._begin("list_scenes", ListScenes.Request(), scenes_for_page)

    def save_scene(self, name: str) -> Future[Fields]:
        """Gives {scene, keyframes, objects}. name "": the one it has."""

        def fields(response: Any) -> Fields:
            return {"scene": response.scene, **_counts(response)}

        return self._begin("save_scene", SaveScene.Request(scene=name), fields)

    def load_scene(self, name: str) -> Future[Fields]:
        """Gives {scene, keyframes, objects}."""

        def fields(response: Any) -> Fields:
            return {"scene": name, **_counts(response)}

        return self._begin("load_scene", LoadScene.Request(scene=name), fields)

    def _begin(
        self, service: str, request: Any, to_fields: Callable[[Any], Fields]
    ) -> Future[Fields]:
        call = _Call(service, request, to_fields)
        self._later(partial(self._take, call))
        return call.told

    def _take(self, call: _Call) -> None:
        if len(self._calls) >= MAX_OPEN:
            call.end({"error": TOO_MANY})
            return
        self._calls.append(call)
        self._try_to_send(call)

    def _try_to_send(self, call: _Call) -> None:
        """Send it, wait for the service to be found, or give it up."""
        client = self._clients[call.service]
        if self._is_gone:
            self._end(call, {"error": GONE})
        elif client.service_is_ready():
            try:
                call.sent = client.call_async(call.request)
            except Exception as error:  # it would be so at every try
                self._end(call, {"error": f"It cannot be sent: {error}"})
                return
            call.sent.add_done_callback(partial(self._on_response, call))
        elif time.monotonic() > call.begun_s + FIND_S:
            self._end(call, {"error": GONE})

    def _on_response(self, call: _Call, future: Any) -> None:
        response = future.result()
        if call not in self._calls or response is None:
            return
        self._end(call, call.to_fields(response) if response.success else _refusal(response))

    def _end(self, call: _Call, fields: Fields) -> None:
        self._calls.remove(call)
        if call.sent is not None:
            self._clients[call.service].remove_pending_request(call.sent)
        call.end(fields)

    # -- the agent comes and goes

    def agent_came(self) -> None:
        self._is_gone = False
        self._read_settings()

    def agent_went(self) -> None:
        """Nobody will answer what was sent."""
        self._is_gone = True
        for call in list(self._calls):
            self._end(call, {"error": GONE})

    def tick(self) -> None:
        """Send what waited for its service; forget what is never answered."""
        now_s = time.monotonic()
        for call in list(self._calls):
            if call.sent is None:
                self._try_to_send(call)
            elif now_s > call.begun_s + FORGET_S:  # the agent came back before it was missed
                self._end(call, {"error": GONE})

    # -- settings

    def set_strategy(self, strategy: str) -> None:
        """For everybody who asks this robot; refused with the node's sentence in the settings."""
        self._later(partial(self._set, "pruning.strategy", strategy))

    def _read_settings(self) -> None:
        if not self._reading.service_is_ready():
            return
        future = self._reading.call_async(GetParameters.Request(names=list(SETTINGS)))
        future.add_done_callback(self._on_settings)

    def _on_settings(self, future: Any) -> None:
        response = future.result()
        if response is not None and len(response.values) == len(SETTINGS):
            strategy, ratio = map(parameter_value_to_python, response.values)
            self._tell_settings({"strategy": strategy, "ratio": ratio})

    def _set(self, name: str, value: str) -> None:
        if self._is_gone or not self._setting.service_is_ready():
            self._tell_settings({"error": GONE})
            return
        parameter: ParameterMsg = Parameter(name, value=value).to_parameter_msg()
        future = self._setting.call_async(SetParameters.Request(parameters=[parameter]))
        future.add_done_callback(self._on_set)

    def _on_set(self, future: Any) -> None:
        response = future.result()
        refused = [r.reason for r in response.results if not r.successful] if response else []
        self._tell_settings({"error": refused[0] if refused else ""})
        self._read_settings()


def _counts(response: Any) -> Fields:
    return {"keyframes": int(response.keyframes), "objects": int(response.objects)}


def _refusal(response: Any) -> Fields:
    return {"error": response.error_msg or "The robot refused, and does not say why."}
