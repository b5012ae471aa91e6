"""The documentation is true: generated tables are current; named files, verbs, parameters exist."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType

import pytest

from ada3d_ros.cli import VERBS
from ada3d_ros.config import SETTINGS
from ada3d_ros.errors import FrameReason

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_parameter_table_is_current() -> None:
    page = (ROOT / "docs" / "parameters.md").read_text(encoding="utf-8")
    assert page == load(ROOT / "tools" / "write_parameter_docs.py").render(), (
        "run python tools/write_parameter_docs.py"
    )


def test_benchmark_tables_are_current() -> None:
    page = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    tool = load(ROOT / "tools" / "write_benchmark_tables.py")
    assert tool.BEGIN in page
    assert page == tool.updated(page), "run python tools/write_benchmark_tables.py"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        assert target.startswith("https://") or (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_named_verbs_exist(page: Path) -> None:
    for verb in re.findall(
        r"(?:^|[`/ ])ada3d ([a-z][a-z-]+)", page.read_text(encoding="utf-8"), re.MULTILINE
    ):
        assert verb in VERBS or verb in ("command", "script"), f"{page.name}: ada3d {verb}"


def test_readme_names_every_verb() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [verb for verb in VERBS if f"`{verb}`" not in text and f"`{verb} " not in text] == []


@pytest.mark.parametrize("page", ["README.md", "docs/troubleshooting.md", "docs/conventions.md"])
def test_named_parameters_exist(page: str) -> None:
    groups = {name.split(".")[0] for name in SETTINGS if "." in name}
    for name in re.findall(r"`([a-z_]+\.[a-z_0-9]+)`", (ROOT / page).read_text(encoding="utf-8")):
        if name.split(".")[0] in groups:
            assert name in SETTINGS, f"{page}: {name}"


def test_architecture_names_every_room() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    rooms = [p.name for p in (ROOT / "ada3d_ros").iterdir() if (p / "__init__.py").exists()]
    assert [room for room in rooms if f"`{room}/`" not in text] == []
    modules = [p.stem for p in (ROOT / "ada3d_ros" / "ros").glob("[a-z]*.py")]
    assert [module for module in modules if not re.search(rf"\b{module}\b", text)] == []


def test_result_files_say_how_they_were_made() -> None:
    for path in (ROOT / "docs" / "results").glob("*.json"):
        data = json.loads(path.read_text(encoding="utf-8"))
        assert {"commit", "versions", "device", "date", "processor"} <= set(data["provenance"]), (
            path.name
        )
        assert "n" in data, path.name


def test_make_targets_named_in_the_docs_exist() -> None:
    targets = set(
        re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    )
    for page in PAGES:
        for target in re.findall(r"`make ([a-z-]+)", page.read_text(encoding="utf-8")):
            assert target in targets, f"{page.name}: make {target}"


def test_drop_reasons_are_documented_where_the_docs_say() -> None:
    source = (ROOT / "ada3d_ros" / "errors.py").read_text(encoding="utf-8")
    for reason in FrameReason:
        assert re.search(rf"{reason.name} = .*#", source), f"{reason.name} has no explanation"
