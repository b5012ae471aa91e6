"""Figure 5: attention on each spatial token, and what the least attended of them get."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ada3d_ros.config import AgentConfig
from ada3d_ros.errors import ConfigError
from ada3d_ros.lab.analysis.allocation import attention_allocation
from ada3d_ros.lab.analysis.analyze import main
from ada3d_ros.lab.analysis.asked_rooms import own_questions, true_answer
from ada3d_ros.lab.analysis.concentration import (
    GRID,
    MEASURES,
    QUERIES,
    attention_on_tokens,
    curve_of,
    measure_concentration,
    measures_of,
    with_mean,
)
from ada3d_ros.lab.evaluation.scenes import VoxelScene, read_voxel_scene, room_of
from ada3d_ros.lab.evaluation.selection import questions_of
from ada3d_ros.lab.world.graph import Graph, graphs
from ada3d_ros.lab.world.rooms import make_rooms
from ada3d_ros.model.checkpoint import LoadedModel, load_model
from ada3d_ros.model.startup import embedded_model_path
from ada3d_ros.types import PromptSequence


def quiet(_: str) -> None:
    pass


@pytest.fixture(scope="module")
def embedded() -> LoadedModel:
    return load_model(embedded_model_path())


def test_measures_of_attention_that_is_known() -> None:
    """Ten tokens: one gets 64 %, nine get 4 % each."""
    attention = np.array([0.04] * 4 + [0.64] + [0.04] * 5) * 0.5  # half of all attention
    found = measures_of(attention)
    assert found["mass"] == pytest.approx(0.5)
    assert found["least"] == pytest.approx(6 * 0.04)
    assert found["below_small"] == pytest.approx(0.1)  # two of them get 8 %
    assert found["each_below_small"] == pytest.approx(0.9)
    assert found["each_below_small_of_most"] == 0.0  # 0.04 is more than 5 % of 0.64
    curve = curve_of(attention)
    assert curve[GRID.index(0.5)] == pytest.approx(0.2)
    assert (curve[0], curve[-1]) == (0.0, pytest.approx(1.0))


def test_attention_that_is_even_contradicts_the_claim() -> None:
    found = measures_of(np.full((2, 100), 0.01))
    np.testing.assert_allclose(found["least"], 0.6)
    np.testing.assert_allclose(found["below_small"], 0.04)
    np.testing.assert_allclose(found["each_below_small"], 1.0)  # which says nothing of 100 tokens
    np.testing.assert_allclose(found["each_below_small_of_most"], 0.0)


def test_attention_on_tokens_adds_up_to_the_allocation(
    loaded: LoadedModel, prompts: list[PromptSequence]
) -> None:
    decoder, prompt = loaded.model.decoder, prompts[0]
    answer = decoder.embed(torch.tensor([7, 8, 9]))
    found = attention_on_tokens(decoder, prompt, answer)
    start, stop = prompt.spatial_span
    assert found.shape == (len(QUERIES), 4, stop - start)

    # The mass of figure 2: of three answer tokens, and of the last prompt token before them.
    of_answer = attention_allocation(decoder, prompt, answer)[2, 1]
    last, answering = found.sum(axis=-1)
    np.testing.assert_allclose(answering, (last + 3 * of_answer) / 4, atol=1e-6)
    alone = attention_on_tokens(decoder, prompt, answer[:0])[0]
    np.testing.assert_allclose(alone, found[0], atol=1e-7)  # float32 of two lengths


def test_scenes_count_the_same_however_many_questions_they_have(
    loaded: LoadedModel, prompts: list[PromptSequence]
) -> None:
    decoder, (first, second) = loaded.model.decoder, prompts
    answers = [decoder.embed(torch.tensor([7]))] * 3
    data = measure_concentration(decoder, [first, second, first], answers, [0, 0, 1], quiet)
    assert (data["n"], data["scenes"], data["layers"]) == (3, 2, [1, 2, 3, 4, "mean"])
    of = [with_mean(attention_on_tokens(decoder, p, answers[0])) for p in (first, second)]
    a, b = (measures_of(attention) for attention in of)
    for name in MEASURES:
        expected = ((a[name] + b[name]) / 2 + a[name]) / 2
        for i, query in enumerate(QUERIES):
            shown = data["each_question"][query][name]
            np.testing.assert_allclose(shown["mean"], expected[i], atol=1e-9)
            assert all(low <= high for low, high in shown["interval"])
    both = measures_of((of[0] + of[1]) / 2)["least"]
    shown = data["all_questions_of_a_scene"]["answer"]["least"]["mean"]
    np.testing.assert_allclose(shown, (both[1] + a["least"][1]) / 2, atol=1e-9)


def test_a_single_scene_has_no_interval(loaded: LoadedModel, prompts: list[PromptSequence]) -> None:
    nothing = [prompts[0].embeds[:0]]
    data = measure_concentration(loaded.model.decoder, prompts[:1], nothing, [0], quiet)
    assert data["each_question"]["last"]["least"]["interval"] == [[None, None]] * 5


# -- generated rooms and what they are asked


def test_sources_that_are_generated_rooms() -> None:
    assert room_of("room:7") == ("val", 2, 7)
    assert room_of("test-room:3") == ("test", 1, 3)
    assert room_of("rooms:3") is None
    assert room_of("test-room:x") is None


def room_graph(seed: int) -> Graph:
    return graphs(make_rooms("test", torch.tensor([seed]), 1))[0]


def test_the_true_answer_is_what_the_model_is_fed_when_it_answers(embedded: LoadedModel) -> None:
    graph = room_graph(0)
    asked = [q for q in questions_of(graph, 0) if q.kind == "color"]
    model, answer = embedded.model, true_answer(embedded, graph, asked[0])
    center = {t.number: t.center_m for t in graph.things}[asked[0].places[0]]
    word = embedded.tokenizer.encode(asked[0].answer)[1:]
    assert len(answer) == 1 + len(word)
    torch.testing.assert_close(answer[:1], model.encode_clicks([center]))
    torch.testing.assert_close(answer[1:], model.decoder.embed(torch.tensor(word)))


def test_the_last_place_of_a_relation_is_seen_from_the_first(embedded: LoadedModel) -> None:
    graph = room_graph(0)
    (asked,) = [q for q in questions_of(graph, 0) if q.kind == "relation"]
    centers = {t.number: t.center_m for t in graph.things}
    at, facing, place = (np.array(centers[number]) for number in asked.places)
    ahead = (facing - at)[:2] / np.linalg.norm((facing - at)[:2])
    x, y = (place - at)[:2]
    seen = [x * ahead[0] + y * ahead[1], y * ahead[0] - x * ahead[1], place[2]]
    answer = true_answer(embedded, graph, asked)
    torch.testing.assert_close(answer[2:3], embedded.model.encode_clicks([seen]))


def test_a_model_that_does_not_point_answers_in_words(loaded: LoadedModel) -> None:
    graph = room_graph(0)
    asked = questions_of(graph, 0)[0]
    ids = loaded.tokenizer.encode(asked.answer)[1:]
    assert len(true_answer(loaded, graph, asked)) == len(ids)


def test_each_room_is_asked_its_own(loaded: LoadedModel) -> None:
    scene = read_voxel_scene(loaded, "test-room:1", AgentConfig())
    asked = own_questions(loaded, scene, "test-room:1")
    expected = [q.text for q in questions_of(room_graph(1), 1) if not q.phrase]
    assert list(asked.questions) == expected
    assert len(asked.answers) == len(expected)


@pytest.mark.parametrize(
    ("more", "source", "words"),
    [
        (["--own-questions", "--figures", "4"], "room:0", "figure 4"),
        (["--own-questions", "--figures", "5"], "room:0", "--questions"),
    ],
)
def test_own_questions_and_the_same_for_all_contradict_each_other(
    command: Callable[..., list[str]],
    capsys: pytest.CaptureFixture[str],
    more: list[str],
    source: str,
    words: str,
) -> None:
    assert main(command(*more, source=source)) == 2
    assert words in capsys.readouterr().err


def test_a_folder_has_no_questions_of_its_own(
    loaded: LoadedModel, scene: VoxelScene, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"no generated room .*--questions"):
        own_questions(loaded, scene, str(tmp_path))


def test_the_picture_and_the_summary_come_with_the_figure(
    analysed: dict[str, Any], folder: Path
) -> None:
    data = analysed["concentration"]
    assert (data["n"], data["scenes"]) == (2, 1)
    assert (folder / "out" / "concentration.png").stat().st_size > 10_000
    curve = np.array(data["curve"]["answer"])
    assert curve.shape == (5, len(GRID))
    assert (np.diff(curve) >= 0).all()
