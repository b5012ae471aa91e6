"""What a pruning strategy gets and offers, and how the configured one is loaded by its name.

The three functions of every strategy are described in `pruning/baselines/__init__.py`.
"""

from __future__ import annotations

import functools
import importlib
from dataclasses import dataclass
from types import ModuleType

from ada3d_ros.pruning.cost import DecoderShape, PromptSizes

NOMINAL_SIZES = PromptSizes(1659, 61, 1659)  # the paper's scene: for checks before a scene is there
# Modules that are not called as their strategy: our own method, and a name of the standard library.
MODULES = {"adatoken3d": "adatoken", "random": "baselines.random_tokens"}


@dataclass(frozen=True, slots=True)
class Traits:
    """What the policy and the engine must know of a strategy under its settings.

    fixed_by: the setting that decides what is kept instead of pruning.keep_ratio, or ''.
    """

    fixed_by: str = ""
    depends_on_sizes: bool = False  # the schedule is another for other counts of tokens
    depends_on_prompt: bool = False  # the schedule follows from each prompt's attention
    is_query_conditioned: bool = False  # the selection is another for another question
    is_nested: bool = False  # the first k selected are the selection of budget k


@dataclass(frozen=True, slots=True)
class LayerBudget:
    """What the schedule of an in-LLM strategy has to meet, and on which decoder.

    keep_ratio: mean over layers of the tokens that enter the decoder; pre_llm_share: how many of
    all spatial tokens these are; sizes: of the prompt, for strategies that depend on them;
    information: I per layer (eq. 6), for schedules fitted to it.
    """

    shape: DecoderShape
    keep_ratio: float
    pre_llm_share: float = 1.0
    sizes: PromptSizes = NOMINAL_SIZES
    information: tuple[float, ...] = ()
    n_min: int = 1


@functools.cache
def load_strategy(name: str) -> ModuleType:
    """The module of a strategy that the settings allow; it is imported when first asked for."""
    return importlib.import_module(f"ada3d_ros.pruning.{MODULES.get(name, f'baselines.{name}')}")
