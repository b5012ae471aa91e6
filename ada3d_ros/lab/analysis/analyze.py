"""`ada3d analyze`: the figures of the AdaToken-3D paper for any model and scene, as JSON and PNG.

1 information contribution (contribution.py), 2 attention allocation (allocation.py), 3 answers
against the pruned share (agreement.py), 4 which tokens survive (survival.py), 5 how much attention
falls on how many tokens (concentration.py). Pictures are drawn from the written data alone
(plots.py).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ada3d_ros.config import AgentConfig, from_flat
from ada3d_ros.errors import ConfigError
from ada3d_ros.lab.analysis.allocation import measure_allocation
from ada3d_ros.lab.analysis.asked_rooms import AskedScene, own_questions
from ada3d_ros.lab.analysis.concentration import measure_concentration
from ada3d_ros.lab.analysis.contribution import Progress, measure_contribution
from ada3d_ros.lab.analysis.summary import summary
from ada3d_ros.lab.analysis.survival import (
    STRATEGIES,
    Arrays,
    NamedStrategy,
    measure_survival,
    named_strategies,
    patches_match,
)
from ada3d_ros.lab.benchmarks.spread import plain
from ada3d_ros.lab.command_line import check_writable, parse_list, run_verb
from ada3d_ros.lab.evaluation.agreement import (
    DropSweep,
    GreedyAnswer,
    check_layers,
    default_layers,
    greedy_answer,
    measure_agreement,
)
from ada3d_ros.lab.evaluation.scenes import (
    SOURCE_HELP,
    Scene,
    VoxelScene,
    add_model_arguments,
    load_for,
    read_questions,
    read_scene,
    read_voxel_scene,
    scene_prompt,
)
from ada3d_ros.lab.results import write_results
from ada3d_ros.model.checkpoint import LoadedModel
from ada3d_ros.pruning.policy import Policy
from ada3d_ros.types import PromptSequence

KIND = "ada3d_ros analysis"
ARRAYS_FILE = "survival.npz"
FIGURES = (1, 2, 3, 4, 5)
OF_VOXELS = 4  # the figure that follows patches into voxels, which LLaVA-3D alone has
WITH_VOXELS = "llava3d"


def build_parser() -> argparse.ArgumentParser:
    """The arguments of `ada3d analyze`."""
    default = AgentConfig().pruning
    parser = argparse.ArgumentParser(
        prog="ada3d analyze",
        description=(
            "Measures what spatial tokens contribute in each layer, who attends to whom, how"
            " answers change as tokens are dropped, which tokens survive each strategy, and how"
            " much attention falls on how many tokens; writes JSON and PNG."
        ),
        epilog=(
            "Figures: 1 information contribution and retention curves; 2 attention allocation; 3"
            " answers against the pruned share; 4 surviving tokens; 5 attention on the least"
            " attended tokens. Figure 4 follows patches into voxels, which LLaVA-3D alone has; of a"
            " 2D model the newest image is what is looked at. Exit status: 0 done, 2 an argument,"
            " source or checkpoint that cannot be used."
        ),
    )
    # What is analysed, and where the results go.
    parser.add_argument("sources", metavar="SOURCE", nargs="+", help=SOURCE_HELP)
    add_model_arguments(parser)
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for the pictures and data; made if absent"
    )
    parser.add_argument("--json", type=Path, help="where the data goes (default OUT/analysis.json)")

    # What is measured.
    parser.add_argument(
        "--own-questions",
        action="store_true",
        help=(
            "ask each generated room what `ada3d eval synthetic` asks it, in place of --questions;"
            " the answers of figures 2 and 5 are the true ones; without figure 4"
        ),
    )
    parser.add_argument(
        "--strategy",
        default=",".join(STRATEGIES),
        help=(
            "of figure 4, with commas: names of pruning.strategy, or ada-unroped (default"
            " %(default)s)"
        ),
    )
    parser.add_argument(
        "--keep-ratio",
        default=f"{default.keep_ratio:g}",
        help="keep ratios of figures 1 and 4, with commas (default %(default)s)",
    )
    parser.add_argument(
        "--stride",
        type=int,
        default=default.adatoken3d.inf.query_stride,
        help="every n-th spatial token is a query of figures 1 and 2 (default %(default)s)",
    )
    parser.add_argument(
        "--layers",
        default="",
        help="of figure 3, 1-based, with commas (default an eighth, three eighths, three quarters)",
    )
    parser.add_argument(
        "--answer-tokens", type=int, default=16, help="length of the answers (default %(default)s)"
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        help="of random rankings and strategies (default %(default)s)",
    )
    parser.add_argument(
        "--figures",
        default="",
        help="which to make, with commas (default all that the model has: 1,2,3,4,5, or 1,2,3,5)",
    )
    return parser


def check_options(
    options: argparse.Namespace,
) -> tuple[list[int], list[float], list[NamedStrategy]]:
    """Figures, keep ratios and strategies, all checked before the weights are read.

    Raises ConfigError.
    """
    # Figures and the answers' length.
    figures = parse_list(options.figures, int, "--figures") if options.figures else [*FIGURES]
    if not set(figures) <= set(FIGURES):
        raise ConfigError(f"--figures {options.figures}: there are {', '.join(map(str, FIGURES))}.")
    if options.own_questions and (4 in figures or options.questions):
        raise ConfigError(
            "--own-questions: each room is asked its own; figure 4 and --questions ask all alike."
        )
    if options.answer_tokens < 1:
        raise ConfigError(
            f"--answer-tokens {options.answer_tokens}: an answer has at least 1 token."
        )

    # Every strategy at every keep ratio, with the seed and stride of the command line.
    ratios = parse_list(options.keep_ratio, float, "--keep-ratio")
    base = from_flat(
        {"pruning.seed": options.seed, "pruning.adatoken3d.inf.query_stride": options.stride}
    )
    labels = parse_list(options.strategy, str, "--strategy")
    return figures, ratios, named_strategies(labels, ratios, base)


class Analysis:
    """One run: a model, its scenes and questions, and what figures share.

    That is the prompts and the answers of the unpruned model.
    """

    def __init__(self, options: argparse.Namespace, progress: Progress) -> None:
        # Arguments and questions before the weights.
        self.options, self.progress = options, progress
        self.figures, self.keep_ratios, self.strategies = check_options(options)
        self.questions = [] if options.own_questions else list(read_questions(options.questions))
        self.loaded, self.info, self.config = load_for(options, **{"pruning.seed": options.seed})
        self._check_figures()

        # Layers of figure 3, which depend on the decoder's depth.
        decoder = self.loaded.model.decoder
        self.layers: tuple[int, ...] = ()
        if 3 in self.figures:
            count = decoder.config.num_layers
            wanted = parse_list(options.layers, int, "--layers") if options.layers else None
            self.layers = default_layers(count) if wanted is None else check_layers(wanted, count)

        # Scenes, prompts, and answers where a figure needs them.
        self.scenes = [self._read(source) for source in options.sources]
        self.asked = [
            own_questions(self.loaded, scene, source)
            if options.own_questions
            else AskedScene(tuple(self.questions))
            for scene, source in zip(self.scenes, options.sources, strict=True)
        ]
        self.prompts = unpruned_prompts(self.loaded, self.scenes, self.asked)
        self.answers: list[GreedyAnswer] = []
        wants = {3} if options.own_questions else {2, 3, 5}
        if wants & set(self.figures):
            progress(f"answers of the unpruned model to {len(self.prompts)} prompts")
            self.answers = [
                greedy_answer(decoder, prompt, options.answer_tokens) for prompt in self.prompts
            ]

    def _check_figures(self) -> None:
        """Leave out what this model has not. Raises ConfigError where it was asked for."""
        name = self.loaded.model.name
        if OF_VOXELS not in self.figures or name == WITH_VOXELS:
            return
        why = (
            f"figure {OF_VOXELS} follows patches into voxels, and the tokens of {name} are not"
            " merged by voxel"
        )
        if self.options.figures:
            raise ConfigError(f"--figures {self.options.figures}: {why}; leave it out.")
        self.figures.remove(OF_VOXELS)
        self.progress(f"{why}: it is left out")

    def _read(self, source: str) -> Scene:
        self.progress(f"reading {source}")
        read = read_voxel_scene if self.loaded.model.name == WITH_VOXELS else read_scene
        return read(self.loaded, source, self.config)

    def measure(self) -> tuple[dict[str, Any], Arrays]:
        """The JSON data, and the arrays of figure 4."""
        # Figure by figure, only those asked for.
        options, decoder, progress = self.options, self.loaded.model.decoder, self.progress
        results, arrays = self._head(), Arrays()
        if 1 in self.figures:
            results["contribution"] = measure_contribution(
                decoder,
                self.prompts,
                self.config.pruning,
                self.keep_ratios,
                options.stride,
                progress,
            )
        if 2 in self.figures:
            results["allocation"] = measure_allocation(
                decoder, self.prompts, self.answer_embeds(), options.stride, progress
            )
        if 3 in self.figures:
            sweep = DropSweep(self.layers, options.answer_tokens, options.seed)
            results["agreement"] = measure_agreement(
                decoder, self.prompts, self.answers, sweep, progress
            )
        if 4 in self.figures:
            results["survival"], arrays = measure_survival(
                self.loaded, self._voxel_scenes(), self.questions, self.strategies, progress
            )
        if 5 in self.figures:
            scenes = [i for i, asked in enumerate(self.asked) for _ in asked.questions]
            results["concentration"] = measure_concentration(
                decoder, self.prompts, self.answer_embeds(), scenes, progress
            )
        return plain(results), arrays

    def _voxel_scenes(self) -> list[VoxelScene]:
        return [scene for scene in self.scenes if isinstance(scene, VoxelScene)]

    def answer_embeds(self) -> list[torch.Tensor]:
        """(A, D) of each prompt: the true answer where it is known, else the unpruned model's."""
        known = [answer for asked in self.asked for answer in asked.answers]
        decoder = self.loaded.model.decoder
        return known or [
            decoder.embed(torch.tensor(answer.token_ids, dtype=torch.int64, device=decoder.device))
            for answer in self.answers
        ]

    def _head(self) -> dict[str, Any]:
        """What the file says before its figures: model, scenes, questions, seeds."""
        model, info = self.loaded.model, self.loaded.info
        # Answers as text, and what each scene gave.
        texts = [self.loaded.tokenizer.decode(answer.token_ids) for answer in self.answers]
        scenes = [
            {
                "name": scene.name,
                "views": len(scene.frames),
                "spatial_tokens": len(scene.tokens.xyz_m),
                "voxel_size_m": scene.tokens.voxel_size_m,
                "patches_match": patches_match(scene) if isinstance(scene, VoxelScene) else None,
            }
            for scene in self.scenes
        ]
        return {
            "kind": KIND,
            "model": info.path.resolve().name,
            "sha256": self.info.sha256.split()[0],  # of the weights
            "revision_sha256": self.info.sha256,  # tower and head besides
            "random_weights": info.config.random_weights,
            "backbone": model.name,
            "num_layers": model.decoder.config.num_layers,
            "precision": str(model.decoder.dtype).removeprefix("torch."),
            "n": len(self.prompts),
            "seeds": [self.options.seed],
            "keep_ratios": self.keep_ratios,
            "questions": self.questions,
            "own_questions": self.options.own_questions,
            "scenes": scenes,
            "unpruned_answers": texts,
        }


def unpruned_prompts(
    loaded: LoadedModel, scenes: Sequence[Scene], asked: Sequence[AskedScene]
) -> list[PromptSequence]:
    """Every scene's questions about it, all spatial tokens in each; scene by scene."""
    policy = Policy.from_config(from_flat({"pruning.strategy": "none"}).pruning)
    return [
        scene_prompt(loaded, scene, question, policy)[0]
        for scene, about in zip(scenes, asked, strict=True)
        for question in about.questions
    ]


def run(options: argparse.Namespace, progress: Progress) -> tuple[dict[str, Any], list[Path]]:
    """Measure, write, draw. Returns the data and the files. Raises Ada3DError, OSError."""
    from ada3d_ros.lab.analysis.plots import draw_figures

    # See that the results can be written before the long part.
    data_file = options.json or options.out / "analysis.json"
    check_writable(options.out / ARRAYS_FILE, "--out")
    check_writable(data_file, "--json")

    analysis = Analysis(options, progress)
    results, arrays = analysis.measure()
    device = str(analysis.loaded.model.device)
    files = [write_results(data_file, results, device, options.seed)]
    if arrays:
        named: dict[str, Any] = dict(arrays)
        np.savez_compressed(options.out / ARRAYS_FILE, **named)
        files.append(options.out / ARRAYS_FILE)

    # Pictures come from the written data alone.
    progress("drawing")
    return results, files + draw_figures(results, arrays, options.out)


def main(argv: list[str]) -> int:
    """`ada3d analyze`: returns 0, or 2 with a sentence on stderr."""
    options = build_parser().parse_args(argv)
    start = time.perf_counter()

    def progress(text: str) -> None:
        print(f"[{time.perf_counter() - start:6.1f} s] {text}", file=sys.stderr, flush=True)

    def work() -> None:
        results, files = run(options, progress)
        print(summary(results))
        print("\n".join(map(str, files)))

    return run_verb("analyze", work)
