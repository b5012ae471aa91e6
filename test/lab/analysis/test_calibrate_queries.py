"""`ada3d calibrate --queries` and `--held`: what is asked, what withholding means, the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ada3d_ros.config import from_flat
from ada3d_ros.engine.layer_walk import LayerWalk
from ada3d_ros.lab.analysis import calibrate as verb
from ada3d_ros.lab.analysis import calibrate_queries as queries
from ada3d_ros.lab.evaluation.scenes import DEFAULT_QUESTIONS, read_scene, scene_prompt
from ada3d_ros.model.checkpoint import LoadedModel
from ada3d_ros.model.startup import embedded_model_path, open_model
from ada3d_ros.pruning.policy import Policy
from ada3d_ros.pruning.queries_file import (
    MAX_WORTH,
    MIN_WORTH,
    QUERIES_FILE,
    HeadSizes,
    read_queries,
)
from ada3d_ros.types import PromptSequence

WHOLE = Policy.from_config(from_flat({"pruning.strategy": "none"}).pruning)
FEW_VIEWS = from_flat({"keyframe.max_views": 2})
QUESTIONS = ("What is in the room?", "Is there a red box?")


@pytest.fixture(scope="module")
def loaded(model: Path) -> LoadedModel:
    return open_model(from_flat({"model.path": str(model)}).model)[0]


def sizes_of(loaded: LoadedModel) -> HeadSizes:
    config = loaded.model.decoder.config
    return HeadSizes(config.num_layers, config.num_heads, config.head_dim)


def whole_pass(loaded: LoadedModel, prompt: PromptSequence, without: int) -> tuple[np.ndarray, ...]:
    """Queries (L, H, d) of the last token, unroped, and its log-probabilities, by attention written
    out over the whole prompt; the question does not see the scene in layer `without`.
    """
    decoder, (start, stop) = loaded.model.decoder, prompt.spatial_span
    hidden, tokens = prompt.embeds[None], len(prompt.positions)
    rope, found = decoder.rope(prompt.positions), []
    for layer in range(decoder.config.num_layers):
        hidden_from = torch.ones(tokens, tokens, dtype=torch.bool).triu(1)
        if layer == without:
            hidden_from[stop:, start:stop] = True

        def attend(
            at: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor
        ) -> torch.Tensor:
            k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for x in (k, v))
            scores = (q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5
            return torch.softmax(scores.masked_fill(mask, -torch.inf), dim=-1) @ v

        inputs = decoder.layer_inputs(layer, hidden)
        last = torch.tensor([tokens - 1])
        found.append(decoder.ranking_inputs(layer, inputs, rope, last)[1][0, :, 0])
        hidden = decoder.run_layer(
            layer, hidden, rope, lambda at, q, k, v, m=hidden_from: attend(at, q, k, v, m)
        )
    logits = decoder.logits(hidden[0, -1]).double()
    return torch.stack(found).numpy(), logits.log_softmax(dim=-1).numpy()


def test_queries_and_changes_are_those_of_whole_prompts(loaded: LoadedModel) -> None:
    """Beside one pass over scene and question, with the scene masked in one layer."""
    scene = read_scene(loaded, "room:0", FEW_VIEWS)
    recorded = queries.AllQueries()
    prefix = queries.whole_prefix(loaded, scene, "llava_v1", recorded)
    for question in QUESTIONS:
        prompt, _ = scene_prompt(loaded, scene, question, WHOLE)
        asked = prompt.embeds[prompt.spatial_span[1] :]
        queries.ask(prefix, prompt)
        changes = queries.what_withholding_changes(loaded, prefix, asked, len(asked) - 1, False)
        with torch.inference_mode():
            expected, log_probs = whole_pass(loaded, prompt, -1)
            np.testing.assert_allclose(recorded.all[-1], expected, rtol=1e-4, atol=1e-5)
            for layer, change in enumerate(changes):
                other = whole_pass(loaded, prompt, layer)[1]
                kl = float((np.exp(log_probs) * (log_probs - other)).sum())
                assert change == pytest.approx(kl, rel=1e-3, abs=1e-7)
                assert change > 0.0
    assert len(recorded.all) == len(QUESTIONS)


def test_the_heads_pointing_is_compared_where_a_phrase_is_asked() -> None:
    loaded, _ = open_model(from_flat({"model.path": str(embedded_model_path())}).model)
    scene = read_scene(loaded, "room:0", FEW_VIEWS)
    prefix = queries.whole_prefix(loaded, scene, "llava_v1", queries.AllQueries())
    prompt, _ = scene_prompt(loaded, scene, queries.questions_about("x", None, True)[-1], WHOLE)
    question = prompt.embeds[prompt.spatial_span[1] :]
    found = queries.what_withholding_changes(loaded, prefix, question, len(question) - 1, True)
    assert loaded.head is not None

    def pointing(without: int) -> torch.Tensor:
        prefix.crop()
        at = torch.arange(prefix.next_position, prefix.next_position + len(question))
        walk = LayerWalk(
            loaded.model.decoder,
            PromptSequence(question, at, (0, 0)),
            prefix.cache,
            queries.withholding(prefix, without),
        )
        walk.run()
        state = loaded.model.decoder.norm(walk.hidden[0, -1])[None, None]
        return loaded.head.head.point(state, prefix.final_states()[None])[0][0, 0].softmax(dim=-1)

    with torch.inference_mode():
        whole = pointing(-1)
        assert whole.shape == (len(scene.tokens.features),)
        for layer, change in enumerate(found):
            other = pointing(layer)
            kl = float((whole.double() * (whole.double().log() - other.double().log())).sum())
            assert change == pytest.approx(kl, rel=1e-3, abs=1e-7)


@pytest.mark.parametrize("points", [True, False])
def test_what_is_asked(points: bool) -> None:
    general = queries.questions_about("a_bag", None, points)
    assert tuple(general[: len(DEFAULT_QUESTIONS)]) == DEFAULT_QUESTIONS
    own = queries.questions_about("room:3", None, points)
    assert len(set(own) - set(general)) > 5
    for asked in (general, own):
        assert any(map(queries.is_phrase, asked)) == points
    assert queries.questions_about("room:3", QUESTIONS, points) == list(QUESTIONS)


def test_worth_has_mean_1_within_bounds() -> None:
    text = [np.array([0.0, 0.0, 3.0, 1.0]), np.array([0.0, 0.0, 1.0, 3.0])]
    pointing = [np.array([0.1, 0.1, 0.1, 0.1])]
    # Of text 0, 0, 2, 2 in mean layers, of pointing 1 each; both count alike.
    assert queries.worth_of_layers(text, pointing) == pytest.approx((0.5, 0.5, 1.5, 1.5))
    bounded = queries.worth_of_layers(text, [])
    assert bounded == pytest.approx((MIN_WORTH, MIN_WORTH, 2 - MIN_WORTH, 2 - MIN_WORTH))
    one = np.zeros(32)
    one[20] = 1.0
    many = np.array(queries.worth_of_layers([one], []))
    assert many.mean() == pytest.approx(1.0)
    assert many[20] == pytest.approx(MAX_WORTH)
    assert np.delete(many, 20) == pytest.approx((32 - MAX_WORTH) / 31)
    assert queries.worth_of_layers([np.zeros(3)], []) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize("held", [False, True])
def test_the_verb_writes_a_file_that_the_node_takes(
    model: Path,
    loaded: LoadedModel,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    held: bool,
) -> None:
    asked = tmp_path / "questions.txt"
    asked.write_text("\n".join(QUESTIONS))
    few = tmp_path / "few.yaml"
    few.write_text("keyframe: {max_views: 2}")
    file = tmp_path / "made" / QUERIES_FILE
    options = ["room:0", "--model", str(model), "--questions", str(asked), "--queries", str(file)]
    options += ["--config", str(few)]
    assert verb.main([*options, "--held"] if held else options) == 0
    printed = capsys.readouterr().out
    assert "2 questions" in printed
    assert "random weights" in printed
    assert f"cache.queries_file:={file}" in printed
    found = read_queries(file, sizes_of(loaded))
    assert found.statistics is not None
    assert found.statistics.count == 2
    assert (found.model, found.sources, found.random_weights) == (model.name, ("room:0",), True)
    assert len(found.sha256) == 64
    if held:
        assert found.held is not None
        assert np.mean(found.held) == pytest.approx(1.0, abs=1e-6)
    else:
        assert found.held is None


@pytest.mark.parametrize(
    ("extra", "sentence"),
    [
        (["-o", "schedule.yaml"], "--out is the schedule's: leave it out"),
        (["--keep-ratio", "0.3"], "pruning.keep_ratio"),
    ],
)
def test_options_of_the_schedule_are_refused(
    model: Path, capsys: pytest.CaptureFixture[str], extra: list[str], sentence: str
) -> None:
    assert verb.main(["room:0", "--model", str(model), "--held", *extra]) == 2
    assert sentence in capsys.readouterr().err
