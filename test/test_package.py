"""The package as installed: what `ada3d` runs, one version, the numbers of the interfaces."""

import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from enum import Enum
from pathlib import Path

import pytest

import ada3d_ros
from ada3d_ros.cli import VERBS
from ada3d_ros.errors import Ada3DError, ErrorCode
from ada3d_ros.measures import MeasureKind
from ada3d_ros.types import AnswerMethod, GroundingMethod, Scope, Stage, StopReason

ROOT = Path(__file__).resolve().parents[1]
INTERFACES = sorted(f for folder in ("msg", "srv", "action") for f in (ROOT / folder).iterdir())
# Numbers that need a unit or a range beside them.
MEASURE = re.compile(r"^(float32|float64)(\[\])? +\w+")
UNIT = re.compile(
    r"metre|second|\bms\b|millisecond|MiB|\d\.\.\d|bytes|multiply|mean"
    r" over|asked|same|probability|hertz|share"
)
UNIT_IN_NAME = re.compile(r"_(m|s|ms|sec|ns|px|rad|hz|mib|bytes|flops)$")


def constants(file: str, prefix: str = "") -> dict[str, int]:
    """The constants of an interface file whose name begins with `prefix`, without it."""
    found = re.findall(rf"^\w+ {prefix}(\w+)=(\d+)", (ROOT / file).read_text(), re.MULTILINE)
    return {name: int(value) for name, value in found}


def members(enum: type[Enum]) -> dict[str, int]:
    """An enum's names and numbers."""
    return {name: member.value for name, member in enum.__members__.items()}


def clean_env() -> dict[str, str]:
    """The environment without folders that would be searched before the installed ones."""
    return {
        key: value
        for key, value in os.environ.items()
        if key not in ("PYTHONPATH", "AMENT_PREFIX_PATH")
    }


@pytest.fixture(scope="module")
def script() -> Path:
    path = Path(sys.prefix) / "bin" / "ada3d"
    if not path.is_file():
        pytest.skip(f"{path} is absent: not installed by `make setup`")
    return path


def test_the_script_runs_the_checkout(script: Path, tmp_path: Path) -> None:
    """Every module comes from this folder: a copy elsewhere would win over the source silently."""
    # Ask the script's own interpreter, away from the checkout.
    parts = ["", *(f".{f.stem}" for f in (ROOT / "ada3d_ros").glob("[a-z]*.py"))]
    parts += [f".{f.parent.name}" for f in (ROOT / "ada3d_ros").glob("*/__init__.py")]
    code = (
        "import importlib.util as u, os\n"
        f"for part in {parts}: print(os.path.realpath(u.find_spec('ada3d_ros' + part).origin))\n"
    )
    interpreter = script.read_text().splitlines()[0].removeprefix("#!")
    done = subprocess.run(
        [interpreter, "-c", code], cwd=tmp_path, env=clean_env(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    strangers = [
        line
        for line in done.stdout.splitlines()
        if not line.startswith(f"{ROOT}{os.sep}ada3d_ros{os.sep}")
    ]
    assert not strangers, f"run `make setup`: these come from elsewhere: {strangers}"
    assert "from ada3d_ros.__main__ import run" in script.read_text()


def test_the_script_knows_its_version(script: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [script, "--version"], cwd=tmp_path, env=clean_env(), capture_output=True, text=True
    )
    assert (done.returncode, done.stdout.strip()) == (0, ada3d_ros.__version__), done.stderr


@pytest.mark.parametrize(
    "name", sorted(f.name for f in (ROOT / "scripts").iterdir() if f.is_file())
)
def test_ros2_run_scripts_are_verbs(name: str) -> None:
    """What `ros2 run ada3d_ros NAME` executes is installed by CMake, and a verb of `ada3d`."""
    file = ROOT / "scripts" / name
    assert os.access(file, os.X_OK)
    assert f"scripts/{name}" in (ROOT / "CMakeLists.txt").read_text()
    assert name == "ada3d" or (
        name in VERBS and f'run(["{name}", *sys.argv[1:]])' in file.read_text()
    )


def test_a_ros2_run_script_starts(tmp_path: Path) -> None:
    command = [sys.executable, ROOT / "scripts" / "ada3d", "--help"]
    # Installed or not.
    folders = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    env = {**os.environ, "PYTHONPATH": folders}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "ada3d <verb>" in done.stdout


def test_one_version() -> None:
    declared = ET.parse(ROOT / "package.xml").getroot().findtext("version")
    command = [sys.executable, "-W", "ignore", "setup.py", "--version"]
    from_setup = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()[-1]
    assert ada3d_ros.__version__ == declared == from_setup


@pytest.mark.parametrize(
    ("record", "version"),
    [
        ("dist-info", "9.8.7"),  # a wheel over what colcon or `make setup` left in share/
        ("egg-info", "0.0.1"),  # colcon's, perhaps of before: package.xml is newer
        ("", "0.0.1"),
    ],
)
def test_which_version_an_installed_package_has(tmp_path: Path, record: str, version: str) -> None:
    packages, share = tmp_path / "lib" / "python3" / "site-packages", tmp_path / "share"
    (packages / "ada3d_ros").mkdir(parents=True)
    shutil.copy(ROOT / "ada3d_ros" / "__init__.py", packages / "ada3d_ros")
    (share / "ada3d_ros").mkdir(parents=True)
    (share / "ada3d_ros" / "package.xml").write_text(
        "<package><name>ada3d_ros</name><version>0.0.1</version></package>"
    )
    if record:
        (packages / f"ada3d_ros-9.8.7.{record}").mkdir()
        for name in ("METADATA", "PKG-INFO"):
            file = packages / f"ada3d_ros-9.8.7.{record}" / name
            file.write_text("Metadata-Version: 2.1\nName: ada3d_ros\nVersion: 9.8.7\n")
    code = "import ada3d_ros; print(ada3d_ros.__version__)"
    env = clean_env() | {"PYTHONPATH": str(packages)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert done.stdout.strip() == version, done.stderr


def test_every_interface_is_built() -> None:
    cmake = (ROOT / "CMakeLists.txt").read_text()
    listed = re.findall(r"^  ((?:msg|srv|action)/\w+\.\w+)$", cmake, re.MULTILINE)
    assert listed == sorted(
        listed, key=lambda f: (["msg", "srv", "action"].index(f.split("/")[0]), f)
    )
    assert sorted(listed) == sorted(str(f.relative_to(ROOT)) for f in INTERFACES)


@pytest.mark.parametrize(
    ("file", "prefix", "enum"),
    [
        ("msg/ErrorCode.msg", "", ErrorCode),
        ("msg/Answer.msg", "STOP_", StopReason),
        ("msg/Answer.msg", "METHOD_", AnswerMethod),
        ("msg/Measurement.msg", "", MeasureKind),
        ("msg/GroundedBox.msg", "METHOD_", GroundingMethod),
        ("srv/QueryScene.srv", "SCOPE_", Scope),
        ("action/AskScene.action", "", Stage),
    ],
)
def test_numbers_agree_with_the_interfaces(file: str, prefix: str, enum: type[Enum]) -> None:
    assert members(enum) == constants(file, prefix)


def test_every_error_code_is_of_some_error_class() -> None:
    """A code that nothing raises would never reach a caller; NONE is success, UNKNOWN the base."""
    raised: set[ErrorCode] = set()
    classes: list[type[Ada3DError]] = [Ada3DError]
    while classes:
        cls = classes.pop()
        raised.add(cls.code)
        classes += cls.__subclasses__()
    assert raised == set(ErrorCode) - {ErrorCode.NONE}


@pytest.mark.parametrize("file", INTERFACES, ids=lambda f: f.name)
def test_interfaces_say_their_units(file: Path) -> None:
    """Every float has its unit or range in its name or in the comment beside it."""
    bare = []
    for line in file.read_text().splitlines():
        declaration, _, comment = line.partition("#")
        name = declaration.split()[1] if MEASURE.match(declaration) else ""
        if name and not UNIT.search(comment) and not UNIT_IN_NAME.search(name):
            bare.append(line)
    assert not bare, f"{file.name}: no unit: {bare}"


def test_a_package_has_one_version_in_all_constraints() -> None:
    """The page and the server of a fleet can be installed side by side."""
    pins: dict[str, set[str]] = {}
    for name in ("python.txt", "serve.txt", "web.txt"):
        for line in (ROOT / "constraints" / name).read_text().splitlines():
            if match := re.match(r"([\w.-]+)==(\S+)$", line):
                pins.setdefault(match[1].lower().replace("_", "-"), set()).add(match[2])
    assert {name: versions for name, versions in pins.items() if len(versions) > 1} == {}
    assert pins["nicegui"] == set(re.findall(r"nicegui==([\d.]+)", (ROOT / "setup.py").read_text()))


def test_no_package_registry_is_named() -> None:
    """pip's configuration chooses the registry; a host name would override a robot's mirror."""
    files = [
        *(ROOT / "constraints").iterdir(),
        ROOT / "Makefile",
        *(ROOT / "tools").glob("*venv*.py"),
        ROOT / ".ci" / "run",
    ]
    assert not [
        f.name
        for f in files
        if re.search(r"https?://|--(extra-)?index-url=?\s+\w|pypi\.", f.read_text())
    ]


def test_the_licence_is_whole() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text
    assert all(f"\n   {n}. " in text for n in range(1, 10))
    assert "END OF TERMS AND CONDITIONS" in text
    assert ET.parse(ROOT / "package.xml").getroot().findtext("license") == "Apache-2.0"
