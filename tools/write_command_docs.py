"""Write docs/commands.md from the parsers of `ada3d`'s commands: python tools/write_command_docs.py

The parsers are taken as they are, not their `--help` texts, whose line breaks differ between Python
versions. Needs rclpy and the built interfaces, as some commands do.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn
from unittest import mock

from ada3d_ros.cli import VERBS

TARGET = Path(__file__).resolve().parents[1] / "docs" / "commands.md"
HEAD = """# Commands

Generated from the commands' own parsers by `python tools/write_command_docs.py`; a test compares
them. `ada3d COMMAND --help` prints the same. Commands marked *ROS* need rclpy and the built
interfaces.

| command | what it does |
|---|---|
"""


class _ParserFoundError(Exception):
    """Carries the parser of a command out of it, before it parses anything."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        super().__init__(parser.prog)
        self.parser = parser


def find_parser(verb: str) -> argparse.ArgumentParser | str:
    """The command's parser; where it has none, what it prints for --help."""

    def give(parser: argparse.ArgumentParser, *_: Any, **__: Any) -> NoReturn:
        raise _ParserFoundError(parser)

    module, function = VERBS[verb].function.split(":")
    main = getattr(importlib.import_module(f"ada3d_ros.{module}"), function)
    printed = io.StringIO()
    patched = mock.patch.multiple(argparse.ArgumentParser, parse_args=give, parse_known_args=give)
    with patched, contextlib.redirect_stdout(printed):
        try:
            main(["--help"])
        except _ParserFoundError as found:
            return found.parser
    return printed.getvalue()


def option_name(action: argparse.Action) -> str:
    """How the argument is typed: `--rate RATE`, `-o, --output BAG`, `BAG`."""
    value = action.metavar or (
        "{" + ",".join(map(str, action.choices)) + "}" if action.choices else action.dest.upper()
    )
    if isinstance(value, tuple):
        value = " ".join(value)
    if not action.option_strings:
        return str(action.metavar or action.dest)
    names = ", ".join(action.option_strings)
    return names if action.nargs == 0 else f"{names} {value}"


def option_help(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    """The help text with its default filled in, on one line."""
    text = (action.help or "") % {**vars(action), "prog": parser.prog}
    needed = "required; " if action.option_strings and action.required else ""
    return needed + " ".join(text.split())


def wrapped(text: str) -> str:
    """Prose as a paragraph; a text with its own line breaks as a block."""
    text = text.strip()
    return f"```\n{text}\n```" if "\n" in text else fill(text)


def fill(text: str, indent: str = "") -> str:
    """Lines of at most 100 columns; indent: of all but the first."""
    return textwrap.fill(
        text, 100, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def describe(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Description, arguments and epilog of one parser, and of its sub-commands."""
    if parser.description:
        yield wrapped(parser.description)
    actions = [a for a in parser._actions if not isinstance(a, argparse._HelpAction)]
    below = [a for a in actions if isinstance(a, argparse._SubParsersAction)]
    entries = [
        fill(f"- `{option_name(a)}`: {option_help(parser, a)}", "  ")
        for a in actions
        if a not in below
    ]
    if entries:
        yield "\n".join(entries)
    if parser.epilog:
        yield wrapped(parser.epilog)
    for action in below:
        for name, child in action.choices.items():
            yield f"### `{re.sub(r' +', ' ', parser.prog)} {name}`"
            yield from describe(child)


def render() -> str:
    """The whole page."""
    rows = [
        f"| [`{name}`](#ada3d-{name}) | {verb.description}{' (*ROS*)' if verb.needs_ros else ''} |"
        for name, verb in VERBS.items()
    ]
    parts = [HEAD + "\n".join(rows)]
    for verb in VERBS:
        parts.append(f"## `ada3d {verb}`")
        found = find_parser(verb)
        parts.extend([wrapped(found)] if isinstance(found, str) else describe(found))
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    TARGET.write_text(render(), encoding="utf-8")
    print(f"wrote {TARGET}")
