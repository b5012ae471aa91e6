"""Record what rosdistro says of every key in package.xml: test/data/rosdep_keys.json.

`python tools/write_rosdep_keys.py CHECKOUT` with a checkout of ros/rosdistro; CHECKOUT may be bare.
The test needs no network then: it compares package.xml with the file.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "test" / "data" / "rosdep_keys.json"
DISTRIBUTIONS = ("jazzy", "kilted")
RULES = ("rosdep/base.yaml", "rosdep/python.yaml")


def keys_of_package() -> list[str]:
    """All names that package.xml depends on, sorted."""
    elements = ET.parse(ROOT / "package.xml").getroot()
    return sorted({str(e.text).strip() for e in elements if e.tag.endswith("depend")})


def read_yaml(checkout: str, path: str) -> dict[str, Any]:
    """One file of the newest commit of the checkout."""
    command = ["git", "-C", checkout, "show", f"HEAD:{path}"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return dict(yaml.safe_load(text))


def released(distribution: dict[str, Any]) -> set[str]:
    """Names of all packages of a distribution that have a release."""
    names: set[str] = set()
    for name, repository in distribution["repositories"].items():
        if "release" in repository:
            names |= set(repository["release"].get("packages", [name]))
    return names


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkout", help="folder of ros/rosdistro")
    checkout = parser.parse_args().checkout

    rules: dict[str, Any] = {}
    for path in RULES:
        rules |= read_yaml(checkout, path)
    packages = {
        name: released(read_yaml(checkout, f"{name}/distribution.yaml")) for name in DISTRIBUTIONS
    }
    found: dict[str, Any] = {}
    for key in keys_of_package():
        if key in rules:
            found[key] = {"ubuntu": rules[key].get("ubuntu")}
        else:
            found[key] = {"released": [name for name in DISTRIBUTIONS if key in packages[name]]}

    log = ["git", "-C", checkout, "log", "-1", "--format=%H %cs"]
    commit, date = subprocess.run(log, capture_output=True, text=True, check=True).stdout.split()
    content = {"source": "ros/rosdistro", "commit": commit, "date": date, "keys": found}
    RESULT.write_text(json.dumps(content, indent=1) + "\n")
    print(f"wrote {RESULT}: {len(found)} keys at {commit[:8]} of {date}")


if __name__ == "__main__":
    main()
