"""The packages that tools/gpu_check.sh names are all that its steps need."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from test.support.sources import ROOT

# Refuses the top-level modules of every installed distribution that is neither named nor needed by
# one that is, as if it were not installed; what belongs to no distribution stays.
BARE = """
import importlib.metadata as metadata, re, sys
from packaging.requirements import Requirement

def key(name):
    return re.sub(r"[-_.]+", "-", name).lower()

kept, waiting = set(), sys.argv[1].split()
while waiting:
    name = key(waiting.pop())
    if name in kept:
        continue
    kept.add(name)
    try:
        required = metadata.requires(name) or []
    except metadata.PackageNotFoundError:
        continue
    for text in required:
        one = Requirement(text)
        if one.marker is None or one.marker.evaluate({"extra": ""}):
            waiting.append(one.name)
owners = metadata.packages_distributions()
ours = {"ada3d_ros", "test"}

class Bare:
    # One of the finders there were, which finds nothing of what is absent.
    def __init__(self, finder):
        self._finder = finder

    def __getattr__(self, name):
        return getattr(self._finder, name)

    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        owned = {key(owner) for owner in owners.get(top, ())}
        absent = bool(owned) and not owned & kept and top not in ours
        return None if absent else self._finder.find_spec(name, path, target)

sys.meta_path = [Bare(finder) for finder in sys.meta_path]
sys.argv = sys.argv[1:]
exec(sys.argv[1])
"""


def needed() -> str:
    """As the script names them."""
    text = (ROOT / "tools" / "gpu_check.sh").read_text(encoding="utf-8")
    found = re.search(r'^needed="(.*)"$', text, re.MULTILINE)
    assert found is not None
    return found[1]


def bare(program: str, packages: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run where nothing but these packages is installed, one thread."""
    return subprocess.run(
        [sys.executable, "-c", BARE, needed() if packages is None else packages, program],
        cwd=ROOT,
        env=os.environ
        | {
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(ROOT),
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        },
        capture_output=True,
        text=True,
        timeout=300,
    )


STEPS = {
    "suites": """
import importlib
from ada3d_ros.lab.benchmarks.bench import SUITES
for name in SUITES:
    importlib.import_module(f"ada3d_ros.lab.benchmarks.{name.replace('-', '_')}")
""",
    "same": """
from ada3d_ros.lab.benchmarks.bench import main
raise SystemExit(main(["--suite", "same", "--device", "cpu", "--repetitions", "1"]))
""",
    "tests marked gpu": """
import pytest, subprocess
files = subprocess.run(["grep", "-rl", "--include=test_*.py", r"mark\\.gpu", "test"],
                       capture_output=True, text=True).stdout.split()
assert len(files) >= 4
plugins = ["-p", "no:cacheprovider"]
raise SystemExit(pytest.main(["-q", "--collect-only", "-m", "gpu", *plugins, *files]))
""",
}


@pytest.mark.parametrize("step", STEPS)
def test_steps_run_with_the_named_packages_alone(step: str) -> None:
    done = bare(STEPS[step])
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_package_that_is_not_named_is_absent() -> None:
    """Else the tests above say nothing."""
    names = ["rosbags", "torchao", "matplotlib", "rclpy", "torch", "PIL"]
    program = f"""
import importlib.util
print(*(name for name in {names} if importlib.util.find_spec(name)))
"""
    assert bare(program).stdout.split() == ["torch", "PIL"]
    verb = "from ada3d_ros.cli import main; raise SystemExit(main(['bench', '--suite', 'same']))"
    without = bare(verb, needed().replace("pillow", ""))
    assert without.returncode == 2
    assert "needs the Python package pillow" in without.stderr
