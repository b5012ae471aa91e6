"""The rows of the pruning tables: every strategy at every budget, in every way of serving."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ada3d_ros.config import PruningConfig
from ada3d_ros.config.pruning import COMPOSED, CONTROLS, IN_LLM, PRE_LLM
from ada3d_ros.errors import ConfigError
from ada3d_ros.lab.command_line import parse_list
from ada3d_ros.pruning.policy import traits_of

KEEP_RATIOS = (0.4, 0.2, 0.1, 0.05)
TOKENS = (128, 64, 32)  # of a scene, as 3DZip reports
BUDGETS: tuple[float, ...] = (*KEEP_RATIOS, *TOKENS)  # from 1 on: tokens
SEEDS = (0, 1, 2)  # of strategies that draw
BEFORE = (*CONTROLS[1:], *PRE_LLM)
ANCHOR = "voxel_dpp"  # what strategies inside the language model are joined with
MODES = ("before", "build", "question", "paper")
BLIND, SHUFFLED, UNPRUNED = "blind", "shuffled", "none"
# Settings under which a strategy reaches more budgets on few layers, as strategies of their own.
FORMS: dict[str, dict[str, object]] = {"fastv k=1": {"pruning.fastv.k": 1}}
# What was trained for the model that is asked.
TRAINED: dict[str, dict[str, object]] = {
    "condensed_grid": {"pruning.condensed_grid.file": "embedded"},
}
DRAWING = ("random",)
# What others wait for.
FIRST = ("random", "voxel_dpp", "adatoken3d", "fastv k=1", "pdrop", f"{ANCHOR}+adatoken3d")


@dataclass(frozen=True, slots=True)
class Row:
    """One strategy under one budget.

    strategy: of `pruning.strategy`, or one of FORMS, or two joined; mode: `before`, chosen before
    the language model, so that a cached scene and the paper's way keep the same; `build`,
    `question`: of `cache.prune`; `paper`: of `cache.mode`; '' where nothing is pruned. budget: a
    keep ratio, or from 1 on so many tokens of each scene.
    """

    strategy: str
    mode: str = ""
    budget: float = 1.0
    seed: int = 0

    @property
    def key(self) -> str:
        """Its name in files, as 'adatoken3d paper 0.4'."""
        if not self.mode:
            return self.strategy
        drawn = f" seed {self.seed}" if self.draws else ""
        return f"{self.strategy} {self.mode} {self.budget:g}{drawn}"

    @property
    def draws(self) -> bool:
        return any(part in DRAWING for part in self.strategy.split("+"))

    def keep_ratio(self, total: int) -> float:
        """Of a scene of so many spatial tokens: 1 where the budget is larger."""
        return min(1.0, self.budget / total) if self.budget >= 1.0 else self.budget

    def settings(self, total: int) -> dict[str, object]:
        """Over the defaults, of a scene of so many spatial tokens. Two joined: twice the budget
        enters the language model, where the second one halves it.
        """
        if not self.mode:
            return {"pruning.strategy": "none", "cache.prune": "none"}
        keep = self.keep_ratio(total)
        first, joined, second = self.strategy.rpartition("+")
        chosen: dict[str, object] = {
            "pruning.strategy": first + joined + second.split(" ")[0],
            "pruning.keep_ratio": keep,
            "pruning.seed": self.seed,
        }
        if keep * total < PruningConfig().n_min:
            chosen["pruning.n_min"] = max(1, int(keep * total))
        if joined:
            chosen["pruning.pre_keep_ratio"] = min(1.0, 2.0 * keep)
        if self.mode == "paper":
            chosen["cache.mode"] = "paper"
        else:
            chosen["cache.prune"] = "build" if self.mode == "before" else self.mode
        return chosen | FORMS.get(second, {}) | TRAINED.get(second, {})


def modes_of(strategy: str) -> tuple[str, ...]:
    """The ways in which it differs. A choice before the language model is the same for all, unless
    it asks the question: then no cached scene serves it. A schedule that follows from the prompt
    cannot be used while a scene is built.
    """
    last = strategy.split("+")[-1].split(" ")[0]
    last = COMPOSED[last][-1] if last in COMPOSED else last
    traits = traits_of(last, PruningConfig())
    if last in IN_LLM:
        return ("question", "paper") if traits.depends_on_prompt else ("build", "question", "paper")
    return ("paper",) if traits.is_query_conditioned else ("before",)


def strategies() -> tuple[str, ...]:
    """All that are registered, alone; inside the language model also behind ANCHOR."""
    inside = [*IN_LLM, *FORMS]
    return (
        *BEFORE,
        *inside,
        *COMPOSED,
        *(f"{ANCHOR}+{name}" for name in inside if name != "fastv"),
    )


def table(
    budgets: Sequence[float] = BUDGETS, only: str = "", modes: Sequence[str] = MODES
) -> list[Row]:
    """The rows; only: strategies with commas.

    Raises ConfigError for a budget, a strategy or a mode that the tables have not.
    """
    known = strategies()
    named = parse_list(only, str, "--only") if only else list(known)
    for option, wanted, allowed in (("--only", named, known), ("--modes", modes, MODES)):
        wrong = [name for name in wanted if name not in allowed]
        if wrong:
            raise ConfigError(f"{option} {wrong[0]!r}: not among {', '.join(allowed)}.")
    for budget in budgets:
        if not (0.0 < budget < 1.0 or (budget >= 1.0 and budget == int(budget))):
            raise ConfigError(
                f"--budgets {budget:g}: a keep ratio above 0 and below 1, or a whole number of"
                " tokens."
            )
    rows = [
        Row(name, mode, budget, seed)
        for budget in budgets
        for name in named
        for mode in modes_of(name)
        if mode in modes
        for seed in (SEEDS if name in DRAWING else SEEDS[:1])
    ]
    return [Row(UNPRUNED), *rows]


def passes(rows: Sequence[Row]) -> list[list[Row]]:
    """The rows in the order in which they are measured, all rooms of one part before the next: what
    others wait for, the other strategies and seeds, then budgets in tokens. Rows that share a
    choice before the language model, or a whole scene, stand together: it is made once.
    """
    parts: list[list[Row]] = [[], [], []]
    for row in rows:
        is_first = not row.mode or (row.strategy in FIRST and row.seed == SEEDS[0])
        parts[2 if row.mode and row.budget >= 1.0 else 0 if is_first else 1].append(row)
    return [sorted(part, key=_what_is_shared) for part in parts if part]


def _what_is_shared(row: Row) -> tuple[str, float, bool]:
    before = row.strategy.rpartition("+")[0] or ("" if row.mode != "before" else row.strategy)
    whole = not before and row.mode in ("", "question")
    return before, 0.0 if whole else -row.budget, not whole and row.mode != "question"
