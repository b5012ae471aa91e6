"""A replica of the fleet's server that is told to talk without an end, to see how it is stopped.

No `from __future__ import annotations` where Ray Serve reads a class: see fleet/ingress.
"""

import time

import torch

from ada3d_ros.engine import streaming
from ada3d_ros.engine.decode import Sampler
from ada3d_ros.fleet.ingress import Replica

WORD = "red"
_as_the_model_says = streaming.make_sampler


class TalkingReplica(Replica):
    """`talk` is for who has a handle of the deployment."""

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
