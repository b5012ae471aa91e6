"""Suite `decode` of `ada3d bench`: the rival computes what we compute, and what the rows say.

No time is judged here.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch

from ada3d_ros.engine.decode import GenerationRequest, decode
from ada3d_ros.engine.prefill import prefill, prefill_question
from ada3d_ros.errors import ModelError
from ada3d_ros.lab.benchmarks import decode as bench_decode
from ada3d_ros.lab.benchmarks.decode import run_shape
from ada3d_ros.lab.benchmarks.models import make_model, make_scene
from ada3d_ros.lab.benchmarks.shapes import BenchShape
from ada3d_ros.lab.benchmarks.transformers_baseline import HeldScene, TransformersRival

CPU = torch.device("cpu")
TINY = BenchShape("tiny", 256, 3, 192, (60,), low_precision=False)


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(bench_decode.READ_BYTES, "cpu", 2**12)
    monkeypatch.setattr(bench_decode, "TOKENS", 4)


@pytest.mark.parametrize("backbone", ["llava3d", "video3dllm"])
def test_the_rival_has_our_weights_and_gives_our_tokens(backbone: str) -> None:
    torch.manual_seed(0)
    shape = dataclasses.replace(TINY, backbone=backbone)
    decoder, _ = make_model(shape, CPU, torch.float32)
    rival = TransformersRival(decoder)
    theirs, ours = rival.model.state_dict(), decoder.state_dict()
    assert len(theirs) == len(ours)
    # Its weights lie row by row, as it loads them; ours are its own where they lie so too.
    assert all(t.is_contiguous() for t in theirs.values())
    alike = {t.data_ptr() for t in ours.values() if t.is_contiguous()}
    assert len(alike) >= len(ours) - 1  # the head lies column by column
    assert alike <= {t.data_ptr() for t in theirs.values()}
    prompt = make_scene(60, 256, CPU, torch.float32, 0).prompt()
    assert rival.total(prompt, 6) == list(
        decode(decoder, prefill(decoder, prompt), GenerationRequest(6)).token_ids
    )


@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_the_rival_with_the_scene_held_gives_our_tokens_again_and_again(cache: str) -> None:
    """Its cache is what it was after every question, as ours is."""
    torch.manual_seed(0)
    decoder, _ = make_model(TINY, CPU, torch.float32)
    scene = make_scene(60, 256, CPU, torch.float32, 0)
    prefix, text = scene.build_prefix(decoder), torch.cat((scene.system, scene.embeds))
    held = HeldScene(TransformersRival(decoder), text, 40, cache)
    for question in (scene.question, scene.question[:9], scene.question):
        ours = decode(decoder, prefill_question(prefix, question, 6), GenerationRequest(6))
        assert held.answer(question, 6) == list(ours.token_ids)
    assert held.decode(scene.question, 3).wall_s > 0


def test_the_rivals_steps_are_counted_from_its_first_token() -> None:
    decoder, _ = make_model(TINY, CPU, torch.float32)
    clocks: list[Any] = []
    rival = TransformersRival(decoder)
    total = rival.total

    def total_with_clock(prompt: Any, tokens: int, streamer: Any, may_compile: bool) -> list[int]:
        assert not may_compile
        clocks.append(streamer)
        return total(prompt, tokens, streamer)

    rival.total = total_with_clock  # type: ignore[method-assign]
    timing = rival.decode(make_scene(9, 256, CPU, torch.float32, 0).prompt(), 4)
    assert len(clocks[0].marks) == 5
    assert timing.wall_s == clocks[0].marks[-1].wall_s - clocks[0].marks[0].wall_s > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_rival_with_other_weights_is_refused(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    decoder, _ = make_model(TINY, CPU, dtype)
    TransformersRival(decoder)
    weights = {
        name: 1.2 * t if name.startswith("lm_head") else t
        for name, t in decoder.state_dict().items()
    }
    monkeypatch.setattr(decoder, "state_dict", lambda: weights)
    with pytest.raises(ModelError, match="does not compute the same model"):
        TransformersRival(decoder)


def test_every_way_to_decode_gets_a_row(
    make_options: Callable[..., argparse.Namespace],
    check_head: Callable[[dict[str, Any], str], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    results = run_shape(TINY, make_options(keep_ratio="0.5,0.2"), CPU)
    check_head(results, "decode")
    assert [(r["engine"], r["prefill"]) for r in results["rows"]] == [
        ("ordinary", "full"),
        ("transformers", "full"),
        ("transformers dynamic", "full"),
        ("transformers static", "full"),
        ("ordinary", "pruned"),
    ]
    full, rival, *_, pruned = results["rows"]
    assert list(results["absent"]) == ["compiled"]
    assert rival["transformers_ratio"].median == 1.0
    assert pruned["keep_ratio_achieved"] == pytest.approx(0.5, abs=0.05)
    assert pruned["kv_mib"] < full["kv_mib"] == rival["kv_mib"]
    # Layers, tokens in the middle of the answer, keys and values.
    assert full["kv_mib"] * 2**20 == 3 * (60 + 60 + 2) * 2 * 256 * 4
    assert full["weight_mib"] * 2**20 > 4 * 32000 * 256
    spreads = ("ms_per_token", "wall_ms_per_token", "floor_ms", "floor_ratio", "transformers_ratio")
    for row in results["rows"]:
        for name in spreads:
            assert row[name].n == 2, name
            assert row[name].min > 0, name
    assert "over transformers" in capsys.readouterr().out


def test_the_verb_knows_the_suite(run_verb: Callable[..., dict[str, Any]]) -> None:
    data = run_verb("decode", TINY, "--keep-ratio", "0.5")
    assert (data["n"], len(data["rows"])) == (1, 5)
