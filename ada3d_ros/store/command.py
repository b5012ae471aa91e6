"""`ada3d scenes`: what a store holds; export a scene, delete one."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from ada3d_ros.errors import Ada3DError, StoreError
from ada3d_ros.store.export import export_bag, export_folder
from ada3d_ros.store.named_scenes import NamedScenes, SceneSummary
from ada3d_ros.store.scene_index import NAME as INDEX

EPILOG = """examples:
  ada3d scenes list ~/scenes
  ada3d scenes export ~/scenes kitchen -o kitchen_frames
  ada3d make-bag kitchen_frames -o kitchen_bag
  ada3d scenes export ~/scenes kitchen -o kitchen_bag --bag
  ada3d scenes delete ~/scenes kitchen --yes
"""


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ada3d scenes",
        description="Scenes that a node saved (scene.autosave, ~/save_scene): list, export,"
        " delete.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("verb", choices=("list", "export", "delete"), help="what to do")
    add("store", type=Path, metavar="STORE", help="folder of the store")
    add("scene", nargs="?", default="", metavar="SCENE", help="its name; for export and delete")
    add("-o", "--output", type=Path, metavar="FOLDER", help="export: the folder to create")
    add("--bag", action="store_true", help="export: a rosbag2 (mcap), not a folder of images")
    add("--raw", action="store_true", help="export --bag: colour as rgb8, exact")
    add("--yes", action="store_true", help="delete: for ever, without being asked")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0; 1 and a sentence on standard error where it cannot be done; 2 for usage."""
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.verb != "list" and not args.scene:
        parser.error(f"{args.verb} needs the name of a SCENE")
    if args.verb == "export" and args.output is None:
        parser.error("export needs a folder: -o FOLDER")
    try:
        store = NamedScenes(args.store)
        if args.verb == "list":
            return _list(store)
        if args.verb == "export":
            return _export(store, args)
        return _delete(store, args)
    except Ada3DError as error:
        print(f"ada3d scenes: {error}", file=sys.stderr)
        return 1


def _list(store: NamedScenes) -> int:
    names = store.names()
    if not names:
        if not store.path.is_dir():
            raise StoreError(f"there is no folder {store.path}: name the store, scene.autosave.")
        if (store.path / INDEX).is_file():
            raise StoreError(
                f"{store.path} is one scene: name the store that holds it, {store.path.parent}."
            )
        print(f"{store.path} holds no scene.")
        return 0
    width = max(map(len, names))
    for name in names:
        summary = store.summary(name)
        print(f"{name:<{width}}  {describe(summary)}")
        if summary.problem:
            print(f"{'':<{width}}  {summary.problem}")
    return 0


def describe(summary: SceneSummary) -> str:
    """`20 of 143 keyframes in use, 31 objects, 12 answers, 21.4 MB, map, newest 2026-11-29 ...`."""
    newest = ""
    if summary.newest_ns >= 0:
        date = datetime.fromtimestamp(summary.newest_ns // 1_000_000_000, UTC)
        newest = f", newest {date:%Y-%m-%d %H:%M:%S} UTC"
    return (
        f"{summary.in_use} of {summary.keyframes} keyframes in use, {summary.objects} objects,"
        f" {summary.answers} answers, {summary.bytes / 1e6:.1f} MB,"
        f" {summary.frame_id or 'no world frame'}{newest}"
    )


def _export(store: NamedScenes, args: argparse.Namespace) -> int:
    if args.bag:
        count, notes = export_bag(store, args.scene, args.output, args.raw)
    else:
        count, notes = export_folder(store, args.scene, args.output)
    for note in notes:
        print(note, file=sys.stderr)
    print(f"wrote {count} keyframes of {args.scene} to {args.output}")
    return 0


def _delete(store: NamedScenes, args: argparse.Namespace) -> int:
    summary = store.summary(args.scene)
    if not args.yes:
        print(f"{args.scene}: {describe(summary)}")
        print("ada3d scenes: nothing is deleted; say --yes to delete it for ever", file=sys.stderr)
        return 1
    store.delete(args.scene)
    print(f"deleted {args.scene} from {store.path}")
    return 0
