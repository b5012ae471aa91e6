"""Scenes that are not in use, opened for questions that name them: few at a time, with the weights
of the scene in use.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ada3d_ros.create_pipeline import AnyPipeline
    from ada3d_ros.store.contents import SavedScene

MAX_OPEN = 2  # each has a cached scene of its own in memory


class OtherScenes:
    """The scenes that were asked about last. read: a scene of the store.

    A question opens them on its thread; `forget` and `clear` are for any other one, and do not wait
    for a scene that is being read: that one is for its question alone.
    """

    def __init__(self, read: Callable[[str], SavedScene]) -> None:
        self._read = read
        self._lock = threading.Lock()
        # name -> its pipeline, the one whose model it shares, when it was written
        self._open: OrderedDict[str, tuple[AnyPipeline, AnyPipeline, int]] = OrderedDict()
        self._dropped = 0  # times that something was let go

    def pipeline_of(self, name: str, in_use: AnyPipeline, written_ns: int) -> AnyPipeline:
        """Of the scene as the store has it; opened anew where it was written again (written_ns).
        in_use: whose model it shares. Raises what `read` does, LoadingError.
        """
        with self._lock:
            dropped, found = self._dropped, self._open.pop(name, None)
        if found is None or found[1] is not in_use or found[2] != written_ns:
            found = self._opened(name, in_use), in_use, written_ns
        with self._lock:
            if dropped == self._dropped:
                self._open[name] = found
            while len(self._open) > MAX_OPEN:
                self._open.popitem(last=False)
        pipeline = found[0]
        if pipeline.config is not in_use.config:  # settings changed meanwhile
            pipeline.set_config(in_use.config)
        return pipeline

    def _opened(self, name: str, in_use: AnyPipeline) -> AnyPipeline:
        saved = self._read(name)
        pipeline = in_use.beside()
        pipeline.load_scene(saved.scene)
        if saved.objects is not None:
            pipeline.restore_objects(saved.objects)
        return pipeline

    def forget(self, name: str) -> None:
        with self._lock:
            self._dropped += 1
            self._open.pop(name, None)

    def clear(self) -> None:
        with self._lock:
            self._dropped += 1
            self._open.clear()
