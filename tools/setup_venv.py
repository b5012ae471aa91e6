#!/usr/bin/env python3
"""Make the virtual environment: Python packages, ROS 2 wheels, our interfaces, the `ada3d` command.

`make setup` calls this. Each step leaves a stamp of what it was made from under VENV/.setup, so a
second run repeats only what changed. Needs nothing but the standard library, and syntax old enough
that an old Python can say so. Here is what the machine must have; the steps are in venv_steps.py.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

from venv_steps import ROOT, Setup, SetupError

DISTRIBUTIONS = ("jazzy", "kilted")
# numpy, scipy and transformers of today need 3.11; ROS wheels end at 3.13.
OLDEST, NEWEST = (3, 11), (3, 13)
OLDEST_CMAKE = (3, 16)


# --- what the machine must have


def check_python() -> None:
    """This interpreter becomes the environment's: its version, headers and venv module."""
    # Its version; another one that would do is named.
    version = sys.version_info[:2]
    if not OLDEST <= version <= NEWEST:
        names = [f"python3.{minor}" for minor in (13, 12, 11)]
        found = [name for name in names if shutil.which(name)]
        hint = "Install one and name it: make setup PYTHON=python3.12"
        if found:
            hint = f"Found {found[0]}: make setup PYTHON={found[0]}"
        raise SetupError(
            f"Python 3.11, 3.12 or 3.13 is needed; {sys.executable} is {platform.python_version()}."
            f" {hint}"
        )

    # What some distributions keep in packages of their own.
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        raise SetupError(
            f"{sys.executable} has no venv module (Debian, Ubuntu: apt install python3-venv)."
        ) from None
    header = Path(sysconfig.get_path("include")) / "Python.h"
    if not header.is_file():
        raise SetupError(
            f"{header} is missing: the interfaces are compiled (Debian, Ubuntu: apt install"
            " python3-dev)."
        )


def check_machine() -> None:
    """The wheels are for x86-64 Linux."""
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise SetupError(
            f"ROS 2 wheels exist for x86-64 Linux only, this is {platform.system()}"
            f" {platform.machine()}. Use a ROS distribution: docs/how-to/install.md, 'With a ROS"
            " distribution'."
        )


def check_build_tools() -> None:
    """cmake and a C and a C++ compiler."""
    # Are they there?
    compilers = (os.environ.get("CC") or "cc", os.environ.get("CXX") or "c++")
    missing = [name for name in ("cmake", "make", *compilers) if not shutil.which(name.split()[0])]
    if missing:
        raise SetupError(
            f"not found on PATH: {', '.join(missing)}. The ROS interfaces are compiled "
            "(Debian, Ubuntu: apt install cmake build-essential)."
        )

    # Is cmake new enough?
    done = subprocess.run(["cmake", "--version"], stdout=subprocess.PIPE, text=True, check=True)
    found = re.search(r"(\d+)\.(\d+)", done.stdout)
    if found is None or (int(found.group(1)), int(found.group(2))) < OLDEST_CMAKE:
        raise SetupError(
            f"cmake {OLDEST_CMAKE[0]}.{OLDEST_CMAKE[1]} or newer is needed; found:"
            f" {done.stdout.splitlines()[0]}."
        )


def check_no_distribution() -> None:
    """A sourced ROS distribution and the wheels would load each other's libraries."""
    for prefix in filter(None, os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)):
        is_wheels = (Path(prefix) / "pyvenv.cfg").is_file()
        if prefix.startswith("/opt/ros") or (
            Path(prefix, "share", "rclpy").is_dir() and not is_wheels
        ):
            raise SetupError(
                f"this shell has a ROS distribution sourced (AMENT_PREFIX_PATH names {prefix}), and"
                " its libraries must not be mixed with ROS 2 from wheels. Either use it:"
                " docs/how-to/install.md, 'With a ROS distribution'. Or go on without it: open a"
                " shell"
                " that does not source it, or run\n    env -u AMENT_PREFIX_PATH -u ROS_DISTRO -u"
                " PYTHONPATH -u LD_LIBRARY_PATH make setup"
            )


def parse_arguments() -> argparse.Namespace:
    """The command line; `make setup` fills it in."""
    description = "Make or update the virtual environment (`make setup`)."
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv", help="its folder")
    distributions = f"which ROS 2: {' or '.join(DISTRIBUTIONS)}"
    parser.add_argument("--ros-distro", default="jazzy", help=distributions)
    # What is rarely given.
    parser.add_argument(
        "--torch-index",
        default="",
        help="package index for torch alone, for another CPU or CUDA build",
    )
    parser.add_argument(
        "--rebuild-interfaces",
        action="store_true",
        help="build the interfaces even if nothing changed",
    )
    return parser.parse_args()


def set_up(arguments: argparse.Namespace) -> bool:
    """Check the machine and run every step that is due. Returns whether any was."""
    # What would fail late is asked first.
    check_no_distribution()
    if arguments.ros_distro not in DISTRIBUTIONS:
        raise SetupError(
            f"ROS_DISTRO={arguments.ros_distro}: choose one of {', '.join(DISTRIBUTIONS)}."
        )
    check_machine()
    check_python()
    check_build_tools()
    venv = Path(os.path.abspath(arguments.venv))
    setup = Setup(venv, arguments.ros_distro, arguments.torch_index)

    # Two `make` at once: the second waits and finds nothing to do.
    lock = os.open(ROOT, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    setup.make_venv()
    setup.check_distribution()
    if arguments.rebuild_interfaces:
        for name in ("interfaces", "tf2_msgs"):
            (setup.stamps / f"{name}.stamp").unlink(missing_ok=True)
    setup.install_torch()
    setup.install_packages()
    setup.install_package()
    setup.install_tf2_msgs()
    setup.install_interfaces()
    if setup.changed:
        setup.check()
    os.close(lock)
    return setup.changed


def main() -> int:
    """Exit status 0, or 1 with a text that says what to do."""
    arguments = parse_arguments()
    start = time.monotonic()
    try:
        changed = set_up(arguments)
    except SetupError as error:
        print(f"\nsetup: {error}", file=sys.stderr)
        return 1
    state = "ready" if changed else "up to date"
    print(
        f"-- {arguments.venv} is {state}: ROS 2 {arguments.ros_distro},"
        f" {time.monotonic() - start:.1f} s"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
