"""The ways of pruning a cached scene that `ada3d eval scene-pruning` compares."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import yaml

from ada3d_ros.errors import ConfigError
from ada3d_ros.lab.command_line import parse_list
from ada3d_ros.lab.world.rooms import CATEGORIES, COLORS
from ada3d_ros.pruning.allocation import CURVE_FROM, EVEN_FROM

KEEP_RATIOS = (0.41, 0.2, 0.1, 0.05)
GENERAL_PROMPTS = (
    "What is in the room?",
    "Describe the room.",
    "What objects are there?",
    "How many objects are in the room?",
    "Where are the objects?",
    "What colors do the objects have?",
    "What is the largest object?",
    "What is next to each other?",
    "Is there anything on the floor?",
    "What is near the walls?",
    "What is this room used for?",
    "What should I look at?",
)
SMALL_PROMPTS = (  # of the preset config/small.yaml
    "What is in the room?",
    "What color is the largest object?",
    "Is there a chair?",
    "Please output the 3D bounding box of the table.",
)
VOCABULARY_PROMPTS = (
    *(f"Is there a {name}?" for name in CATEGORIES),
    *(f"What color is the {name}?" for name in CATEGORIES),
    *(f"What is the {name} object?" for name in COLORS),
    *(f"How many {name} objects are there?" for name in COLORS),
)
ARRIVAL = "as they came, unpruned"


@dataclass(frozen=True, slots=True)
class Variant:
    """Settings by name, over the defaults, under a name of the table; keep_ratio: the share it is
    listed under.
    """

    name: str
    keep_ratio: float
    settings: Mapping[str, object]


WHOLE = Variant("none", 1.0, {"pruning.strategy": "none", "cache.prune": "none"})


def _build(ranking: str, **others: object) -> dict[str, object]:
    names = {"prompts": "cache.prompts", "score": "cache.prompts_score"}
    names |= {"alive": "cache.alive", "held": "cache.held"}
    chosen = {names[name]: value for name, value in others.items()}
    return {"cache.prune": "build", "cache.ranking": ranking} | chosen


GENERAL = "|".join(GENERAL_PROMPTS)
RANKINGS: dict[str, dict[str, object]] = {
    "prompts": _build("prompts", prompts=GENERAL_PROMPTS[0]),
    "prompts4": _build("prompts", prompts="|".join(SMALL_PROMPTS), score="max"),
    "prompts12": _build("prompts", prompts=GENERAL),
    "vocabulary": _build("prompts", prompts="|".join(VOCABULARY_PROMPTS), score="max"),
    "expected": _build("expected"),
    "last_questions": _build("last_questions"),
    "values": _build("values"),
    "kvzip": _build("kvzip"),
    "self_attention": _build("self_attention"),
    "random": _build("random"),
    "prompts12 even": _build("prompts", prompts=GENERAL, alive="even", held="even"),
    "prompts12 late": _build("prompts", prompts=GENERAL, alive="double", held="late"),
}
BEFORE: dict[str, dict[str, object]] = {  # the model
    name + suffix: {"pruning.strategy": name, "cache.prune": "build", "pruning.pre_positions": kind}
    for suffix, kind in (("", "compact"), (" in place", "original"))
    for name in ("voxel_dpp", "geo_fps", "kitoke", "holitom", "condensed_grid")
    if not suffix or name in ("voxel_dpp", "geo_fps")
}
BEFORE["condensed_grid"]["pruning.condensed_grid.file"] = "embedded"  # trained for that model
PLUS = {  # its own allocation, ranked by what is known of questions
    "plus": {"pruning.strategy": "adatoken3d_plus", "cache.prune": "build"},
}
BOTH = "voxel_dpp+prompts12"
EACH_QUESTION: dict[str, dict[str, object]] = {
    "each question": {"cache.prune": "question"},
    "each question as published": {"cache.mode": "paper"},
}


def variant(name: str, keep_ratio: float) -> Variant:
    """A variant of the table. Raises ConfigError for a name that it has not."""
    keep: dict[str, object] = {"pruning.keep_ratio": keep_ratio}
    settings: dict[str, object]
    if name in RANKINGS:
        settings = {"pruning.strategy": "adatoken3d"} | keep | RANKINGS[name]
    elif name in BEFORE | PLUS:
        settings = keep | (BEFORE | PLUS)[name]
    elif name in (BOTH, f"{BOTH} in place"):
        settings = {"pruning.strategy": "voxel_dpp+adatoken3d"} | keep | RANKINGS["prompts12"]
        settings["pruning.pre_keep_ratio"] = min(2 * keep_ratio, 1.0)
        settings["pruning.pre_positions"] = "original" if name != BOTH else "compact"
    elif name in EACH_QUESTION:
        settings = {"pruning.strategy": "adatoken3d"} | EACH_QUESTION[name]
        settings |= keep if keep_ratio >= CURVE_FROM else _behind_first_layer(keep_ratio)
    elif name == ARRIVAL:
        settings = dict(WHOLE.settings)
    else:
        raise ConfigError(f"--only {name!r}: no variant of the table; it has {', '.join(NAMES)}.")
    return Variant(name, keep_ratio, settings)


def _behind_first_layer(keep_ratio: float) -> dict[str, object]:
    """Where a whole first layer leaves nothing of the mean: that share in all layers behind it."""
    return {
        "pruning.adatoken3d.schedule": "stages",
        "pruning.adatoken3d.stage_layers": "1",
        "pruning.adatoken3d.stage_ratios": f"{keep_ratio:g}",
        "pruning.adatoken3d.budget.mode": "parameters",
    }


NAMES = (*RANKINGS, *BEFORE, *PLUS, BOTH, f"{BOTH} in place", *EACH_QUESTION)
APPENDED = ("prompts", "prompts4", "prompts12", "expected", "prompts12 even")


def table(ratios: Sequence[float], only: str = "", appended: bool = False) -> list[Variant]:
    """The table's variants at these keep ratios; only: names with commas, as "prompts,expected".

    Raises ConfigError for a name or ratio that it has not.
    """
    wrong = [ratio for ratio in ratios if not 0.0 < ratio < 1.0]
    if wrong:
        raise ConfigError(f"--keep {wrong[0]:g}: above 0 and below 1.")
    names = parse_list(only, str, "--only") if only else list(APPENDED if appended else NAMES)
    first = [variant(ARRIVAL, 1.0)] if appended and not only else []
    return first + [
        variant(name, ratio)
        for ratio in ratios
        for name in names
        if only or not _is_auto(name, ratio)
    ]


def _is_auto(name: str, keep_ratio: float) -> bool:
    """Whether a row of its own allocation is what `auto` does, or of no use there."""
    if name == "prompts12 even":
        return EVEN_FROM <= keep_ratio < CURVE_FROM
    return name == "prompts12 late" and keep_ratio >= CURVE_FROM


def parse(text: str) -> Variant:
    """A variant of its own from 'cache.ranking=values pruning.keep_ratio=0.2'; values with blanks
    in quotes. Raises ConfigError.
    """
    settings: dict[str, object] = {}
    try:
        for part in shlex.split(text):
            name, equals, value = part.partition("=")
            if not (name and equals):
                raise ValueError(f"{part!r} is no name=value")
            settings[name] = yaml.safe_load(value) if value else ""
    except (ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"--variant {text!r}: {error}.") from None
    if not settings:
        raise ConfigError("--variant: settings as name=value, with blanks between them.")
    ratio = settings.get("pruning.keep_ratio", 0.41)
    keep_ratio = float(ratio) if isinstance(ratio, int | float) else 0.41
    return Variant(text, keep_ratio, {"pruning.strategy": "adatoken3d"} | settings)
