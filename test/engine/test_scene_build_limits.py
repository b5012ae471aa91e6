"""A scene pruned while it is built where something gives way: memory at the end of a pass, numbers,
the model's positions, scenes too small to rank in every layer.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch

from ada3d_ros.engine.prefill import prefill_question
from ada3d_ros.engine.scene_build import ScenePruner
from ada3d_ros.engine.scene_prefix import PrefixOptions, ScenePrefix
from ada3d_ros.engine.token_selection import ChosenTokens, SceneContext
from ada3d_ros.errors import ConfigError, ModelError, QuestionTooLongError
from ada3d_ros.model.decoder import LlamaDecoder
from ada3d_ros.pruning.allocation import Allocation
from ada3d_ros.pruning.question_queries import RecordedQueries
from ada3d_ros.pruning.scene_ranking import PromptRanking, QueryRanking
from ada3d_ros.pruning.scene_rivals import ReadBackRanking
from ada3d_ros.scene.keyframes import SceneSnapshot
from ada3d_ros.types import PromptSequence
from test.support.decoders import WIDTH, make_prompt
from test.support.prefixes import (
    SYSTEM,
    make_decoder,
    prefix_of,
    question_of,
    tokens_of,
)

EVEN = Allocation((1.0, *[0.4] * 7), (0.4,) * 8)
STEPS = Allocation((1.0, *[0.4] * 7), (0.1, 0.1, 0.2, 0.2, 0.3, 0.3, 0.4, 0.4))


def general(*lengths: int) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(5)
    return tuple(torch.randn(n, WIDTH, generator=generator) for n in lengths)


def by_prompts(allocation: Allocation, *lengths: int, n_min: int = 1) -> ScenePruner:
    return ScenePruner(allocation, PromptRanking(), general(*lengths), n_min)


def begin(
    decoder: LlamaDecoder, prompt: PromptSequence, count: int, pruner: ScenePruner
) -> ScenePrefix:
    """The first `count` spatial tokens of the prompt, none of which has passed yet."""
    start = prompt.spatial_span[0]
    stop = start + count
    part = PromptSequence(prompt.embeds[:stop], prompt.positions[:stop], (start, stop))
    tokens = tokens_of(prompt, count)
    chosen = ChosenTokens(tokens, torch.arange(count), count)
    context = SceneContext(SceneSnapshot(), tokens, chosen, prompt.embeds[start:stop])
    return ScenePrefix(decoder, part, context, PrefixOptions(pruner=pruner, with_states=True))


def finish(prefix: ScenePrefix) -> None:
    while prefix.step():
        pass


def append(prefix: ScenePrefix, prompt: PromptSequence) -> None:
    """The prompt's spatial tokens that the prefix lacks."""
    start, stop = prompt.spatial_span
    embeds = prompt.embeds[start + len(prefix.embeds) : stop]
    tokens = dataclasses.replace(tokens_of(prompt, len(embeds)), features=embeds)
    prefix.append_tokens(embeds, tokens, SceneSnapshot())


def with_positions(decoder: LlamaDecoder, count: int) -> LlamaDecoder:
    """The same weights in a model with fewer positions."""
    made = LlamaDecoder(dataclasses.replace(decoder.config, max_positions=count))
    made.load_state_dict(decoder.state_dict())
    return made.requires_grad_(False)


@pytest.mark.parametrize("appended", [False, True])
def test_memory_that_ends_with_the_last_layer_leaves_no_trace(
    monkeypatch: pytest.MonkeyPatch, appended: bool
) -> None:
    decoder, prompt = make_decoder(), make_prompt(40, SYSTEM, 4, seed=2)
    pruner, count = by_prompts(STEPS, 5), 30
    expected, prefix = (begin(decoder, prompt, count, pruner) for _ in range(2))
    if appended:
        for one in (expected, prefix):
            finish(one)
            append(one, prompt)
    finish(expected)

    def no_memory(hidden: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("no memory for the states")

    with monkeypatch.context() as patch:
        patch.setattr(decoder.norm, "forward", no_memory)
        with pytest.raises(torch.OutOfMemoryError):
            finish(prefix)
    assert not prefix.ready
    finish(prefix)
    assert prefix.lengths == expected.lengths
    assert prefix.held is not None
    assert expected.held is not None
    for layer, (ours, theirs) in enumerate(zip(prefix.held, expected.held, strict=True)):
        assert ours.tolist() == theirs.tolist(), layer
    assert torch.equal(prefix.final_states(), expected.final_states())


def test_queries_of_a_question_that_is_not_finite_are_not_recorded() -> None:
    """They would make every later ranking NaN."""
    decoder, prompt = make_decoder(), make_prompt(40, SYSTEM, 4, seed=2)
    queries = RecordedQueries()
    prefix = prefix_of(decoder, prompt, pruner=by_prompts(EVEN, 5), queries=queries)
    with pytest.raises(ModelError, match="not finite"):
        prefill_question(prefix, torch.full((3, WIDTH), float("nan")))
    assert queries.last() is None
    prefill_question(prefix, question_of(prompt))
    last = queries.last()
    assert last is not None
    assert last.shape[2] == 1
    assert bool(torch.isfinite(last).all())


def test_prompts_ride_again_where_a_small_scene_ranked_in_too_few_layers() -> None:
    """18 tokens of which every layer keeps 8 are ranked in two layers alone; 60 more in eight."""
    decoder, prompt = make_decoder(), make_prompt(78, SYSTEM, 4, seed=2)
    pruner = by_prompts(STEPS, 5, n_min=8)
    grown = begin(decoder, prompt, 18, pruner)
    finish(grown)
    assert grown.lengths == (SYSTEM + 8,) * 8
    append(grown, prompt)
    finish(grown)
    assert grown.lengths == tuple(SYSTEM + 8 + n for n in (8, 8, 12, 12, 18, 18, 24, 24))

    # Not the first of those alive, as scores that are all alike would have it.
    assert grown.held is not None
    new = [set(held[held >= 18].tolist()) for held in grown.held]
    for layer in range(6):
        assert new[layer] != set(sorted(new[7])[: len(new[layer])]), layer


# -- the model's positions


def test_a_scene_is_read_back_in_pieces_where_positions_end() -> None:
    decoder = make_decoder()
    short, prompt = with_positions(decoder, SYSTEM + 60), make_prompt(40, SYSTEM, 4, seed=2)
    pruner = ScenePruner(EVEN, ReadBackRanking())
    scene = prompt.embeds[SYSTEM : SYSTEM + 40]
    assert list(map(len, pruner.rows(scene, 60))) == [40]
    assert list(map(len, pruner.rows(scene, 20))) == [20, 20]
    assert prefix_of(short, prompt, pruner=pruner).lengths == (SYSTEM + 16,) * 8


def test_prompts_that_do_not_fit_behind_the_scene_are_refused() -> None:
    decoder = make_decoder()
    prompt, pruner = make_prompt(40, SYSTEM, 4, seed=2), by_prompts(EVEN, 5, 7)
    assert prefix_of(with_positions(decoder, SYSTEM + 47), prompt, pruner=pruner).ready
    with pytest.raises(ConfigError, match=r"'prompts': 7 tokens .* has 6 positions left"):
        prefix_of(with_positions(decoder, SYSTEM + 46), prompt, pruner=pruner)


def test_queries_stand_at_the_last_position_where_there_is_none_behind() -> None:
    """A ranking by recorded queries needs no room of its own: the scene is built all the same."""
    decoder, prompt = make_decoder(), make_prompt(40, SYSTEM, 4, seed=2)
    queries = torch.randn(8, 4, 2, WIDTH // 4, generator=torch.Generator().manual_seed(1))
    pruner = ScenePruner(EVEN, QueryRanking(queries))
    short = prefix_of(with_positions(decoder, SYSTEM + 41), prompt, pruner=pruner)
    assert short.lengths == (SYSTEM + 16,) * 8


def test_a_scene_beyond_the_positions_is_refused() -> None:
    decoder, prompt = make_decoder(), make_prompt(40, SYSTEM, 4, seed=2)
    for pruner in (None, by_prompts(EVEN, 5)):
        with pytest.raises(QuestionTooLongError, match=r"ends at position 43, .* end at 43"):
            prefix_of(with_positions(decoder, SYSTEM + 40), prompt, pruner=pruner)
    # What is advised is what helps: with places as they are, not what they are already.
    with pytest.raises(QuestionTooLongError, match=r"voxel_dpp\+adatoken3d\): pruning inside"):
        prefix_of(with_positions(decoder, SYSTEM + 40), prompt, pruner=by_prompts(EVEN, 5))
    with pytest.raises(QuestionTooLongError, match=r"set pruning\.pre_positions to compact"):
        prefix_of(with_positions(decoder, SYSTEM + 40), prompt, original_positions=True)
