"""Questions about one cached scene in one batch: each prepared, streamed and timed as if alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from ada3d_ros.engine.batch import BatchedQuestion, answer_batch
from ada3d_ros.engine.decode import DecodeOutput
from ada3d_ros.engine.prefill import PrefillOutput
from ada3d_ros.engine.query_context import QueryContext, build_prompt
from ada3d_ros.engine.streaming import TextStreamer, require_text
from ada3d_ros.engine.timing import StageClock
from ada3d_ros.engine.token_selection import SceneContext
from ada3d_ros.errors import Ada3DError
from ada3d_ros.types import PromptSequence, Stage


@dataclass(frozen=True, eq=False, slots=True)
class Generated:
    """One question of a batch with its text: what steps 6 and 7 of a question alone take."""

    query: QueryContext
    prompt: PromptSequence
    prefilled: PrefillOutput
    output: DecodeOutput


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
    with clock.stage("spatial_s"):
        for i, query in enumerate(queries):
            try:
                prompt = build_prompt(query, context)
                query.hooks.check()
                query.hooks.on_stage(Stage.PREFILL)
                ready.append((i, prompt, TextStreamer(query)))
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
    layers = prefix.decoder.config.num_layers
    kept = (torch.arange(len(prefix.embeds), device=prefix.embeds.device),) * layers
    for (i, prompt, streamer), output in zip(ready, batch.outputs, strict=True):
        if output.error is not None:
            results[i] = output.error
            continue
        own = clock.fork()
        own.record("first_token_s", first_s + output.first_token_s)
        own.record("decode_s", output.decode_s)
        positions = (len(prompt.embeds),) * layers
        prefilled = PrefillOutput(prefix.embeds.new_zeros(0), prefix.cache, positions, kept)
        finished = replace(output, text=streamer.finish())
        try:
            require_text(finished)
            query = replace(queries[i], clock=own)
            results[i] = Generated(query, prompt, prefilled, finished)
        except Ada3DError as error:
            results[i] = error
    return [result for result in results if result is not None]
