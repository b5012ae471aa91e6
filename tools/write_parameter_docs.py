"""Write docs/parameters.md from the config dataclasses: python tools/write_parameter_docs.py"""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

from ada3d_ros.config import SETTINGS, Setting

TARGET = Path(__file__).resolve().parents[1] / "docs" / "parameters.md"
HEAD = """# Parameters

Generated from `ada3d_ros/config/` by `python tools/write_parameter_docs.py`; a test compares them.

Set them in a parameter file (`/**: ros__parameters:`), with `-p name:=value` at start, or with
`ros2 param set`. *fixed* means: only while the node is unconfigured (call cleanup first). A value
out of range is refused with a sentence; at start it makes configure fail and stays visible in
`~/status`. An unknown name is reported with the nearest known one.
"""


def default_text(setting: Setting) -> str:
    """The default as a reader would type it."""
    if isinstance(setting.default, tuple):
        return "[" + ", ".join(f"{v:g}" for v in setting.default) + "]"
    if isinstance(setting.default, bool):
        return str(setting.default).lower()
    return str(setting.default) if setting.default != "" else '""'


def entry(setting: Setting) -> str:
    """One setting: what it is, then type or range, default and when it can change."""
    when = "fixed" if setting.read_only else "any time"
    text = f"`{setting.name}`: {setting.description}."
    allowed = re.sub("(?<=^text matching )(.+)", r"`\1`", setting.allowed)
    facts = f"({allowed}; default {default_text(setting)}; {when})"
    return textwrap.fill(
        f"- {text} {facts}",
        width=100,
        subsequent_indent="  ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def render() -> str:
    """The whole page: a section per group of settings."""
    parts = [HEAD.rstrip()]
    groups: dict[str, list[str]] = {}
    for name, setting in SETTINGS.items():
        group = name.partition(".")[0] if "." in name else "node"
        groups.setdefault(group, []).append(entry(setting))
    for group, entries in groups.items():
        parts += [f"## {group}", "\n".join(entries)]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    TARGET.write_text(render(), encoding="utf-8")
    print(f"wrote {TARGET}")
