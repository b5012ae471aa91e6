"""A scene pruned while it is built against the same written out slowly: float64, one attention over
everything with a mask, nothing reused.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from dataclasses import dataclass, field

import pytest
import torch
from torch.nn import functional as F

from ada3d_ros.engine.decode import GenerationRequest, decode
from ada3d_ros.engine.prefill import prefill, prefill_question
from ada3d_ros.engine.scene_build import ScenePruner
from ada3d_ros.engine.scene_prefix import PrefixOptions, ScenePrefix
from ada3d_ros.engine.token_selection import ChosenTokens, SceneContext
from ada3d_ros.errors import ModelError
from ada3d_ros.model.decoder import DecoderLayer, LlamaDecoder
from ada3d_ros.pruning.allocation import Allocation
from ada3d_ros.pruning.cost import DecoderShape, question_macs
from ada3d_ros.pruning.question_queries import RecordedQueries
from ada3d_ros.pruning.scene_ranking import PromptRanking
from ada3d_ros.scene.keyframes import SceneSnapshot
from ada3d_ros.types import PromptSequence, SpatialTokens
from test.support.decoders import LAYERS, WIDTH, make_prompt, rotated
from test.support.prefixes import (
    SYSTEM,
    TEXT,
    make_decoder,
    prefix_of,
    pruner_of,
    question_of,
    relative,
)

N = 40
TOLERANCE = 2e-6  # float32, relative to the largest value; the same sums in another order
FALLING = (1.0, 0.8, 0.6, 0.6, 0.5, 0.4, 0.3, 0.3)
SAME = Allocation(FALLING, FALLING)
EVEN = Allocation((1.0, *[0.4] * 7), (0.4,) * 8)
LATE = Allocation((1.0, *[0.6] * 7), (0.1, 0.1, 0.2, 0.2, 0.3, 0.3, 0.6, 0.6))


def prompts_of(*lengths: int) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(5)
    return tuple(torch.randn(n, WIDTH, generator=generator) for n in lengths)


# -- the slow reference


@dataclass
class SlowScene:
    """Keys and values per layer of what is held, and which tokens these are."""

    keys: list[torch.Tensor] = field(default_factory=list)
    values: list[torch.Tensor] = field(default_factory=list)
    held: list[list[int]] = field(default_factory=list)
    queries: list[torch.Tensor] = field(default_factory=list)  # unroped, (H, P, d)
    last: torch.Tensor | None = None


class SlowDecoder:
    def __init__(self, decoder: LlamaDecoder) -> None:
        self.decoder = copy.deepcopy(decoder).double()
        c = decoder.config
        self.heads, self.groups, self.width = c.num_heads, c.num_kv_heads, decoder.head_dim
        self.theta, self.layers = c.rope_theta, c.num_layers

    def parts(self, layer: int, hidden: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """q, k, v (H, T, d), unroped, keys repeated for the heads of a group."""
        block: DecoderLayer = self.decoder.layers[layer]
        normed, at = block.input_layernorm(hidden), block.self_attn
        q = at.q_proj(normed).view(len(hidden), self.heads, self.width).transpose(0, 1)
        kv = [
            p(normed).view(len(hidden), self.groups, self.width).transpose(0, 1)
            for p in (at.k_proj, at.v_proj)
        ]
        return q, *(x.repeat_interleave(self.heads // self.groups, dim=0) for x in kv)

    def scores(self, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        return (q @ k.transpose(1, 2)) / math.sqrt(self.width)

    def run(
        self,
        layer: int,
        hidden: torch.Tensor,
        at: torch.Tensor,
        past: tuple[torch.Tensor, torch.Tensor] | None,
        visible: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The layer's output, and its keys (roped) and values of these tokens."""
        block: DecoderLayer = self.decoder.layers[layer]
        q, k, v = self.parts(layer, hidden)
        q, k = rotated(q, at, self.theta), rotated(k, at, self.theta)
        keys, values = k, v
        if past is not None:
            keys, values = torch.cat((past[0], k), dim=1), torch.cat((past[1], v), dim=1)
        scores = self.scores(q, keys).masked_fill(~visible, -torch.inf)
        out = torch.softmax(scores, dim=-1) @ values
        out = block.self_attn.o_proj(out.transpose(0, 1).flatten(1))
        hidden = hidden + out
        return hidden + block.mlp(block.post_attention_layernorm(hidden)), k, v

    def build(
        self, embeds: torch.Tensor, start: int, pruner: ScenePruner, scene: SlowScene | None = None
    ) -> SlowScene:
        """All tokens of a scene, or of those appended to one, through the layers."""
        first = 0 if scene is None else scene.count
        old, scene = scene, SlowScene()
        total = len(embeds)
        alive_counts, held_counts = pruner.allocation.counts(total - start, pruner.n_min)
        rows = [p.double() for p in pruner.prompts] if old is None else []
        kinds = [-1] * total + [i for i, p in enumerate(rows) for _ in p]
        ends = [j == len(rows[i]) - 1 for i in range(len(rows)) for j in range(len(rows[i]))]
        at = [first + i for i in range(total)] + [
            first + total + j for p in rows for j in range(len(p))
        ]
        hidden = torch.cat((embeds.double(), *rows))
        order = list(range(total)) + [-1] * (len(kinds) - total)
        needs = [
            (i > 0 and alive_counts[i] < alive_counts[i - 1]) or held_counts[i] < alive_counts[i]
            for i in range(self.layers)
        ]
        last = max((i for i, need in enumerate(needs) if need), default=-1)
        for layer in range(self.layers):
            points = torch.tensor(at, dtype=torch.float64)
            score: dict[int, float] = {}
            if needs[layer]:
                q, k, _ = self.parts(layer, hidden)
                roped = rotated(k, points, self.theta)
                shares = []
                scene_rows = [i for i, kind in enumerate(kinds) if kind < 0]
                if old is None:
                    for p in range(len(rows)):
                        own = [i for i, kind in enumerate(kinds) if kind == p]
                        last_row = own[-1]
                        turned = rotated(q[:, [last_row]], points[[last_row]], self.theta)
                        weights = torch.softmax(
                            self.scores(turned, roped[:, scene_rows + own]), dim=-1
                        )
                        shares.append(weights[:, 0, : len(scene_rows)].mean(0))
                    ends_at = [
                        i for i, kind in enumerate(kinds) if kind >= 0 and ends[i - kinds.index(0)]
                    ]
                    scene.queries.append(q[:, ends_at])
                else:
                    place = torch.tensor([first + total + pruner.offset], dtype=torch.float64)
                    keys = torch.cat((old.keys[layer], roped), dim=1)
                    for p in range(old.queries[layer].shape[1]):
                        turned = rotated(old.queries[layer][:, [p]], place, self.theta)
                        weights = torch.softmax(self.scores(turned, keys), dim=-1)
                        shares.append(weights[:, 0, old.keys[layer].shape[1] :].mean(0))
                mean = torch.stack(shares).mean(0)
                score = {order[i]: float(mean[j]) for j, i in enumerate(scene_rows)}
                best = sorted((t for t in score if t >= start), key=lambda t: (-score[t], t))
                stay = set(best[: alive_counts[layer]]) | set(range(start))
                index = [i for i, t in enumerate(order) if t in stay or (t < 0 and layer != last)]
                hidden, kinds = hidden[index], [kinds[i] for i in index]
                at, order = [at[i] for i in index], [order[i] for i in index]
                best = [t for t in best if t in stay]
            else:
                scene.queries.append(torch.zeros(0))
                best = [t for t in order if t >= start]
            keep = sorted(best[: held_counts[layer]])
            count = len(order)
            own_sees = torch.tensor(
                [
                    [
                        (kinds[j] < 0 and (kinds[i] >= 0 or j <= i))
                        or (kinds[i] >= 0 and kinds[i] == kinds[j] and j <= i)
                        for j in range(count)
                    ]
                    for i in range(count)
                ]
            )
            past = None
            if old is not None:
                past = old.keys[layer], old.values[layer]
                own_sees = F.pad(own_sees, (past[0].shape[1], 0), value=True)
            points = torch.tensor(at, dtype=torch.float64)
            hidden, k, v = self.run(layer, hidden, points, past, own_sees)
            stored = [i for i, t in enumerate(order) if 0 <= t < start or t in keep]
            before = (past[0], past[1]) if past is not None else (k[:, :0], v[:, :0])
            scene.keys.append(torch.cat((before[0], k[:, stored]), dim=1))
            scene.values.append(torch.cat((before[1], v[:, stored]), dim=1))
            offset = 0 if old is None else old.count - old.start
            earlier = [] if old is None else old.held[layer]
            scene.held.append(earlier + [t - start + offset for t in keep])
            if layer == self.layers - 1:
                scene.last = hidden[[i for i, t in enumerate(order) if t in keep]]
        scene.count = first + total
        scene.start = start if old is None else old.start
        return scene

    def ask(self, scene: SlowScene, question: torch.Tensor) -> torch.Tensor:
        hidden = question.double()
        at = scene.count + torch.arange(len(question), dtype=torch.float64)
        for layer in range(self.layers):
            past = scene.keys[layer], scene.values[layer]
            own = torch.ones(len(question), len(question), dtype=torch.bool).tril()
            sees = F.pad(own, (past[0].shape[1], 0), value=True)
            hidden, _, _ = self.run(layer, hidden, at, past, sees)
        return self.decoder.lm_head(self.decoder.norm(hidden[-1]))


# -- against it


def built(
    decoder: LlamaDecoder, prompt: PromptSequence, pruner: ScenePruner, **options
) -> ScenePrefix:
    return prefix_of(decoder, prompt, pruner=pruner, **options)


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("allocation", [SAME, EVEN, LATE], ids=["same", "even", "late"])
@pytest.mark.parametrize("lengths", [(6,), (6, 4, 9)])
def test_a_pruned_build_is_the_slow_one(
    kv_heads: int, allocation: Allocation, lengths: tuple[int, ...]
) -> None:
    decoder, prompt = make_decoder(kv_heads, seed=kv_heads), make_prompt(N, SYSTEM, TEXT, seed=3)
    pruner = ScenePruner(allocation, PromptRanking(), prompts_of(*lengths), n_min=2)
    prefix = built(decoder, prompt, pruner, with_states=True)
    slow = SlowDecoder(decoder)
    with torch.inference_mode():
        scene = slow.build(prompt.embeds[: SYSTEM + N], SYSTEM, pruner)
        expected = slow.ask(scene, question_of(prompt))
    assert prefix.held is not None
    assert [kept.tolist() for kept in prefix.held] == scene.held
    answered = prefill_question(prefix, question_of(prompt), 8, with_states=True)
    assert relative(answered.logits, expected) <= TOLERANCE
    assert answered.counts == allocation.counts(N, 2)[1]
    assert answered.states is not None
    assert scene.last is not None
    last = slow.decoder.norm(scene.last)
    assert relative(answered.states.spatial, last) <= TOLERANCE
    assert answered.next_positions == (SYSTEM + N + TEXT,) * LAYERS


@pytest.mark.parametrize("kv_heads", [1, 4])
@pytest.mark.parametrize("allocation", [SAME, EVEN, LATE], ids=["same", "even", "late"])
def test_appended_tokens_are_ranked_by_the_frozen_queries(
    kv_heads: int, allocation: Allocation
) -> None:
    decoder, prompt = make_decoder(kv_heads, seed=7), make_prompt(N, SYSTEM, TEXT, seed=11)
    pruner = ScenePruner(allocation, PromptRanking(), prompts_of(6, 6), n_min=2)
    prefix = built(decoder, prompt, pruner, with_states=True)
    new = torch.randn(20, prompt.embeds.shape[1], generator=torch.Generator().manual_seed(1))
    tokens = SpatialTokens(new, torch.randn(20, 3), torch.ones(20, dtype=torch.int64), 0.2)
    slow = SlowDecoder(decoder)
    with torch.inference_mode():
        scene = slow.build(prompt.embeds[: SYSTEM + N], SYSTEM, pruner)
        for part in (slice(0, 12), slice(12, 20)):  # two keyframes
            piece = SpatialTokens(
                tokens.features[part], tokens.xyz_m[part], tokens.num_patches[part], 0.2
            )
            prefix.append_tokens(new[part], piece, SceneSnapshot())
            while prefix.step():
                pass
            queries = scene.queries
            scene = slow.build(new[part], 0, pruner, scene)
            scene.queries = queries
        expected = slow.ask(scene, question_of(prompt))
    assert prefix.held is not None
    assert [kept.tolist() for kept in prefix.held] == scene.held
    answered = prefill_question(prefix, question_of(prompt), 8, with_states=True)
    assert relative(answered.logits, expected) <= TOLERANCE
    assert answered.states is not None
    assert len(answered.states.spatial) == len(prefix.held[-1])


@pytest.mark.parametrize("strategy", ["adatoken3d", "pdrop"])
def test_with_the_question_itself_as_the_proxy_it_is_the_papers_prefill(strategy: str) -> None:
    flat = {"pdrop.positions": "original"} if strategy == "pdrop" else {}
    decoder, prompt = make_decoder(2), make_prompt(N, SYSTEM, TEXT, seed=2)
    pruner = pruner_of(strategy, 0.6, **flat)
    counts = pruner.counts(N, None)
    shares = tuple(count / N for count in counts)
    proxy = ScenePruner(Allocation(shares, shares), PromptRanking(), (question_of(prompt),), 2)
    paper = prefill(decoder, prompt, 8, pruner)
    answered = prefill_question(built(decoder, prompt, proxy), question_of(prompt), 8)
    assert answered.counts == counts == paper.counts
    for ours, theirs in zip(answered.kept, paper.kept, strict=True):
        assert torch.equal(ours, theirs)
    assert relative(answered.logits, paper.logits) <= TOLERANCE
    ids = [decode(decoder, output, GenerationRequest(8)).token_ids for output in (answered, paper)]
    assert ids[0] == ids[1]


def test_everything_kept_is_the_unpruned_scene() -> None:
    decoder, prompt = make_decoder(2), make_prompt(N, SYSTEM, TEXT)
    everything = Allocation((1.0,) * LAYERS, (1.0,) * LAYERS)
    pruned = built(decoder, prompt, ScenePruner(everything, PromptRanking(), prompts_of(4)))
    whole = prefix_of(decoder, prompt)
    ours, theirs = (prefill_question(p, question_of(prompt), 4) for p in (pruned, whole))
    assert relative(ours.logits, theirs.logits) <= TOLERANCE
    assert pruned.lengths == whole.lengths == (SYSTEM + N,) * LAYERS
    assert pruned.macs == question_macs(
        DecoderShape.from_config(decoder.config), SYSTEM + N, [0] * LAYERS, with_head=False
    )


def test_what_a_build_computes_is_counted_token_by_token() -> None:
    decoder, prompt = make_decoder(2), make_prompt(N, SYSTEM, TEXT)
    shape = DecoderShape.from_config(decoder.config)
    prefix = built(decoder, prompt, ScenePruner(LATE, PromptRanking(), prompts_of(5, 3), 2))
    alive, held = LATE.counts(N, 2)
    d, linear, total, before = shape.hidden_size, shape.linear_macs, 0, N
    for layer in range(LAYERS):  # held is fewer than alive in all but the last two
        ranks, rides = layer <= 5, layer < 5
        rows = [j + 1 for length in (5, 3) for j in range(length)]
        if ranks:  # every token's key, every row's query, one row of scores per prompt
            total += (before - alive[layer]) * d * shape.kv_width + 8 * d * d
            total += sum((SYSTEM + before + length) * d for length in (5, 3))
            total += 0 if rides else 8 * d * shape.kv_width
        total += sum(linear + 2 * (i + 1) * d for i in range(SYSTEM + alive[layer]))
        if rides:
            total += sum(linear + 2 * (SYSTEM + alive[layer] + own) * d for own in rows)
        before = alive[layer]
    assert held[5] < alive[5]
    assert held[6] == alive[6]
    assert prefix.macs == total


def test_a_build_takes_one_layer_a_step_and_questions_leave_no_trace() -> None:
    decoder, prompt = make_decoder(2), make_prompt(N, SYSTEM, TEXT)
    pruner = ScenePruner(SAME, PromptRanking(), prompts_of(5), 2)
    tokens = SpatialTokens(
        prompt.embeds[SYSTEM : SYSTEM + N], torch.randn(N, 3), torch.ones(N, dtype=torch.int64), 0.2
    )
    chosen = ChosenTokens(tokens, torch.arange(N), N)
    context = SceneContext(SceneSnapshot(), tokens, chosen, prompt.embeds[SYSTEM : SYSTEM + N])
    part = PromptSequence(
        prompt.embeds[: SYSTEM + N], prompt.positions[: SYSTEM + N], (SYSTEM, SYSTEM + N)
    )
    prefix = ScenePrefix(decoder, part, context, PrefixOptions(pruner=pruner))
    assert [prefix.step() for _ in range(LAYERS)] == [True] * (LAYERS - 1) + [False]
    lengths = prefix.lengths
    first = prefill_question(prefix, question_of(prompt), 4).logits
    decode(decoder, prefill_question(prefix, question_of(prompt), 8), GenerationRequest(8))
    assert torch.equal(prefill_question(prefix, question_of(prompt), 4).logits, first)
    prefix.crop()
    assert (
        prefix.cache.lengths == lengths == tuple(SYSTEM + count for count in SAME.counts(N, 2)[1])
    )


def test_a_failed_layer_begins_the_build_again(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder, prompt = make_decoder(2), make_prompt(N, SYSTEM, TEXT)
    pruner = ScenePruner(SAME, PromptRanking(), prompts_of(5), 2)
    expected = built(decoder, prompt, pruner)
    run, calls = LlamaDecoder.run_layer, iter(range(100))

    def fails_once(self: LlamaDecoder, layer: int, *args, **kwargs) -> torch.Tensor:
        if next(calls) == 2:
            raise torch.OutOfMemoryError("out of memory")
        return run(self, layer, *args, **kwargs)

    monkeypatch.setattr(LlamaDecoder, "run_layer", fails_once)
    with pytest.raises(torch.OutOfMemoryError):
        built(decoder, prompt, pruner)
    calls = iter(range(100))
    part_prompt = make_prompt(N, SYSTEM, TEXT)
    prefix = None
    tokens = SpatialTokens(
        prompt.embeds[SYSTEM : SYSTEM + N], torch.randn(N, 3), torch.ones(N, dtype=torch.int64), 0.2
    )
    chosen = ChosenTokens(tokens, torch.arange(N), N)
    context = SceneContext(SceneSnapshot(), tokens, chosen, prompt.embeds[SYSTEM : SYSTEM + N])
    part = PromptSequence(
        part_prompt.embeds[: SYSTEM + N], part_prompt.positions[: SYSTEM + N], (SYSTEM, SYSTEM + N)
    )
    prefix = ScenePrefix(decoder, part, context, PrefixOptions(pruner=pruner))
    failures = 0
    while not prefix.ready:
        try:
            prefix.step()
        except torch.OutOfMemoryError:
            failures += 1
    assert failures == 1
    assert prefix.lengths == expected.lengths
    for layer in range(LAYERS):
        for ours, theirs in zip(prefix.cache.held(layer), expected.cache.held(layer), strict=True):
            assert torch.equal(ours, theirs)


def test_int8_keys_hold_the_same_tokens() -> None:
    decoder, prompt = make_decoder(2), make_prompt(N, SYSTEM, TEXT)
    pruner = ScenePruner(SAME, PromptRanking(), prompts_of(5), 2)
    full, small = (built(decoder, prompt, pruner, int8=int8) for int8 in (False, True))
    assert full.held is not None
    assert small.held is not None
    assert all(map(torch.equal, full.held, small.held))
    ours, theirs = (prefill_question(p, question_of(prompt), 4).logits for p in (small, full))
    assert 0 < relative(ours, theirs) < 0.02


def test_scores_that_are_not_finite_are_an_error() -> None:
    decoder, prompt = make_decoder(2), make_prompt(N, SYSTEM, TEXT)
    embeds = prompt.embeds.clone()
    embeds[SYSTEM + 3] = math.nan
    broken = dataclasses.replace(prompt, embeds=embeds)
    pruner = ScenePruner(SAME, PromptRanking(), prompts_of(5), 2)
    with pytest.raises(ModelError, match="ranking scores of the scene are not finite"):
        built(decoder, broken, pruner)


def test_queries_of_questions_are_recorded_as_they_stand_before_rotation() -> None:
    decoder, prompt = make_decoder(2), make_prompt(N, SYSTEM, TEXT)
    seen = RecordedQueries()
    prefix = prefix_of(decoder, prompt, queries=seen)
    prefill_question(prefix, question_of(prompt), 4)
    slow = SlowDecoder(decoder)
    hidden, at = prompt.embeds.double(), torch.arange(len(prompt.embeds), dtype=torch.float64)
    causal = torch.ones(len(hidden), len(hidden), dtype=torch.bool).tril()
    expected = []
    with torch.inference_mode():
        for layer in range(LAYERS):
            expected.append(slow.parts(layer, hidden)[0][:, -1:])
            hidden = slow.run(layer, hidden, at, None, causal)[0]
    last = seen.last()
    assert last is not None
    assert relative(last, torch.stack(expected)) <= 1e-5
