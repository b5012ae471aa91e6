"""The documentation is true: generated pages are current; named files, commands and parameters are.

Also its form: links lead somewhere, lines are at most 120 columns.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from ada3d_ros.cli import VERBS
from ada3d_ros.config import SETTINGS
from ada3d_ros.errors import FrameReason
from test.support.sources import load

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
CARD = ROOT / "ada3d_ros" / "models" / "embedded" / "README.md"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md"), CARD])
TABLES_OF_NUMBERS = (
    DOCS / "benchmarks.md",
    DOCS / "paper.md",
    DOCS / "scene_pruning.md",
    DOCS / "pruning_tables.md",
    CARD,
)  # generated, some with many columns
MAX_COLUMNS = 120
# `path.py` in a page is one of these, or a file beside them.
SOURCE_FOLDERS = (
    ROOT,
    ROOT / "ada3d_ros",
    ROOT / "ada3d_ros" / "pruning",
    ROOT / "test" / "pruning",
)
# Measured before the writer refused a tree with changes, and to be measured again.
MADE_OF_CHANGES = {
    "node_overhead.json",
    "presets_cabinet.json",
    "survival_random_weights.json",
}
FEW_REPETITIONS = {  # fewer than 5, and to be measured again
    "batch_B_fp32.json",
    "cold_warm_B.json",
    "many_questions_C.json",
}
# Measured in parts: the page says which rooms of which rows lack.
GO_ON = {"pruning_tables_level1.json", "pruning_tables_level2.json"}
PLANNED_IN_HOW_TO = {"most_patches.py"}  # the strategy that docs/how-to writes as its example


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


each_page = pytest.mark.parametrize("page", PAGES, ids=name_of)


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def anchor_of(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")


def headings_of(page: Path) -> list[str]:
    without_code = re.sub(r"^```.*?^```", "", text_of(page), flags=re.DOTALL | re.MULTILINE)
    return [anchor_of(h) for h in re.findall(r"^#+ (.*)$", without_code, re.MULTILINE)]


# -- generated


@pytest.mark.parametrize(
    ("tool", "page"),
    [
        ("write_parameter_docs", DOCS / "parameters.md"),
        ("write_interface_docs", DOCS / "interfaces.md"),
        ("write_model_card", CARD),
        ("write_scene_pruning_page", DOCS / "scene_pruning.md"),
        ("write_paper_page", DOCS / "paper.md"),
        ("write_pruning_tables_page", DOCS / "pruning_tables.md"),
        ("draw_architecture", DOCS / "architecture.svg"),
        ("draw_fleet", DOCS / "fleet.svg"),
    ],
)
def test_generated_pages_are_current(tool: str, page: Path) -> None:
    assert text_of(page) == load(ROOT / "tools" / f"{tool}.py").render(), f"run tools/{tool}.py"


def test_the_command_page_is_current() -> None:
    pytest.importorskip("rclpy", reason="some commands need ROS")
    pytest.importorskip("ada3d_ros.msg", reason="the interfaces are not built")
    tool = load(ROOT / "tools" / "write_command_docs.py")
    assert text_of(DOCS / "commands.md") == tool.render(), "run tools/write_command_docs.py"


def test_benchmark_tables_are_current() -> None:
    page, tool = text_of(DOCS / "benchmarks.md"), load(ROOT / "tools" / "write_benchmark_tables.py")
    assert page == tool.updated(page), "run tools/write_benchmark_tables.py"


def test_sizes_of_a_fleet_are_current() -> None:
    page, tool = text_of(DOCS / "fleet.md"), load(ROOT / "tools" / "write_fleet_sizes.py")
    assert page == tool.updated(page), "run tools/write_fleet_sizes.py"


def test_training_times_are_current() -> None:
    page, tool = text_of(DOCS / "training.md"), load(ROOT / "tools" / "write_training_times.py")
    assert page == tool.updated(page), "run tools/write_training_times.py"


def test_the_jetson_table_is_current() -> None:
    page = text_of(DOCS / "how-to" / "run-on-a-jetson.md")
    tool = load(ROOT / "tools" / "write_jetson_table.py")
    assert page == tool.updated(page), "run tools/write_jetson_table.py"


def test_tables_of_two_backbones_are_current() -> None:
    page = text_of(DOCS / "two_backbones.md")
    tool = load(ROOT / "tools" / "write_two_backbones.py")
    assert page == tool.updated(page), "run tools/write_two_backbones.py"


@pytest.mark.parametrize("block", ["objects held", "detector times", "proposals", "measures"])
def test_tables_of_real_objects_are_current(block: str) -> None:
    tool = load(ROOT / "tools" / "write_object_tables.py")
    page, _ = tool.BLOCKS[block]
    assert text_of(page) == tool.updated(block), "run tools/write_object_tables.py"


def test_the_interface_page_names_every_topic_and_service_of_the_node() -> None:
    tool = load(ROOT / "tools" / "write_interface_docs.py")
    tables = (*tool.INPUTS, *tool.OUTPUTS, *tool.SERVICES)
    listed = {name for name, _, _ in tables if name.startswith("~/")}
    code = "\n".join(text_of(file) for file in (ROOT / "ada3d_ros" / "ros").glob("*.py"))
    assert listed == set(re.findall(r'"(~/[\w/]+)"', code))
    for name in {name for name, _, _ in tables} - listed:
        last = name.rsplit("/", 1)[-1]
        assert re.search(rf'"[\w/]*{last}"', code), f"{name} is not in ada3d_ros/ros"


# -- true


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)]+)\)|^\[\w+\]: (\S+)", text_of(page), re.MULTILINE)
    for link in (first or second for first, second in links):
        target, _, anchor = link.partition("#")
        if target.startswith("https://"):
            continue
        file = page.parent / target if target else page
        assert file.exists(), link
        assert not anchor or anchor in headings_of(file), link


@each_page
def test_named_commands_exist(page: Path) -> None:
    for verb in re.findall(r"(?:^|[`/ ])ada3d ([a-z][a-z-]+)", text_of(page), re.MULTILINE):
        assert verb in VERBS or verb in ("command", "script"), f"ada3d {verb}"


@each_page
def test_named_options_exist(page: Path) -> None:
    """`ada3d ask --keep-ratio 0.6 ...` in a page: the reference knows the command's option."""
    sections = dict(
        re.findall(
            r"^## `ada3d ([a-z-]+)`\n(.*?)(?=^## |\Z)",
            text_of(DOCS / "commands.md"),
            re.DOTALL | re.MULTILINE,
        )
    )
    joined = re.sub(r"\\?\n\s*", " ", text_of(page))
    for verb, rest in re.findall(
        r"ada3d ([a-z][a-z-]+)((?: [^`;|]*?)?)(?=[`;|]| ada3d |$)", joined
    ):
        options = re.findall(r"(?<=\s)--[a-z][a-z-]+", rest.split("--ros-args")[0].split(" #")[0])
        for option in options:
            if verb in sections and option != "--help":
                assert re.search(rf"{option}\b", sections[verb]), f"ada3d {verb} {option}"


@each_page
def test_named_launch_arguments_exist(page: Path) -> None:
    """`ros2 launch ada3d_ros agent.launch.py scene:=...`: ros2 takes any name in silence."""
    joined = re.sub(r"\\?\n\s*", " ", text_of(page))
    code = "".join(text_of(file) for file in (ROOT / "launch").glob("*.py"))
    known = re.findall(r'(?:argument|DeclareLaunchArgument)\(\s*"(\w+)"', code)
    command = r"ros2 launch ada3d_ros (\S+\.launch\.py)((?:(?!ros2 )[^`])*)"
    for file, rest in re.findall(command, joined):
        assert (ROOT / "launch" / file).is_file(), file
        for name in re.findall(r"(?<=\s)(\w+):=", rest):
            assert name in known, f"{file} {name}:="


@each_page
def test_named_sources_exist(page: Path) -> None:
    if page.name == "CHANGELOG.md":  # history
        return
    for name in re.findall(r"`([\w/]+\.py)`", text_of(page)):
        places = [folder / name for folder in (*SOURCE_FOLDERS, page.parent)]
        assert Path(name).name in PLANNED_IN_HOW_TO or any(p.exists() for p in places), name


@each_page
def test_named_tests_exist(page: Path) -> None:
    for file, name in re.findall(r"`(test/[\w/]+\.py)::(\w+)`", text_of(page)):
        assert f"def {name}(" in text_of(ROOT / file), name


def test_every_fault_of_the_reliability_page_names_its_test() -> None:
    faults = re.split(r"(?m)^- ", text_of(DOCS / "reliability.md"))[1:]
    assert len(faults) > 50
    for fault in faults:
        assert "Expected:" in fault
        assert "Observed:" in fault
        assert re.search(r"Test:\s+(`test/[\w/]+\.py::\w+`|none)", fault), fault


@each_page
def test_named_results_exist(page: Path) -> None:
    for name in re.findall(r"docs/results/([\w.]+\.jsonl?)", text_of(page)):
        assert (DOCS / "results" / name).is_file() or "_7B" in name, name


def test_cited_results_come_from_a_clean_commit() -> None:
    """Of what a page cites, the commit alone says what ran; those of MADE_OF_CHANGES do not yet."""
    dirty = set()
    for file in sorted((DOCS / "results").glob("*.json")):
        commit = json.loads(text_of(file))["provenance"]["commit"]
        cited = any(f"results/{file.name}" in text_of(page) for page in PAGES)
        if cited and not re.fullmatch(r"[0-9a-f]{40}", commit):
            dirty.add(file.name)
    assert dirty == MADE_OF_CHANGES


def test_cited_results_are_whole_and_repeated() -> None:
    """No run that was stopped before its end, but for those of GO_ON; five repetitions at least,
    but for those of FEW_REPETITIONS.
    """
    stopped, few = [], set()
    for file in sorted((DOCS / "results").glob("*.json")):
        data = json.loads(text_of(file))
        if not data.get("complete", True) and file.name not in GO_ON:
            stopped.append(file.name)
        if isinstance(data["n"], int) and data["n"] < 5:
            few.add(file.name)
    assert stopped == []
    assert few == FEW_REPETITIONS


def test_readme_names_every_command() -> None:
    text = text_of(ROOT / "README.md")
    assert [verb for verb in VERBS if f"`{verb}`" not in text and f"`{verb} " not in text] == []


@each_page
def test_named_parameters_exist(page: Path) -> None:
    groups = {name.split(".")[0] for name in SETTINGS if "." in name}
    for name in re.findall(r"`([a-z_]+\.[a-z_0-9.]+)(?:`|:| )", text_of(page)):
        if name.split(".")[0] in groups:
            known = name in SETTINGS or any(s.startswith(f"{name}.") for s in SETTINGS)
            assert known or name.endswith((".yaml", ".py", ".")), name


def test_architecture_names_every_folder() -> None:
    text = text_of(ROOT / "ARCHITECTURE.md")
    folders = [p.name for p in (ROOT / "ada3d_ros").iterdir() if (p / "__init__.py").exists()]
    assert [folder for folder in folders if f"`{folder}/`" not in text] == []
    modules = [p.stem for p in (ROOT / "ada3d_ros" / "ros").glob("[a-z]*.py")]
    assert [module for module in modules if not re.search(rf"\b{module}\b", text)] == []


def test_decisions_are_numbered_and_listed() -> None:
    """In order, each number once; one that nobody took is left out."""
    pages = sorted((DOCS / "decisions").glob("[0-9]*.md"))
    index = text_of(DOCS / "decisions" / "README.md")
    numbers = re.findall(r"(?m)^- \[(\d{4})\]", index)
    assert numbers == [page.name[:4] for page in pages] == sorted(set(numbers))
    for number, page in zip(numbers, pages, strict=True):
        title = text_of(page).splitlines()[0]
        assert re.fullmatch(rf"{number}-[a-z0-9-]+", page.stem), page.name
        assert title.startswith(f"# {number}. ")
        listed = f"- [{number}]({page.name}) {title.removeprefix(f'# {number}. ')}"
        assert listed in " ".join(index.split())


def test_every_page_is_in_the_index() -> None:
    index = text_of(DOCS / "README.md")
    pages = [
        p for p in DOCS.rglob("*.md") if p.parent.name != "decisions" and p.name != "README.md"
    ]
    assert [name_of(p) for p in pages if f"({p.relative_to(DOCS)})" not in index] == []


def test_result_files_say_how_they_were_made() -> None:
    for path in (DOCS / "results").glob("*.json"):
        data = json.loads(text_of(path))
        assert {"commit", "versions", "device", "date", "processor"} <= set(data["provenance"]), (
            path.name
        )
        assert "n" in data, path.name


def test_make_targets_named_in_the_docs_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", text_of(ROOT / "Makefile"), re.MULTILINE))
    for page in PAGES:
        for target in re.findall(r"`make ([a-z-]+)", text_of(page)):
            assert target in targets, f"{page.name}: make {target}"


def test_drop_reasons_are_documented_where_the_docs_say() -> None:
    source = text_of(ROOT / "ada3d_ros" / "errors.py")
    for reason in FrameReason:
        assert re.search(rf"{reason.name} = .*#", source), f"{reason.name} has no explanation"


def test_the_tutorial_quotes_the_measured_box(
    shared_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bag = shared_dir / "data" / "tum_fr3_cabinet_ros2bag"
    assert load(ROOT / "tools" / "measure_box.py").main([str(bag)]) == 0
    printed = capsys.readouterr().out
    assert printed in text_of(DOCS / "tutorial.md")


# -- form


@each_page
def test_lines_are_short(page: Path) -> None:
    long = [
        line
        for line in text_of(page).splitlines()
        if len(line) > MAX_COLUMNS and not (page in TABLES_OF_NUMBERS and line.startswith("|"))
    ]
    assert long == []


def test_pictures_are_small() -> None:
    assert [p.name for p in (DOCS / "images").iterdir() if p.stat().st_size > 300_000] == []


def test_architecture_is_one_screen() -> None:
    assert len(text_of(ROOT / "ARCHITECTURE.md").splitlines()) <= 60
