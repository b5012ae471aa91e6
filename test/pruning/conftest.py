"""Every test of pruning begins with no strategy built."""

import pytest

from ada3d_ros.pruning import policy as strategies


@pytest.fixture(autouse=True)
def _nothing_built_before() -> None:
    """Strategies are kept once built; a warning is logged only when one is."""
    strategies._build.cache_clear()
