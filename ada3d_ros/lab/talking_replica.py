"""A replica of the fleet's server that does as it is told, to see how faults are dealt with.

No `from __future__ import annotations` where Ray Serve reads a class: see fleet/ingress.
"""

import time
from typing import Any

import torch

from ada3d_ros.engine import streaming
from ada3d_ros.engine.decode import Sampler
from ada3d_ros.errors import OutOfMemoryError
from ada3d_ros.fleet.ingress import Replica
from ada3d_ros.pipeline import Ada3DPipeline

WORD = "red"
_as_the_model_says, _with_memory = streaming.make_sampler, Ada3DPipeline.ask


class TalkingReplica(Replica):
    """Its own methods are for who has a handle of the deployment: `told`."""

    def talk(self, token_s: float) -> None:
        """From now on every answer of this process is one word again and again, each token in at
        least so many seconds; below 0: as the model says.
        """
        tokenizer = self._host.opened[0].tokenizer
        word_id = torch.tensor(tokenizer.encode(WORD)[-1])

        def sample(logits: torch.Tensor) -> torch.Tensor:
            time.sleep(token_s)
            return word_id

        def make(temperature: float, top_p: float, seed: int, device: torch.device) -> Sampler:
            return sample

        streaming.make_sampler = _as_the_model_says if token_s < 0 else make

    def lack_memory(self, lacks: bool) -> None:
        """From now on no question finds memory in this process, or again."""

        def ask(*_: Any, **__: Any) -> Any:
            raise OutOfMemoryError("as the test says.")

        Ada3DPipeline.ask = ask if lacks else _with_memory  # type: ignore[method-assign]


def told(robot: str) -> Any:
    """A handle of the replica that answers this robot, for a process without an event loop."""
    from ray import serve

    handle = serve.get_app_handle("ada3d")
    if not handle.is_initialized:
        handle._init(_run_router_in_separate_loop=True)
    return handle.options(session_id=robot)
