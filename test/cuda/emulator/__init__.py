"""CUDA devices that are not there: see `EmulatedCuda`."""

from test.cuda.emulator.device import EmulatedCuda
from test.cuda.emulator.tensors import CudaTensor

__all__ = ["CudaTensor", "EmulatedCuda"]
