"""What a prompt costs in a LLaMA decoder, from the tokens in each layer.

Multiply-accumulates (MAC; 1 MAC = 2 FLOP) and bytes. Two conventions for attention: `square` counts
the whole n x n score matrix, as the published numbers do (PyramidDrop and AdaToken-3D, which call
MACs of the spatial tokens alone "FLOPs"); causal counts the n (n + 1) / 2 scores that are needed.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


class DecoderSizes(Protocol):
    """What a decoder's configuration says of its sizes."""

    @property
    def num_layers(self) -> int: ...
    @property
    def hidden_size(self) -> int: ...
    @property
    def num_kv_heads(self) -> int: ...
    @property
    def head_dim(self) -> int: ...
    @property
    def intermediate_size(self) -> int: ...
    @property
    def vocab_size(self) -> int: ...


@dataclass(frozen=True, slots=True)
class DecoderShape:
    """The sizes that costs depend on. kv_width = key-value heads x head dim."""

    num_layers: int
    hidden_size: int
    kv_width: int
    intermediate_size: int
    vocab_size: int

    @classmethod
    def from_config(cls, config: DecoderSizes) -> DecoderShape:
        """Of a decoder's configuration (model/config.py)."""
        return cls(
            config.num_layers,
            config.hidden_size,
            config.num_kv_heads * config.head_dim,
            config.intermediate_size,
            config.vocab_size,
        )

    @property
    def linear_macs(self) -> int:
        """MACs of one token in one layer's projections and gated MLP."""
        d = self.hidden_size
        return 2 * d * d + 2 * d * self.kv_width + 3 * d * self.intermediate_size


LLAMA_7B = DecoderShape(32, 4096, 4096, 11008, 32000)


@dataclass(frozen=True, slots=True)
class PromptSizes:
    """Tokens of one prompt: spatial ones that enter the decoder, others, spatial ones of the scene.

    num_before_selection: spatial tokens before any choice; more than num_spatial where a strategy
    before the language model dropped some.
    """

    num_spatial: int
    num_text: int
    num_before_selection: int


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one prompt, beside the same prompt unpruned. FLOP = 2 MAC, causal.

    rank_flops: inside prefill, on top of prefill_flops; decode_flops: of the first generated token.
    """

    prefill_flops: float
    unpruned_prefill_flops: float
    rank_flops: float
    decode_flops: float
    unpruned_decode_flops: float
    kv_bytes: int
    unpruned_kv_bytes: int


def prefill_macs(
    shape: DecoderShape, tokens: Sequence[float], square: bool = False, with_head: bool = True
) -> float:
    """MACs of a prefill with tokens[i] alive in layer i; the head runs on the last token."""
    d, linear, total = shape.hidden_size, shape.linear_macs, 0.0
    for n in tokens:
        total += n * linear + (2 * n * n * d if square else n * (n + 1) * d)
    return total + (d * shape.vocab_size if with_head else 0)


def question_macs(
    shape: DecoderShape, num_tokens: int, keys: Sequence[float], with_head: bool = True
) -> float:
    """MACs of num_tokens tokens after keys[i] cached ones in layer i; the head runs on the last."""
    d, m, linear, total = shape.hidden_size, num_tokens, shape.linear_macs, 0.0
    for n in keys:
        total += m * linear + (2 * m * n + m * (m + 1)) * d
    return total + (d * shape.vocab_size if with_head else 0)


def decode_macs(shape: DecoderShape, lengths: Sequence[float], with_head: bool = True) -> float:
    """MACs of one generated token that attends to lengths[i] keys in layer i, its own included."""
    total = len(lengths) * shape.linear_macs + 2.0 * shape.hidden_size * sum(lengths)
    return total + (shape.hidden_size * shape.vocab_size if with_head else 0)


@dataclass(frozen=True, slots=True)
class LayerWork:
    """What one layer did in a pass that built a scene: `alive` tokens of the scene and the prompts
    `rows` that rode along, so many tokens each, after `past` cached ones. Before it ran `entered`
    tokens of the scene and the prompts ranking_rows were there, and were ranked by `queries`
    queries; 0 where nothing was.
    """

    past: int
    alive: int
    rows: tuple[int, ...] = ()
    entered: int = 0
    ranking_rows: tuple[int, ...] = ()
    queries: int = 0


def build_macs(shape: DecoderShape, layers: Sequence[LayerWork]) -> float:
    """MACs of a pass through these layers, without the head, ranking included."""
    d, total = shape.hidden_size, 0.0
    for at in layers:
        tokens, seen = at.alive + sum(at.rows), at.past + at.alive
        total += tokens * shape.linear_macs
        total += (2 * at.alive * at.past + at.alive * (at.alive + 1)) * d
        total += sum(rows * (2 * seen + rows + 1) for rows in at.rows) * d
        if at.queries:  # keys of what went, the rows' queries once more, and the scores
            riding = sum(at.ranking_rows)
            total += (at.entered + riding - tokens) * d * shape.kv_width + riding * d * d
            total += (at.queries * (at.past + at.entered) + riding) * d
    return total


def ranking_macs(
    shape: DecoderShape, spatial: Sequence[int], text: int, rank_lag: int = 0, queries: int = 1
) -> float:
    """Extra MACs of ranking before each drop, the ranked layer reusing the keys.

    Keys of the tokens that go, the queries and their scores over all keys. With rank_lag 1 the
    ranked layer still holds all tokens, so no key is lost.
    """
    total = 0.0
    for before, after in itertools.pairwise(spatial):
        if after < before:
            lost_keys = 0 if rank_lag else (before - after) * shape.hidden_size * shape.kv_width
            total += lost_keys + queries * shape.hidden_size * (shape.hidden_size + before + text)
    return total


def information_macs(
    shape: DecoderShape, spatial: int, text_after: int, system: int, stride: int
) -> float:
    """Extra MACs of measuring attention masses in every layer.

    The scores of every stride-th spatial token and of the text after the scene tokens over the keys
    they attend to. The queries and keys themselves the layers need anyway.
    """
    tokens = system + spatial + text_after
    scores = -(-spatial // stride) * (system + spatial / 2) + text_after * tokens
    return shape.num_layers * shape.hidden_size * scores


def kv_bytes(shape: DecoderShape, tokens: Sequence[int], element_size: int) -> int:
    """Bytes of keys and values of tokens[i] tokens in layer i."""
    return 2 * shape.kv_width * element_size * sum(tokens)


def cost_of(
    shape: DecoderShape,
    spatial: Sequence[int],
    text: int,
    element_size: int,
    num_before_selection: int | None = None,
    rank_macs: float = 0.0,
) -> Cost:
    """The cost of a prompt with spatial[i] spatial tokens alive in layer i and `text` others.

    num_before_selection: spatial tokens of the unpruned prompt, where some were dropped before the
    first layer (None: none were). rank_macs: see `LayerPruner.ranking_macs`.
    """
    # The prompt as it ran, and without any pruning.
    before = spatial[0] if num_before_selection is None else num_before_selection
    tokens, full = [n + text for n in spatial], [before + text] * shape.num_layers

    return Cost(
        prefill_flops=2 * prefill_macs(shape, tokens),
        unpruned_prefill_flops=2 * prefill_macs(shape, full),
        rank_flops=2 * rank_macs,
        decode_flops=2 * decode_macs(shape, [n + 1 for n in tokens]),
        unpruned_decode_flops=2 * decode_macs(shape, [n + 1 for n in full]),
        kv_bytes=kv_bytes(shape, tokens, element_size),
        unpruned_kv_bytes=kv_bytes(shape, full, element_size),
    )
