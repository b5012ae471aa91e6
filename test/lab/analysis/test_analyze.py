"""`ada3d analyze`: figures 1 to 3 against independent computation, and its errors."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ada3d_ros.config import AgentConfig
from ada3d_ros.errors import ConfigError
from ada3d_ros.lab.analysis.allocation import KEY_KINDS, QUERY_KINDS, attention_allocation
from ada3d_ros.lab.analysis.analyze import main
from ada3d_ros.lab.analysis.plots import draw_figures
from ada3d_ros.lab.benchmarks.spread import spread
from ada3d_ros.lab.evaluation.agreement import (
    default_layers,
    kl_divergence_nats,
    prefix_agreement,
    single_drop,
)
from ada3d_ros.lab.evaluation.scenes import load_for, read_scene
from ada3d_ros.lab.parity.reference_engine import reference_generate, reference_logits
from ada3d_ros.model.checkpoint import LoadedModel
from ada3d_ros.model.decoder import LlamaDecoder
from ada3d_ros.model.random_checkpoint import TINY_VIDEO3D, write_random_checkpoint
from ada3d_ros.pruning.information import attention_masses
from ada3d_ros.token_rows import rows_of
from ada3d_ros.types import PromptSequence
from test.support.checkpoints import SMALL_2D, SMALL_NEXT

QUESTIONS = ("What is in the room?", "Find the chair.")  # of `folder`


@torch.inference_mode()
def full_attention(
    decoder: LlamaDecoder, embeds: torch.Tensor, positions: torch.Tensor
) -> list[torch.Tensor]:
    """(H, T, T) float64 per layer, written out."""
    hidden, found, d = embeds[None], [], decoder.config.head_dim
    future = torch.ones(len(embeds), len(embeds), dtype=torch.bool).triu(1)
    exponents = torch.arange(d // 2) / (d // 2)
    angle = positions[:, None].double() / decoder.config.rope_theta**exponents

    def heads(x: torch.Tensor, linear: torch.nn.Linear) -> torch.Tensor:
        """(H or G, T, d), rotated by position."""
        projected = (x @ linear.weight.T).double().reshape(len(x), -1, d).transpose(0, 1)
        a, b = projected.chunk(2, dim=-1)
        rotated = (a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin())
        return torch.cat(rotated, dim=-1)

    # Layer by layer: attention, then the layer itself.
    for index, layer in enumerate(decoder.layers):
        x = layer.input_layernorm(hidden)[0]
        q, k = heads(x, layer.self_attn.q_proj), heads(x, layer.self_attn.k_proj)
        k = k.repeat_interleave(q.shape[0] // k.shape[0], dim=0)
        scores = (q @ k.transpose(1, 2) / d**0.5).masked_fill(future, -torch.inf)
        found.append(torch.softmax(scores, dim=-1))
        hidden = decoder.run_layers(index, index + 1, hidden, positions)
    return found


# -- the file


def test_the_file_says_where_its_numbers_come_from(analysed: dict[str, Any]) -> None:
    assert analysed["n"] == 2
    assert analysed["seeds"] == [7]
    assert analysed["model"] == "model"
    assert len(analysed["sha256"]) == 64
    assert analysed["random_weights"] is True
    assert analysed["provenance"]["seed"] == 7
    assert analysed["provenance"]["device"] == "cpu"
    assert analysed["scenes"][0]["patches_match"] is True
    figures = {"contribution", "allocation", "agreement", "survival", "concentration"}
    assert figures <= set(analysed)


def test_pictures_come_from_the_written_data_alone(
    folder: Path, analysed: dict[str, Any], arrays: dict[str, np.ndarray]
) -> None:
    files = draw_figures({**analysed, "keep_ratios": [0.41]}, arrays, folder)
    written = {path.name for path in (folder / "out").glob("*.png")}
    assert len(written) == 4 + 3 * len(analysed["keep_ratios"])
    assert {path.name for path in files} == {name for name in written if "keep0.3" not in name}


# -- figure 1


def test_masses_equal_full_attention(
    loaded: LoadedModel, prompts: list[PromptSequence], analysed: dict[str, Any]
) -> None:
    masses = [
        [
            attention_masses(a, p.spatial_span)
            for a in full_attention(loaded.model.decoder, p.embeds, p.positions)
        ]
        for p in prompts
    ]
    data = analysed["contribution"]
    for name in ("S_self", "S_sp", "S_ss"):
        samples = np.array([[getattr(m, name) for m in layers] for layers in masses])
        std = np.abs(samples[0] - samples[1]) / 2**0.5
        np.testing.assert_allclose(data[name]["mean"], samples.mean(axis=0), atol=1e-6)
        np.testing.assert_allclose(data[name]["std"], std, atol=1e-6)


def test_curves_follow_the_equations(analysed: dict[str, Any]) -> None:
    data = analysed["contribution"]
    S_self, S_sp, S_ss = (np.array(data[name]["mean"]) for name in ("S_self", "S_sp", "S_ss"))
    np.testing.assert_allclose(S_self + S_ss, 1.0, atol=1e-5)
    F = [S_self[0]]
    for value in S_self[1:]:
        F.append(0.73 * value + 0.27 * F[-1])
    INF = np.exp(0.3 * S_sp + 0.7 * S_ss) + F + np.log(1 + S_self)
    I = (INF - INF.min()) / np.ptp(INF)
    np.testing.assert_allclose(data["INF"]["of_mean_masses"], INF)
    np.testing.assert_allclose(data["I"]["of_mean_masses"], I, atol=1e-9)


def test_retention_meets_the_keep_ratio_or_says_why_not(analysed: dict[str, Any]) -> None:
    found = analysed["contribution"]["retention"]
    for retention, ratio in zip(found, (0.41, 0.3), strict=True):
        for kind in ("fitted", "fixed"):
            curve = retention[kind]["curve"]
            assert curve[0] == 1.0
            assert np.mean(curve) == pytest.approx(ratio, abs=0.03)
            assert all(np.diff(curve) <= 1e-9)


def test_deviation_of_the_stride_is_that_of_two_measurements(
    loaded: LoadedModel, prompts: list[PromptSequence], analysed: dict[str, Any]
) -> None:
    found = analysed["contribution"]["stride_deviation"]
    assert (found["stride"], found["reference_stride"]) == (10, 1)
    largest = 0.0
    for prompt in prompts:
        start, stop = prompt.spatial_span
        queries = torch.arange(start + 4, stop, 10)
        for attention in full_attention(loaded.model.decoder, prompt.embeds, prompt.positions):
            mass = attention.mean(dim=0)[:, start:stop].sum(dim=1)
            largest = max(largest, abs(float(mass[queries].mean() - mass[start:stop].mean())))
    assert found["masses"] == pytest.approx(largest, abs=1e-6)
    assert found["INF"] > 0


# -- figure 2


def test_allocation_equals_blocks_of_full_attention_and_sums_to_one(
    loaded: LoadedModel, prompts: list[PromptSequence], analysed: dict[str, Any]
) -> None:
    # Prompt and answer in one sequence, with the borders of each kind of token.
    decoder, prompt = loaded.model.decoder, prompts[0]
    ids = reference_generate(decoder, prompt, 5)[0]
    embeds = torch.cat((prompt.embeds, decoder.embed(torch.tensor(ids))))
    (start, stop), length, total = prompt.spatial_span, len(prompt.embeds), len(embeds)
    queries = [(start, stop), (stop, length), (length, total)]
    keys = [(0, start), (start, stop), (stop, length), (length, total)]

    shares = attention_allocation(decoder, prompt, decoder.embed(torch.tensor(ids)))
    for layer, attention in enumerate(full_attention(decoder, embeds, torch.arange(total))):
        mean = attention.mean(dim=0)
        expected = [[float(mean[a:b, c:d].sum(dim=1).mean()) for c, d in keys] for a, b in queries]
        np.testing.assert_allclose(shares[:, :, layer], expected, atol=1e-6)

    for query in QUERY_KINDS:
        kinds = analysed["allocation"]["attention"][query]
        total_share = np.sum([kinds[key]["mean"] for key in KEY_KINDS], axis=0)
        np.testing.assert_allclose(total_share, 1.0, atol=1e-5)


def test_allocation_without_an_answer_has_none(
    loaded: LoadedModel, prompts: list[PromptSequence]
) -> None:
    nothing = prompts[0].embeds[:0]
    shares = attention_allocation(loaded.model.decoder, prompts[0], nothing, stride=10)
    assert np.isnan(shares[2]).all()
    np.testing.assert_allclose(shares[:2].sum(axis=1), 1.0, atol=1e-5)


# -- figure 3


def test_nothing_dropped_agrees_exactly(analysed: dict[str, Any]) -> None:
    data = analysed["agreement"]
    assert data["layers"] == [1, 3]
    assert data["seeds"] == [7, 8]
    assert len(data["curves"]) == 4
    for curve in data["curves"]:
        first, *rest = curve["points"]
        means = [first[name]["mean"] for name in ("identical", "prefix", "kl_nats", "dropped")]
        assert means == [1.0, 1.0, 0.0, 0.0]
        assert all(point["kl_nats"]["mean"] > 0 for point in rest)
        assert [point["share"] for point in curve["points"]] == data["shares"]
        assert rest[-1]["dropped"]["mean"] == pytest.approx(0.95, abs=0.01)


@torch.inference_mode()
def half_dropped_divergence(decoder: LlamaDecoder, prompt: PromptSequence) -> float:
    """KL of the first token with half dropped after layer 1 by layer 2's attention, written out."""
    # The half that the last token attends to most, in the prompt's order.
    start, stop = prompt.spatial_span
    attention = full_attention(decoder, prompt.embeds, prompt.positions)[1].mean(dim=0)
    score = attention[-1, start:stop].tolist()
    best_first = sorted(range(stop - start), key=lambda i: -score[i])
    kept = [start + i for i in sorted(best_first[: (stop - start) // 2])]
    index = torch.tensor([*range(start), *kept, *range(stop, len(prompt.embeds))])

    # From layer 2 on only those.
    layers = decoder.config.num_layers
    hidden = decoder.run_layers(0, 1, prompt.embeds[None], prompt.positions)[:, index]
    hidden = decoder.run_layers(1, layers, hidden, prompt.positions[index])
    pruned = torch.log_softmax(decoder.logits(hidden[0, -1]).double(), dim=-1)

    unpruned = reference_logits(decoder, prompt.embeds, prompt.positions)[-1].double()
    p = torch.softmax(unpruned, dim=-1)
    return float((p * (p.log() - pruned)).sum())


def test_a_drop_equals_the_prompt_without_those_tokens_from_that_layer_on(
    loaded: LoadedModel, prompts: list[PromptSequence], analysed: dict[str, Any]
) -> None:
    expected = np.mean([half_dropped_divergence(loaded.model.decoder, p) for p in prompts])
    curves = {(c["layer"], c["ranking"]): c for c in analysed["agreement"]["curves"]}
    points = {point["share"]: point for point in curves[1, "adatoken3d"]["points"]}
    assert points[0.5]["kl_nats"]["mean"] == pytest.approx(expected, rel=1e-3)


def test_measures_of_agreement() -> None:
    assert prefix_agreement((1, 2, 3), (1, 2, 4)) == pytest.approx(2 / 3)
    assert prefix_agreement((1, 2), (1, 2, 4)) == pytest.approx(2 / 3)
    assert prefix_agreement((), ()) == 1.0
    assert prefix_agreement((), (1,)) == 0.0
    p, q = np.log([0.5, 0.5]), np.log([0.25, 0.75])
    assert kl_divergence_nats(p, q) == pytest.approx(0.5 * np.log(2) + 0.5 * np.log(2 / 3))
    assert [default_layers(count) for count in (32, 12, 2)] == [(4, 12, 24), (1, 4, 9), (1,)]
    with pytest.raises(ConfigError, match="1 layer"):
        default_layers(1)
    assert single_drop(4, 2, 0.75, "random").counts(100, None) == (100, 100, 25, 25)


def test_spread_leaves_out_what_is_missing() -> None:
    found = spread([[1.0, np.nan, np.nan], [3.0, 5.0, np.nan]])
    assert found == {"n": 2, "mean": [2.0, 5.0, None], "std": [pytest.approx(2**0.5), None, None]}


# -- errors


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--strategy", "adatokn3d"], "strategy"),
        (["--strategy", ","], "--strategy"),
        (["--keep-ratio", "0.00001"], "keep_ratio"),
        (["--keep-ratio", "much"], "--keep-ratio 'much'"),
        (["--stride", "0"], "query_stride"),
        (["--figures", "1,6"], "--figures"),
        (["--layers", "4"], "layers 1 to 3"),
        (["--answer-tokens", "0"], "--answer-tokens"),
        (["--seed", "-1"], "seed"),
        (["--questions", "/nowhere/questions.txt"], "questions"),
        (["--model", "/nowhere"], "/nowhere"),
    ],
)
def test_a_bad_argument_is_one_sentence(
    command: Callable[..., list[str]],
    more: list[str],
    words: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(command(*more)) == 2
    lines = capsys.readouterr().err.splitlines()
    (message,) = [line for line in lines if not line.startswith("[")]  # progress
    assert message.startswith("ada3d analyze: ")
    assert words in message
    assert message.endswith(".")


def test_a_source_or_folder_that_cannot_be_used_is_one_sentence(
    folder: Path, command: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(source=str(folder / "nothing"))) == 2
    assert "is not a folder" in capsys.readouterr().err
    assert main(command("--out", str(folder / "questions.txt"))) == 2
    assert "--out" in capsys.readouterr().err


# -- other backbones


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Small ones with random weights, by the name of the backbone."""
    root = tmp_path_factory.mktemp("others")
    configs = {"video3dllm": TINY_VIDEO3D, "llava1.5": SMALL_2D, "llava_next": SMALL_NEXT}
    return {name: write_random_checkpoint(root / name, 5, c) for name, c in configs.items()}


@pytest.mark.parametrize("backbone", ["video3dllm", "llava1.5", "llava_next"])
def test_all_figures_but_that_of_voxels_are_made_of_any_backbone(
    others: dict[str, Path], backbone: str, folder: Path, tmp_path: Path
) -> None:
    """By default; newlines, which have no place, count with the text before the scene."""
    args = ["--model", str(others[backbone]), "--device", "cpu", "--precision", "fp32"]
    args += ["--questions", str(folder / "questions.txt"), "--out", str(tmp_path)]
    assert main(["room:0", *args, "--answer-tokens", "2", "--layers", "1"]) == 0
    data = json.loads((tmp_path / "analysis.json").read_text())
    assert (data["backbone"], data["n"]) == (backbone, len(QUESTIONS))
    assert "survival" not in data
    for figure in ("contribution", "allocation", "agreement", "concentration"):
        assert data[figure]["n"] == len(QUESTIONS)
    model = load_for(argparse.Namespace(model=others[backbone], device="cpu", precision="fp32"))[0]
    tokens = read_scene(model, "room:0", AgentConfig()).tokens
    placed = data["allocation"]["mean_tokens"]["spatial"]
    assert placed == rows_of(tokens).num_placed == int((tokens.num_patches > 0).sum())
    rows = np.array([data["allocation"]["attention"]["prompt"][k]["mean"] for k in KEY_KINDS])
    np.testing.assert_allclose(rows.sum(axis=0), 1.0, atol=1e-6)
    assert {file.stem for file in tmp_path.glob("*.png")} >= {"contribution", "allocation"}


def test_the_figure_of_voxels_is_refused_by_name_for_other_backbones(
    others: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for backbone, model in others.items():
        args = ["room:0", "--model", str(model), "--out", str(tmp_path), "--figures", "1,4"]
        assert main(args) == 2
        told = capsys.readouterr().err
        assert "--figures 1,4: figure 4 follows patches into voxels" in told
        assert f"the tokens of {backbone} are not merged by voxel; leave it out." in told
