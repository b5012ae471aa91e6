"""Suite `default` of `ada3d bench` on a tiny shape: what each ratio compares, counts by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ada3d_ros.engine.scene_prefix import ScenePrefix
from ada3d_ros.errors import ModelError
from ada3d_ros.lab.benchmarks import bench
from ada3d_ros.lab.benchmarks import default as bench_default
from ada3d_ros.lab.benchmarks.default import DefaultBench, targets
from ada3d_ros.lab.benchmarks.models import make_model, make_scene
from ada3d_ros.lab.benchmarks.shapes import SHAPES, BenchShape
from ada3d_ros.lab.benchmarks.spread import Spread

CPU = torch.device("cpu")
TINY = BenchShape("T", 128, 4, 64, (100,), low_precision=False, vocab=500)
ASKED = (
    "default_first_over_unpruned",
    "default_3_over_unpruned",
    "default_30_over_unpruned",
    "build_pruned_over_full",
    "flop_ratio",
    "kv_held_over_full",
    "pruned_scene_first_over_unpruned",
    "pruned_scene_30_over_unpruned",
    "warm_30_over_transformers_cached",
    "warm_30_over_transformers_cold",
)


@pytest.fixture(autouse=True)
def _once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_default, "LEAST_S", 0.0)


@pytest.fixture(scope="module")
def tiny() -> DefaultBench:
    torch.manual_seed(0)
    decoder, _ = make_model(TINY, CPU, torch.float32)
    with torch.inference_mode():
        return DefaultBench(decoder, make_scene(100, 128, CPU, torch.float32, 0), cold=True)


def test_the_json_has_what_is_asked(run_verb: Callable[..., dict[str, Any]]) -> None:
    data = run_verb("default", TINY, "--repetitions", "2")
    assert data["complete"]
    assert (data["prune"], data["strategy"], data["keep_ratio"]) == ("build", "adatoken3d", 0.41)
    for name in ASKED:
        value = data["ratios"][name]
        if name in ("flop_ratio", "kv_held_over_full"):
            assert 0.4 < value < 0.75  # 36 of 136 tokens never go, and the prompt rides along
        else:
            assert 0 < value["min"] <= value["median"] <= value["max"]
            assert value["n"] == 2
    assert set(data["targets"]) == {name for name in data["ratios"] if name.startswith("default_")}
    assert "on CUDA only" in data["absent"]["compiled"]


def test_the_default_is_the_scene_pruned_while_it_is_built(tiny: DefaultBench) -> None:
    assert tiny.prefixes["default"] is tiny.prefixes["pruned"]
    full, pruned = tiny.prefixes["unpruned"], tiny.prefixes["pruned"]
    assert full.lengths == (136,) * 4
    assert pruned.lengths == (36 + 41,) * 4  # of four layers each holds the same
    held = sum(len(pruned.kept(layer)) for layer in range(4)) / 400
    assert held == pytest.approx(0.41, abs=0.02)
    assert tiny.computed()["kv_held_over_full"] == sum(pruned.lengths) / (4 * 136)
    assert tiny.computed()["flop_ratio"] == pruned.macs / full.macs < 1


@torch.inference_mode()
def test_each_variant_is_what_its_name_says(
    tiny: DefaultBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the prefix that was asked and by the tokens that passed the first layer."""
    asked: list[ScenePrefix] = []
    passed: list[int] = []
    real = bench_default.prefill_question

    def noting(prefix: ScenePrefix, *args: Any) -> Any:
        asked.append(prefix)
        return real(prefix, *args)

    monkeypatch.setattr(bench_default, "prefill_question", noting)
    mlp = tiny.decoder.layers[0].get_submodule("mlp")
    hook = mlp.register_forward_hook(
        lambda module, inputs, output: passed.append(inputs[0].shape[-2])
    )
    expected = {
        "build_full": (None, 136),
        "build_pruned": (None, 136 + 15),  # the prompt rides
        "cold": (None, 160),
        "cold_pruned": (None, 160),
        "transformers_cold": (None, 0),
        "transformers_dynamic": (None, 0),
        "transformers_static": (None, 0),
    }
    for name in ("unpruned", "pruned"):
        expected[f"first_{name}"] = (name, 24)
        expected |= {f"total_{n}_{name}": (name, 24 + n - 1) for n in (1, 3, 30)}
    variants = tiny.variants()
    assert set(variants) == set(expected)
    for name, run in variants.items():
        asked.clear()
        passed.clear()
        run()
        prefix, tokens = expected[name]
        assert sum(passed) == tokens, name
        assert asked == ([] if prefix is None else [tiny.prefixes[prefix]]), name
    hook.remove()


@torch.inference_mode()
def test_an_answer_that_ends_early_is_refused(
    tiny: DefaultBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = bench_default.decode
    monkeypatch.setattr(
        bench_default, "decode", lambda d, output, asked: real(d, output, type(asked)(1))
    )
    with pytest.raises(ModelError, match="ended early"):
        tiny.total("pruned", 3)


def test_aims_by_shape() -> None:
    ratios: dict[str, Spread | float] = {
        "default_first_over_unpruned": Spread(1.03, 0.9, 1.2, 5),
        "kv_held_over_full": 0.45,
        "build_pruned_over_full": Spread(0.5, 0.5, 0.6, 5),
    }
    assert targets(ratios, "A") == {
        "default_first_over_unpruned": {"at_most": 1.03, "met": True},
        "kv_held_over_full": {"at_most": 0.44, "met": False},
        "build_pruned_over_full": {"at_most": 0.55, "met": True},
    }
    assert set(targets(ratios, "embedded")) == {"default_first_over_unpruned"}


def test_a_run_that_breaks_off_leaves_the_rounds_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second round fails; the file is whole JSON of one round, and says that it is not all."""
    monkeypatch.setitem(SHAPES, "C", TINY)
    file, builds = tmp_path / "broken.json", []
    real = DefaultBench.build

    def build(self: DefaultBench, name: str) -> ScenePrefix:
        builds.append(name)
        if len(builds) > 7:  # two are made at first, two while runs are counted, two a round
            raise ModelError("the device is gone.")
        return real(self, name)

    monkeypatch.setattr(DefaultBench, "build", build)
    arguments = ["--suite", "default", "--shape", "C", "--device", "cpu", "--repetitions", "3"]
    assert bench.main([*arguments, "--json", str(file)]) == 2
    data = json.loads(file.read_text())
    assert not data["complete"]
    assert data["ratios"]["default_30_over_unpruned"]["n"] == 1
