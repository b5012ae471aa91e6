"""Result files: JSON with what makes a number trustworthy (commit, versions, machine, seed, n)."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "transformers", "numpy", "scipy", "opencv-python-headless", "rosbags")


def _git(*args: str) -> str:
    """What git prints; empty where there is no git or no checkout."""
    folder = Path(__file__).resolve().parent
    try:
        done = subprocess.run(
            ["git", *args], cwd=folder, capture_output=True, text=True, check=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")),
        platform.processor(),
    )


def provenance(device: str, seed: int | None = None) -> dict[str, Any]:
    """Commit (with `+changes` where the tree differs), versions, machine, time, seed."""
    changed = "+changes" if _git("status", "--porcelain", "--untracked-files=no") else ""
    return {
        "commit": (_git("rev-parse", "HEAD") or "unknown") + changed,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "versions": {package: _version(package) for package in PACKAGES},
        "ros_distro": os.environ.get("ROS_DISTRO", ""),
        "device": device,
        "processor": _processor(),
        "cores": os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "seed": seed,
    }


def write_results(
    path: str | Path, results: Mapping[str, Any], device: str, seed: int | None = None
) -> Path:
    """Write `results` with their provenance as JSON; returns the path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    data = {"provenance": provenance(device, seed), **results}
    path.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    return path
