"""What installs the package elsewhere: image, compose file, workflow, wheel, rosdep keys."""

from __future__ import annotations

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
import zipfile
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
DOCKER = ROOT / "docker"
WORKFLOW = ROOT / ".github" / "workflows" / "ci.yml"


def instructions() -> list[tuple[str, str]]:
    """(instruction, what follows) of the Dockerfile, continued lines joined, comments left out."""
    lines = [line for line in (DOCKER / "Dockerfile").read_text().splitlines() if line.strip()]
    text = "\n".join(line for line in lines if not line.startswith("#"))
    joined = re.sub(r"[ \t]*\\\n\s*", " ", text).splitlines()
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in joined]


def of(name: str) -> list[str]:
    return [rest for instruction, rest in instructions() if instruction == name]


# -- the image


def test_the_image_keeps_the_usual_rules() -> None:
    """Rules of hadolint, by its numbers."""
    runs = of("RUN")
    assert runs
    for run in runs:
        assert "sudo " not in run  # DL3004
        if "apt-get install" in run:
            assert "apt-get update &&" in run  # DL3009 and stale lists
            assert "--no-install-recommends" in run  # DL3015
            assert run.rstrip().endswith("rm -rf /var/lib/apt/lists/*")  # DL3009
            assert " -y " in run  # DL3014
        assert not re.search(r"\bcd ", run)  # DL3003
    tags = [rest.split()[0] for rest in of("FROM")]
    assert all(
        ":" in tag and not tag.endswith(":latest") for tag in tags if tag != "agent"
    )  # DL3006
    assert not of("ADD")  # DL3020
    assert all(rest.startswith("/") for rest in of("WORKDIR"))  # DL3000
    assert "pipefail" in of("SHELL")[0]  # DL4006
    for name in ("CMD", "ENTRYPOINT"):  # DL3025
        assert isinstance(json.loads(of(name)[-1]), list)
    assert of("USER")[-1] == "ada3d"  # DL3002: the last user is not root


def test_every_run_step_is_good_shell() -> None:
    for run in of("RUN"):
        subprocess.run(["bash", "-n", "-c", run], check=True)


def test_what_is_copied_is_there_and_not_ignored() -> None:
    ignored = (DOCKER / "Dockerfile.dockerignore").read_text().split()
    for rest in of("COPY"):
        source = rest.split()[0]
        assert (ROOT / source).exists(), source
        assert source not in ignored
    # What the build reads must reach it.
    for needed in ("package.xml", "CMakeLists.txt", "ada3d_ros", "msg", "srv", "action", "scripts"):
        assert needed not in ignored


def run_script(name: str, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", DOCKER / name, *arguments],
        env={"PATH": os.environ["PATH"], **env},
        capture_output=True,
        text=True,
    )


@pytest.fixture
def fake_image(tmp_path: Path) -> dict[str, str]:
    """Where the entry point finds what it sources: each file says so in a variable."""
    for folder, file in (
        ("ros", "setup.bash"),
        ("venv/bin", "activate"),
        ("ws/install", "setup.bash"),
    ):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / file).write_text(f'export ORDER="${{ORDER:-}} {folder}"\n')
    return {
        "ROS_ROOT": str(tmp_path / "ros"),
        "ADA3D_VENV": str(tmp_path / "venv"),
        "WORKSPACE": str(tmp_path / "ws"),
    }


def test_the_entry_point_sources_all_three_and_becomes_the_command(
    fake_image: dict[str, str],
) -> None:
    done = run_script(
        "entrypoint.sh", "bash", "-c", 'echo "$ORDER|$1|$2"', "-", "a b", "c", **fake_image
    )
    assert (done.returncode, done.stdout.strip()) == (0, "ros venv/bin ws/install|a b|c")
    assert run_script("entrypoint.sh", "bash", "-c", "exit 7", **fake_image).returncode == 7


def test_the_entry_point_without_a_command_says_so(fake_image: dict[str, str]) -> None:
    done = run_script("entrypoint.sh", **fake_image)
    assert done.returncode == 2
    assert "name a command" in done.stderr


def test_the_entry_point_outside_an_image_says_so() -> None:
    done = run_script("entrypoint.sh", "true")
    assert done.returncode != 0
    assert "ROS_DISTRO" in done.stderr


def test_install_python_takes_torch_from_its_own_index_first(tmp_path: Path) -> None:
    """With a stand-in for python3 whose pip writes down how it is called."""
    tools, log = tmp_path / "tools", tmp_path / "log"
    tools.mkdir()
    (tools / "python3").write_text(
        f'#!/bin/bash\necho "python3 $*" >> {log}\nmkdir -p "${{@: -1}}/bin"\n'
        f'printf \'#!/bin/bash\\necho "pip $*" >> {log}\\n\' > "${{@: -1}}/bin/pip"\n'
        'chmod +x "${@: -1}/bin/pip"\n'
    )
    (tools / "python3").chmod(0o755)
    requirements = ROOT / "constraints" / "distribution.txt"
    torch = re.search(r"^torch==.*$", requirements.read_text(), re.MULTILINE)
    assert torch
    path = f"{tools}:{os.environ['PATH']}"
    for index, first in (("https://torch.example/cpu", True), ("", False)):
        log.unlink(missing_ok=True)
        done = run_script(
            "install_python.sh", str(tmp_path / "venv"), str(requirements), index, PATH=path
        )
        assert done.returncode == 0, done.stderr
        calls = log.read_text().splitlines()
        assert calls[0] == f"python3 -m venv --system-site-packages {tmp_path / 'venv'}"
        expected = [f"pip install --no-cache-dir --index-url {index} {torch[0]}"] if first else []
        assert calls[1:] == [*expected, f"pip install --no-cache-dir -r {requirements}"]


@pytest.mark.parametrize("arguments", [[], ["venv"], ["venv", "no_such_file.txt"]])
def test_install_python_says_what_is_wrong(arguments: list[str]) -> None:
    done = run_script("install_python.sh", *arguments)
    assert done.returncode == 2
    assert "usage" in done.stderr or "no such file" in done.stderr


# -- the compose file


def compose() -> dict[str, Any]:
    return dict(yaml.safe_load((DOCKER / "compose.yaml").read_text()))


def test_the_compose_file_builds_the_image_and_names_launch_arguments_that_exist() -> None:
    launch = {
        file: set(
            re.findall(
                r'(?:argument|DeclareLaunchArgument)\(\s*"(\w+)"',
                (ROOT / "launch" / file).read_text(),
            )
        )
        for file in ("agent.launch.py", "replay.launch.py")
    }
    services = compose()["services"]
    assert {name: service["profiles"] for name, service in services.items()} == {
        "agent": ["camera"],
        "camera": ["camera"],
        "replay": ["bag"],
    }
    stages = [rest.split(" AS ")[1] for rest in of("FROM")]
    for name, service in services.items():
        build = service["build"]
        assert (DOCKER / build["context"] / build["dockerfile"]).is_file()
        assert build["target"] in stages
        assert set(build["args"]) <= {rest.split("=")[0] for rest in of("ARG")}
        assert service["network_mode"] == "host"
        if name == "camera":
            continue
        file = "replay.launch.py" if name == "replay" else "agent.launch.py"
        known = launch[file] | launch["agent.launch.py"]
        given = re.findall(r"(\w+):=", service["command"])
        assert given
        assert set(given) <= known, set(given) - known


def test_the_camera_may_be_opened_by_a_user_who_is_not_root() -> None:
    camera = compose()["services"]["camera"]
    assert {"plugdev", "video"} <= set(camera["group_add"])


class Launched:
    """In the place of every class of `launch`: how it was made."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self.args, self.options = args, options


@pytest.mark.parametrize("autosave", ["", "scenes"])
def test_two_robots_share_no_scene_port_or_transforms(
    monkeypatch: pytest.MonkeyPatch, autosave: str
) -> None:
    """Without the packages of ROS launch: what would be handed to them."""
    for name in ("launch", "launch.actions", "launch.launch_description_sources"):
        module = ModuleType(name)
        module.__getattr__ = lambda _: Launched  # type: ignore[method-assign]
        monkeypatch.setitem(sys.modules, name, module)
    index = ModuleType("ament_index_python.packages")
    index.get_package_share_directory = lambda _: str(ROOT)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ament_index_python.packages", index)
    described = runpy.run_path(str(ROOT / "launch" / "two_robots.launch.py"))
    actions = described["generate_launch_description"]().args[0]

    # The arguments, then what each agent is started with.
    defaults = {each.args[0]: each.options["default_value"] for each in actions if each.args}
    names = {"first": "robot1", "second": "robot2"}
    assert defaults == {**names, "tf_topic": "tf", "tf_static_topic": "tf_static"}
    context = SimpleNamespace(
        launch_configurations=defaults | {"second": "fleet/robot2", "autosave": autosave}
    )
    given = []
    for each in (action.options for action in actions if "function" in action.options):
        (group,) = each["function"](context, *each["args"])
        (agent,) = group.args[0]
        given.append(dict(agent.options["launch_arguments"]))
    first, second = ({"scene": "robot1"}, {"scene": "fleet_robot2"}) if autosave else ({}, {})
    assert given == [
        {"namespace": "robot1", "web_port": "8090", **first},
        {"namespace": "fleet/robot2", "web_port": "8091", **second},
    ]
    known = re.findall(r'argument\(\s*"(\w+)"', (ROOT / "launch" / "agent.launch.py").read_text())
    assert {"namespace", "web_port", "scene", "tf_topic", "tf_static_topic"} <= set(known)


# -- the workflow


def test_the_workflow_covers_pythons_and_distributions() -> None:
    jobs = yaml.safe_load(WORKFLOW.read_text())["jobs"]
    assert jobs["wheels"]["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13"]
    assert jobs["distribution"]["strategy"]["matrix"]["distro"] == ["jazzy", "kilted"]
    steps = " ".join(step.get("run", "") for step in jobs["distribution"]["steps"])
    for command in ("colcon build", "colcon test ", "colcon test-result"):
        assert command in steps
    triggers = yaml.safe_load(WORKFLOW.read_text().replace("\non:", "\ntriggers:"))["triggers"]
    assert triggers["push"] == {"branches": ["main"]}
    assert triggers["schedule"][0]["cron"]


def test_the_workflow_s_commands_are_good_shell_and_name_files_that_exist() -> None:
    for name, job in yaml.safe_load(WORKFLOW.read_text())["jobs"].items():
        for step in job["steps"]:
            if "uses" in step:
                assert re.fullmatch(r"[\w-]+/[\w-]+@v\d+", step["uses"]), step["uses"]
            command = re.sub(r"\$\{\{.*?\}\}", "value", step.get("run", ""))
            subprocess.run(["bash", "-n", "-c", command], check=True)
            for path in re.findall(
                r"(?:src/ada3d_ros/)?((?:docker|constraints)/[\w./-]+)", command
            ):
                assert (ROOT / path).is_file(), (name, path)


# -- rosdep, the wheel, how to cite


def test_rosdistro_knows_every_key_of_package_xml() -> None:
    """By what tools/write_rosdep_keys.py recorded of rosdistro's own files."""
    recorded = json.loads((ROOT / "test" / "data" / "rosdep_keys.json").read_text())["keys"]
    root = ET.parse(ROOT / "package.xml").getroot()
    keys = {str(element.text).strip() for element in root if element.tag.endswith("depend")}
    assert keys == set(recorded), "run tools/write_rosdep_keys.py"
    for key, found in recorded.items():
        if "released" in found:
            assert found["released"] == ["jazzy", "kilted"], key
        else:
            assert found["ubuntu"], key


def test_the_wheel_holds_what_the_package_reads(tmp_path: Path) -> None:
    source = tmp_path / "source"
    files = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\0")
    wanted = [
        f
        for f in files
        if f.startswith("ada3d_ros/")
        or f in ("setup.py", "pyproject.toml", "package.xml", "docs/commands.md")
    ]
    for file in wanted:
        (source / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, source / file)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"]
    done = subprocess.run(
        [*command, "--no-index", "--wheel-dir", str(tmp_path), str(source)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    version = ET.parse(ROOT / "package.xml").getroot().findtext("version")
    assert wheel.name == f"ada3d_ros-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        packed = set(archive.namelist())
        archive.extractall(tmp_path / "installed")
    missing = {f for f in wanted if f.startswith("ada3d_ros/")} - packed
    assert not missing, f"not in the wheel, see package_data in setup.py: {sorted(missing)}"

    # Away from the checkout its version is the recorded one.
    code = "import ada3d_ros; print(ada3d_ros.__version__, ada3d_ros.__file__)"
    env = {**os.environ, "PYTHONPATH": str(tmp_path / "installed")}
    said = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert said == [version, str(tmp_path / "installed" / "ada3d_ros" / "__init__.py")]

    # In a Python that has nothing else at all, every help is told.
    bare = [sys.executable, "-I", "-S", "-c"]
    code = (
        "import sys; sys.path.insert(0, {!r}); from ada3d_ros.cli import main; sys.exit(main({}))"
    )
    for args, words in (
        (["--version"], version),
        (["--help"], "usage: ada3d <verb> [options]"),
        (["demo", "--help"], "- --seed SEED: "),
        (["eval", "--help"], "ada3d eval synthetic"),
    ):
        told = subprocess.run(
            [*bare, code.format(str(tmp_path / "installed"), args)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert (told.returncode, words in told.stdout) == (0, True), (args, told)


def test_how_to_cite_names_no_second_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert "version" not in citation  # package.xml has it
    assert {"title", "message", "authors"} <= set(citation)
    for name in ("LLaVA-3D", "Video-3D LLM", "AdaToken-3D"):  # both models, and the method
        (paper,) = [each for each in citation["references"] if each["title"].startswith(name)]
        assert {"type", "authors", "year"} <= set(paper)
    license_id = ET.parse(ROOT / "package.xml").getroot().findtext("license")
    assert citation["license"] == license_id
