"""No layer waits for the device, and no layer launches more than it must."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

import pytest
import torch

from ada3d_ros.engine.batch import BatchedQuestion, answer_batch
from ada3d_ros.engine.decode import GenerationRequest, decode
from ada3d_ros.engine.prefill import prefill, prefill_question
from ada3d_ros.engine.scene_build import ScenePruner
from ada3d_ros.engine.static_batch import PATIENCE
from ada3d_ros.model.decoder import LlamaDecoder
from ada3d_ros.pruning.allocation import Allocation
from ada3d_ros.pruning.cost import DecoderShape
from ada3d_ros.pruning.scene_ranking import PromptRanking
from ada3d_ros.pruning.strategy import LayerPruner
from test.cuda.emulator import EmulatedCuda
from test.cuda.scenes import (
    SPATIAL,
    decoder_on,
    prompt_on,
    question_of,
    ready_prefix,
    tokens_of,
    waiting_prefix,
)
from test.support.decoders import policy_of

FEW, MANY, DEEP = 4, 9, 32  # layers
MOST_LAUNCHES = 800  # of a step or a question at 32 layers; they were 1307
STRATEGIES = ("none", "adatoken3d", "fastv", "pdrop", "logistic")


@pytest.fixture(autouse=True)
def inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


def layer_pruner(decoder: LlamaDecoder, strategy: str) -> LayerPruner | None:
    shape = DecoderShape.from_config(decoder.config)
    policy = policy_of(strategy, 1.0 if strategy == "none" else 0.5, n_min=2)
    return policy.pruner(shape, SPATIAL, SPATIAL, 8)


def scene_pruner(decoder: LlamaDecoder, prompts: int = 2) -> ScenePruner:
    """Falls and ranks before every layer but the first."""
    layers = decoder.config.num_layers
    alive = tuple(1.0 - 0.7 * i / layers for i in range(layers))
    held = tuple(0.9 * share for share in alive)
    rows = question_of(prompt_on(str(decoder.device)))
    return ScenePruner(Allocation(alive, held), PromptRanking("mean"), (rows,) * prompts)


def whole_prompt(strategy: str) -> Callable[[LlamaDecoder], Callable[[], object]]:
    def prepared(decoder: LlamaDecoder) -> Callable[[], object]:
        prompt, pruner = prompt_on(str(decoder.device)), layer_pruner(decoder, strategy)
        return lambda: prefill(decoder, prompt, 64, pruner, with_states=True)

    return prepared


def cached_question(strategy: str) -> Callable[[LlamaDecoder], Callable[[], object]]:
    def prepared(decoder: LlamaDecoder) -> Callable[[], object]:
        prompt, pruner = prompt_on(str(decoder.device)), layer_pruner(decoder, strategy)
        prefix = ready_prefix(decoder, prompt, with_states=True)
        return lambda: prefill_question(prefix, question_of(prompt), 64, pruner, with_states=True)

    return prepared


def build(pruned: bool, int8: bool = False) -> Callable[[LlamaDecoder], Callable[[], object]]:
    def prepared(decoder: LlamaDecoder) -> Callable[[], object]:
        pruner = scene_pruner(decoder) if pruned else None
        prompt = prompt_on(str(decoder.device))
        prefix = waiting_prefix(decoder, prompt, pruner=pruner, int8=int8, with_states=True)

        def run() -> None:
            while prefix.step():
                pass

        return run

    return prepared


def append(pruned: bool) -> Callable[[LlamaDecoder], Callable[[], object]]:
    def prepared(decoder: LlamaDecoder) -> Callable[[], object]:
        pruner = scene_pruner(decoder) if pruned else None
        prompt = prompt_on(str(decoder.device))
        prefix = ready_prefix(decoder, prompt, pruner=pruner, with_states=True)
        more = tokens_of(prompt_on(str(decoder.device), 8))

        def run() -> None:
            prefix.append_tokens(more.features, more, prefix.scene)
            while prefix.step():
                pass

        return run

    return prepared


def pruned_scene_question(decoder: LlamaDecoder) -> Callable[[], object]:
    prompt = prompt_on(str(decoder.device))
    prefix = ready_prefix(decoder, prompt, pruner=scene_pruner(decoder), with_states=True)
    return lambda: prefill_question(prefix, question_of(prompt), 64, with_states=True)


def batch_of(tokens: int) -> Callable[[LlamaDecoder], Callable[[], object]]:
    def prepared(decoder: LlamaDecoder) -> Callable[[], object]:
        prompt = prompt_on(str(decoder.device))
        prefix = ready_prefix(decoder, prompt)
        asked = [
            BatchedQuestion(question_of(prompt)[:n], GenerationRequest(tokens)) for n in (3, 5)
        ]
        return lambda: answer_batch(decoder, prefix.cache, prefix.next_position, asked)

    return prepared


WORK = {
    **{f"prompt, {name}": whole_prompt(name) for name in STRATEGIES},
    **{f"cached question, {name}": cached_question(name) for name in STRATEGIES},
    "question on a pruned scene": pruned_scene_question,
    "build": build(pruned=False),
    "build in int8": build(pruned=False, int8=True),
    "pruned build": build(pruned=True),
    "append": append(pruned=False),
    "append, pruned": append(pruned=True),
    "batch": batch_of(3),
    "batch that is captured": batch_of(PATIENCE + 4),
}


@pytest.mark.parametrize("what", WORK)
def test_no_layer_waits(cuda: EmulatedCuda, what: str) -> None:
    """As often with few layers as with many."""
    waits = []
    for layers in (FEW, MANY):
        run = WORK[what](decoder_on("cuda:1", layers))
        with cuda.phase(f"{layers}"):
            run()
        syncs = cuda.counters.syncs_in(f"{layers}")
        waits.append(Counter((sync.kind, sync.place) for sync in syncs))
    more = waits[1] - waits[0]
    assert not more, "\n".join(f"{place}: {kind}, {n} more" for (kind, place), n in more.items())


@pytest.mark.parametrize("what", ["cached question, none", "question on a pruned scene"])
def test_a_cached_question_launches_few_kernels(cuda: EmulatedCuda, what: str) -> None:
    run = WORK[what](decoder_on("cuda", DEEP))
    with cuda.phase("warm-up"):
        run()
    with cuda.phase("question"):
        run()
    assert 0 < cuda.counters.kernels["question"] <= MOST_LAUNCHES


@pytest.mark.parametrize("static", [False, True])
def test_a_step_launches_few_kernels(cuda: EmulatedCuda, static: bool) -> None:
    decoder = decoder_on("cuda", DEEP)
    kernels: list[int] = []
    for tokens in (2, 2, 4):  # the first captures
        start = prefill(decoder, prompt_on("cuda"), 64)
        with cuda.phase(f"{len(kernels)}"):
            decode(decoder, start, GenerationRequest(tokens), static=static)
        kernels.append(cuda.counters.kernels[f"{len(kernels)}"])
    assert 0 < (kernels[2] - kernels[1]) // 2 <= MOST_LAUNCHES


@pytest.mark.parametrize("device", ["cuda:0", "cuda:1"])
def test_a_token_is_waited_for_once(cuda: EmulatedCuda, device: str) -> None:
    decoder = decoder_on(device, FEW)
    waits = []
    for tokens in (3, 4, 9):
        start = prefill(decoder, prompt_on(device), 64)
        with cuda.phase(f"{tokens}"):
            assert len(decode(decoder, start, GenerationRequest(tokens)).token_ids) == tokens
        waits.append(Counter(sync.kind for sync in cuda.counters.syncs_in(f"{tokens}")))
    assert waits[2] - waits[1] == {"event": 5}
    assert cuda.counters.replays["9"] == 8


@pytest.mark.parametrize("fewer", [3, PATIENCE + 3])
def test_a_token_of_a_batch_is_waited_for_once(cuda: EmulatedCuda, fewer: int) -> None:
    """Also where a graph is held, which the second run then uses at all its steps."""
    decoder, waits = decoder_on("cuda", FEW), []
    for tokens in (fewer, fewer + 5):
        run = batch_of(tokens)(decoder)
        run()
        with cuda.phase(f"{tokens}"):
            run()
        waits.append(Counter(sync.kind for sync in cuda.counters.syncs_in(f"{tokens}")))
    assert cuda.counters.replays[f"{fewer}"] == (fewer - 1 if fewer > PATIENCE else 0)
    more = waits[1] - waits[0]
    assert sum(more.values()) == 5, more
