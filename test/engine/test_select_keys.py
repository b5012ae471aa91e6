"""A choice of a cached scene's keys per question, against attention written out in float64."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ada3d_ros.engine.decode import GenerationRequest, decode, greedy
from ada3d_ros.engine.kv_cache import KVCache
from ada3d_ros.engine.prefill import prefill, prefill_question
from ada3d_ros.engine.scene_prefix import ScenePrefix
from ada3d_ros.engine.select_keys import ranking_layers
from ada3d_ros.pruning import ranking
from ada3d_ros.pruning.ranking import PruneContext
from ada3d_ros.pruning.schedule import RetentionSchedule
from ada3d_ros.pruning.strategy import LayerPruner
from ada3d_ros.types import PromptSequence
from test.support.decoders import LAYERS, make_prompt
from test.support.prefixes import (
    SYSTEM,
    TEXT,
    N,
    make_decoder,
    prefix_of,
    pruner_of,
    question_of,
    relative,
)
from test.support.slow_selection import slow_question

VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("adatoken3d", {}),
    ("adatoken3d", {"adatoken3d__rank__query": "all"}),
    ("adatoken3d", {"adatoken3d__rank__rope": False, "adatoken3d__prune_layers": "1,4,5"}),
    ("adatoken3d", {"adatoken3d__rank__score": "random"}),
    ("fastv", {}),
    ("pdrop", {}),
    ("logistic", {}),
]


@pytest.mark.parametrize(("strategy", "flat"), VARIANTS)
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_selection_written_out(strategy: str, flat: dict[str, Any], kv_heads: int) -> None:
    """The same keys in every layer, the same logits; decoding goes on with them."""
    decoder, prompt = make_decoder(kv_heads, seed=3), make_prompt(N, SYSTEM, TEXT, seed=3)
    pruner = pruner_of(strategy, **flat)
    warm = prefill_question(prefix_of(decoder, prompt), question_of(prompt), 8, pruner)
    slow = slow_question(decoder, prompt, pruner)
    assert [stage.tolist() for stage in warm.kept] == slow.kept
    assert warm.counts[-1] < N
    assert relative(warm.logits, slow.logits[-1]) <= 1e-5
    assert warm.cache.lengths == tuple(count + SYSTEM + TEXT for count in warm.counts)
    assert warm.next_positions == (SYSTEM + N + TEXT,) * LAYERS

    # Each answered token attends to the same keys, and to those before it.
    steps = list[torch.Tensor]()
    request = GenerationRequest(4, lambda logits: (steps.append(logits), greedy(logits))[1])
    ids = torch.tensor(decode(decoder, warm, request).token_ids[:-1])
    embeds = torch.cat((prompt.embeds, decoder.embed(ids)))
    longer = PromptSequence(embeds, torch.arange(len(embeds)), prompt.spatial_span)
    slow = slow_question(decoder, longer, pruner, slow.kept)
    assert relative(torch.stack(steps), slow.logits[-4:]) <= 1e-5


def test_the_layers_that_rank() -> None:
    """All that fall where they are three, else the first and a third and two thirds on."""
    assert ranking_layers([9] * 5) == ()
    assert ranking_layers([9, 9, 4, 4]) == (2,)
    assert ranking_layers([9, 8, 8, 4, 3]) == (1, 3, 4)
    assert ranking_layers([9, 8, 7, 6, 5]) == (1, 2, 3)
    assert ranking_layers([9, 9, 8, 7, 6, 6, 5, 4, 3]) == (2, 4, 7)
    assert ranking_layers(range(32, 0, -1)) == (1, 11, 21)


@pytest.mark.parametrize("strategy", ["adatoken3d", "fastv", "pdrop", "logistic"])
def test_no_more_rankings_than_those_and_nested_between_them(strategy: str) -> None:
    decoder, prompt = make_decoder(seed=9), make_prompt(N, SYSTEM, TEXT, seed=9)
    pruner = pruner_of(strategy)
    warm = prefill_question(prefix_of(decoder, prompt), question_of(prompt), 8, pruner)
    rankings = ranking_layers(warm.counts)
    assert warm.ranked_layers == tuple(layer - pruner.rank_lag for layer in rankings)
    assert 1 <= len(warm.ranked_layers) <= 3
    for layer in range(1, LAYERS):
        before, here = set(warm.kept[layer - 1].tolist()), set(warm.kept[layer].tolist())
        assert len(here) == warm.counts[layer]
        if layer not in rankings:
            assert here <= before
    if strategy == "adatoken3d":  # a later ranking may take back what an earlier one left out
        assert warm.kept[-1].tolist() != sorted(warm.kept[rankings[0]].tolist())[: warm.counts[-1]]


@pytest.mark.parametrize("strategy", ["adatoken3d", "fastv", "pdrop"])
def test_the_first_drop_keeps_what_the_paper_keeps(strategy: str) -> None:
    """Up to the first pruned layer both modes are one computation, so they rank alike there."""
    decoder, prompt = make_decoder(seed=4), make_prompt(N, SYSTEM, TEXT, seed=4)
    flat = {"pdrop__positions": "original"} if strategy == "pdrop" else {}
    pruner = pruner_of(strategy, **flat)
    paper = prefill(decoder, prompt, 8, pruner)
    warm = prefill_question(prefix_of(decoder, prompt), question_of(prompt), 8, pruner)
    first = next(i for i in range(LAYERS) if paper.counts[i] < N)
    assert warm.kept[first].tolist() == paper.kept[first].tolist()
    assert warm.counts == paper.counts


# -- formats


@dataclass(frozen=True, slots=True)
class Recording(LayerPruner):
    """Keeps what every ranking got."""

    contexts: list[PruneContext] = field(default_factory=list)

    def rank(self, context: PruneContext) -> torch.Tensor:
        self.contexts.append(context)
        return LayerPruner.rank(self, context)


SHARES = (1.0, 1.0, 0.9, 0.7, 0.5, 0.4, 0.3, 0.2)  # rankings in layers 2, 4, 6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kv_heads", [1, 4])
@pytest.mark.parametrize("int8", [False, True])
def test_ranked_in_full_precision_whatever_the_format(
    dtype: torch.dtype, kv_heads: int, int8: bool
) -> None:
    """The kept sets are those of a float64 softmax over the very keys that the layers hold."""
    decoder = make_decoder(kv_heads, seed=kv_heads).to(dtype)
    prompt = make_prompt(N, SYSTEM, TEXT, seed=5)
    prompt = dataclasses.replace(prompt, embeds=prompt.embeds.to(dtype))
    prefix = prefix_of(decoder, prompt, int8=int8)
    pruner = Recording("x", RetentionSchedule(SHARES), n_min=2)
    warm = prefill_question(prefix, question_of(prompt), 8, pruner)
    assert warm.counts == (40, 40, 36, 28, 20, 16, 12, 8)
    assert warm.ranked_layers == (2, 4, 6)

    order: list[int] = []
    for layer, count in enumerate(warm.counts):
        held = prefix.cache.held(layer)
        if layer in warm.ranked_layers:
            at = pruner.contexts[warm.ranked_layers.index(layer)]
            assert at.own_k is not None
            stored = held[0][0, :, : SYSTEM + N]
            assert torch.equal(at.k, stored)
            keys = torch.cat((stored, at.own_k), dim=1).double()
            keys = keys.repeat_interleave(4 // kv_heads, dim=0)
            scores = (at.q[:, -1:].double() @ keys.mT / keys.shape[2] ** 0.5).softmax(-1).mean(0)
            scores = scores[0, SYSTEM : SYSTEM + N].tolist()
            order = sorted(range(N), key=lambda i: (-scores[i], i))
        if count < N:
            assert warm.kept[layer].tolist() == sorted(order[:count])
        # And what the layer attends to is what the scene's cache hands out at those places.
        rows = torch.cat((torch.arange(SYSTEM), SYSTEM + warm.kept[layer]))
        for ours, theirs in zip(warm.cache.held(layer), held, strict=True):
            assert torch.equal(ours[:, :, : SYSTEM + count], theirs[:, :, rows])
            assert ours.dtype == dtype


def test_no_second_copy_of_the_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """In bfloat16 a ranking widens a chunk at a time, and keys are gathered, not joined."""
    monkeypatch.setattr(ranking, "CPU_CHUNK", 4 * 8 * 50)  # of 50 tokens
    decoder = make_decoder(4, seed=1).to(torch.bfloat16)
    prompt = make_prompt(600, SYSTEM, TEXT)
    prompt = dataclasses.replace(prompt, embeds=prompt.embeds.to(torch.bfloat16))
    prefix = prefix_of(decoder, prompt, chunk=64)
    pruner = LayerPruner("x", RetentionSchedule(SHARES))
    with Sizes() as sizes:
        warm = prefill_question(prefix, question_of(prompt), 8, pruner)
    keys = [4 * 8 * count for count in warm.counts]  # of each layer: heads, width, tokens
    assert (keys[0], keys[-1]) == (19200, 3840)
    assert max(sizes.made[torch.float32]) < keys[0] / 2
    as_many_as_keys = [size for size in sizes.made[torch.bfloat16] if size >= keys[-1]]
    buffers = [2 * 4 * 8 * (SYSTEM + count + TEXT + 8) for count in warm.counts[2:]]
    assert sorted(as_many_as_keys) == sorted(buffers)


class Sizes(TorchDispatchMode):
    """Elements of the memory that operations make, by dtype; views and writes make none."""

    def __init__(self) -> None:
        super().__init__()
        self.made: dict[torch.dtype, list[int]] = {torch.float32: [], torch.bfloat16: []}
        self._known: dict[int, torch.UntypedStorage] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for arg in (*args, *(kwargs or {}).values()):
            if isinstance(arg, torch.Tensor):
                self._known[arg.untyped_storage().data_ptr()] = arg.untyped_storage()
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and out.dtype in self.made:
            storage = out.untyped_storage()
            if storage.data_ptr() not in self._known:
                self.made[out.dtype].append(storage.nbytes() // out.element_size())
            self._known[storage.data_ptr()] = storage  # kept, so that no address comes again
        return out


# -- what is lent


def places(cache: KVCache) -> list[int]:
    return [buffer.data_ptr() for buffer in cache.buffers]


def asked(**options: Any) -> tuple[ScenePrefix, PromptSequence, LayerPruner]:
    decoder, prompt = make_decoder(seed=2), make_prompt(N, SYSTEM, TEXT, seed=2)
    pruner = LayerPruner("x", RetentionSchedule(SHARES), n_min=2)
    return prefix_of(decoder, prompt, **options), prompt, pruner


def test_layers_before_the_first_selection_are_the_scenes_own() -> None:
    prefix, prompt, pruner = asked()
    size, lengths = prefix.num_bytes, prefix.cache.lengths
    warm = prefill_question(prefix, question_of(prompt), 8, pruner)
    theirs, ours = places(prefix.cache), places(warm.cache)
    assert [a == b for a, b in zip(ours, theirs, strict=True)] == [True, True, *([False] * 6)]
    own = sum(2 * 2 * (SYSTEM + count + TEXT + 8) * 8 * 4 for count in warm.counts[2:])
    assert warm.cache.num_bytes == own
    ids = decode(prefix.decoder, warm, GenerationRequest(8)).token_ids
    assert places(warm.cache) == ours  # the answer had room
    assert (prefix.num_bytes, prefix.cache.lengths) == (size, lengths)
    assert places(prefix.cache) == theirs

    again = prefill_question(prefix, question_of(prompt), 8, pruner)
    assert decode(prefix.decoder, again, GenerationRequest(8)).token_ids == ids


@pytest.mark.parametrize("options", [{"reserve": 16}, {"int8": True}, {}])
def test_they_are_copied_where_nothing_can_be_lent(options: dict[str, Any]) -> None:
    """No room for the answer, another format, or only the first part of the scene."""
    prefix, prompt, pruner = asked(**options)
    count = None if options else N - 1
    size = prefix.num_bytes
    warm = prefill_question(prefix, question_of(prompt), 20, pruner, count)
    assert not set(places(warm.cache)) & set(places(prefix.cache))
    total = sum(2 * 2 * (SYSTEM + n + TEXT + 20) * 8 * 4 for n in warm.counts)
    assert warm.cache.num_bytes == total
    decode(prefix.decoder, warm, GenerationRequest(20))
    assert prefix.num_bytes == size


def test_an_answer_longer_than_its_room_leaves_the_scene_alone() -> None:
    """A lent buffer that ends is left for one of the question's own."""
    prefix, prompt, pruner = asked(reserve=26)  # of 16 the chunk's own, 10 more
    assert prefix.cache.has_room(TEXT + 1)
    warm = prefill_question(prefix, question_of(prompt), 1, pruner)
    theirs = places(prefix.cache)
    assert warm.cache.buffers[0].data_ptr() == theirs[0]
    ids = decode(prefix.decoder, warm, GenerationRequest(60)).token_ids
    assert not set(places(warm.cache)) & set(theirs)
    assert places(prefix.cache) == theirs
    roomy, _, _ = asked()
    expected = prefill_question(roomy, question_of(prompt), 60, pruner)
    assert decode(prefix.decoder, expected, GenerationRequest(60)).token_ids == ids
