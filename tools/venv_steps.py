"""The steps of `make setup`: one virtual environment with Python packages, ROS 2 and our messages.

setup_venv.py calls them. Needs nothing but the standard library.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
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


def digest(files: Iterable[Path]) -> str:
    """One hash over the files' contents."""
    total = hashlib.sha256()
    for file in files:
        total.update(file.read_bytes() + b"\0")
    return total.hexdigest()


def relative_names(files: Iterable[Path]) -> str:
    """The files' names in the checkout, a line each."""
    return "\n".join(str(file.relative_to(ROOT)) for file in files)


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
        # From the stamps' folder: ament leaves a manifest where it is called.
        path = self.stamps / f"{log}.log"
        words = [str(word) for word in command]
        with path.open("a") as out:
            out.write(f"$ {' '.join(words)}\n")
            out.flush()
            done = subprocess.run(
                words,
                cwd=self.stamps,
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
        pip = (self.python, "-m", "pip", "install", "--disable-pip-version-check")
        self.run(*pip, *arguments, log="pip")

    # --- the steps

    def make_venv(self) -> None:
        """Create the environment; take over one that a person made with the same Python."""
        base_python = os.path.realpath(sys.executable)
        wanted = f"{platform.python_version()} {base_python} {self.venv}"
        config, stamp = self.venv / "pyvenv.cfg", self.stamps / "venv.stamp"

        # Remove one of ours that no longer fits; never touch what is not ours.
        if stamp.is_file() and stamp.read_text() != wanted:
            why = "was made by another Python or in another place: making it anew"
            print(f"-- {self.venv} {why}", flush=True)
            shutil.rmtree(self.venv)
        elif config.is_file() and not self.matches_this_python():
            raise SetupError(
                f"{self.venv} is of another Python and not made by `make setup`: remove it, or"
                " choose another with VENV=."
            )
        elif not config.is_file() and self.has_foreign_files():
            raise SetupError(
                f"{self.venv} exists and is not a virtual environment: choose another folder with"
                " VENV=."
            )

        # Create it; the Makefile stays with the Python that is noted here.
        self.stamps.mkdir(parents=True, exist_ok=True)
        with self.step("venv", f"virtual environment {self.venv}", wanted) as needed:
            if needed and not config.is_file():
                self.run(sys.executable, "-m", "venv", self.venv, log="venv")
        (self.stamps / "base-python").write_text(base_python)

    def has_foreign_files(self) -> bool:
        """Whether the folder holds anything but our stamps."""
        return self.venv.exists() and any(f.name != ".setup" for f in self.venv.iterdir())

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
        title = f"{pin.group()} from {self.torch_index}"
        with self.step("torch", title, f"{pin.group()} {self.torch_index}") as needed:
            if needed:
                options = ("--index-url", self.torch_index, "--force-reinstall", "--no-deps")
                self.pip_install(*options, pin.group())

    def install_packages(self) -> None:
        """Everything of the constraints files, in one go."""
        folder = ROOT / "constraints"
        names = "python.txt", "serve.txt", "web.txt", "docs.txt", f"ros-{self.distribution}.txt"
        files = [folder / name for name in names]
        arguments: list[object] = [word for file in files for word in ("-r", file)]

        # A torch from another index has libraries of its own.
        has_own_torch = self.torch_index or (self.stamps / "torch.stamp").is_file()
        if not has_own_torch:
            files.append(folder / "torch-cuda.txt")
            arguments += ["-c", files[-1]]

        # Interfaces are compiled against these packages: with others they are built anew.
        sizes = "torch alone is 0.2 GB for CPU, 3 GB for CUDA; ray 0.4 GB"
        title = f"Python packages and ROS 2 {self.distribution} ({sizes})"
        with self.step("packages", title, digest(files)) as needed:
            if needed:
                for name in ("interfaces", "tf2_msgs"):
                    (self.stamps / f"{name}.stamp").unlink(missing_ok=True)
                self.pip_install("--no-compile", *arguments)
                self.compile_packages()
                self.mend_cmake_files()

    def compile_packages(self) -> None:
        """Bytecode of the packages, on all cores: pip writes it on one (decision 235)."""
        program = (
            "import compileall, re, sys; unused = re.compile('site-packages/.*/tests?/');"
            " compileall.compile_dir(sys.argv[1], rx=unused, quiet=2, workers=0)"
        )
        self.run(self.python, "-c", program, self.site_packages(), log="pip")

    def mend_cmake_files(self) -> None:
        """Put this Python's and numpy's include folders where the wheels name their builder's."""
        # Ask the environment's own interpreter.
        query = (
            "import numpy, sysconfig; print(sysconfig.get_path('include'));"
            " print(numpy.get_include())"
        )
        ask = [str(self.python), "-c", query]
        done = subprocess.run(ask, env=self.env, stdout=subprocess.PIPE, text=True, check=True)
        python_include, numpy_include = done.stdout.splitlines()

        # Both stand in the CMake files that the wheels export.
        for file in (self.venv / "share").glob("*/cmake/*.cmake"):
            text = file.read_text()
            mended = BUILDER_NUMPY.sub(lambda _: numpy_include, text)
            mended = BUILDER_PYTHON.sub(lambda _: python_include, mended)
            if mended != text:
                file.write_text(mended)

    def install_package(self) -> None:
        """`ada3d` on the environment's PATH, running this checkout's files."""
        files = [ROOT / "setup.py", ROOT / "package.xml", ROOT / "pyproject.toml"]
        with self.step("package", "the ada3d command", f"{ROOT} {digest(files)}") as needed:
            if needed:
                # compat: a path file, so that modules added later are found too.
                options = ("--no-deps", "--no-build-isolation")
                compat = ("--config-settings", "editable_mode=compat")
                self.pip_install("--editable", ROOT, *options, *compat)

    def install_interfaces(self) -> None:
        """Generate, compile and install ada3d_ros.msg, .srv and .action into the environment."""
        # What is compiled by its contents, what is linked to by its name.
        sources = sorted(f for folder in INTERFACE_FOLDERS for f in (ROOT / folder).glob("*.*"))
        folders = [ROOT / name for name in ("launch", "config", "scripts")]
        linked = sorted(f for folder in folders for f in folder.rglob("*") if f.is_file())
        contents = digest([*sources, ROOT / "CMakeLists.txt", ROOT / "package.xml"])
        made_from = f"{ROOT} {contents}\n{relative_names(sources + linked)}"

        title = "the ROS interfaces (compiled, under a minute)"
        with self.step("interfaces", title, made_from) as needed:
            if needed:
                self.forget_removed_interfaces(sources)
                self.build_interfaces()

    def forget_removed_interfaces(self, sources: list[Path]) -> None:
        """Start afresh where the set of interfaces changed, so that no removed one lives on."""
        listing, names = self.stamps / "interfaces.txt", relative_names(sources)
        if listing.is_file() and listing.read_text() != names:
            parents = [self.site_packages(), *(self.venv / p for p in ("share", "lib", "include"))]
            for folder in (self.build_dir, *(parent / "ada3d_ros" for parent in parents)):
                shutil.rmtree(folder, ignore_errors=True)
        listing.write_text(names)

    def install_tf2_msgs(self) -> None:
        """The message of /tf, which has no wheel: as ros2/geometry2 defines it."""
        source = ROOT / "interfaces" / "tf2_msgs"
        files = sorted(f for f in source.rglob("*") if f.is_file())
        with self.step("tf2_msgs", "the message of /tf (tf2_msgs)", digest(files)) as needed:
            if needed:
                self.build_and_install(source, self.stamps / "build-tf2_msgs", "tf2_msgs")

    def build_interfaces(self) -> None:
        """Build, with links to the checkout."""
        (self.stamps / "interfaces.log").unlink(missing_ok=True)
        links = {"AMENT_CMAKE_SYMLINK_INSTALL": 1, "INSTALL_PYTHON_MODULES": "OFF"}
        self.build_and_install(ROOT, self.build_dir, "interfaces", links)

        # A second metadata folder beside pip's: pip would take the generated modules for its own
        # and remove them.
        for egg in self.site_packages().glob("ada3d_ros-*.egg-info"):
            shutil.rmtree(egg)

    def build_and_install(
        self, source: Path, build_dir: Path, log: str, definitions: dict[str, object] | None = None
    ) -> None:
        """cmake: configure, build, install into the environment."""
        env = {"AMENT_PREFIX_PATH": str(self.venv), "CMAKE_PREFIX_PATH": str(self.venv)}
        values = {
            "CMAKE_INSTALL_PREFIX": self.venv,
            "Python3_EXECUTABLE": self.python,
            "BUILD_TESTING": "OFF",
            **(definitions or {}),
        }
        options = [f"-D{name}={value}" for name, value in values.items()]
        for command in (
            ("-S", source, "-B", build_dir, *options),
            ("--build", build_dir, "-j", os.cpu_count() or 1),
            ("--install", build_dir),
        ):
            self.run("cmake", *command, log=log, extra_env=env)

    def site_packages(self) -> Path:
        """Where this Python's packages lie in the environment."""
        return self.venv / "lib" / f"python3.{sys.version_info[1]}" / "site-packages"

    def check(self) -> None:
        """Import what was made, from another folder."""
        probe = (
            "from ada3d_ros.msg import Answer; from ada3d_ros.srv import QueryScene;"
            " from ada3d_ros.action import AskScene; import ada3d_ros.types;"
            " from tf2_msgs.msg import TFMessage"
        )
        self.run(self.python, "-c", probe, log="check")
