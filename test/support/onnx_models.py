"""ONNX files for tests: networks that answer with given arrays, whatever picture they get."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

Side = int | str  # a number, or the name of one that is left open
PICTURE = {"images": (TensorProto.FLOAT, (1, 3, 64, 96))}


def write_model(
    path: Path,
    outputs: Mapping[str, npt.NDArray[np.generic]],
    inputs: Mapping[str, tuple[int, Sequence[Side]]] = PICTURE,
    metadata: Mapping[str, str] | None = None,
    opset: int = 17,
) -> Path:
    """A network with these inputs (type, shape) that gives these outputs."""
    constants = [numpy_helper.from_array(array, f"{name}_0") for name, array in outputs.items()]
    nodes = [helper.make_node("Identity", [f"{name}_0"], [name]) for name in outputs]
    graph = helper.make_graph(
        nodes,
        "constant",
        [
            helper.make_tensor_value_info(name, kind, shape)
            for name, (kind, shape) in inputs.items()
        ],
        [
            helper.make_tensor_value_info(
                name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape
            )
            for name, array in outputs.items()
        ],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    helper.set_model_props(model, dict(metadata or {}))
    onnx.save(model, path)
    return path
