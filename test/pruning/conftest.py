"""Every test of pruning begins with no strategy built."""

import pytest

from ada3d_ros.pruning import policy


@pytest.fixture(autouse=True)
def _nothing_built_before() -> None:
    """Strategies are kept once built; a warning is logged only when one is."""
    policy.build_pruner.cache_clear()
