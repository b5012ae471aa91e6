"""`ada3d parity DIR`: every recorded array of a golden folder against the production code.

A LLaVA-3D case runs from raw images to greedy ids (llava3d.py); `unit/` checks preprocessing, voxel
ids, frame sampling and prompts (unit.py); Video-3D-LLM's cases and unit data are in video3dllm*.py,
FastV and PyramidDrop in pruning.py, AdaToken-3D in adatoken.py.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from ada3d_ros.errors import Ada3DError, SourceError
from ada3d_ros.lab.parity.adatoken import check_adatoken, is_adatoken
from ada3d_ros.lab.parity.comparison import Row, not_compared
from ada3d_ros.lab.parity.golden_case import CASE_FILES, read_json
from ada3d_ros.lab.parity.llava3d import check_case
from ada3d_ros.lab.parity.pruning import check_pruned, is_pruned
from ada3d_ros.lab.parity.record import record_sample
from ada3d_ros.lab.parity.unit import UNIT_FILES, check_unit, is_unit
from ada3d_ros.lab.parity.video3dllm import check_video3dllm
from ada3d_ros.lab.parity.video3dllm_case import is_video3dllm
from ada3d_ros.lab.parity.video3dllm_unit import check_video3d_unit, is_video3d_unit


def run_parity(path: str | Path) -> Iterator[Row | Ada3DError]:
    """Rows of a case folder, or of every case folder in it.

    An error in place of a folder that cannot be read; folders of other golden data give one row
    that was not compared.
    """
    folder = Path(path)
    if not folder.is_dir():
        yield SourceError(
            f"{folder} is not a folder; give a golden case folder or a folder of them."
        )
        return

    # One case folder.
    if _find_checks(folder) is not None:
        yield from _run_folder(folder)
        return

    # A folder of case folders, or of groups of them.
    subfolders = _children(folder)
    if not any(
        _find_checks(child) or any(map(_find_checks, _children(child))) for child in subfolders
    ):
        yield SourceError(
            f"{folder} is no golden case: expected {', '.join(CASE_FILES)}, or one of"
            f" {', '.join(UNIT_FILES)}, or a case of FastV, PyramidDrop or AdaToken-3D."
        )
    for child in subfolders:
        yield from _run_folder(child)


def _children(folder: Path) -> list[Path]:
    return [child for child in sorted(folder.iterdir()) if child.is_dir()]


def _run_folder(folder: Path) -> Iterator[Row | Ada3DError]:
    """Rows of one case folder, or of those directly in it."""
    checks = _find_checks(folder)
    if checks is None:
        cases = [child for child in _children(folder) if _find_checks(child) is not None]
        for child in cases:
            yield from _run_folder(child)
        if not cases:
            yield not_compared(folder.name, "-", "no data that this command compares")
        return
    try:
        yield from checks(folder)
    except Ada3DError as error:
        yield error
    except Exception as error:  # whatever arrays and settings of other kinds raise
        yield SourceError(f"{folder} is not a usable golden case: {type(error).__name__}: {error}")


def _find_checks(folder: Path) -> Callable[[Path], Iterator[Row]] | None:
    """What compares a folder of this content; None where nothing does."""
    if is_video3d_unit(folder):
        return check_video3d_unit
    if is_unit(folder):
        return check_unit
    if is_adatoken(folder):
        return check_adatoken
    if is_pruned(folder):
        return check_pruned
    if not any((folder / name).is_file() for name in CASE_FILES[1:]):
        return None
    try:
        data = read_json(folder / "config.json")
        if is_video3dllm(data):
            return check_video3dllm
        return check_case if not isinstance(data, dict) or "clip" in data else None
    except SourceError:
        return check_case  # which then says what is wrong


def _report(results: Iterable[Row | Ada3DError], quiet: bool) -> int:
    """Prints the rows and their summary; the exit status."""
    # One line each.
    passed = failed = listed = errors = 0
    for result in results:
        if isinstance(result, Ada3DError):
            errors += 1
            print(f"ERROR {result}")
            continue
        passed += result.compared and result.passed
        failed += not result.passed
        listed += not result.compared
        if not quiet or not result.passed:
            print(result)

    # A folder in which nothing was compared has shown nothing.
    print(
        f"{passed} passed, {failed} failed, {listed} not compared (reasons above), {errors}"
        " folder(s) not readable"
    )
    if errors or not passed + failed:
        return 2
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ada3d parity",
        description=(
            "Compares this package with recorded outputs of the reference codes (LLaVA-3D,"
            " Video-3D-LLM, FastV, PyramidDrop, AdaToken-3D), array by array."
        ),
        epilog=(
            "Tolerances (absolute): pixels, depth, poses 1e-6; intrinsics 1e-5 px; points 1e-5 m;"
            " features 1e-4; logits 5e-4; ids and voxel ids exact. Video-3D-LLM: mean points of"
            " cells 3e-5 m; sine embeddings 5e-5; hidden states 2e-4; ground scores 1e-5. Pruning:"
            " kept indices, positions, lengths, tokens exact; logits 1e-3; sums 1e-4; information"
            " 1e-6; curves 1e-3; losses 1e-6. Exit status: 0 all passed, 1 over a tolerance, 2 a"
            " folder that cannot be read."
        ),
    )
    parser.add_argument(
        "dir",
        type=Path,
        help=(
            "a golden case folder (config.json, inputs/expected/weights.safetensors), a "
            "unit or adatoken folder, or a folder that holds several of them"
        ),
    )
    parser.add_argument("--quiet", action="store_true", help="print failures and the summary only")

    # Making a small case of a recorded one.
    parser.add_argument(
        "--record",
        type=Path,
        metavar="NEW",
        help=(
            "first write one scene of the LLaVA-3D case `dir` to the folder NEW as a small case of"
            " its own, parts of the recorded arrays alone; then compare that"
        ),
    )
    parser.add_argument(
        "--sample", type=int, default=0, help="with --record: which of a batch (default 0)"
    )
    return parser


def main(argv: list[str]) -> int:
    """`ada3d parity DIR`: prints the rows.

    Returns 0 if all passed, 1 over a tolerance, 2 for an unreadable folder.
    """
    options = _parser().parse_args(argv)
    folder = options.dir
    if options.record:
        try:
            record_sample(folder, options.record, options.sample)
        except Exception as error:  # whatever arrays and settings of other kinds raise
            print(f"ERROR {folder} cannot be recorded from: {error}")
            return 2
        folder = options.record
    return _report(run_parity(folder), options.quiet)
