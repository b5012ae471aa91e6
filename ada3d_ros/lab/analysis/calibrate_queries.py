"""`ada3d calibrate --queries` and `--held`: scenes and questions in, a file of queries out.

Each question is asked about each scene, whole and cached. Its last token's queries are recorded.
With --held it is asked once more for every layer, from which the scene's keys are withheld; how far
the answer changes is what the layer's share of a pruned cached scene is worth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from tqdm import tqdm

from ada3d_ros.config import AgentConfig, from_flat
from ada3d_ros.engine.decode import GenerationRequest, decode
from ada3d_ros.engine.kv_cache import KVCache
from ada3d_ros.engine.layer_walk import LayerWalk
from ada3d_ros.engine.prefill import prefill_question
from ada3d_ros.engine.scene_prefix import PrefixOptions, ScenePrefix
from ada3d_ros.engine.token_selection import SceneContext, choose_tokens
from ada3d_ros.errors import ConfigError, ModelError
from ada3d_ros.grounding.from_text import GROUNDING_PROMPT
from ada3d_ros.lab.evaluation.scenes import (
    DEFAULT_QUESTIONS,
    Scene,
    read_scene,
    room_of,
    scene_prompt,
)
from ada3d_ros.lab.evaluation.selection import questions_of
from ada3d_ros.lab.world.generated import generate_room
from ada3d_ros.model.checkpoint import LoadedModel
from ada3d_ros.model.decoder import Attend, causal_attention
from ada3d_ros.model.prompt import IMAGE_ID
from ada3d_ros.pruning.policy import Policy
from ada3d_ros.pruning.queries_file import MAX_WORTH, MIN_WORTH
from ada3d_ros.pruning.question_queries import QueriesFile, QueryStatistics, RecordedQueries
from ada3d_ros.scene.keyframes import SceneSnapshot
from ada3d_ros.types import PromptSequence

Array = npt.NDArray[np.float64]
ANSWER_TOKENS = 12  # of an answer, whose distribution is compared
WHOLE = Policy.from_config(from_flat({"pruning.strategy": "none"}).pruning)
PHRASES = ("the chair", "the table", "the door", "the largest object")


class AllQueries(RecordedQueries):
    """Keeps every question's queries (L, H, d), none weighing less than another."""

    def __init__(self) -> None:
        super().__init__()
        self.all: list[torch.Tensor] = []

    def record(self, queries: torch.Tensor) -> None:
        self.all.append(queries[:, :, -1].clone())


@dataclass(eq=False)
class Measured:
    """queries of all questions; text, pointing: the change of each question's answer, and of where
    the head points, with the scene withheld from each layer, (L,) nats.
    """

    queries: AllQueries = field(default_factory=AllQueries)
    text: list[Array] = field(default_factory=list)
    pointing: list[Array] = field(default_factory=list)


@torch.inference_mode()
def whole_prefix(
    loaded: LoadedModel, scene: Scene, conversation: str, queries: RecordedQueries
) -> ScenePrefix:
    """System prompt and all spatial tokens of a scene, cached; queries: of what is asked."""
    model = loaded.model
    chosen = choose_tokens(model, scene.tokens, WHOLE, ())
    embeds = model.project(chosen.tokens.features)
    ids = loaded.tokenizer.encode_question("", conversation)
    before = ids[: ids.index(IMAGE_ID) + 1]
    prompt = model.build_prompt(before, embeds, None, chosen.tokens.xyz_m)
    options = PrefixOptions(with_states=loaded.head is not None, queries=queries)
    context = SceneContext(SceneSnapshot(), scene.tokens, chosen, embeds)
    prefix = ScenePrefix(model.decoder, prompt, context, options)
    while prefix.step():
        pass
    return prefix


def questions_about(source: str, given: Sequence[str] | None, points: bool) -> list[str]:
    """What is asked about a source: the given questions; of a generated room its own, else general
    ones. points: phrases to point at, too.
    """
    if given is not None:
        return list(given)
    room = room_of(source)
    if room is not None:
        split, level, seed = room
        asked = questions_of(generate_room(seed, level, split=split).graph, seed)
        texts = [
            q.text if not q.phrase else GROUNDING_PROMPT.format(phrase=q.phrase) for q in asked
        ]
        return [text for text in texts if points or not is_phrase(text)]
    phrases = [GROUNDING_PROMPT.format(phrase=phrase) for phrase in PHRASES if points]
    return [*DEFAULT_QUESTIONS, *phrases]


def is_phrase(question: str) -> bool:
    """Whether a question asks where something is, as `ground` words it."""
    return question.startswith(GROUNDING_PROMPT.partition("{")[0])


def withholding(prefix: ScenePrefix, layer: int) -> Attend:
    """Attention to the cached scene in all layers but `layer` (-1: in all), which sees the system
    prompt and the question alone.
    """
    plain = causal_attention(prefix.cache)
    if layer < 0:
        return plain
    keys, values = prefix.cache.held(layer)
    without = KVCache(prefix.decoder.config.num_layers, prefix.options.reserve)
    without.append(layer, keys[:, :, : prefix.start], values[:, :, : prefix.start])
    apart = causal_attention(without)

    def attend(at: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return (apart if at == layer else plain)(at, q, k, v)

    return attend


@torch.inference_mode()
def ask(prefix: ScenePrefix, prompt: PromptSequence) -> torch.Tensor:
    """Embeddings (T, D) of the question and the answer the model gives it."""
    question = prompt.embeds[prompt.spatial_span[1] :]
    prefilled = prefill_question(prefix, question, ANSWER_TOKENS)
    ids = decode(prefix.decoder, prefilled, GenerationRequest(ANSWER_TOKENS)).token_ids
    answer = torch.tensor(ids, dtype=torch.int64, device=question.device)
    return torch.cat((question, prefix.decoder.embed(answer)))


@torch.inference_mode()
def what_withholding_changes(
    loaded: LoadedModel, prefix: ScenePrefix, asked: torch.Tensor, first: int, points: bool
) -> Array:
    """(L,) nats: KL of the answer's distribution with all of the scene to that without its keys in
    one layer.

    asked (T, D): question and answer, the answer's distribution from row `first` on, mean over its
    tokens. points: instead, of the head's over the spatial tokens, at row `first`.
    """
    decoder, head = prefix.decoder, loaded.head
    stop = prefix.next_position
    positions = torch.arange(stop, stop + len(asked), device=asked.device)
    prompt = PromptSequence(asked, positions, (0, 0))

    def log_probs(without: int) -> torch.Tensor:
        prefix.crop()
        walk = LayerWalk(decoder, prompt, prefix.cache, withholding(prefix, without))
        walk.run()
        if not points or head is None:
            return decoder.logits(walk.hidden[0, first:]).double().log_softmax(dim=-1)
        query = decoder.norm(walk.hidden[0, first]).float()[None, None]
        logits, _ = head.head.point(query, prefix.final_states().float()[None])
        return logits[0].double().log_softmax(dim=-1)

    whole = log_probs(-1)
    changes = [
        (whole.exp() * (whole - log_probs(layer))).sum(dim=-1).mean()
        for layer in range(decoder.config.num_layers)
    ]
    prefix.crop()
    found = torch.stack(changes).clamp(min=0.0).cpu().numpy()
    if not np.isfinite(found).all():
        raise ModelError(
            "the answers are not finite with the scene withheld: the weights are damaged, or"
            " float16 overflowed (use --precision bf16 or fp32)."
        )
    return found


def measure_questions(
    loaded: LoadedModel,
    sources: Sequence[str],
    questions: Sequence[str] | None,
    config: AgentConfig,
    with_held: bool,
) -> Measured:
    """Every question about every source; None: those of `questions_about`. Progress on stderr.

    Raises ConfigError for a 2D model.
    """
    if not loaded.model.config.has_video_tower:
        raise ConfigError(
            f"--queries and --held are of a cached scene, and {loaded.model.name} has none, being"
            " 2D: calibrate its schedule (-o), or give a 3D checkpoint."
        )
    measured, points = Measured(), loaded.head is not None
    progress = tqdm(sources, unit="scene")
    for source in progress:
        scene = read_scene(loaded, source, config)
        progress.set_description(f"{scene.name}, {len(scene.tokens.features)} spatial tokens")
        conversation = config.model.conversation
        prefix = whole_prefix(loaded, scene, conversation, measured.queries)
        for question in questions_about(source, questions, points):
            prompt, _ = scene_prompt(loaded, scene, question, WHOLE, conversation)
            asked = ask(prefix, prompt)
            if with_held:
                last = len(prompt.embeds) - prompt.spatial_span[1] - 1
                at_head = points and is_phrase(question)
                changes = what_withholding_changes(loaded, prefix, asked, last, at_head)
                (measured.pointing if at_head else measured.text).append(changes)
    return measured


def worth_of_layers(text: Sequence[Array], pointing: Sequence[Array]) -> tuple[float, ...]:
    """What each layer's share is worth (L,), mean 1, within MIN_WORTH..MAX_WORTH.

    Mean change over the questions, told in that of a mean layer; text and pointing count alike.
    """
    kinds = [np.mean(changes, axis=0) for changes in (text, pointing) if len(changes)]
    told = [kind / kind.mean() if kind.mean() > 0.0 else np.ones_like(kind) for kind in kinds]
    worth = np.mean(told, axis=0)
    # Within bounds, scaled so that the mean stays 1: it rises with the scale.
    worth = np.maximum(worth, 1e-6 * worth.max())
    low, high = 0.0, MAX_WORTH / float(worth.min())
    for _ in range(200):
        scale = (low + high) / 2
        bounded = np.clip(scale * worth, MIN_WORTH, MAX_WORTH)
        low, high = (scale, high) if bounded.mean() < 1.0 else (low, scale)
    return tuple(map(float, bounded / bounded.mean()))


def calibrate_queries(
    loaded: LoadedModel, sha256: str, sources: Sequence[str], measured: Measured
) -> QueriesFile:
    """What the file holds; sha256: of the weights."""
    held = None
    if measured.text or measured.pointing:
        held = worth_of_layers(measured.text, measured.pointing)
    return QueriesFile(
        QueryStatistics.from_queries(torch.stack(measured.queries.all, dim=2)),
        held,
        loaded.info.path.resolve().name,
        sha256,
        tuple(sources),
        loaded.info.config.random_weights,
    )


def describe_queries(file: QueriesFile, measured: Measured) -> str:
    """What a person wants to know of a file of queries, layer by layer."""
    known = file.statistics
    assert known is not None
    spread = known.covariance.diagonal(dim1=-2, dim2=-1).sum(dim=-1).sqrt()  # (L, H)
    length = known.mean.norm(dim=-1)
    lines = [f"{'layer':>5} {'|mean|':>7} {'spread':>7} {'text':>9} {'pointing':>9} {'worth':>6}"]
    means = [
        np.mean(changes, axis=0) if changes else np.full(len(length), np.nan)
        for changes in (measured.text, measured.pointing)
    ]
    for layer in range(len(length)):
        worth = float("nan") if file.held is None else file.held[layer]
        of_queries = float(length[layer].mean()), float(spread[layer].mean())
        lines.append(
            f"{layer + 1:>5} {of_queries[0]:>7.2f} {of_queries[1]:>7.2f}"
            f" {means[0][layer]:>9.5f} {means[1][layer]:>9.5f} {worth:>6.2f}"
        )
    lines.append(
        f"{known.count:g} questions. |mean|, spread: of their queries, mean over heads;"
        " text, pointing: nats by which answer and head change without the scene in this layer"
        " (nan: not measured); worth: of its share of a pruned cached scene."
    )
    if file.random_weights:
        lines.append("NOTE: this model has random weights: the file says nothing about questions.")
    return "\n".join(lines)
