"""Strategies are files with the same three functions, loaded by name and only when configured."""

import inspect
import itertools
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ada3d_ros.config.pruning import (
    COMPOSED,
    CONTROLS,
    IN_LLM,
    PRE_LLM,
    STRATEGIES,
    PruningConfig,
)
from ada3d_ros.pruning import baselines
from ada3d_ros.pruning.policy import split_name
from ada3d_ros.pruning.strategy import LayerBudget, LayerPruner, Selection, Traits, load_strategy
from test.support.decoders import SHAPE, config_of, policy_of, scene_3d

BEFORE = (*CONTROLS[1:], *PRE_LLM)
FOLDER = Path(baselines.__file__).parent


@pytest.mark.parametrize("name", [*BEFORE, *IN_LLM])
def test_every_strategy_offers_the_same_three_functions(name: str) -> None:
    strategy, last = load_strategy(name), "build" if name in IN_LLM else "select"
    parameters = {
        "read_settings": ["config"],
        "traits": ["settings"],
        "build": ["settings", "budget"],
        "select": ["candidates", "budget", "settings"],
    }
    for function in ("read_settings", "traits", last):
        found = list(inspect.signature(getattr(strategy, function)).parameters)
        assert found == parameters[function]
    assert not hasattr(strategy, "select" if last == "build" else "build")


@pytest.mark.parametrize("name", [*BEFORE, *IN_LLM])
def test_they_give_what_they_say(name: str) -> None:
    strategy = load_strategy(name)
    settings = strategy.read_settings(PruningConfig())
    hash(settings)  # choices and schedules are kept by them
    assert isinstance(strategy.traits(settings), Traits)
    if name in IN_LLM:
        pruner = strategy.build(settings, LayerBudget(SHAPE, keep_ratio=0.6, n_min=3))
        assert isinstance(pruner, LayerPruner)
        assert (pruner.name, pruner.n_min) == (name, 3)
        assert sum(pruner.schedule.retention) / SHAPE.num_layers == pytest.approx(0.6, abs=1e-6)
    else:
        selection = strategy.select(scene_3d(60), 20, settings)
        assert isinstance(selection, Selection)
        assert 1 <= len(selection.kept) <= 20
        assert torch.equal(selection.groups[selection.kept], torch.arange(len(selection.kept)))


def test_every_file_is_a_strategy_that_can_be_configured() -> None:
    files = {path.stem for path in FOLDER.glob("*.py")} - {"__init__"}
    names = set(STRATEGIES) - {"none", "adatoken3d", *COMPOSED}
    assert {Path(str(load_strategy(name).__file__)).stem for name in names} == files
    assert len(names) == len(files)


def test_traits_say_what_the_policy_asks() -> None:
    traits = {
        name: load_strategy(name).traits(load_strategy(name).read_settings(PruningConfig()))
        for name in (*BEFORE, *IN_LLM)
    }
    assert {name for name, t in traits.items() if t.is_query_conditioned} == {"cond_dpp"}
    nested = {name for name, t in traits.items() if t.is_nested}
    assert nested == {"random", "voxel_dpp", "geo_fps", "kitoke"}
    assert {name for name, t in traits.items() if t.depends_on_prompt} == {"logistic"}
    assert not any(t.fixed_by or t.depends_on_sizes for t in traits.values())


@pytest.mark.parametrize(
    ("strategy", "flat", "nested"),
    [
        ("voxel_dpp", {"order": "selection"}, True),
        ("voxel_dpp", {}, False),  # sorted
        ("geo_fps+pdrop", {"order": "selection"}, True),
        ("geo_fps", {"order": "selection", "geo_fps__salient_share": 0.2}, False),
        ("uniform", {"order": "selection"}, False),
        ("pdrop", {"order": "selection"}, False),
    ],
)
def test_nested_choices(strategy: str, flat: dict[str, object], nested: bool) -> None:
    assert policy_of(strategy, 0.5, **flat).nested is nested


def test_a_choice_is_kept_for_the_settings_it_was_made_with() -> None:
    """Every key of the strategy makes another choice; those of the others do not."""
    keys = [
        policy_of("random", 0.5).choice_key(100),
        policy_of("random", 0.5, seed=1).choice_key(100),
        policy_of("random", 0.6).choice_key(100),
        policy_of("geo_fps", 0.5).choice_key(100),
        policy_of("geo_fps", 0.5, geo_fps__lam=0.7).choice_key(100),
        policy_of("voxel_dpp", 0.5).choice_key(100),
        policy_of("voxel_dpp", 0.5, voxel_dpp__merge=False).choice_key(100),
        policy_of("voxel_dpp", 0.5, order="selection").choice_key(100),
    ]
    assert all(a != b for a, b in itertools.combinations(keys, 2))
    assert policy_of("voxel_dpp", 0.5, fastv__k=3).choice_key(100) == keys[5]


def test_rivals_are_not_loaded_unless_configured() -> None:
    """What the node does with the default settings loads the package's own method alone."""
    code = """
import sys
from ada3d_ros.config import from_flat
from ada3d_ros.pruning.cost import DecoderShape
from ada3d_ros.pruning.policy import Policy, check_policy

def loaded():
    return sorted(name.rsplit(".", 1)[1] for name in sys.modules if ".pruning.baselines." in name)

shape = DecoderShape(8, 32, 16, 64, 97)
check_policy(from_flat({}).pruning, shape)
assert Policy.from_config(from_flat({}).pruning, 0.5).pruner(shape) is not None
print(loaded())
joined = from_flat({"pruning.strategy": "geo_fps+pdrop"}).pruning
check_policy(joined, shape)
Policy.from_config(joined).choice_key(100)
print(loaded())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == ["[]", "['geo_fps', 'pdrop']"], done.stdout + done.stderr


def test_a_name_that_is_configured_resolves() -> None:
    for name in STRATEGIES[1:]:
        assert config_of({"strategy": name}).strategy == name
        for part in filter(None, split_name(name)):
            assert load_strategy(part).__name__.startswith("ada3d_ros.pruning.")
