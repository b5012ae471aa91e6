"""How often attention finds a phrase's object without a grounding head.

    python tools/measure_relevance.py [--model DIR] [--rooms N] [--json FILE]

Made docs/results/relevance_embedded.json.

Validation rooms, up to four phrases each, all tokens. Found: the peak lies within 0.5 m of the true
centre. Chance: a spatial token taken at random.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from ada3d_ros.grounding.from_attention import NEUTRAL_PHRASE, attention_to_scene, find_peak
from ada3d_ros.grounding.from_text import GROUNDING_PROMPT
from ada3d_ros.lab.evaluation.intervals import per_room, room_draws, share_interval
from ada3d_ros.lab.results import write_results
from ada3d_ros.lab.world.generated import generate_room
from ada3d_ros.lab.world.questions import make_questions
from ada3d_ros.model.checkpoint import LoadedModel, load_model
from ada3d_ros.model.startup import embedded_model_path
from ada3d_ros.scene.views import build_multiview
from ada3d_ros.types import SpatialTokens

NEAR_M = 0.5
FIRST_SEED = 5000


def attended(loaded: LoadedModel, tokens: SpatialTokens, phrase: str) -> torch.Tensor:
    """Shares (layers, N) of the phrase's attention, measured as grounding by attention does."""
    ids = loaded.tokenizer.encode_question(GROUNDING_PROMPT.format(phrase=phrase))
    prompt = loaded.model.build_prompt(
        ids, loaded.model.project(tokens.features), None, tokens.xyz_m
    )
    rows = loaded.tokenizer.num_end_tokens(f"{phrase}.")
    return attention_to_scene(loaded.model.decoder, prompt, rows)


@torch.inference_mode()
def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=embedded_model_path())
    parser.add_argument("--vision-path", type=Path, help="CLIP folder, for a model without one")
    parser.add_argument("--rooms", type=int, default=24)
    parser.add_argument("--json", type=Path, default=Path("docs/results/relevance_embedded.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    loaded = load_model(options.model, vision_path=options.vision_path)
    vision, found, chance, at = loaded.model.config.vision, [], [], []

    # Room by room: what its phrases find, and what a token at random would.
    for seed in range(FIRST_SEED, FIRST_SEED + options.rooms):
        room = generate_room(seed, side_px=vision.image_size, split="val")
        views = build_multiview(
            room.frames, vision.image_size, "default", vision.image_mean, vision.image_std
        )
        tokens = loaded.model.build_spatial_tokens(loaded.model.encode_views(views.pixels), views)
        neutral = attended(loaded, tokens, NEUTRAL_PHRASE)
        centers = {thing.number: torch.tensor(thing.center_m) for thing in room.graph.things}
        for question in make_questions(room.graph, seed, ("grounding",), 4):
            assert question.target is not None
            center = centers[question.target]
            peak = find_peak(attended(loaded, tokens, question.phrase), neutral, tokens.xyz_m)
            at.append(seed - FIRST_SEED)
            found.append(peak is not None and float((peak.xyz_m - center).norm()) < NEAR_M)
            chance.append(float(((tokens.xyz_m - center).norm(dim=-1) < NEAR_M).float().mean()))

    interval = share_interval(*per_room(found, at, options.rooms), room_draws(options.rooms))
    results = {
        "n": len(found),
        "found": float(np.mean(found)),
        "interval": interval,  # 95 %, over rooms
        "chance": float(np.mean(chance)),
    }
    print(results)
    print(f"wrote {write_results(options.json, results, 'cpu', FIRST_SEED)}")


if __name__ == "__main__":
    main()
