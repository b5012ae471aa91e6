"""Questions about one cached scene in one batch: each prepared, streamed and timed as if alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from ada3d_ros.engine.batch import BatchedQuestion, answer_batch
from ada3d_ros.engine.decode import DecodeOutput
from ada3d_ros.engine.memory_fallback import memory_problem
from ada3d_ros.engine.places import pointer_at
from ada3d_ros.engine.prefill import PrefillOutput
from ada3d_ros.engine.query_context import QueryContext, build_prompt
from ada3d_ros.engine.streaming import TextStreamer, require_text
from ada3d_ros.engine.timing import StageClock
from ada3d_ros.engine.token_selection import SceneContext
from ada3d_ros.errors import Ada3DError, ModelError, OutOfMemoryError
from ada3d_ros.types import Answer, AskHooks, PromptSequence, Question, Stage


@dataclass(frozen=True, eq=False, slots=True)
class Generated:
    """One question of a batch with its text: what steps 6 and 7 of a question alone take."""

    query: QueryContext
    prompt: PromptSequence
    prefilled: PrefillOutput
    output: DecodeOutput


class StreamedOnce:
    """A question's hooks for a batch that may fail: text that is out is not sent a second time.

    sent: the text that is out; complete: whether the present try has come as far.
    """

    def __init__(self, hooks: AskHooks) -> None:
        self.hooks = replace(hooks, on_text=self._on_text)
        self._send, self._text, self.sent = hooks.on_text, "", ""

    @property
    def complete(self) -> bool:
        return len(self._text) >= len(self.sent)

    def rewind(self) -> None:
        """The question is asked again, from its first token on."""
        self._text = ""

    def _on_text(self, piece: str, num_tokens: int) -> None:
        was_complete = self.complete
        self._text += piece
        common = min(len(self._text), len(self.sent))
        if self._text[:common] != self.sent[:common]:
            raise _another_text()
        new = self._text[len(self.sent) :]
        if new or was_complete:
            self.sent += new
            self._send(new, num_tokens)


def _another_text() -> ModelError:
    return ModelError(
        "the batch failed when part of this answer had been sent, and asked again it is another"
        " one: ask once more."
    )


def resume(
    ask_batch: Callable[[Sequence[tuple[Question, AskHooks]]], list[Answer | Exception] | None],
    question: Question,
    stream: StreamedOnce,
) -> Answer | Exception:
    """The answer of a question whose batch failed when part of its text was out, or why there is
    none: in a batch of one, since that is the computation that the text came from.
    """
    stream.rewind()
    try:
        try:
            answers = ask_batch([(question, stream.hooks)])
        except RuntimeError as error:
            problem = memory_problem(error)
            return OutOfMemoryError(f"the memory does not suffice ({problem}); ask once more.")
    except Ada3DError as error:  # another text, or what torch's error means
        return error
    if answers is None:
        return ModelError("the scene went while the batch was answered: ask once more.")
    (answer,) = answers
    return answer if stream.complete or isinstance(answer, Exception) else _another_text()


def generate_together(
    queries: Sequence[QueryContext], context: SceneContext, clock: StageClock
) -> list[Generated | Ada3DError]:
    """Prompts, prefill and decode of questions on one cached prefix, unpruned inside the language
    model, in the order asked; what was raised instead of one.

    clock: of the batch so far, of which every question gets its own continuation.
    """
    prefix = context.prefix
    assert prefix is not None
    results: list[Generated | Ada3DError | None] = [None] * len(queries)

    # Prompts; a question that cannot be asked, or is stopped already, does not hold up the others.
    ready: list[tuple[int, PromptSequence, TextStreamer]] = []
    layers = prefix.decoder.config.num_layers
    kept = tuple(prefix.kept(layer) for layer in range(layers))
    states = prefix.final_states() if prefix.options.with_states else None
    with clock.stage("spatial_s"):
        for i, query in enumerate(queries):
            try:
                prompt = build_prompt(query, context)
                query.hooks.check()
                query.hooks.on_stage(Stage.PREFILL)
                pointer = pointer_at(query, context, states, kept[-1])
                ready.append((i, prompt, TextStreamer(query, None, pointer)))
            except Ada3DError as error:
                results[i] = error
    if not ready:
        return [result for result in results if result is not None]

    # Prefill and decode, all at once.
    prefix.crop()
    before_s = clock.elapsed_s()
    questions = [
        BatchedQuestion(prompt.embeds[prompt.spatial_span[1] :], streamer)
        for _, prompt, streamer in ready
    ]
    batch = answer_batch(prefix.decoder, prefix.cache, prefix.next_position, questions)
    clock.record("prefill_s", batch.prefill_s)
    first_s = before_s + batch.prefill_s

    # Each one's text and times.
    for (i, prompt, streamer), output in zip(ready, batch.outputs, strict=True):
        if output.error is not None:
            results[i] = output.error
            continue
        own = clock.fork()
        own.record("first_token_s", first_s + output.first_token_s)
        own.record("decode_s", output.decode_s)
        end = prefix.next_position + len(prompt.embeds) - prompt.spatial_span[1]
        positions = (end,) * layers
        prefilled = PrefillOutput(prefix.embeds.new_zeros(0), prefix.cache, positions, kept)
        finished = replace(output, text=streamer.finish())
        try:
            require_text(finished)
            query = replace(queries[i], clock=own)
            results[i] = Generated(query, prompt, prefilled, finished)
        except Ada3DError as error:
            results[i] = error
    return [result for result in results if result is not None]
