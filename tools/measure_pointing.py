"""What a place costs beyond its token, on the embedded model and one core.

    python tools/measure_pointing.py [--questions N] [--voxel-size M]

Answers of a fixed length about one generated room, whose first tokens point at places: none, one,
and the most. Whatever the weights are, the tokens are forced; a model without tokens that point
takes its unknown token for one. Times are medians; per place is the difference over the places.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import time

import torch

from ada3d_ros.config import from_flat
from ada3d_ros.engine import streaming
from ada3d_ros.engine.decode import Sampler
from ada3d_ros.engine.places import MAX_PLACES
from ada3d_ros.lab.world.generated import generate_room
from ada3d_ros.pipeline import Ada3DPipeline
from ada3d_ros.types import Answer, Question

LENGTH = 12  # tokens of an answer
COUNTS = (0, 1, MAX_PLACES)


def forced(point_id: int, word_id: int, count: int) -> Sampler:
    """`count` tokens that point, then words."""
    ids = iter([point_id] * count + [word_id] * (LENGTH - count))
    return lambda logits: torch.tensor(next(ids))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--questions", type=int, default=40, help="per number of places")
    parser.add_argument("--voxel-size", type=float, help="metres, the checkpoint's by default")
    options = parser.parse_args()
    torch.set_num_threads(1)
    flat = {
        "model.path": "embedded",
        "pruning.strategy": "none",
        "generation.max_new_tokens": LENGTH,
    }
    pipeline = Ada3DPipeline(from_flat(flat), now=time.thread_time)  # others may want the core
    pipeline.check()
    pipeline.load()
    model, tokenizer = pipeline.model.model, pipeline.model.tokenizer
    model.config = dataclasses.replace(
        model.config,
        point_id=model.config.point_id if model.config.point_id >= 0 else tokenizer.unk_id,
        voxel_size_m=options.voxel_size or model.config.voxel_size_m,
    )
    for frame in generate_room(5000).frames:
        pipeline.observe(frame)

    # Answers with all numbers of places in turn, so that all meet the same machine.
    word_id = tokenizer.encode("red")[-1]
    decode_s: dict[int, list[float]] = {count: [] for count in COUNTS}
    total_s: dict[int, list[float]] = {count: [] for count in COUNTS}
    for wants_boxes in (False, True):
        for number in range(options.questions + 1):
            for count in COUNTS:
                sampler = forced(model.config.point_id, word_id, count)
                streaming.make_sampler = lambda *args, chosen=sampler: chosen
                begun = time.thread_time()
                answer = pipeline.ask(Question("Is there a red chair?", want_boxes=wants_boxes))
                took_s = time.thread_time() - begun
                assert len(answer.places) == count
                if number and not wants_boxes:
                    decode_s[count].append(_decoding_s(answer))
                elif number:
                    total_s[count].append(took_s)

    print(f"{answer.tokens.spatial_kept} spatial tokens, answers of {LENGTH} tokens, medians")
    for name, times in (("decoding", decode_s), ("boxes refined, all", total_s)):
        medians = {count: 1000 * statistics.median(times[count]) for count in COUNTS}
        for count in COUNTS:
            line = f"{name}, {count} places: {medians[count]:.2f} ms"
            line += f", {(medians[count] - medians[0]) / count:.2f} ms a place" if count else ""
            print(line)


def _decoding_s(answer: Answer) -> float:
    """First token and all after it, without the prefill."""
    times = answer.timings
    return times.first_token_s - times.prefill_s + times.decode_s


if __name__ == "__main__":
    main()
