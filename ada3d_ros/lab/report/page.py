"""The report as a file. The page is report.html.j2 with its style and shapes beside it; jinja2
escapes every value that goes into them, and nothing is fetched from anywhere.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2

from ada3d_ros.lab.report.content import AskedQuestion, GivenAnswer, Round, RunReport
from ada3d_ros.lab.report.pictures import (
    Picture,
    draw_crop,
    draw_detections,
    draw_hero,
    draw_views,
)
from ada3d_ros.lab.report.room_map import RoomMap, draw_evidence, draw_layers, draw_map

# Parts of `total` that follow one another; ranking is part of prefill.
STAGES = ("wait", "preprocess", "vision", "spatial", "scene", "prefill", "decode", "postprocess")
REST = "other"
SHOWN_MS = 0.05  # a stage that took less is hidden
CLOSE = 0.15  # two medians this near to each other are called alike

TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


@dataclass(frozen=True, slots=True)
class Segment:
    """A stage of a bar: percent of the longest bar's total."""

    stage: str
    ms: float
    percent: float


@dataclass(frozen=True, slots=True)
class Bar:
    """Where the time of one answer went."""

    segments: list[Segment]
    total_ms: float


@dataclass(frozen=True, eq=False, slots=True)
class QuestionRow:
    """A question with its picture, of whichever of its answers has evidence first."""

    asked: AskedQuestion
    picture: Picture | None
    map: RoomMap | None
    bars: list[Bar]


@dataclass(frozen=True, slots=True)
class Score:
    """Of one round: right answers of all, and the median time; NaN where none was timed."""

    round: Round
    right: int
    of: int
    median_ms: float


def write_report(path: Path, report: RunReport) -> Path:
    """Write the HTML file, its folder too; returns its path."""
    longest = max((_total(a) for q in report.questions for a in q.answers), default=0.0)
    scores = score_rounds(report)
    document = TEMPLATES.get_template("report.html.j2").render(
        report=report,
        scores=scores,
        hero=draw_hero(report.frames, report.found),
        map=draw_map(report),
        views=draw_views(report.frames, report.found, report.tokens.xyz_m),
        rows=[_row(report, asked, longest) for asked in report.questions],
        stages=_stages(report),
        why=[*explain_times(scores, report.questions), *filter(None, [report.busy])],
        layers=draw_layers(report),
        recall=_recall(report),
        detected=draw_detections(report.detected),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(document + "\n", encoding="utf-8")
    return path


def score_rounds(report: RunReport) -> list[Score]:
    """How every round did."""
    scores = []
    for number, each in enumerate(report.rounds):
        answers = [q.answers[number] for q in report.questions]
        judged = [a.right for a in answers if a.right is not None]
        times = [total for a in answers if (total := _total(a)) > 0]
        median = statistics.median(times) if times else math.nan
        scores.append(Score(each, sum(judged), len(judged), median))
    return scores


def _row(report: RunReport, asked: AskedQuestion, longest_ms: float) -> QuestionRow:
    evidence = next((a.evidence for a in asked.answers if a.evidence.shown), None)
    picture = plan = None
    if evidence is not None:
        picture = None if evidence.from_above else draw_crop(report.frames, evidence)
        plan = draw_evidence(report, evidence) if picture is None else None
    return QuestionRow(asked, picture, plan, [bar_of(a, longest_ms) for a in asked.answers])


# -- times


def _total(answer: GivenAnswer) -> float:
    return answer.latency_ms.get("total", 0.0)


def bar_of(answer: GivenAnswer, longest_ms: float) -> Bar:
    """The stages one after the other, what is left of the total as `other`."""
    total = _total(answer)
    times = {stage: answer.latency_ms.get(stage, 0.0) for stage in STAGES}
    times[REST] = max(total - sum(times.values()), 0.0)
    shown = {stage: ms for stage, ms in times.items() if ms >= SHOWN_MS}
    scale = 100 / max(longest_ms, total, SHOWN_MS)
    return Bar([Segment(stage, ms, ms * scale) for stage, ms in shown.items()], total)


def _stages(report: RunReport) -> list[str]:
    """Those that any bar shows, in order."""
    bars = [bar_of(a, 1.0) for q in report.questions for a in q.answers]
    shown = {segment.stage for bar in bars for segment in bar.segments}
    return [stage for stage in (*STAGES, REST) if stage in shown]


def explain_times(scores: Sequence[Score], questions: Sequence[AskedQuestion]) -> list[str]:
    """Sentences: which round was faster, why or why not, and what pruning saved besides."""
    if len(scores) != 2 or any(math.isnan(score.median_ms) for score in scores):
        return []
    first, second = scores
    names = first.round.name, second.round.name
    ratio = second.median_ms / first.median_ms
    prefill = [_median_of(questions, i, "prefill") for i in (0, 1)]

    # Which was faster.
    verdict = "about the same"
    if abs(ratio - 1) > CLOSE:
        verdict = f"{max(ratio, 1 / ratio):.1f} times as long"
        verdict += f" {names[1]}" if ratio > 1 else f" {names[0]}"
    said = [
        f"Half of the answers came within {first.median_ms:.0f} ms {names[0]} and within"
        f" {second.median_ms:.0f} ms {names[1]}: {verdict}."
    ]

    # Why.
    why = (
        "Both times the scene was cached before the question came, so that a question pays for its"
    )
    why += " own few words and its answer alone: pruning the scene can only save what these words"
    why += " look at"
    if all(ms > 0 for ms in prefill):
        why += f", in prefill {prefill[0]:.1f} instead of {prefill[1]:.1f} ms"
    said.append(why + ".")

    # What pruning saved besides.
    saved = [
        f"{what} {a:.3g} instead of {b:.3g} {unit}"
        for what, a, b, unit in (
            ("memory for keys and values", first.round.held_mib, second.round.held_mib, "MiB"),
            (
                "work to build the scene",
                first.round.build_gflop,
                second.round.build_gflop,
                "GFLOP",
            ),
        )
        if not math.isnan(a + b)
    ]
    if saved:
        said.append(f"Pruning saves, whatever is asked: {' and '.join(saved)}.")
    return said


def _median_of(questions: Sequence[AskedQuestion], number: int, stage: str) -> float:
    answers = [q.answers[number] for q in questions]
    times = [a.latency_ms[stage] for a in answers if a.latency_ms.get(stage, 0.0) > 0]
    return statistics.median(times) if times else 0.0


# -- objects


def _recall(report: RunReport) -> Mapping[str, int] | None:
    """right: found objects with the right name; found, true: how many there are."""
    if report.objects is None:
        return None
    return {
        "right": sum(each.right and bool(each.label) for each in report.objects),
        "found": sum(each.box is not None for each in report.objects),
        "true": len(report.true_boxes),
    }
