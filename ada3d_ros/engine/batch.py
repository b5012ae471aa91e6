"""Several questions about one scene at once: the scene's keys and values are read once for all, the
weights once per step.

A question attends to the prefix, all of it visible, and to its own tokens; the two softmaxes are
merged by their log-sum-exp, so the prefix is never copied per question. Shapes as in
model/decoder.py; P prefix tokens, R = H / G.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn.utils.rnn import pad_sequence

from ada3d_ros.engine.decode import (
    NO_TOKEN,
    DecodeOutput,
    GenerationRequest,
    Stepped,
    after,
    no_token,
)
from ada3d_ros.engine.kv_cache import KVCache
from ada3d_ros.engine.repetition import RepetitionPenalty, penalty_for
from ada3d_ros.engine.timing import on_device, synchronize
from ada3d_ros.errors import ModelError
from ada3d_ros.model.decoder import LlamaDecoder, attention_mask
from ada3d_ros.types import NAN, StopReason

if TYPE_CHECKING:
    from ada3d_ros.engine.places import Place
    from ada3d_ros.engine.static_batch import StaticBatches, StaticBatchStep

# Stores a layer's new keys and values (B, G, T, d); returns all of the layer, (B, G, own, d).
Append = Callable[[int, torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


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
    decoder: LlamaDecoder,
    prefix: KVCache,
    next_position: int,
    questions: Sequence[BatchedQuestion],
    static: bool | None = None,
) -> BatchOutput:
    """Each question's answer as if asked alone; `prefix` (batch 1, at least one token a layer)
    stays as it is.

    next_position: of every question's first token, in all layers. A question that ends leaves the
    batch, the others go on; so does one whose logits are not finite (its `error`). should_stop is
    read before a question's tokens are read and before every later token is computed. static: as
    for `decode`, from some steps on (engine/static_batch.py); never on a prefix in 8 bits.
    """
    if not all(len(question.embeds) for question in questions):
        raise ValueError("answer_batch: a question has no tokens.")
    if not questions:
        return BatchOutput([], 0.0)
    now = questions[0].request.now
    begun, room = now(), decoder.config.max_positions - next_position
    answers = [
        _Answer(q, min(q.request.max_new_tokens, room - len(q.embeds)), decoder.config.eos_ids)
        for q in questions
    ]

    # Prefill: all questions that have not stopped already, padded to one width.
    live = [answer for answer in answers if answer.goes_on()]
    if not live:
        return BatchOutput([answer.output() for answer in answers], now() - begun)
    reserve = max(answer.limit for answer in live) - 1  # the last token is not fed
    embeds = [answer.question.embeds for answer in live]
    static = decoder.device.type == "cuda" if static is None else static
    with on_device(decoder.device), _lent(decoder, static and prefix.plain) as steps:
        batch = _Batch(decoder, prefix, next_position, embeds, reserve, steps)
        stepped = batch.prefill()
        synchronize(decoder.device)
        start = now()
        _generate(live, batch, stepped, lambda: now() - start)
    return BatchOutput([answer.output() for answer in answers], start - begun)


def _lent(decoder: LlamaDecoder, static: bool) -> AbstractContextManager[StaticBatches | None]:
    """Steps of fixed shapes for one batch, where they are wanted and free."""
    if not static:
        return nullcontext()
    from ada3d_ros.engine.static_batch import static_batches  # where steps are static

    return static_batches(decoder).lent()


def _generate(
    live: list[_Answer], batch: _Batch, stepped: Stepped, elapsed_s: Callable[[], float]
) -> None:
    """One token each per step, until the last question has ended. stepped: what follows the
    questions, of B rows; elapsed_s: since then.
    """
    while live:
        # A token for each; the list waits for the device.
        logits, states = stepped
        offered = [answer.offered(row) for answer, row in zip(live, logits, strict=True)]
        pairs = zip(live, offered, strict=True)
        tokens = torch.stack([answer.choose(row) for answer, row in pairs])
        chances = torch.stack(offered) if any(answer.points for answer in live) else logits
        probabilities = torch.softmax(chances.float(), dim=-1).gather(1, tokens[:, None])[:, 0]
        checked = torch.where(torch.isfinite(logits).all(dim=-1), tokens, NO_TOKEN)
        chosen, at_s = checked.tolist(), elapsed_s()

        # What each one's step is fed: its token, or the place that it points at.
        fed = batch.embed(tokens)
        for i, (answer, token_id) in enumerate(zip(live, chosen, strict=True)):
            if token_id == NO_TOKEN:
                answer.fail(logits)
                continue
            place = answer.take(token_id, probabilities[i], at_s, states[i])
            if place is not None:
                fed[i] = place
        staying = [i for i, answer in enumerate(live) if answer.goes_on()]
        live = [live[i] for i in staying]
        if live:
            stepped = batch.step(staying, fed)


class _Answer:
    """One question's tokens so far, and why they ended."""

    def __init__(self, question: BatchedQuestion, limit: int, eos_ids: Sequence[int]) -> None:
        self.question, self.limit = question, limit
        self._error: ModelError | None = None
        self._eos_ids = eos_ids
        self._penalty: RepetitionPenalty | None = None
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

    @property
    def points(self) -> bool:
        """Whether it may point at places."""
        return self.question.request.pointer is not None

    def offered(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits (vocab,) to choose the next token from."""
        pointer = self.question.request.pointer
        return logits if pointer is None else pointer.offered(logits)

    def choose(self, offered: torch.Tensor) -> torch.Tensor:
        """The next token () int64 of the logits (vocab,) that are offered."""
        request = self.question.request
        if self._penalty is None:
            self._penalty = penalty_for(request.repetition_penalty, offered)
        return request.sampler(offered if self._penalty is None else self._penalty(offered))

    def take(
        self, token_id: int, probability: torch.Tensor, now_s: float, state: torch.Tensor
    ) -> torch.Tensor | None:
        """The next token and its probability () float32, chosen now_s after the prefill by a final
        state (D,); what to feed (D,) where it points at a place.
        """
        if not self._probabilities:
            self._first_s = now_s
        self._last_s = now_s
        self._probabilities.append(probability)
        if token_id in self._eos_ids:
            self._reason = StopReason.EOS
        else:
            self._token_ids.append(token_id)
            if self._penalty is not None:
                self._penalty.add(token_id)
            self.question.request.on_token(token_id)
        pointer = self.question.request.pointer
        return None if pointer is None else pointer.embedding(token_id, state)

    def fail(self, logits: torch.Tensor) -> None:
        """No token could be chosen of these."""
        self._reason = StopReason.UNKNOWN
        try:
            self._error = no_token(logits, self.question.request.pointer)
        except ModelError as error:
            self._error = error

    def output(self) -> DecodeOutput:
        assert self._reason is not None, "not at its end"
        pointer = self.question.request.pointer
        places: tuple[Place, ...] = ()
        if pointer is not None and self._error is None:
            try:
                places = pointer.places()
            except ModelError as error:
                self._error = error
        chosen = self._probabilities
        return DecodeOutput(
            token_ids=tuple(self._token_ids),
            stop_reason=self._reason,
            mean_probability=float(torch.stack(chosen).mean()) if chosen else NAN,
            first_token_s=self._first_s,
            decode_s=self._last_s - self._first_s,
            error=self._error,
            places=places,
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
        steps: StaticBatches | None,
    ) -> None:
        """reserve: tokens of the longest answer that are fed; steps: where they may be static. Then
        questions that have ended stay in, and are fed their last token.
        """
        self._decoder, self._prefix, self._steps = decoder, prefix, steps
        self._own = KVCache(decoder.config.num_layers, reserve)
        self._embeds = pad_sequence(list(questions), batch_first=True, padding_side="left")
        width, device = self._embeds.shape[1], decoder.device
        padding = torch.tensor([[width - len(question)] for question in questions], device=device)
        columns = torch.arange(width + reserve, device=device)
        self._present = columns >= padding  # (B, width + reserve) bool: no padding
        # Of every column; those of padding, and of questions that have ended, mean nothing.
        last = decoder.config.max_positions - 1
        self._positions = (next_position + columns - padding).clamp(min=0, max=last)

        self._first, self._padding, self._fed = next_position, padding[:, 0], 0
        self._last = torch.empty_like(self._embeds[:, 0])  # what was fed last of all that are in
        self._rows = torch.arange(len(questions), device=device)  # of those that go on
        self._static: StaticBatchStep | None = None

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        """(m, D) of tokens (m,) int64."""
        return self._decoder.embed(tokens)

    def prefill(self) -> Stepped:
        """What follows the questions' last tokens, of B rows."""
        return self._run(self._embeds)

    def step(self, staying: Sequence[int], fed: torch.Tensor) -> Stepped:
        """What follows the embeddings `fed` (m, D) of the m questions that went on, for the n of
        them that go on still.
        """
        kept = None
        if len(staying) < len(fed):
            kept = torch.tensor(staying, device=fed.device)
        if self._steps is not None:
            return self._step_of_all(self._steps, kept, fed)
        if kept is not None:
            self._own.keep_rows(kept)
            self._present, self._positions = self._present[kept], self._positions[kept]
            fed = fed[kept]
        return self._run(fed[:, None])

    def _step_of_all(
        self, steps: StaticBatches, kept: torch.Tensor | None, fed: torch.Tensor
    ) -> Stepped:
        """The same where questions that have ended stay in; kept (n,) int64: those of the m that go
        on, None for all.
        """
        self._last.index_copy_(0, self._rows, fed)
        if kept is not None:
            self._rows = self._rows[kept]
        if self._static is None:
            self._static = self._open_static(steps)
        self._fed += 1
        if self._static is None:
            logits, states = self._run(self._last[:, None])
        else:
            logits, states = self._static(self._decoder, self._prefix, self._last)
        return Stepped(logits[self._rows], states[self._rows])

    def _open_static(self, steps: StaticBatches) -> StaticBatchStep | None:
        from ada3d_ros.engine.static_batch import OwnTokens  # where steps are static

        own = OwnTokens(self._own, self._padding, self._first, self._present.shape[1])
        step = steps.find(self._decoder, self._prefix, own, self._fed)
        if step is not None:
            self._own = KVCache(self._decoder.config.num_layers)  # copied; free
        return step

    def _run(self, hidden: torch.Tensor) -> Stepped:
        start = self._own.length(0)
        stop = start + hidden.shape[1]
        mask = attention_mask(start, hidden.shape[1], self._present[:, :stop])
        attend = SharedPrefixAttention(self._prefix, self._own.append, mask)
        rope = self._decoder.rope(self._positions[:, start:stop])
        for layer in range(self._decoder.config.num_layers):
            hidden = self._decoder.run_layer(layer, hidden, rope, attend)
        return after(self._decoder, hidden[:, -1])


class SharedPrefixAttention:
    """An `Attend` of B questions over one prefix, read once, and over each one's own tokens, where
    `append` puts the new ones. mask (B, 1, T, own tokens as append returns them) bool: what a token
    sees of its own question, never nothing.
    """

    def __init__(self, prefix: KVCache, append: Append, mask: torch.Tensor) -> None:
        self._prefix, self._append, self._hidden = prefix, append, ~mask[:, :, None]

    def __call__(
        self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor
    ) -> torch.Tensor:
        batch, groups, (tokens, width) = q.shape[0], k.shape[1], q.shape[2:]
        k, v = self._append(layer, k, v)
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
