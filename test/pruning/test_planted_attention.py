"""A decoder whose attention is known: rankings find planted tokens, schedules planted depth."""

import logging
import math
from typing import Any

import numpy as np
import pytest
import torch

from ada3d_ros.engine.information import measure_information
from ada3d_ros.engine.prefill import prefill
from ada3d_ros.engine.token_selection import pruner_for
from ada3d_ros.pruning.information import falls_with_depth, information_of
from ada3d_ros.pruning.policy import Policy
from ada3d_ros.pruning.ranking import PruneContext, keep_best, rank_scores
from ada3d_ros.types import PromptSequence
from test.support.decoders import (
    LAYERS,
    SHAPE,
    make_decoder,
    make_prompt,
    planted_decoder,
    planted_prompt,
    policy_of,
)

N = 64
PLANTED = [5, 17, 18, 30, 41, 50, 62, 63]
SHARE = len(PLANTED) / N
SINK = tuple(np.linspace(0.0, 3.5, LAYERS))  # deeper layers look ever more at the system tokens

POLICIES: dict[str, tuple[str, dict[str, Any]]] = {
    "adatoken3d": (
        "adatoken3d",
        {"adatoken3d__budget__mode": "endpoint", "adatoken3d__budget__value": SHARE},
    ),
    "adatoken3d stages": (
        "adatoken3d",
        {
            "adatoken3d__schedule": "stages",
            "adatoken3d__stage_layers": "1,3,6",
            "adatoken3d__budget__mode": "endpoint",
            "adatoken3d__budget__value": SHARE,
        },
    ),
    "pdrop": ("pdrop", {"pdrop__ratios": f"0.5,0.25,{SHARE}"}),
    "fastv": ("fastv", {"keep_ratio": (2 + 6 * SHARE) / LAYERS}),
}


def pruned(
    policy: Policy, prompt: PromptSequence, sink: tuple[float, ...] = (), plant: float = 4.0
) -> list[list[int]]:
    decoder = planted_decoder(sink=sink, plant=plant)
    pruner = policy.pruner(SHAPE, N, N, prompt.embeds.shape[0] - N)
    return [stage.tolist() for stage in prefill(decoder, prompt, pruner=pruner).kept]


@pytest.mark.parametrize(
    ("name", "score"),
    [
        *((name, "softmax_mean") for name in POLICIES),
        ("adatoken3d", "logit_mean"),
        ("adatoken3d", "head_max"),
    ],
)
def test_the_planted_tokens_and_only_they_are_kept(name: str, score: str) -> None:
    """The last prompt token attends to eight spatial tokens.

    The last layer keeps exactly these, every layer has them.
    """
    strategy, flat = POLICIES[name]
    more = {"adatoken3d__rank__score": score} if strategy == "adatoken3d" else {}
    kept = pruned(policy_of(strategy, n_min=1, **flat, **more), planted_prompt(N, PLANTED))
    assert kept[-1] == PLANTED
    assert all(set(PLANTED) <= set(stage) for stage in kept)


@pytest.mark.parametrize("name", POLICIES)
def test_a_sink_in_the_system_tokens_does_not_hide_them(name: str) -> None:
    strategy, flat = POLICIES[name]
    kept = pruned(policy_of(strategy, n_min=1, **flat), planted_prompt(N, PLANTED), SINK)
    assert kept[-1] == PLANTED


def test_logistic_keeps_them_too() -> None:
    """Its counts follow from the prompt; the last layer holds n_min = 8: the planted ones."""
    assert pruned(policy_of("logistic", 0.3, n_min=8), planted_prompt(N, PLANTED))[-1] == PLANTED


def test_random_does_not_find_them() -> None:
    """The control: ranked at random, about an eighth of the planted tokens stays."""
    strategy, flat = POLICIES["adatoken3d"]
    found = []
    for seed in range(20):
        policy = policy_of(strategy, n_min=1, seed=seed, adatoken3d__rank__score="random", **flat)
        kept = pruned(policy, planted_prompt(N, PLANTED))[-1]
        found.append(len(set(PLANTED) & set(kept)))
    assert max(found) < 5
    assert np.mean(found) < 3.0


def test_it_is_the_last_token_that_asks_unless_all_do() -> None:
    """Another prompt token attends to other places: only query `all` sees them."""
    prompt = planted_prompt(N, PLANTED)
    embeds = prompt.embeds.clone()
    embeds[-3, 1], embeds[-1, 1] = embeds[-1, 1].clone(), 0.0
    moved = PromptSequence(embeds, prompt.positions, prompt.spatial_span)
    strategy, flat = POLICIES["adatoken3d"]

    def kept(query: str) -> list[int]:
        policy = policy_of(strategy, n_min=1, adatoken3d__rank__query=query, **flat)
        return pruned(policy, moved, plant=1.0)[-1]

    assert kept("all") == PLANTED
    assert kept("last") == list(range(8))  # nothing but ties: the lowest indices


def test_planted_queries_and_keys_are_ranked_by_strength() -> None:
    """The keys of seven tokens rise in strength; the best k are the k strongest."""
    q, k = torch.zeros(2, 1, 16), torch.zeros(2, 30, 16)
    q[:, 0, 0] = 4.0
    strong = [4, 9, 11, 20, 21, 25, 7]
    for strength, token in enumerate(strong, start=1):
        k[:, 2 + token, 0] = float(strength)
    context = PruneContext(
        3, q, q, k, k, torch.tensor([29]), torch.arange(30), (2, 28), torch.arange(26)
    )
    scores = rank_scores(context)
    for count in range(1, 8):
        assert keep_best(scores, count).tolist() == sorted(strong[-count:])


# -- planted depth


def fitted_policy(ratio: float = 0.5) -> Policy:
    return policy_of(
        "adatoken3d",
        ratio,
        n_min=1,
        adatoken3d__schedule="fitted",
        adatoken3d__calibration="per_scene",
    )


def test_attention_that_leaves_the_scene_gives_a_falling_schedule(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Deeper layers attend ever more to the system tokens.

    Information falls, and the fitted schedule with it.
    """
    decoder, prompt = planted_decoder(sink=SINK), planted_prompt(N, PLANTED)
    masses = measure_information(decoder, prompt)
    assert (np.diff([m.S_self for m in masses]) < 0).all()
    assert (np.diff([m.S_sp for m in masses]) < 0).all()
    found = information_of(masses)
    assert falls_with_depth(found.I)
    assert (found.I[0], found.I[-1]) == (1.0, 0.0)
    pruner = pruner_for(decoder, fitted_policy(), prompt, N, tuple(map(float, found.I)))
    assert pruner is not None
    assert not caplog.records
    retention = pruner.schedule.retention
    assert np.mean(retention) == pytest.approx(0.5, abs=2e-6)
    assert (np.diff(retention) < 0).all()
    assert retention[-1] < 0.2
    counts = prefill(decoder, prompt, pruner=pruner).counts
    assert counts == tuple(math.floor(share * N + 1e-9) for share in retention)


def test_a_scene_that_matters_longer_is_pruned_later() -> None:
    """The same fall, but only behind layer 5.

    The schedule keeps more in the middle, less at the end of it.
    """
    prompt = planted_prompt(N, PLANTED)
    early, late = SINK, (0.0,) * 5 + (1.5, 2.5, 3.5)
    curves = []
    for sink in (early, late):
        decoder = planted_decoder(sink=sink)
        found = information_of(measure_information(decoder, prompt))
        pruner = pruner_for(decoder, fitted_policy(), prompt, N, tuple(map(float, found.I)))
        assert pruner is not None
        curves.append(pruner.schedule.retention)
    # An exponential with this mean cannot be flat and then fall: it starts lower.
    assert curves[1][1] < curves[0][1]
    assert curves[1][-1] > curves[0][-1]


def test_attention_that_comes_to_the_scene_late_falls_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    decoder, prompt = planted_decoder(sink=SINK[::-1]), planted_prompt(N, PLANTED)
    masses = measure_information(decoder, prompt)
    assert not falls_with_depth(information_of(masses).I)
    information = tuple(map(float, information_of(masses).I))
    with caplog.at_level(logging.WARNING):
        pruner = pruner_for(decoder, fitted_policy(), prompt, N, information)
    assert "the fixed curve is used" in caplog.text
    fixed = policy_of("adatoken3d", 0.5, n_min=1).pruner(SHAPE, N, N)
    assert pruner is not None
    assert fixed is not None
    assert pruner.schedule == fixed.schedule


def test_random_weights_give_a_flat_curve() -> None:
    """Random attention is even: masses lie near the share of keys, INF hardly moves with depth."""
    even = measure_information(planted_decoder(plant=0.0), planted_prompt(N, []))
    assert np.ptp(information_of(even).INF) < 1e-6
    assert (information_of(even).I == 0).all()
    decoder = make_decoder()
    for layer in decoder.layers:
        layer.self_attn.q_proj.weight *= 0.2  # as small as trained weights at the start
    random = information_of(measure_information(decoder, make_prompt(N))).INF
    planted = information_of(
        measure_information(planted_decoder(sink=SINK), planted_prompt(N, PLANTED))
    ).INF
    assert np.ptp(random) < 0.1 * np.ptp(planted)
