"""What the demo's report says that a round held."""

import math
from types import SimpleNamespace

import pytest

from ada3d_ros.lab.demo import round_of
from ada3d_ros.lab.report.content import Round


def usage(held_kv_bytes: int, kept: int) -> SimpleNamespace:
    return SimpleNamespace(
        held_kv_bytes=held_kv_bytes, spatial_kept=kept, spatial_total=900, build_flops=2.5e9
    )


@pytest.mark.parametrize("order", [(0, 1, 2), (0, 2, 1)], ids=["model-last", "measured-last"])
def test_a_round_is_that_of_the_last_answer_for_which_a_model_held_something(
    order: tuple[int, ...],
) -> None:
    usages = [usage(2**20, 300), usage(2 * 2**20, 367), usage(0, 900)]
    found = round_of("pruned", [usages[i] for i in order])
    assert found == Round("pruned", 367, 900, 2.0, 2.5)


@pytest.mark.parametrize("usages", [[], [usage(0, 900)]])
def test_where_no_model_answered_it_is_not_known(usages: list[SimpleNamespace]) -> None:
    found = round_of("pruned", usages)
    assert math.isnan(found.held_mib)
    assert math.isnan(found.build_gflop)
