"""Several questions about one scene at once: the scene's keys and values are read once for all, the
weights once per step.

A question attends to the prefix, all of it visible, and to its own tokens; the two softmaxes are
merged by their log-sum-exp, so the prefix is never copied per question. Shapes as in
model/decoder.py; P prefix tokens, R = H / G.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn.utils.rnn import pad_sequence

from ada3d_ros.engine.decode import NO_TOKEN, DecodeOutput, GenerationRequest
from ada3d_ros.engine.kv_cache import KVCache
from ada3d_ros.engine.prefill import not_finite
from ada3d_ros.engine.timing import synchronize
from ada3d_ros.errors import ModelError
from ada3d_ros.model.decoder import LlamaDecoder, attention_mask
from ada3d_ros.types import NAN, StopReason


@dataclass(frozen=True, eq=False, slots=True)
class BatchedQuestion:
    """embeds (T, D): the tokens after the scene, at least one; request: as for `decode`."""

    embeds: torch.Tensor
    request: GenerationRequest


@dataclass(frozen=True, slots=True)
class BatchOutput:
    """outputs: in the order of the questions, their times counted from when all questions have
    passed the layers; prefill_s: until then, 0 where none did.
    """

    outputs: list[DecodeOutput]
    prefill_s: float


@torch.inference_mode()
def answer_batch(
    decoder: LlamaDecoder, prefix: KVCache, next_position: int, questions: Sequence[BatchedQuestion]
) -> BatchOutput:
    """Each question's answer as if asked alone; `prefix` (batch 1, at least one token a layer)
    stays as it is.

    next_position: of every question's first token, in all layers. A question that ends leaves the
    batch, the others go on; so does one whose logits are not finite (its `error`). should_stop is
    read before a question's tokens are read and before every later token is computed.
    """
    if not all(len(question.embeds) for question in questions):
        raise ValueError("answer_batch: a question has no tokens.")
    if not questions:
        return BatchOutput([], 0.0)
    now = questions[0].request.now
    begun, room = now(), decoder.config.max_positions - next_position
    answers = [
        _Answer(q, min(q.request.max_new_tokens, room - len(q.embeds)), decoder.config.eos_id)
        for q in questions
    ]

    # Prefill: all questions that have not stopped already, padded to one width.
    live = [answer for answer in answers if answer.goes_on()]
    if live:
        reserve = max(answer.limit for answer in live) - 1  # the last token is not fed
        embeds = [answer.question.embeds for answer in live]
        batch = _Batch(decoder, prefix, next_position, embeds, reserve)
        logits = batch.prefill()
        synchronize(decoder.device)
    start = now()

    # Decode: one token each per step, until the last question has ended.
    while live:
        tokens = torch.stack(
            [answer.question.request.sampler(row) for answer, row in zip(live, logits, strict=True)]
        )
        probabilities = torch.softmax(logits.float(), dim=-1).gather(1, tokens[:, None])[:, 0]
        checked = torch.where(torch.isfinite(logits).all(dim=-1), tokens, NO_TOKEN)
        chosen, at_s = checked.tolist(), now() - start  # the list waits for the device
        for answer, token_id, probability in zip(live, chosen, probabilities, strict=True):
            if token_id == NO_TOKEN:
                answer.fail(not_finite(logits.dtype))
            else:
                answer.take(token_id, probability, at_s)
        staying = [i for i, answer in enumerate(live) if answer.goes_on()]
        live = [live[i] for i in staying]
        if live:
            logits = batch.step(staying, tokens)
    return BatchOutput([answer.output() for answer in answers], start - begun)


class _Answer:
    """One question's tokens so far, and why they ended."""

    def __init__(self, question: BatchedQuestion, limit: int, eos_id: int) -> None:
        self.question, self.limit = question, limit
        self._error: ModelError | None = None
        self._eos_id = eos_id
        self._token_ids: list[int] = []
        self._probabilities: list[torch.Tensor] = []
        self._reason: StopReason | None = None
        self._first_s = self._last_s = NAN

    def goes_on(self) -> bool:
        """Whether another token is wanted."""
        if self._reason is None:
            full = len(self._token_ids) >= self.limit
            self._reason = StopReason.MAX_TOKENS if full else self.question.request.should_stop()
        return self._reason is None

    def take(self, token_id: int, probability: torch.Tensor, now_s: float) -> None:
        """The next token and its probability () float32, chosen now_s after the prefill."""
        if not self._probabilities:
            self._first_s = now_s
        self._last_s = now_s
        self._probabilities.append(probability)
        if token_id == self._eos_id:
            self._reason = StopReason.EOS
        else:
            self._token_ids.append(token_id)
            self.question.request.on_token(token_id)

    def fail(self, error: ModelError) -> None:
        """No token could be chosen."""
        self._reason, self._error = StopReason.UNKNOWN, error

    def output(self) -> DecodeOutput:
        assert self._reason is not None, "not at its end"
        chosen = self._probabilities
        return DecodeOutput(
            token_ids=tuple(self._token_ids),
            stop_reason=self._reason,
            mean_probability=float(torch.stack(chosen).mean()) if chosen else NAN,
            first_token_s=self._first_s,
            decode_s=self._last_s - self._first_s,
            error=self._error,
        )


class _Batch:
    """Questions (T_i, D) as one batch, padded on the left: so the last column is every question's
    last token, and all write their next key at the same place.
    """

    def __init__(
        self,
        decoder: LlamaDecoder,
        prefix: KVCache,
        next_position: int,
        questions: Sequence[torch.Tensor],
        reserve: int,
    ) -> None:
        self._decoder, self._prefix = decoder, prefix
        self._own = KVCache(decoder.config.num_layers, reserve)
        self._embeds = pad_sequence(list(questions), batch_first=True, padding_side="left")
        width, device = self._embeds.shape[1], decoder.device
        padding = torch.tensor([[width - len(question)] for question in questions], device=device)
        columns = torch.arange(width + reserve, device=device)
        self._present = columns >= padding  # (B, width + reserve) bool: no padding
        # Of every column; those of padding mean nothing.
        self._positions = next_position + columns - padding

    def prefill(self) -> torch.Tensor:
        """Logits (B, vocab) after the questions' last tokens."""
        return self._run(self._embeds)

    def step(self, staying: Sequence[int], tokens: torch.Tensor) -> torch.Tensor:
        """Logits (n, vocab) after `tokens` (B,) int64 of the n questions that go on; the others
        leave the batch.
        """
        if len(staying) < len(tokens):
            kept = torch.tensor(staying, device=tokens.device)
            self._own.keep_rows(kept)
            self._present, self._positions = self._present[kept], self._positions[kept]
            tokens = tokens[kept]
        return self._run(self._decoder.embed(tokens[:, None]))

    def _run(self, hidden: torch.Tensor) -> torch.Tensor:
        start = self._own.length(0)
        stop = start + hidden.shape[1]
        mask = attention_mask(start, hidden.shape[1], self._present[:, :stop], hidden.device)
        assert mask is not None, "a mask was given"
        attend = SharedPrefixAttention(self._prefix, self._own, mask)
        rope = self._decoder.rope(self._positions[:, start:stop])
        for layer in range(self._decoder.config.num_layers):
            hidden = self._decoder.run_layer(layer, hidden, rope, attend)
        return self._decoder.logits(hidden[:, -1])


class SharedPrefixAttention:
    """An `Attend` of B questions over one prefix, read once, and over each one's own tokens in
    `own`, to which it adds the new ones. mask (B, 1, T, own tokens with the new ones) bool: what a
    token sees of its own question, never nothing.
    """

    def __init__(self, prefix: KVCache, own: KVCache, mask: torch.Tensor) -> None:
        self._prefix, self._own, self._hidden = prefix, own, ~mask[:, :, None]

    def __call__(
        self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor
    ) -> torch.Tensor:
        batch, groups, (tokens, width) = q.shape[0], k.shape[1], q.shape[2:]
        k, v = self._own.append(layer, k, v)
        heads = q.unflatten(1, (groups, -1))  # (B, G, R, T, d)

        # The prefix, all questions' queries folded into one: (1, G, B * R * T, d).
        folded = heads.transpose(0, 1).reshape(1, groups, -1, width)
        shared, shared_lse = attend_to_all(folded, *self._prefix.held(layer))
        shared = shared.reshape(groups, batch, -1, tokens, width).transpose(0, 1).float()
        shared_lse = shared_lse.reshape(groups, batch, -1, tokens).transpose(0, 1)

        # Each question's own tokens: (B, G, R * T, own).
        scores = heads.flatten(2, 3).float() @ k.float().mT * width**-0.5
        scores = scores.unflatten(2, (-1, tokens)).masked_fill(self._hidden, -torch.inf)
        lse = scores.logsumexp(dim=-1)  # (B, G, R, T)
        weights = torch.exp(scores - lse[..., None])
        own = (weights.flatten(2, 3) @ v.float()).unflatten(2, (-1, tokens))

        # Both softmaxes as one: each weighted by its share of the sum of exponentials.
        out = (
            torch.sigmoid(shared_lse - lse)[..., None] * shared
            + torch.sigmoid(lse - shared_lse)[..., None] * own
        )
        return out.flatten(1, 2).to(q.dtype)


def attend_to_all(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention of q (1, G, n, d) to all of k, v (1, G, P, d): the output, and the scores'
    log-sum-exp (1, G, n) float32.

    The kernels of SDPA, called by name: the public function keeps the log-sum-exp to itself.
    """
    if q.device.type == "cpu":
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v)
    elif q.dtype == torch.float32:
        out, lse = torch.ops.aten._scaled_dot_product_efficient_attention(q, k, v, None, True)[:2]
        lse = lse[..., : q.shape[2]]  # the kernel pads it
    else:
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention(q, k, v)[:2]
    return out, lse
