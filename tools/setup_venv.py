#!/usr/bin/env python3
"""Make the virtual environment: Python packages, ROS 2 from wheels, our interfaces and the `ada3d`
command.

`make setup` calls this. Each step leaves a stamp of what it was made from under VENV/.setup, so a
second run repeats only what changed. Needs nothing but the standard library, and syntax old enough
that an old Python can say so.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DISTRIBUTIONS = ("jazzy", "kilted")
OLDEST, NEWEST = (
    (3, 11),
    (3, 13),
)  # numpy, scipy and transformers of today need 3.11; ROS wheels end at 3.13
OLDEST_CMAKE = (3, 16)
INTERFACE_FOLDERS = ("msg", "srv", "action")
# Left by another virtual environment, a sourced workspace or a wheel's start-up hook: they would be
# loaded instead of ours.
FOREIGN_VARIABLES = (
    "_ROS_WHEELS_BOOTSTRAP_COMPLETE",
    "AMENT_PREFIX_PATH",
    "CMAKE_PREFIX_PATH",
    "COLCON_PREFIX_PATH",
    "LD_LIBRARY_PATH",
    "PYTHONHOME",
    "PYTHONPATH",
)
# Folders of the machine the wheels were built on, as they stand in their exported CMake files.
BUILDER_NUMPY = re.compile(
    r"/opt/python/cp\d+-cp\d+/lib/python3\.\d+/site-packages/numpy/_core/include"
)
BUILDER_PYTHON = re.compile(r"/opt/python/cp\d+-cp\d+/include/python3\.\d+")


class SetupError(Exception):
    """Something on this machine is missing or in the way; the text says what to do."""


# --- what the machine must have


def check_python() -> None:
    """This interpreter becomes the environment's: its version, headers and venv module."""
    version = sys.version_info[:2]
    if not OLDEST <= version <= NEWEST:
        found = [
            name for minor in (13, 12, 11) for name in [f"python3.{minor}"] if shutil.which(name)
        ]
        hint = (
            f"Found {found[0]}: make setup PYTHON={found[0]}"
            if found
            else "Install one and name it: make setup PYTHON=python3.12"
        )
        raise SetupError(
            f"Python 3.11, 3.12 or 3.13 is needed; {sys.executable} is {platform.python_version()}."
            f" {hint}"
        )
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
    compilers = (os.environ.get("CC") or "cc", os.environ.get("CXX") or "c++")
    missing = [name for name in ("cmake", "make", *compilers) if not shutil.which(name.split()[0])]
    if missing:
        raise SetupError(
            f"not found on PATH: {', '.join(missing)}. The ROS interfaces are compiled "
            "(Debian, Ubuntu: apt install cmake build-essential)."
        )
    words = subprocess.run(
        ["cmake", "--version"], stdout=subprocess.PIPE, text=True, check=True
    ).stdout
    found = re.search(r"(\d+)\.(\d+)", words)
    if found is None or (int(found.group(1)), int(found.group(2))) < OLDEST_CMAKE:
        raise SetupError(
            f"cmake {OLDEST_CMAKE[0]}.{OLDEST_CMAKE[1]} or newer is needed; found:"
            f" {words.splitlines()[0]}."
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
                " shell that does not source it, or run\n    env -u AMENT_PREFIX_PATH -u ROS_DISTRO -u"
                " PYTHONPATH -u LD_LIBRARY_PATH make setup"
            )


# --- running things


class Setup:
    """One environment: its folder, its stamps, and the steps that make it."""

    def __init__(self, venv: Path, distribution: str, torch_index: str) -> None:
        self.venv = venv
        self.python = venv / "bin" / "python"
        self.stamps = venv / ".setup"
        self.build_dir = self.stamps / "build"
        self.distribution = distribution
        self.torch_index = torch_index
        self.changed = False
        self.env = {k: v for k, v in os.environ.items() if k not in FOREIGN_VARIABLES}
        self.env["VIRTUAL_ENV"] = str(venv)
        self.env["PATH"] = f"{venv / 'bin'}{os.pathsep}{os.environ.get('PATH', os.defpath)}"

    @contextlib.contextmanager
    def step(self, name: str, title: str, made_from: str) -> Iterator[bool]:
        """Yield whether the step must run; stamp it when it ends well."""
        stamp = self.stamps / f"{name}.stamp"
        if stamp.is_file() and stamp.read_text() == made_from:
            yield False
            return
        stamp.unlink(missing_ok=True)
        print(f"-- {title} ...", flush=True)
        start = time.monotonic()
        yield True
        stamp.write_text(made_from)
        self.changed = True
        print(f"   {time.monotonic() - start:.0f} s", flush=True)

    def run(self, *command: object, log: str, extra_env: dict[str, str] | None = None) -> str:
        """Run a command with its output in VENV/.setup/<log>.log; on failure show the end of it."""
        path = self.stamps / f"{log}.log"
        words = [str(word) for word in command]
        with path.open("a") as out:
            out.write(f"$ {' '.join(words)}\n")
            out.flush()
            done = subprocess.run(
                words,
                cwd=self.stamps,  # ament leaves a manifest where it is called
                env={**self.env, **(extra_env or {})},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        text = path.read_text(errors="replace")
        if done.returncode != 0:
            tail = "\n".join(text.splitlines()[-40:])
            raise SetupError(f"{words[0]} failed ({done.returncode}). The end of {path}:\n{tail}")
        return text

    def pip_install(self, *arguments: object) -> None:
        """pip install into the environment."""
        self.run(
            self.python,
            "-m",
            "pip",
            "install",
            "--disable-pip-version-check",
            *arguments,
            log="pip",
        )

    # --- the steps

    def make_venv(self) -> None:
        """Create the environment; take over one that a person made with the same Python."""
        wanted = f"{platform.python_version()} {os.path.realpath(sys.executable)} {self.venv}"
        config, stamp = self.venv / "pyvenv.cfg", self.stamps / "venv.stamp"
        if stamp.is_file() and stamp.read_text() != wanted:
            print(
                f"-- {self.venv} was made by another Python or in another place: making it anew",
                flush=True,
            )
            shutil.rmtree(self.venv)
        elif config.is_file() and not self.matches_this_python():
            raise SetupError(
                f"{self.venv} is of another Python and not made by `make setup`: remove it, or"
                " choose another with VENV=."
            )
        elif (
            self.venv.exists()
            and not config.is_file()
            and any(f for f in self.venv.iterdir() if f.name != ".setup")
        ):
            raise SetupError(
                f"{self.venv} exists and is not a virtual environment: choose another folder with"
                " VENV=."
            )
        self.stamps.mkdir(parents=True, exist_ok=True)
        with self.step("venv", f"virtual environment {self.venv}", wanted) as needed:
            if needed and not config.is_file():
                self.run(sys.executable, "-m", "venv", self.venv, log="venv")
        (self.stamps / "base-python").write_text(
            os.path.realpath(sys.executable)
        )  # the Makefile stays with it

    def matches_this_python(self) -> bool:
        """Whether the environment's own interpreter still runs and has this one's version."""
        ask = [str(self.python), "-c", "import platform; print(platform.python_version())"]
        try:
            done = subprocess.run(
                ask, env=self.env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
        except OSError:
            return False
        return done.returncode == 0 and done.stdout.strip() == platform.python_version()

    def check_distribution(self) -> None:
        """One environment holds one ROS distribution: their wheels share file names."""
        note = self.stamps / "ros_distro"
        if note.is_file() and note.read_text() != self.distribution:
            raise SetupError(
                f"{self.venv} holds ROS 2 {note.read_text()}: choose another folder with VENV=, or"
                " remove it."
            )
        note.write_text(self.distribution)

    def install_torch(self) -> None:
        """torch from an index of the user's choice; what it needs comes with the other packages."""
        pins = (ROOT / "constraints" / "python.txt").read_text()
        pin = re.search(r"^torch==\S+$", pins, re.MULTILINE)
        if not self.torch_index or pin is None:
            return
        with self.step(
            "torch", f"{pin.group()} from {self.torch_index}", f"{pin.group()} {self.torch_index}"
        ) as needed:
            if needed:
                self.pip_install(
                    "--index-url", self.torch_index, "--force-reinstall", "--no-deps", pin.group()
                )

    def install_packages(self) -> None:
        """Everything of the constraints files, in one go."""
        folder = ROOT / "constraints"
        files = [folder / "python.txt", folder / f"ros-{self.distribution}.txt"]
        arguments: list[object] = [word for file in files for word in ("-r", file)]
        if not (
            self.torch_index or (self.stamps / "torch.stamp").is_file()
        ):  # another build has libraries of its own
            files.append(folder / "torch-cuda.txt")
            arguments += ["-c", files[-1]]
        title = (
            f"Python packages and ROS 2 {self.distribution} (torch alone is 0.2 GB for CPU, 3 GB"
            " for CUDA)"
        )
        with self.step("packages", title, digest(files)) as needed:
            if needed:
                (self.stamps / "interfaces.stamp").unlink(missing_ok=True)
                self.pip_install(*arguments)
                self.mend_cmake_files()

    def mend_cmake_files(self) -> None:
        """Put this Python's and numpy's include folders where the wheels name their builder's."""
        query = (
            "import numpy, sysconfig; print(sysconfig.get_path('include'));"
            " print(numpy.get_include())"
        )
        done = subprocess.run(
            [str(self.python), "-c", query],
            env=self.env,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        python_include, numpy_include = done.stdout.splitlines()
        for file in (self.venv / "share").glob("*/cmake/*.cmake"):
            text = file.read_text()
            mended = BUILDER_PYTHON.sub(
                lambda _: python_include, BUILDER_NUMPY.sub(lambda _: numpy_include, text)
            )
            if mended != text:
                file.write_text(mended)

    def install_package(self) -> None:
        """`ada3d` on the environment's PATH, running this checkout's files."""
        files = [ROOT / "setup.py", ROOT / "package.xml", ROOT / "pyproject.toml"]
        with self.step("package", "the ada3d command", f"{ROOT} {digest(files)}") as needed:
            if needed:
                # compat: a path file, so that modules added later are found too.
                options = (
                    "--no-deps",
                    "--no-build-isolation",
                    "--config-settings",
                    "editable_mode=compat",
                )
                self.pip_install("--editable", ROOT, *options)

    def install_interfaces(self) -> None:
        """Generate, compile and install ada3d_ros.msg, .srv and .action into the environment."""
        sources = sorted(f for folder in INTERFACE_FOLDERS for f in (ROOT / folder).glob("*.*"))
        linked = sorted(
            f
            for folder in ("launch", "config", "scripts")
            for f in (ROOT / folder).rglob("*")
            if f.is_file()
        )
        names = "\n".join(str(f.relative_to(ROOT)) for f in sources + linked)
        made_from = (
            f"{ROOT} {digest([*sources, ROOT / 'CMakeLists.txt', ROOT / 'package.xml'])}\n{names}"
        )
        with self.step(
            "interfaces", "the ROS interfaces (compiled, under a minute)", made_from
        ) as needed:
            if needed:
                self.forget_removed_interfaces(sources)
                self.build_interfaces()

    def forget_removed_interfaces(self, sources: list[Path]) -> None:
        """Start afresh where the set of interfaces changed, so that no removed one lives on."""
        listing = self.stamps / "interfaces.txt"
        names = "\n".join(str(f.relative_to(ROOT)) for f in sources)
        if listing.is_file() and listing.read_text() != names:
            package = self.site_packages() / "ada3d_ros"
            for folder in (
                self.build_dir,
                package,
                *(self.venv / part / "ada3d_ros" for part in ("share", "lib", "include")),
            ):
                shutil.rmtree(folder, ignore_errors=True)
        listing.write_text(names)

    def build_interfaces(self) -> None:
        """cmake: configure, build, install, with links to the checkout."""
        (self.stamps / "interfaces.log").unlink(missing_ok=True)
        env = {"AMENT_PREFIX_PATH": str(self.venv), "CMAKE_PREFIX_PATH": str(self.venv)}
        definitions = {
            "CMAKE_INSTALL_PREFIX": self.venv,
            "Python3_EXECUTABLE": self.python,
            "AMENT_CMAKE_SYMLINK_INSTALL": 1,
            "INSTALL_PYTHON_MODULES": "OFF",
            "BUILD_TESTING": "OFF",
        }
        options = [f"-D{name}={value}" for name, value in definitions.items()]
        self.run(
            "cmake", "-S", ROOT, "-B", self.build_dir, *options, log="interfaces", extra_env=env
        )
        self.run(
            "cmake",
            "--build",
            self.build_dir,
            "-j",
            os.cpu_count() or 1,
            log="interfaces",
            extra_env=env,
        )
        self.run("cmake", "--install", self.build_dir, log="interfaces", extra_env=env)
        # A second metadata folder beside pip's: pip would take the generated modules for its own
        # and remove them.
        for egg in self.site_packages().glob("ada3d_ros-*.egg-info"):
            shutil.rmtree(egg)

    def site_packages(self) -> Path:
        """Where this Python's packages lie in the environment."""
        return self.venv / "lib" / f"python3.{sys.version_info[1]}" / "site-packages"

    def check(self) -> None:
        """Import what was made, from another folder."""
        probe = (
            "from ada3d_ros.msg import Answer; from ada3d_ros.srv import QueryScene; from"
            " ada3d_ros.action import AskScene"
        )
        self.run(self.python, "-c", f"{probe}; import ada3d_ros.types", log="check")


def digest(files: Iterable[Path]) -> str:
    """One hash over the files' contents."""
    total = hashlib.sha256()
    for file in files:
        total.update(file.read_bytes() + b"\0")
    return total.hexdigest()


def parse_arguments() -> argparse.Namespace:
    """The command line; `make setup` fills it in."""
    parser = argparse.ArgumentParser(
        description="Make or update the virtual environment (`make setup`)."
    )
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv", help="its folder")
    parser.add_argument(
        "--ros-distro", default="jazzy", help=f"which ROS 2: {' or '.join(DISTRIBUTIONS)}"
    )
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
    check_no_distribution()
    if arguments.ros_distro not in DISTRIBUTIONS:
        raise SetupError(
            f"ROS_DISTRO={arguments.ros_distro}: choose one of {', '.join(DISTRIBUTIONS)}."
        )
    check_machine()
    check_python()
    check_build_tools()
    setup = Setup(
        Path(os.path.abspath(arguments.venv)), arguments.ros_distro, arguments.torch_index
    )
    lock = os.open(ROOT, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)  # two `make` at once: the second waits and finds nothing to do
    setup.make_venv()
    setup.check_distribution()
    if arguments.rebuild_interfaces:
        (setup.stamps / "interfaces.stamp").unlink(missing_ok=True)
    setup.install_torch()
    setup.install_packages()
    setup.install_package()
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
