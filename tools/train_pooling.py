"""Trains the pooling of `condensed_grid` for a model, by default the embedded one.

    python tools/train_pooling.py --out RUN

RUN/pooling.safetensors is what `pruning.condensed_grid.file` reads, RUN/log.json how it learned.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from ada3d_ros.lab.train.gallery import open_gallery
from ada3d_ros.lab.train.pooling import open_learner, rooms_of, train
from ada3d_ros.model.checkpoint import weights_sha256
from ada3d_ros.model.startup import embedded_model_path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--model", type=Path, default=embedded_model_path())
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--rooms", type=int, default=96, help="rendered training rooms")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    learner = open_learner(options.model, options.seed)
    vision = learner.model.config.vision
    gallery = open_gallery(options.out / "gallery", "train", 1, options.rooms, vision)
    rooms = list(rooms_of(learner.model, gallery))
    log = train(learner, rooms, options.steps, options.seed)
    facts = {"sha256": weights_sha256(options.model), "steps": str(options.steps)}
    tensors = {name: tensor.detach().contiguous() for name, tensor in learner.pooling.items()}
    file = options.out / "pooling.safetensors"
    save_file(tensors, file, facts)
    file.chmod(0o644)  # save_file makes it private
    written = {"log": log, "rooms": options.rooms, "seed": options.seed}
    (options.out / "log.json").write_text(json.dumps(written, indent=1))


if __name__ == "__main__":
    main()
