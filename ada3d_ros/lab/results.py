"""Result files: JSON with what makes a number trustworthy (commit, versions, machine, seed, n).

Files under docs/results are cited, so they are made from a clean tree only. Where there is no git,
the commit comes from a stamp file that tools/write_stamp.py wrote where there was one.
"""

from __future__ import annotations

import datetime
import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ada3d_ros.errors import ConfigError

PACKAGES = ("torch", "transformers", "numpy", "scipy", "opencv-python-headless", "rosbags")
PACKAGE = Path(__file__).resolve().parents[1]
ROOT = PACKAGE.parent
STAMP = ".stamp.json"  # beside the package
CITED = Path("docs", "results")
UNKNOWN, CHANGED = "unknown", "+changes"


@dataclass(frozen=True, slots=True)
class Tree:
    """What the code was: commit, "unknown" without one; changed: files differ from that commit."""

    commit: str
    changed: bool

    def __str__(self) -> str:
        return self.commit + (CHANGED if self.changed else "")

    @property
    def citable(self) -> bool:
        """Whether the commit alone says what ran."""
        return self.commit != UNKNOWN and not self.changed


def tree(root: Path = ROOT) -> Tree:
    """The checkout at `root`: as git says, else as its stamp file says, else unknown."""
    commit = _git("rev-parse", "HEAD", folder=root)
    if commit:
        listed = _git("status", "--porcelain", "--untracked-files=no", folder=root)
        return Tree(commit, bool(listed))
    try:
        stamp = json.loads((root / STAMP).read_text(encoding="utf-8"))
        changed = stamp["changed"] or stamp["sources"] != digest(root)
        return Tree(str(stamp["commit"]), bool(changed))
    except (OSError, ValueError, KeyError, TypeError):
        return Tree(UNKNOWN, False)


def write_stamp(root: Path = ROOT) -> Path:
    """Write what git says of `root` to its stamp file, with a digest of the sources, so that a
    change made afterwards shows. Raises ConfigError where git says nothing.
    """
    if not _git("rev-parse", "HEAD", folder=root):
        raise ConfigError(f"{root} is no git checkout: there is no commit to write down.")
    path = root / STAMP
    data = {**asdict(tree(root)), "sources": digest(root)}
    path.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    return path


def digest(root: Path) -> str:
    """SHA-256 over the names and bytes of all Python files of the package under `root`."""
    total = hashlib.sha256()
    for file in sorted((root / PACKAGE.name).rglob("*.py")):
        total.update(str(file.relative_to(root)).encode() + b"\0" + file.read_bytes() + b"\0")
    return total.hexdigest()


def require_citable(path: Path, found: Tree | None = None) -> None:
    """Raise ConfigError for a file under docs/results unless the tree is clean and known.

    found: the tree, where it has been looked at already.
    """
    folders = path.resolve().parent.parts
    inside = any(folders[i : i + 2] == CITED.parts for i in range(len(folders)))
    if not inside:
        return
    found = found or tree()
    if found.commit == UNKNOWN:
        raise ConfigError(
            f"{path} is for results that are cited, and the commit is unknown: no git here, and no"
            f" {STAMP}. Write one with tools/write_stamp.py in the checkout that this is a copy of,"
            " or write the results elsewhere."
        )
    if found.changed:
        raise ConfigError(
            f"{path} is for results that are cited, and the tree differs from commit"
            f" {found.commit[:12]}: commit first, or write the results elsewhere."
        )


class ResultFile:
    """One result file, written again and again while its rows come in; complete JSON each time.

    The provenance is that of the start, for that code runs. Raises ConfigError under docs/results
    unless the tree is clean and known.
    """

    def __init__(self, path: str | Path, device: str, seed: int | None = None) -> None:
        self.path = Path(path)
        self.provenance = provenance(device, seed)
        require_citable(self.path)

    def write(self, results: Mapping[str, Any], complete: bool = True) -> Path:
        """Replace the file by these results; complete: no more rows will come."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        data = {"provenance": self.provenance, "complete": complete, **results}
        part = self.path.with_name(f".{self.path.name}.part")
        part.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
        return part.replace(self.path)


def write_results(
    path: str | Path, results: Mapping[str, Any], device: str, seed: int | None = None
) -> Path:
    """Write `results` with their provenance as JSON; returns the path. Raises as ResultFile."""
    return ResultFile(path, device, seed).write(results)


def provenance(device: str, seed: int | None = None) -> dict[str, Any]:
    """Commit (with `+changes` where the tree differs), digest of the sources (which says what ran
    also where a commit's name is lost), versions, machine, time, seed.
    """
    return {
        "commit": str(tree()),
        "sources": digest(ROOT),
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


def _git(*args: str, folder: Path) -> str:
    """What git prints; empty where there is no git or `folder` is no checkout's root."""
    if not (folder / ".git").exists():
        return ""
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
