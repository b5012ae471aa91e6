"""Emulated CUDA devices for the tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from test.cuda.emulator import EmulatedCuda

if torch.version.cuda is not None:
    pytest.skip("devices are emulated in builds of torch without CUDA", allow_module_level=True)


@pytest.fixture
def cuda() -> Iterator[EmulatedCuda]:
    """Two devices of 80 GiB; cuda:0 is the current one."""
    with EmulatedCuda() as emulator:
        yield emulator
