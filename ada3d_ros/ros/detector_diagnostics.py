"""The task of /diagnostics that shows the detector: what it is, and what it has done."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ada3d_ros.ros.detector_health import refused_in_words
from ada3d_ros.ros.diagnostics import OK, Report, judged
from ada3d_ros.ros.health_state import DETECTOR, MatchReport

if TYPE_CHECKING:
    from ada3d_ros.ros.node import AgentNode

MAX_NAMED = 20  # kinds in a value


def detector_task(node: AgentNode) -> Report:
    """What is wrong with the detector, and its counts; OK where there is none."""
    report = node.pipeline.detector_report() if node.pipeline is not None else None
    if report is None:
        return OK, "no detector (detector.path)", {}

    # What it is; it may still be on its way.
    detector = node.detections.detector if node.detections is not None else None
    info = report.info if detector is None else detector.info
    values: dict[str, object] = {}
    if info is not None:
        shown = ", ".join(info.kinds[:MAX_NAMED]) + ", ..." * (len(info.kinds) > MAX_NAMED)
        values |= {
            "detector": info.name,
            "format": info.format,
            "sha256": info.sha256,
            "kinds": f"{len(info.kinds)}: {shown}" if info.kinds else "not known",
            "min_score": info.min_score,
            "takes_phrases": info.takes_phrases,
        }

    # What it has done.
    values |= {
        "frames.looked_at": report.looked_at,
        "frames.waiting": report.waiting,
        "frames.dropped": report.dropped,
        "frames.unmatched": report.unmatched,
        "frames.failed": report.failed,
        "frames.recent": report.recent,
        "frames.recent_unseen": report.recent_unseen,
        "last_error": report.last_error,
        "boxes": report.found,
        "boxes.refused": sum(report.refused.values()),
        "boxes.refused_by_reason": refused_in_words(report.refused),
    }
    if not math.isnan(report.seconds):  # of a topic nobody here knows
        values["ms_per_frame"] = report.seconds * 1e3
    if node.detections is not None and detector is not None:
        values |= _topic_values(detector.matches())
        values["topic.rate_hz"] = node.detections.monitor.rate_hz

    name = info.name if info is not None else "the detector"
    return *judged(node, DETECTOR, f"{name}: {report.looked_at} frames looked at"), values


def _topic_values(matches: MatchReport) -> dict[str, object]:
    return {
        "topic.received": matches.received,
        "topic.matched": matches.matched,
        "topic.missed": matches.missed,
        "topic.unset_stamps": matches.unset_stamps,
    }
