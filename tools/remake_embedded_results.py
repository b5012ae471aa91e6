"""Make what depends on the embedded model's weights anew, the most important first.

    python tools/remake_embedded_results.py --list          # what there is, what is due, how long
    python tools/remake_embedded_results.py                 # all that is due
    python tools/remake_embedded_results.py calibrate embedded_level1 embedded_level1_measured
    python tools/remake_embedded_results.py --install       # what is made goes to docs/results

Steps are made in runs/embedded_results, so that the tree stays as the commit has it and every file
says that commit; a step whose file there is of the present weights and options is left out, so the
same command goes on where it stopped. `calibrate` writes into the model's folder: commit it, then
go on. Several pieces may run side by side, each with other steps.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

from embedded_results import EVALUATIONS, ROOT, Evaluation

MODEL = ROOT / "ada3d_ros" / "models" / "embedded"
MADE = ROOT / "runs" / "embedded_results"
CALIBRATE = "calibrate"
CALIBRATIONS = (  # minutes, arguments of ada3d
    (2, ("calibrate", *(f"room:{i}" for i in range(6)), "--model", MODEL, "-o", "schedule.yaml")),
    (
        8,
        (
            *("calibrate", *(f"room:{i}" for i in range(1000, 1032)), "--model", MODEL),
            *("--queries", MODEL / "scene_queries.safetensors", "--held"),
        ),
    ),
)
LATER = """Then, each of a clean tree:
  python tools/measure_relevance.py                        docs/results/relevance_embedded.json
  ada3d bench --suite default --shape embedded --json docs/results/default_embedded.json
  ada3d eval scene-pruning --level 1 --json docs/results/scene_pruning_level1.json      (2 hours)
  ada3d eval scene-pruning --level 2 --json docs/results/scene_pruning_level2.json      (3 hours)
  ada3d eval scene-pruning --scenes 40 --appended --json docs/results/scene_pruning_appended.json
  ada3d eval synthetic --measure off --scenes 60 --model COPY (of the folder, without its head)
    --json docs/results/embedded_headless.json
and the pages: python tools/write_model_card.py, write_benchmark_tables.py,
write_scene_pruning_page.py, plot_learning_curves.py"""


def revision_of(model: Path) -> str:
    """SHA-256 of the weights, then of the head, as the results have it."""
    from ada3d_ros.model.checkpoint import inspect_checkpoint, revision_sha256

    return revision_sha256(inspect_checkpoint(model))


def is_calibrated(revision: str) -> bool:
    """Whether schedule.yaml and scene_queries.safetensors name the present weights."""
    files = MODEL / "schedule.yaml", MODEL / "scene_queries.safetensors"
    weights = revision.split()[0].encode()
    return all(file.is_file() and weights in file.read_bytes() for file in files)


def is_made(evaluation: Evaluation, revision: str) -> bool:
    """Whether its file is of the present weights and options."""
    file, options = MADE / f"{evaluation.name}.json", MADE / f"{evaluation.name}.options"
    if not file.is_file() or not options.is_file():
        return False
    made_of = json.loads(file.read_text(encoding="utf-8"))["revision_sha256"]
    return made_of == revision and options.read_text(encoding="utf-8") == evaluation.options


def calibrate() -> None:
    """schedule.yaml and scene_queries.safetensors anew."""
    for _, arguments in CALIBRATIONS:
        named = [str(MODEL / part) if part == "schedule.yaml" else str(part) for part in arguments]
        run(named)
    print("The calibration is new: commit ada3d_ros/models/embedded, then run this again.")


def make(evaluation: Evaluation) -> None:
    """One result file."""
    run(evaluation.arguments(MADE / f"{evaluation.name}.json"))
    (MADE / f"{evaluation.name}.options").write_text(evaluation.options, encoding="utf-8")


def run(arguments: list[str]) -> None:
    """`ada3d ...`, in this environment. Raises SystemExit where it fails."""
    print("ada3d", *arguments, flush=True)
    done = subprocess.run([str(Path(sys.executable).with_name("ada3d")), *arguments], cwd=ROOT)
    if done.returncode:
        raise SystemExit(done.returncode)


def show(revision: str) -> None:
    """Every step: whether it is due, and how long it takes."""
    print(f"weights {revision[:12]}; minutes of one core, the machine to itself")
    minutes = sum(part for part, _ in CALIBRATIONS)
    print(f"{'made' if is_calibrated(revision) else 'due ':<5}{minutes:>4g}  {CALIBRATE}")
    for each in EVALUATIONS:
        made = "made" if is_made(each, revision) else "due"
        print(f"{made:<5}{each.minutes:>4g}  {each.name:<28}{each.command}")
    print(LATER)


def install(revision: str) -> None:
    """What is made of the present weights goes to docs/results."""
    for each in EVALUATIONS:
        if is_made(each, revision):
            shutil.copy(MADE / each.file.name, each.file)
            print(f"wrote {each.file.relative_to(ROOT)}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Results of the embedded model, made anew.")
    names = (CALIBRATE, *(each.name for each in EVALUATIONS))
    parser.add_argument("steps", nargs="*", metavar="STEP", help=f"of {', '.join(names)}")
    parser.add_argument("--list", action="store_true", help="say what is due and make nothing")
    parser.add_argument("--install", action="store_true", help="copy what is made to docs/results")
    options = parser.parse_args()
    unknown = [step for step in options.steps if step not in names]
    if unknown:
        parser.error(f"{unknown[0]!r} is no step; there are {', '.join(names)}")

    revision = revision_of(MODEL)
    MADE.mkdir(parents=True, exist_ok=True)
    if options.list:
        show(revision)
        return
    if options.install:
        install(revision)
        return
    wanted = options.steps or names
    if CALIBRATE in wanted and not is_calibrated(revision):
        calibrate()
        return
    for each in EVALUATIONS:
        if each.name in wanted and not is_made(each, revision):
            make(each)


if __name__ == "__main__":
    main()
