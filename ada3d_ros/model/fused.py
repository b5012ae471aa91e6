"""Linear layers that multiply the same input, their weights in one storage: one product for all.

The layers stay as they are, under the checkpoint's names; their weights become views.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self, cast

import torch
from torch import nn

LARGE = 2**18  # values of a weight


def empty_weight(sizes: tuple[int, int], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Memory for a weight (outputs, inputs). On a CPU in float32 the outputs of an input lie
    together where they are the more, and the weight is beyond the caches: a row times it then reads
    at 1.6 times the speed.
    """
    (outputs, inputs), on_cpu = sizes, torch.device(device).type == "cpu"
    large = outputs > inputs and outputs * inputs >= LARGE
    if on_cpu and dtype == torch.float32 and large:
        return torch.empty(inputs, outputs, dtype=dtype, device=device).t()
    return torch.empty(outputs, inputs, dtype=dtype, device=device)


class FusedLinears(nn.Module):
    """A module whose linear layers `names`, without biases, multiply the same input.

    Unfused until `fuse`, and again where a weight is replaced, as by quantisation, a layer is
    wrapped, as by an adapter, or the module is copied. Moving it to a device or format keeps it
    fused.
    """

    def __init__(self, *names: str) -> None:
        super().__init__()
        self.names = names
        self._fused: torch.Tensor | None = None
        self._places: tuple[int, ...] = ()  # of the weights in it

    def fuse(self) -> None:
        """Puts the layers' weights behind one another in one storage; what they held is let go.

        Nothing where they are there already, are quantised, or differ in format or device.
        """
        weights = [cast(nn.Linear, self.get_submodule(name)).weight for name in self.names]
        if self._fused is not None and tuple(w.data_ptr() for w in weights) == self._places:
            return
        if any(hasattr(w, "__tensor_flatten__") for w in weights):  # torchao's
            return
        if len({(w.dtype, w.device) for w in weights}) > 1:
            return
        with torch.no_grad():
            sizes = sum(map(len, weights)), weights[0].shape[1]
            fused = empty_weight(sizes, weights[0].dtype, weights[0].device)
            torch.cat([w.detach() for w in weights], out=fused)
            self._take(fused)

    def allocate(self, device: torch.device, dtype: torch.dtype) -> None:
        """Makes the weights anew in one storage, without values and gradients: to be filled."""
        weights = [cast(nn.Linear, self.get_submodule(name)).weight for name in self.names]
        for weight in weights:
            weight.requires_grad_(False)
        outputs, inputs = sum(map(len, weights)), weights[0].shape[1]
        self._take(empty_weight((outputs, inputs), dtype, device))

    def _take(self, fused: torch.Tensor) -> None:
        weights = [cast(nn.Linear, self.get_submodule(name)).weight for name in self.names]
        parts = fused.split([len(w) for w in weights])
        for name, weight, part in zip(self.names, weights, parts, strict=True):
            self.get_submodule(name).weight = nn.Parameter(part, weight.requires_grad)
        self._fused, self._places = fused, tuple(part.data_ptr() for part in parts)

    def fused_weight(self) -> torch.Tensor | None:
        """The weights (sum of their outputs, inputs) in the order of the names; None where they
        are not in one storage, or autograd records what they do.
        """
        if self._fused is None or torch.is_grad_enabled():
            return None
        layers = self._modules
        for name, place in zip(self.names, self._places, strict=True):
            layer = layers[name]
            if not isinstance(layer, nn.Linear) or layer.weight.data_ptr() != place:
                self._fused = None
                return None
        return self._fused

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Self:
        with torch.no_grad():
            was_fused = self.fused_weight() is not None
        self._fused = None
        super()._apply(fn, recurse)
        if was_fused:
            self.fuse()
        return self

    def __getstate__(self) -> dict[str, Any]:
        # A copy's weights are copied one by one.
        return self.__dict__ | {"_fused": None}
