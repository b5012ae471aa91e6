"""Linear layers that multiply the same input, their weights in one storage: one product for all.

The layers stay as they are, under the checkpoint's names; their weights become views.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Self, cast

import torch
from torch import nn
from torch.nn import functional as F

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
    """A module whose linear layers `names` multiply the same input; all have a bias, or none.

    Unfused until `fuse`, and again where a weight is replaced, as by quantisation, a layer is
    wrapped, as by an adapter, or the module is copied. Moving it to a device or format keeps it
    fused.
    """

    def __init__(self, *names: str) -> None:
        super().__init__()
        self.names = names
        self._fused: torch.Tensor | None = None
        self._places: tuple[int, ...] = ()  # of the weights in it
        # Behind one another, too; None where the layers have none.
        self._fused_bias: torch.Tensor | None = None
        self._bias_places: tuple[int, ...] = ()

    def fuse(self) -> None:
        """Puts the layers' weights behind one another in one storage, and their biases; what they
        held is let go.

        Nothing where they are there already, are quantised, or differ in format or device.
        """
        weights, biases = self._parameters_of_layers()
        if self._fused is not None and self._are_at(weights, biases):
            return
        if any(hasattr(w, "__tensor_flatten__") for w in weights):  # torchao's
            return
        if len({(w.dtype, w.device) for w in (*weights, *biases)}) > 1:
            return
        if len(biases) not in (0, len(weights)):
            return
        with torch.no_grad():
            sizes = sum(map(len, weights)), weights[0].shape[1]
            fused = empty_weight(sizes, weights[0].dtype, weights[0].device)
            torch.cat([w.detach() for w in weights], out=fused)
            self._take(fused, torch.cat([b.detach() for b in biases]) if biases else None)

    def allocate(self, device: torch.device, dtype: torch.dtype) -> None:
        """Makes the weights and biases anew, each in one storage, without values and gradients: to
        be filled.
        """
        weights, biases = self._parameters_of_layers()
        for parameter in (*weights, *biases):
            parameter.requires_grad_(False)
        outputs, inputs = sum(map(len, weights)), weights[0].shape[1]
        bias = torch.empty(outputs, dtype=dtype, device=device) if biases else None
        self._take(empty_weight((outputs, inputs), dtype, device), bias)

    def _parameters_of_layers(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """Weights and biases in the order of the names; no biases where the layers have none."""
        layers = [cast(nn.Linear, self.get_submodule(name)) for name in self.names]
        found: list[nn.Parameter | None] = [getattr(layer, "bias", None) for layer in layers]
        weights = [cast(nn.Parameter, layer.weight) for layer in layers]
        return weights, [bias for bias in found if bias is not None]

    def _are_at(self, weights: list[nn.Parameter], biases: list[nn.Parameter]) -> bool:
        places = tuple(w.data_ptr() for w in weights), tuple(b.data_ptr() for b in biases)
        return places == (self._places, self._bias_places)

    def _take(self, fused: torch.Tensor, bias: torch.Tensor | None) -> None:
        weights, biases = self._parameters_of_layers()
        lengths = [len(weight) for weight in weights]
        self._fused, self._places = fused, self._put("weight", weights, fused.split(lengths))
        parts = () if bias is None else bias.split(lengths)
        self._fused_bias, self._bias_places = bias, self._put("bias", biases, parts)

    def _put(
        self, name: str, parameters: list[nn.Parameter], parts: Sequence[torch.Tensor]
    ) -> tuple[int, ...]:
        """Puts the parts in the place of the layers' parameters of this name; where they lie."""
        for layer, parameter, part in zip(self.names, parameters, parts, strict=False):
            setattr(self.get_submodule(layer), name, nn.Parameter(part, parameter.requires_grad))
        return tuple(part.data_ptr() for part in parts)

    def fused_linear(self, x: torch.Tensor) -> torch.Tensor | None:
        """What the layers make of x (..., inputs), (..., sum of their outputs) in the order of the
        names; None where `fused_weight` is.
        """
        weight = self.fused_weight()
        return None if weight is None else F.linear(x, weight, self._fused_bias)

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
        if self._fused_bias is not None and not self._are_biases_there():
            self._fused = None
        return self._fused

    def _are_biases_there(self) -> bool:
        biases = [cast(nn.Linear, self._modules[name]).bias for name in self.names]
        places = [None if bias is None else bias.data_ptr() for bias in biases]
        return places == list(self._bias_places)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Self:
        with torch.no_grad():
            was_fused = self.fused_weight() is not None
        self._fused = self._fused_bias = None
        super()._apply(fn, recurse)
        if was_fused:
            self.fuse()
        return self

    def __getstate__(self) -> dict[str, Any]:
        # A copy's weights are copied one by one.
        return self.__dict__ | {"_fused": None, "_fused_bias": None}
