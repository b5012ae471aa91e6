"""Scenes that are not in use, opened for questions that name them: few at a time, with the weights
of the scene in use. On the thread that asks.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ada3d_ros.create_pipeline import AnyPipeline
    from ada3d_ros.store.contents import SavedScene

MAX_OPEN = 2  # each has a cached scene of its own in memory


class OtherScenes:
    """The scenes that were asked about last. read: a scene of the store."""

    def __init__(self, read: Callable[[str], SavedScene]) -> None:
        self._read = read
        self._open: OrderedDict[str, tuple[AnyPipeline, int]] = OrderedDict()

    def pipeline_of(self, name: str, in_use: AnyPipeline, written_ns: int) -> AnyPipeline:
        """Of the scene as the store has it; opened anew where it was written again (written_ns).
        in_use: whose model it shares. Raises what `read` does, LoadingError.
        """
        pipeline, read_ns = self._open.get(name, (None, -1))
        if pipeline is None or read_ns != written_ns:
            self._open.pop(name, None)
            saved = self._read(name)
            pipeline = in_use.beside()
            pipeline.load_scene(saved.scene)
            if saved.objects is not None:
                pipeline.restore_objects(saved.objects)
            self._open[name] = pipeline, written_ns
            while len(self._open) > MAX_OPEN:
                self._open.popitem(last=False)
        self._open.move_to_end(name)
        if pipeline.config is not in_use.config:  # settings changed meanwhile
            pipeline.set_config(in_use.config)
        return pipeline

    def forget(self, name: str) -> None:
        self._open.pop(name, None)

    def clear(self) -> None:
        self._open.clear()
