"""`ada3d calibrate`: scenes in, a calibration file out; with --queries or --held a file of queries
instead (lab/analysis/calibrate_queries.py).

It holds information per layer and the retention schedule fitted to it. Each question about each
scene is one unpruned pass; their masses are averaged, mixed into one curve and fitted under the
budget. The file holds the curve, so that the node can fit any other keep ratio from it.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ada3d_ros.config import AgentConfig, from_flat
from ada3d_ros.engine.information import measure_information
from ada3d_ros.errors import ConfigError
from ada3d_ros.lab.command_line import check_writable, run_verb
from ada3d_ros.lab.evaluation.scenes import (
    SOURCE_HELP,
    add_model_arguments,
    load_for,
    read_questions,
    read_scene,
    scene_prompt,
)
from ada3d_ros.lab.results import provenance
from ada3d_ros.model.checkpoint import LoadedModel
from ada3d_ros.pruning.adatoken import adatoken_curve, budget_of, layer_list
from ada3d_ros.pruning.calibration import Calibration, write_calibration
from ada3d_ros.pruning.cost import DecoderShape, PromptSizes, cost_of
from ada3d_ros.pruning.fitted import fit_information, information_settings
from ada3d_ros.pruning.information import Masses, falls_with_depth, information_of, mean_masses
from ada3d_ros.pruning.policy import NOMINAL_TEXT, Policy
from ada3d_ros.pruning.queries_file import QUERIES_FILE, write_queries
from ada3d_ros.pruning.schedule import RetentionSchedule, Staircase
from ada3d_ros.pruning.strategy import LayerBudget
from ada3d_ros.token_rows import rows_of

Samples = list[list[Masses]]
SCHEDULE_FILE = "schedule.yaml"


def measure_scenes(
    loaded: LoadedModel,
    sources: Sequence[str],
    questions: Sequence[str],
    config: AgentConfig,
    stride: int,
) -> tuple[Samples, list[int]]:
    """Masses of every question about every scene, and the scenes' spatial tokens with a place. A 2D
    model is asked about the newest image of each source. Progress goes to stderr.
    """
    policy = Policy.from_config(from_flat({"pruning.strategy": "none"}).pruning)
    samples, sizes = Samples(), list[int]()
    with tqdm(total=len(sources) * len(questions), unit="pass") as progress:
        for source in sources:
            scene = read_scene(loaded, source, config)
            sizes.append(rows_of(scene.tokens).num_placed)
            progress.set_description(f"{scene.name}, {sizes[-1]} spatial tokens")
            for question in questions:
                prompt, _ = scene_prompt(loaded, scene, question, policy, config.model.conversation)
                samples.append(measure_information(loaded.model.decoder, prompt, stride))
                progress.update()
    return samples, sizes


def calibrate(
    loaded: LoadedModel,
    sha256: str,
    sources: Sequence[str],
    questions: Sequence[str],
    config: AgentConfig,
) -> Calibration:
    """The calibration of a model on these scenes, under the budget of `config.pruning`."""
    # The decoder, the keep ratio, and the layers that drop.
    ada = config.pruning.adatoken3d
    shape, ratio = DecoderShape.from_config(loaded.model.decoder.config), config.pruning.keep_ratio
    stairs = Staircase(shape.num_layers, ada.first_prune_layer, layer_list(ada.prune_layers))
    falling = tuple(map(float, np.linspace(1.0, 0.0, shape.num_layers)))
    # Can the budget be met at all? Asked before the long part.
    adatoken_curve(ada, stairs, LayerBudget(shape, ratio, information=falling))
    samples, sizes = measure_scenes(loaded, sources, questions, config, ada.inf.query_stride)
    return calibration_of(loaded, sha256, sources, (samples, sizes), config)


def calibration_of(
    loaded: LoadedModel,
    sha256: str,
    sources: Sequence[str],
    measured: tuple[Samples, Sequence[int]],
    config: AgentConfig,
) -> Calibration:
    """The calibration that follows from what was measured: masses of every pass, and the spatial
    tokens of each scene.
    """
    samples, sizes = measured
    ada = config.pruning.adatoken3d
    shape, ratio = DecoderShape.from_config(loaded.model.decoder.config), config.pruning.keep_ratio
    stairs = Staircase(shape.num_layers, ada.first_prune_layer, layer_list(ada.prune_layers))
    masses, settings = mean_masses(samples), information_settings(ada)
    found = information_of(masses, settings)
    I, size = tuple(map(float, found.I)), int(np.mean(sizes))
    goal = LayerBudget(shape, ratio, sizes=PromptSizes(size, NOMINAL_TEXT, size), information=I)
    curve = adatoken_curve(ada, stairs, goal)
    retention = stairs.hold(np.clip(curve, 0.0, 1.0))
    mode, target = budget_of(ada, ratio)
    parameters: dict[str, float] = {}
    if falls_with_depth(found.I) and mode != "parameters":
        fit = fit_information(ada, stairs, goal)
        parameters = {
            "alpha": fit.alpha,
            "beta": fit.beta,
            "M": fit.M,
            "L0": ada.fit.L0,
            "loss": fit.loss,
        }

    # What the file holds.
    model = loaded.info
    return Calibration(
        model=model.path.resolve().name,
        sha256=sha256,
        information=I,
        INF=tuple(map(float, found.INF)),
        masses=tuple(masses),
        retention=tuple(map(float, retention)),
        parameters=parameters,
        budget={"mode": mode, "value": target},
        achieved_mean=float(retention.mean()),
        samples=len(samples),
        mean_spatial_tokens=size,
        settings=asdict(settings) | {"query_stride": ada.inf.query_stride},
        sources=tuple(Path(source).name or source for source in sources),
        provenance=provenance(str(loaded.model.device)),
        random_weights=model.config.random_weights,
        INF_std=tuple(
            map(float, np.std([information_of(s, settings).INF for s in samples], axis=0))
        ),
    )


def describe(calibration: Calibration, path: Path, shape: DecoderShape, element_size: int) -> str:
    """What a person wants to know of a calibration, and how the node takes it."""
    # Layer by layer.
    lines = [f"{'layer':>5} {'S_self':>7} {'S_sp':>7} {'INF':>8} {'I':>6} {'kept':>6}"]
    c = calibration
    curves = zip(c.masses, c.INF, c.information, c.retention, strict=True)
    for layer, (m, inf, i, kept) in enumerate(curves, 1):
        lines.append(
            f"{layer:>5} {m.S_self:>7.3f} {m.S_sp:>7.3f} {inf:>8.4f} {i:>6.3f} {kept:>6.3f}"
        )

    # What the budget came to, and what a prompt costs under it.
    budget = calibration.budget
    lines.append(
        f"{calibration.samples} passes; budget {budget['mode']} {budget['value']:g}, achieved mean"
        f" keep ratio {calibration.achieved_mean:.3f}"
    )
    counts = RetentionSchedule(calibration.retention).counts(calibration.mean_spatial_tokens)
    cost = cost_of(shape, counts, NOMINAL_TEXT, element_size)
    lines.append(
        f"at {counts[0]} spatial tokens: prefill {cost.prefill_flops / 1e9:.3g} of"
        f" {cost.unpruned_prefill_flops / 1e9:.3g} GFLOP, ranking {cost.rank_flops / 1e9:.2g} more;"
        f" decode {cost.decode_flops / 1e9:.3g} of {cost.unpruned_decode_flops / 1e9:.3g} GFLOP a"
        f" token; KV {cost.kv_bytes / 2**20:.3g} of {cost.unpruned_kv_bytes / 2**20:.3g} MiB"
    )

    # Why the curve may mean nothing, and how the node takes the file.
    if calibration.random_weights:
        lines.append(
            "NOTE: this model has random weights, it was never trained: the curve means nothing."
        )
    if not calibration.parameters:
        lines.append(
            "NOTE: the information is flat or rises with depth, so nothing could be fitted: the"
            " schedule above is the fixed curve, and the node will do the same"
            " (pruning.adatoken3d.on_degenerate)."
        )
    lines.append(
        f"wrote {path}; the node takes it with pruning.strategy:=adatoken3d"
        f" pruning.adatoken3d.schedule:=fitted pruning.adatoken3d.calibration_file:={path}"
    )
    return "\n".join(lines)


def build_parser() -> argparse.ArgumentParser:
    """The arguments of `ada3d calibrate`."""
    parser = argparse.ArgumentParser(
        prog="ada3d calibrate",
        description=(
            "Measures how much attention spatial tokens give and get in each decoder layer of a"
            " model (AdaToken-3D eqs. 1-4), fits the retention schedule under a budget (eqs. 5-7),"
            " and writes both as YAML for the node. A 2D model is asked about the newest image of"
            " each source. With --queries: records what questions look for"
            " in a scene, for a cached scene that is pruned before any is asked (cache.ranking"
            " expected); with --held also what each layer's share of it is worth."
        ),
        epilog=(
            "Example: ada3d calibrate office_bag lab_bag --model LLaVA-3D-7B -o schedule.yaml"
            " --keep-ratio 0.3"
        ),
    )
    # What is measured, and the file.
    parser.add_argument("sources", nargs="+", metavar="SOURCE", help=SOURCE_HELP)
    add_model_arguments(parser)
    parser.add_argument(
        "-o",
        "--out",
        type=Path,
        help=f"schedule to write (default {SCHEDULE_FILE})",
    )
    parser.add_argument(
        "--queries",
        type=Path,
        metavar="FILE",
        help="write questions' queries instead (cache.queries_file); a generated room is asked its"
        " own questions where --questions names none",
    )
    parser.add_argument(
        "--held",
        action="store_true",
        help="also measure what each layer's share is worth, by withholding the scene from one"
        f" layer after the other (into --queries, default {QUERIES_FILE})",
    )

    # The budget and the measurement; what is not given is as in --config.
    parser.add_argument(
        "--keep-ratio",
        type=float,
        help="mean over layers of kept / total (default: as in --config, 0.41)",
    )
    parser.add_argument(
        "--budget",
        choices=("mean", "endpoint", "flops"),
        help="what the budget is about (default mean)",
    )
    parser.add_argument(
        "--budget-value", type=float, help="of budgets endpoint and flops (default 0.2)"
    )
    parser.add_argument(
        "--stride", type=int, help="every n-th spatial token is a query (default 10; 1 = exact)"
    )
    return parser


def main(argv: Sequence[str]) -> int:
    """`ada3d calibrate`: returns 0; 2 with a sentence on stderr for what cannot be used."""
    # Settings of the command line stand over those of --config.
    options = build_parser().parse_args(list(argv))
    given = {
        "pruning.keep_ratio": options.keep_ratio,
        "pruning.adatoken3d.budget.mode": options.budget,
        "pruning.adatoken3d.budget.value": options.budget_value,
        "pruning.adatoken3d.inf.query_stride": options.stride,
    }
    settings = {"pruning.strategy": "adatoken3d", "pruning.adatoken3d.schedule": "fitted"}
    settings |= {name: value for name, value in given.items() if value is not None}

    def work() -> None:
        if options.queries is not None or options.held:
            _write_queries_file(options, given)
            return
        out = options.out or Path(SCHEDULE_FILE)
        check_writable(out, "--out")
        questions = read_questions(options.questions)
        loaded, info, config = load_for(options, **settings)
        weights = info.sha256.split(" head:")[0]  # the head changes no attention
        calibration = calibrate(loaded, weights, options.sources, questions, config)
        path, decoder = write_calibration(out, calibration), loaded.model.decoder
        print(
            describe(
                calibration, path, DecoderShape.from_config(decoder.config), decoder.dtype.itemsize
            )
        )

    return run_verb("calibrate", work)


def _write_queries_file(options: argparse.Namespace, given: Mapping[str, object]) -> None:
    """--queries and --held."""
    foreign = {"--out": options.out} | {f"a setting ({name})": v for name, v in given.items()}
    for name, value in foreign.items():
        if value is not None:
            raise ConfigError(f"{name} is the schedule's: leave it out with --queries and --held.")
    out = options.queries or Path(QUERIES_FILE)
    check_writable(out, "--queries")
    questions = None if options.questions is None else read_questions(options.questions)
    loaded, info, config = load_for(options)
    from ada3d_ros.lab.analysis import calibrate_queries as of_queries

    measured = of_queries.measure_questions(
        loaded, options.sources, questions, config, options.held
    )
    weights = info.sha256.split(" head:")[0]  # the head changes no query
    file = of_queries.calibrate_queries(loaded, weights, options.sources, measured)
    path = write_queries(out, file, provenance(str(loaded.model.device)))
    print(of_queries.describe_queries(file, measured))
    print(
        f"wrote {path}; the node takes it with cache.ranking:=expected cache.queries_file:={path},"
        f" or as {QUERIES_FILE} beside the checkpoint's weights"
    )
