"""How `cache.prune: auto` serves a scene: whichever was measured to answer sooner.

A scene is built pruned ("build") or "whole"; a question on a whole one attends to a choice of its
keys ("question") or to all of them ("none"). Knows nothing of tensors.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from dataclasses import dataclass

import numpy as np

from ada3d_ros.engine.deadline import LatencyModel, median_line

EXPLORED = 2  # answers after which a mode is known
MAX_TRIES = 4  # scenes or questions spent on what stays unknown: no answer may come of it
SCENES = ("build", "whole")
QUESTIONS = {"build": ("build",), "whole": ("none", "question")}  # modes of each kind of scene
BUILDS = 16  # that count


@dataclass(frozen=True, slots=True)
class SceneSize:
    """total: spatial tokens that enter the language model; keep_ratio: what pruning keeps of them,
    mean over layers; max_new_tokens: the longest answer allowed.
    """

    total: int
    keep_ratio: float
    max_new_tokens: int


class PruneChoice:
    """Chooses by the lines of a latency model, for an answer of usual length.

    What nothing is known of is tried first: a kind of scene only when one has to be built anyway,
    a mode for the first questions on a whole scene. Used by the thread that owns the model alone.
    """

    def __init__(self, latency: LatencyModel) -> None:
        self._latency = latency
        self._tries: Counter[str] = Counter()
        self._built: dict[str, deque[tuple[int, float]]] = {
            kind: deque(maxlen=BUILDS) for kind in SCENES
        }
        self._answers: deque[int] = deque(maxlen=BUILDS)  # given from each scene that was replaced
        self._answered: int | None = None  # by the latency model's count, when the newest was built

    def record_build(self, kind: str, total: int, seconds: float) -> None:
        """A scene of `total` spatial tokens was built "build" or "whole" and took so long."""
        self._built[kind].append((total, seconds))
        answered = self._latency.answered
        if self._answered is not None:
            self._answers.append(answered - self._answered)
        self._answered = answered

    def for_scene(self, size: SceneSize) -> str:
        """How to build the next scene: "build" or "whole". Ask when one has to be built."""
        for kind in SCENES:
            known = any(self._is_known(mode) for mode in QUESTIONS[kind])
            if not known and self._tries[kind] < MAX_TRIES:
                self._tries[kind] += 1
                return kind
        costs = self.scene_costs(size)
        return min(SCENES, key=costs.__getitem__)

    def for_question(self, size: SceneSize) -> str:
        """How to answer on a whole scene: "question" or "none". Ask once for each question."""
        for mode in QUESTIONS["whole"]:
            if not self._is_known(mode) and self._tries[mode] < MAX_TRIES:
                self._tries[mode] += 1
                return mode
        return min(QUESTIONS["whole"], key=lambda mode: self.answer_s(mode, size))

    def answer_s(self, mode: str, size: SceneSize) -> float:
        """Predicted seconds of an answer; infinite for a mode never measured."""
        tokens = size.total * (1.0 if mode == "none" else size.keep_ratio)
        seconds = self._latency.predict(mode, tokens, size.max_new_tokens)
        return math.inf if math.isnan(seconds) else seconds

    def scene_costs(self, size: SceneSize) -> dict[str, float]:
        """Predicted seconds that a scene of each kind takes to build, where both were measured, and
        to answer from as often as is usual, once at least.
        """
        costs, answers = {}, max(1.0, float(np.mean(self._answers)) if self._answers else 1.0)
        for kind, modes in QUESTIONS.items():
            costs[kind] = answers * min(self.answer_s(mode, size) for mode in modes)
            if all(self._built.values()):
                totals, seconds = zip(*self._built[kind], strict=True)
                costs[kind] += median_line(totals, seconds, size.total, proportional=True)
        return costs

    def _is_known(self, mode: str) -> bool:
        return self._latency.num_measured(mode) >= EXPLORED
