"""The report of a run: one HTML page that opens offline, on a desk and on a phone.

`content` says what a report shows, `page` writes it; the other modules turn it into shapes. Takes
plain values; knows nothing of ROS or the model.
"""

from ada3d_ros.lab.report.content import (
    AskedQuestion,
    DetectedView,
    Evidence,
    FoundObject,
    GivenAnswer,
    KeptTokens,
    ListedObject,
    Round,
    RunReport,
)
from ada3d_ros.lab.report.page import write_report

__all__ = [
    "AskedQuestion",
    "DetectedView",
    "Evidence",
    "FoundObject",
    "GivenAnswer",
    "KeptTokens",
    "ListedObject",
    "Round",
    "RunReport",
    "write_report",
]
