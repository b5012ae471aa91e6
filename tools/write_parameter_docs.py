"""Write docs/parameters.md from the config dataclasses: python tools/write_parameter_docs.py"""

from __future__ import annotations

from pathlib import Path

from ada3d_ros.config import SETTINGS, Setting

TARGET = Path(__file__).resolve().parents[1] / "docs" / "parameters.md"
HEAD = """# Parameters

Generated from `ada3d_ros/config/` by `python tools/write_parameter_docs.py`; a test compares them.

Set them in a parameter file (`/**: ros__parameters:`), with `-p name:=value` at start, or with
`ros2 param set`. *fixed* means: only while the node is unconfigured (call cleanup first). A value
out of range is refused with a sentence; at start it makes configure fail and stays visible in
`~/status`. An unknown name is reported with the nearest known one.

| name | default | allowed | meaning | when |
|---|---|---|---|---|
"""


def default_text(setting: Setting) -> str:
    """The default as a reader would type it."""
    if isinstance(setting.default, tuple):
        return "[" + ", ".join(f"{v:g}" for v in setting.default) + "]"
    if isinstance(setting.default, bool):
        return str(setting.default).lower()
    return str(setting.default) if setting.default != "" else '""'


def render() -> str:
    """The whole page."""
    lines = []
    for s in SETTINGS.values():
        allowed = s.allowed.replace("|", "\\|")
        when = "fixed" if s.read_only else "any time"
        cells = (f"`{s.name}`", default_text(s), allowed, s.description, when)
        lines.append(f"| {' | '.join(cells)} |\n")
    return HEAD + "".join(lines)


if __name__ == "__main__":
    TARGET.write_text(render(), encoding="utf-8")
    print(f"wrote {TARGET}")
