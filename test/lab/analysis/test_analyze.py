"""`ada3d analyze`: its numbers against independent computation, its errors."""

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ada3d_ros.config import AgentConfig
from ada3d_ros.engine.information import decoder_shape
from ada3d_ros.engine.prefill import prefill
from ada3d_ros.errors import ConfigError
from ada3d_ros.lab.analysis.allocation import KEY_KINDS, QUERY_KINDS, attention_allocation
from ada3d_ros.lab.analysis.analyze import main, unpruned_prompts
from ada3d_ros.lab.analysis.plots import draw_figures
from ada3d_ros.lab.analysis.survival import (
    UNROPED,
    kept_by_layer,
    mask_name,
    named_strategies,
    patch_states,
)
from ada3d_ros.lab.benchmarks.spread import spread
from ada3d_ros.lab.evaluation.agreement import (
    default_layers,
    kl_divergence_nats,
    prefix_agreement,
    single_drop,
)
from ada3d_ros.lab.evaluation.scenes import Scene, load_for, read_scene, scene_prompt
from ada3d_ros.lab.parity.reference_engine import reference_generate, reference_logits
from ada3d_ros.model.checkpoint import LoadedModel
from ada3d_ros.model.config import DecoderConfig
from ada3d_ros.model.decoder import LlamaDecoder
from ada3d_ros.model.random_checkpoint import TINY_CONFIG, write_random_checkpoint
from ada3d_ros.pruning.information import attention_masses
from ada3d_ros.pruning.policy import Policy
from ada3d_ros.types import PromptSequence

QUESTIONS = ("What is in the room?", "Find the chair.")
LAYERS, KEEP = 4, (0.41, 0.3)
CONFIG = dataclasses.replace(
    TINY_CONFIG,
    decoder=DecoderConfig(512, 64, 128, LAYERS, 4, 2),
    vision=dataclasses.replace(
        TINY_CONFIG.vision, hidden_size=32, intermediate_size=64, image_size=56
    ),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("analysis")
    write_random_checkpoint(path / "model", 3, CONFIG)
    (path / "questions.txt").write_text("\n".join(QUESTIONS))
    return path


def command(folder: Path, *more: str, model: str = "model", source: str = "room:0") -> list[str]:
    fixed = [
        "--model",
        str(folder / model),
        "--device",
        "cpu",
        "--precision",
        "fp32",
        "--questions",
    ]
    return [source, *fixed, str(folder / "questions.txt"), "--out", str(folder / "out"), *more]


@pytest.fixture(scope="module")
def analysed(folder: Path) -> dict[str, Any]:
    """The JSON of one whole run at stride 1."""
    more = ["--keep-ratio", "0.41,0.3", "--stride", "1", "--answer-tokens", "5", "--seed", "7"]
    assert (
        main(command(folder, *more, "--strategy", "adatoken3d,ada-unroped,uniform,voxel_dpp,fastv"))
        == 0
    )

    def reject(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    data: dict[str, Any] = json.loads(
        (folder / "out" / "analysis.json").read_text(), parse_constant=reject
    )
    return data


@pytest.fixture(scope="module")
def arrays(folder: Path, analysed: dict[str, Any]) -> dict[str, np.ndarray]:
    return dict(np.load(folder / "out" / "survival.npz"))


@pytest.fixture(scope="module")
def loaded(folder: Path) -> LoadedModel:
    options = argparse.Namespace(model=folder / "model", device="cpu", precision="fp32")
    return load_for(options)[0]


@pytest.fixture(scope="module")
def scene(loaded: LoadedModel) -> Scene:
    return read_scene(loaded, "room:0", AgentConfig())


@pytest.fixture(scope="module")
def prompts(loaded: LoadedModel, scene: Scene) -> list[PromptSequence]:
    return unpruned_prompts(loaded, [scene], QUESTIONS)


@torch.inference_mode()
def full_attention(
    decoder: LlamaDecoder, embeds: torch.Tensor, positions: torch.Tensor
) -> list[torch.Tensor]:
    """(H, T, T) float64 per layer, written out."""
    hidden, found, d = embeds[None], [], decoder.config.head_dim
    future = torch.ones(len(embeds), len(embeds), dtype=torch.bool).triu(1)
    exponents = torch.arange(d // 2) / (d // 2)
    angle = positions[:, None].double() / decoder.config.rope_theta**exponents
    for index, layer in enumerate(decoder.layers):
        x = layer.input_layernorm(hidden)[0]
        q, k = (
            (x @ w.weight.T).double().reshape(len(x), -1, d).transpose(0, 1)
            for w in (layer.self_attn.q_proj, layer.self_attn.k_proj)
        )
        k = k.repeat_interleave(q.shape[0] // k.shape[0], dim=0)
        q, k = (
            torch.cat(
                (a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()), dim=-1
            )
            for a, b in (q.chunk(2, dim=-1), k.chunk(2, dim=-1))
        )
        found.append(
            torch.softmax((q @ k.transpose(1, 2) / d**0.5).masked_fill(future, -torch.inf), dim=-1)
        )
        hidden = decoder.run_layers(index, index + 1, hidden, positions)
    return found


# -- the file


def test_the_file_says_where_its_numbers_come_from(folder: Path, analysed: dict[str, Any]) -> None:
    assert analysed["n"] == 2
    assert analysed["seeds"] == [7]
    assert analysed["model"] == "model"
    assert len(analysed["sha256"]) == 64
    assert analysed["random_weights"] is True
    assert analysed["provenance"]["seed"] == 7
    assert analysed["provenance"]["device"] == "cpu"
    assert analysed["scenes"][0]["patches_match"] is True
    assert {"contribution", "allocation", "agreement", "survival"} <= set(analysed)


def test_pictures_come_from_the_written_data_alone(
    folder: Path, analysed: dict[str, Any], arrays: dict[str, np.ndarray]
) -> None:
    drawn = {
        path.name for path in draw_figures({**analysed, "keep_ratios": [0.41]}, arrays, folder)
    }
    written = {path.name for path in (folder / "out").glob("*.png")}
    assert len(written) == 3 + 3 * len(KEEP)
    assert drawn == {name for name in written if "keep0.3" not in name}


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
        np.testing.assert_allclose(data[name]["mean"], samples.mean(axis=0), atol=1e-6)
        np.testing.assert_allclose(
            data[name]["std"], np.abs(samples[0] - samples[1]) / 2**0.5, atol=1e-6
        )


def test_curves_follow_the_equations(analysed: dict[str, Any]) -> None:
    data = analysed["contribution"]
    S_self, S_sp, S_ss = (np.array(data[name]["mean"]) for name in ("S_self", "S_sp", "S_ss"))
    np.testing.assert_allclose(S_self + S_ss, 1.0, atol=1e-5)
    F = [S_self[0]]
    for value in S_self[1:]:
        F.append(0.73 * value + 0.27 * F[-1])
    INF = np.exp(0.3 * S_sp + 0.7 * S_ss) + F + np.log(1 + S_self)
    np.testing.assert_allclose(data["INF"]["of_mean_masses"], INF)
    np.testing.assert_allclose(
        data["I"]["of_mean_masses"], (INF - INF.min()) / np.ptp(INF), atol=1e-9
    )


def test_retention_meets_the_keep_ratio_or_says_why_not(analysed: dict[str, Any]) -> None:
    for retention, ratio in zip(analysed["contribution"]["retention"], KEEP, strict=True):
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
        rows = torch.arange(start + 4, stop, 10)
        for attention in full_attention(loaded.model.decoder, prompt.embeds, prompt.positions):
            per_row = attention.mean(dim=0)[:, start:stop].sum(dim=1)
            largest = max(largest, abs(float(per_row[rows].mean() - per_row[start:stop].mean())))
    assert found["masses"] == pytest.approx(largest, abs=1e-6)
    assert found["INF"] > 0


# -- figure 2


def test_allocation_equals_blocks_of_full_attention_and_sums_to_one(
    loaded: LoadedModel, prompts: list[PromptSequence], analysed: dict[str, Any]
) -> None:
    decoder, prompt = loaded.model.decoder, prompts[0]
    ids = reference_generate(decoder, prompt, 5)[0]
    embeds = torch.cat((prompt.embeds, decoder.embed(torch.tensor(ids))))
    (start, stop), length, total = prompt.spatial_span, len(prompt.embeds), len(embeds)
    queries = [(start, stop), (stop, length), (length, total)]
    keys = [(0, start), (start, stop), (stop, length), (length, total)]
    shares = attention_allocation(decoder, prompt, ids)
    for layer, attention in enumerate(full_attention(decoder, embeds, torch.arange(total))):
        mean = attention.mean(dim=0)
        expected = [[float(mean[a:b, c:d].sum(dim=1).mean()) for c, d in keys] for a, b in queries]
        np.testing.assert_allclose(shares[:, :, layer], expected, atol=1e-6)
    for query in QUERY_KINDS:
        kinds = analysed["allocation"]["attention"][query]
        np.testing.assert_allclose(
            np.sum([kinds[key]["mean"] for key in KEY_KINDS], axis=0), 1.0, atol=1e-5
        )


def test_allocation_without_an_answer_has_none(
    loaded: LoadedModel, prompts: list[PromptSequence]
) -> None:
    shares = attention_allocation(loaded.model.decoder, prompts[0], (), stride=10)
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
        assert (first["identical"]["mean"], first["prefix"]["mean"], first["kl_nats"]["mean"]) == (
            1.0,
            1.0,
            0.0,
        )
        assert first["dropped"]["mean"] == 0.0
        assert all(point["kl_nats"]["mean"] > 0 for point in rest)
        assert [point["share"] for point in curve["points"]] == data["shares"]
        assert rest[-1]["dropped"]["mean"] == pytest.approx(0.95, abs=0.01)


def test_a_drop_equals_the_prompt_without_those_tokens_from_that_layer_on(
    loaded: LoadedModel, prompts: list[PromptSequence], analysed: dict[str, Any]
) -> None:
    """Layer 1, half dropped by the attention row of layer 2, written out."""
    decoder = loaded.model.decoder
    divergences = []
    for prompt in prompts:
        start, stop = prompt.spatial_span
        row = full_attention(decoder, prompt.embeds, prompt.positions)[1].mean(dim=0)[
            -1, start:stop
        ]
        kept = sorted(
            sorted(range(stop - start), key=lambda i, row=row: -float(row[i]))[
                : (stop - start) // 2
            ]
        )
        rows = torch.tensor(
            [*range(start), *(start + i for i in kept), *range(stop, len(prompt.embeds))]
        )
        with torch.inference_mode():
            hidden = decoder.run_layers(0, 1, prompt.embeds[None], prompt.positions)[:, rows]
            logits = decoder.logits(
                decoder.run_layers(1, LAYERS, hidden, prompt.positions[rows])[0, -1]
            )
        p = torch.softmax(
            reference_logits(decoder, prompt.embeds, prompt.positions)[-1].double(), dim=-1
        )
        divergences.append(
            float((p * (p.log() - torch.log_softmax(logits.double(), dim=-1))).sum())
        )
    curve = next(
        c
        for c in analysed["agreement"]["curves"]
        if c["layer"] == 1 and c["ranking"] == "adatoken3d"
    )
    point = next(p for p in curve["points"] if p["share"] == 0.5)
    assert point["kl_nats"]["mean"] == pytest.approx(np.mean(divergences), rel=1e-3)


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


# -- figure 4


def test_survivors_are_those_of_the_last_layer(
    loaded: LoadedModel, scene: Scene, analysed: dict[str, Any], arrays: dict[str, np.ndarray]
) -> None:
    for strategy in named_strategies(("adatoken3d", UNROPED, "uniform"), KEEP, AgentConfig()):
        policy = Policy.from_config(strategy.config, strategy.keep_ratio)
        prompt, chosen = scene_prompt(loaded, scene, QUESTIONS[0], policy)
        kept = chosen.kept
        if policy.in_llm:
            pruner = policy.pruner(
                decoder_shape(loaded.model.decoder.config), len(kept), chosen.num_before_selection
            )
            kept = prefill(loaded.model.decoder, prompt, pruner=pruner).kept[-1]
        mask = arrays[mask_name(0, strategy.label, strategy.keep_ratio)]
        assert np.flatnonzero(mask).tolist() == kept.tolist()
        row = _row(analysed, strategy.label, strategy.keep_ratio)
        assert row["counts"][-1] == row["drawn"]["tokens"] == len(kept)
        cells = [tuple(np.round(xyz / 0.5).tolist()) for xyz in arrays["scene0.xyz_m"]]
        share = len({cells[i] for i in kept.tolist()}) / len(set(cells))
        assert row["drawn"]["coverage"] == pytest.approx(share)
        assert row["drawn"]["position_bias"] == pytest.approx(
            np.flatnonzero(mask).mean() / (len(mask) - 1)
        )


def _row(analysed: dict[str, Any], label: str, keep_ratio: float) -> dict[str, Any]:
    rows = analysed["survival"]["rows"]
    (row,) = [r for r in rows if r["strategy"] == label and r["keep_ratio"] == keep_ratio]
    return dict(row)


def test_masks_on_views_agree_with_kept_indices(
    scene: Scene, arrays: dict[str, np.ndarray]
) -> None:
    patch_token, kept = arrays["scene0.patch_token"], arrays[mask_name(0, "adatoken3d", 0.41)]
    states = patch_states(patch_token, kept)
    indices = set(np.flatnonzero(kept).tolist())
    expected = [[-1 if t < 0 else int(t in indices) for t in view] for view in patch_token.tolist()]
    assert states.tolist() == expected
    views = np.arange(6) * len(scene.frames) // 6
    np.testing.assert_array_equal(patch_token, scene.patch_token.numpy()[views])
    vision = CONFIG.vision
    pixels = scene.views.pixels[torch.from_numpy(views)].permute(0, 2, 3, 1).numpy()
    shown = arrays["scene0.views"] / 255
    np.testing.assert_allclose(
        (shown - vision.image_mean) / vision.image_std, pixels, atol=1e-5 + 0.5 / 255 / 0.26
    )


def test_indices_of_joined_strategies_are_those_of_the_scene(
    loaded: LoadedModel, scene: Scene
) -> None:
    """What the decoder keeps are places among the tokens that entered, not among all."""
    (joined,) = named_strategies(("random+adatoken3d",), (0.41,), AgentConfig())
    policy = Policy.from_config(joined.config, 0.41)
    kept = kept_by_layer(loaded, scene, QUESTIONS[0], policy)
    _, chosen = scene_prompt(loaded, scene, QUESTIONS[0], policy)
    assert kept[0].tolist() == chosen.kept.tolist()
    assert int(kept[0][-1]) >= len(kept[0])  # not the first ones
    assert set(kept[-1].tolist()) < set(kept[0].tolist())


def test_a_strategy_out_of_reach_is_a_sentence_and_not_a_picture(
    analysed: dict[str, Any], arrays: dict[str, np.ndarray]
) -> None:
    row = _row(analysed, "fastv", 0.3)
    assert (
        row["error"]
        == "keep_ratio = 0.3 cannot be met on this decoder; allowed: 0.5 to 1 (its first layers see"
        " all tokens; a strategy before the language model, as voxel_dpp, can go lower)."
    )
    assert mask_name(0, "fastv", 0.3) not in arrays
    assert "coverage" not in row


# -- errors


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--strategy", "adatokn3d"], "strategy"),
        (["--strategy", ","], "--strategy"),
        (["--keep-ratio", "0.01"], "keep_ratio"),
        (["--keep-ratio", "much"], "--keep-ratio 'much'"),
        (["--stride", "0"], "query_stride"),
        (["--figures", "1,5"], "--figures"),
        (["--layers", "4"], "layers 1 to 3"),
        (["--answer-tokens", "0"], "--answer-tokens"),
        (["--seed", "-1"], "seed"),
        (["--questions", "/nowhere/questions.txt"], "questions"),
        (["--model", "/nowhere"], "/nowhere"),
    ],
)
def test_a_bad_argument_is_one_sentence(
    folder: Path, more: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command(folder), *more]) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("[")]
    assert len(said) == 1
    assert said[0].startswith("ada3d analyze: ")
    assert words in said[0]
    assert said[0].endswith(".")


def test_a_source_or_folder_that_cannot_be_used_is_one_sentence(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(folder, source=str(folder / "nothing"))) == 2
    assert "is not a folder" in capsys.readouterr().err
    assert main([*command(folder), "--out", str(folder / "questions.txt")]) == 2
    assert "--out" in capsys.readouterr().err
