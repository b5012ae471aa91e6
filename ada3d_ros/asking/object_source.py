"""Who finds the objects that are kept with the scene: the model's own grounding head
(asking/inventory.py), or a detector (asking/detected_inventory.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeVar

from ada3d_ros.config import AgentConfig
from ada3d_ros.engine.timing import StageClock
from ada3d_ros.measures import ObjectsSnapshot
from ada3d_ros.scene.keyframes import SceneSnapshot
from ada3d_ros.scene.objects import KeptObjects, ObjectMemory
from ada3d_ros.types import AskHooks, Question, RgbdFrame


class SceneQuery(Protocol):
    """A question with the scene, the settings and the clock of its time. exact: it is about the
    scene as it is, not as it was a little before.
    """

    @property
    def question(self) -> Question: ...
    @property
    def hooks(self) -> AskHooks: ...
    @property
    def config(self) -> AgentConfig: ...
    @property
    def scene(self) -> SceneSnapshot: ...
    @property
    def clock(self) -> StageClock: ...
    @property
    def exact(self) -> bool: ...


@dataclass(frozen=True, eq=False, slots=True)
class SceneQuestion:
    """A SceneQuery that no model has a part in."""

    question: Question
    hooks: AskHooks
    config: AgentConfig
    scene: SceneSnapshot
    clock: StageClock
    exact: bool


Query = TypeVar("Query", contravariant=True)


class ObjectSource(Protocol[Query]):
    """The objects of one robot's scene, found between questions. Belongs to the thread that asks;
    `snapshot` and `reset` are for any.
    """

    @property
    def snapshot(self) -> ObjectsSnapshot:
        """As they are known now; replaced, never changed."""
        ...

    @property
    def memory(self) -> ObjectMemory: ...

    @property
    def taught_words(self) -> frozenset[str]:
        """The words of all names that can be found; empty where any may be looked for."""
        ...

    def reset(self, epoch: int) -> None:
        """Another scene: the list is empty at once."""
        ...

    def restore(self, known: KeptObjects, scene: SceneSnapshot) -> None:
        """Go on with the objects that were kept of this scene elsewhere."""
        ...

    def offer(self, frame: RgbdFrame, is_keyframe: bool, epoch: int) -> None:
        """A frame that came, of this scene epoch; any thread."""
        ...

    def make_room(self, scene: SceneSnapshot, config: AgentConfig) -> None:
        """Look at frames that wait until the next one makes none of them go."""
        ...

    def step(self, scene: SceneSnapshot, config: AgentConfig) -> bool:
        """One bounded piece of work; False where nothing is left for now."""
        ...

    def objects_for(self, query: Query) -> ObjectsSnapshot:
        """The objects that a question is answered from: of its very scene where it is exact, else
        as they are known. Raises as `complete_now`.
        """
        ...

    def complete_now(self, query: Query) -> ObjectsSnapshot:
        """The objects of the question's scene, looked for now where that was not done.

        Raises what hooks.check raises, ModelError, NoFramesError without depth.
        """
        ...
