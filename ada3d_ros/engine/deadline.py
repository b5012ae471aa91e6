"""How long a question takes, learnt from those that were answered, and the budget that a deadline
leaves.

Time to the first token and time per further token are straight lines over the spatial tokens that a
layer holds on average; one pair for each way that the scene is served (`Answer.cache_mode`). What a
question paid for the next ones too (views, the cached scene) is no part of its time, and the lines
are medians: a question that met a busy machine does not move them.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ada3d_ros.types import Answer

MODES = ("paper", "build", "question", "none")  # of Answer.cache_mode
WINDOW = 64  # answers that count
MARGIN = 0.9  # of the deadline that a prediction may use up
# Of the keep ratio that would be used without a deadline.
FACTORS = (1.0, 0.85, 0.7, 0.55, 0.4, 0.3, 0.2, 0.1)


@dataclass(frozen=True, slots=True)
class Measured:
    """One answered question, what it prepared for later ones left out. tokens: spatial tokens per
    layer, mean; step_s: per token after the first, NaN without one.
    """

    tokens: float
    first_token_s: float
    step_s: float
    rest_s: float


class LatencyModel:
    """What questions took, by mode; `answered` counts those on a cached scene. Used by the thread
    that owns the model alone.
    """

    def __init__(self) -> None:
        self._seen: dict[str, deque[Measured]] = {mode: deque(maxlen=WINDOW) for mode in MODES}
        self._lengths: deque[int] = deque(maxlen=WINDOW)  # of the last answers, in any mode
        self.answered = 0

    def record(self, answer: Answer, prepared_s: float = 0.0) -> None:
        """Learn from the counts and times of an answer about the scene. prepared_s: of its time to
        the first token, what was spent on views, the cached scene and the like.
        """
        times, generated = answer.timings, answer.tokens.generated
        if not math.isfinite(times.first_token_s):  # stopped before it said anything
            return
        measured = Measured(
            tokens=float(np.mean(answer.tokens.per_layer)),
            first_token_s=max(times.first_token_s - prepared_s, 0.0),
            step_s=times.decode_s / (generated - 1) if generated > 1 else math.nan,
            rest_s=times.total_s - times.first_token_s - times.decode_s,
        )
        self._seen[answer.cache_mode].append(measured)
        self._lengths.append(generated)
        self.answered += answer.cache_mode != "paper"

    def num_measured(self, mode: str) -> int:
        """Answers that its lines are made from."""
        return len(self._seen[mode])

    def predict(self, mode: str, tokens: float, max_new_tokens: int) -> float:
        """Seconds to the end of an answer of usual length in this mode; NaN before anything was
        measured. tokens: spatial tokens per layer, mean.
        """
        seen = list(self._seen[mode])
        if not seen:
            return math.nan
        # A prefix that is not cached costs its tokens; a cached one hardly depends on them.
        first = median_line(
            [m.tokens for m in seen],
            [m.first_token_s for m in seen],
            tokens,
            proportional=mode == "paper",
        )
        step = self._step_s(mode, tokens)
        # The answer's length is the usual one, as far as the caller allows it.
        length = min(float(np.median(list(self._lengths))), max_new_tokens)
        return first + max(length - 1.0, 0.0) * step + float(np.median([m.rest_s for m in seen]))

    def _step_s(self, mode: str, tokens: float) -> float:
        """Seconds per further token; by the other modes where no answer of this one had any."""
        for modes in ((mode,), MODES):
            steps = [m for one in modes for m in self._seen[one] if math.isfinite(m.step_s)]
            if steps:
                x, y = [m.tokens for m in steps], [m.step_s for m in steps]
                return median_line(x, y, tokens, proportional=False)
        return 0.0

    def choose(
        self,
        budgets: Sequence[tuple[float, str]],
        total: int,
        deadline_s: float,
        max_new_tokens: int,
    ) -> float:
        """The largest of the falling keep ratios, of `total` spatial tokens, that should meet the
        deadline; the fastest where none should; the first where nothing is known of it yet.
        budgets: each ratio, and the mode that it is answered in.
        """
        times = {
            ratio: self.predict(mode, ratio * total, max_new_tokens) for ratio, mode in budgets
        }
        if math.isnan(times[budgets[0][0]]):
            return budgets[0][0]
        known = [ratio for ratio, seconds in times.items() if math.isfinite(seconds)]
        fitting = [ratio for ratio in known if times[ratio] <= MARGIN * deadline_s]
        return fitting[0] if fitting else min(reversed(known), key=lambda ratio: times[ratio])


def median_line(x: Sequence[float], y: Sequence[float], at: float, proportional: bool) -> float:
    """The line of the median slope and offset (Theil and Sen) through (x, y) at `at`, never
    falling. Where all x are alike it goes through the origin (proportional) or is flat.
    """
    xs, ys = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    first, second = np.triu_indices(len(xs), 1)
    run = xs[second] - xs[first]
    apart = np.abs(run) > 0.02 * max(float(np.median(xs)), 1.0)
    if apart.any():
        slopes = (ys[second] - ys[first])[apart] / run[apart]
        slope = max(float(np.median(slopes)), 0.0)
    else:
        middle = float(np.median(xs))
        slope = float(np.median(ys)) / middle if proportional and middle > 0 else 0.0
    return max(float(np.median(ys - slope * xs)) + slope * at, 0.0)
