"""A run that begins with a checkpoint's weights instead of new ones: `ada3d train --from`."""

from __future__ import annotations

import math

import torch
from torch.nn import functional as F

from ada3d_ros.errors import ConfigError
from ada3d_ros.lab.train.session import Session
from ada3d_ros.model.checkpoint import LoadedModel
from ada3d_ros.model.prompt import AnyTokenizer

PLACES = "embeddings.position_embedding.weight"
BY_TOKEN = ("embed_tokens.weight", "lm_head.weight")


@torch.no_grad()
def take_over(session: Session, loaded: LoadedModel) -> None:
    """Weights of a checkpoint with the same layers, into a new run.

    Its vocabulary may differ: tokens are matched by their pieces, new ones keep their first
    weights. So may the number of patches: their position embeddings are interpolated. Raises
    ConfigError where another weight has another shape.
    """
    old, new = loaded.llava3d.state_dict(), session.model.state_dict()
    pieces = _same_pieces(loaded.tokenizer, session.packer.tokenizer)
    for name, value in new.items():
        source = old.get(name)
        if source is None:
            raise ConfigError(f"--from: the checkpoint has no {name}: it is not of these layers.")
        if name.endswith(PLACES):
            source = _interpolated(source.float(), len(value) - 1)
        elif name.endswith(BY_TOKEN):
            theirs, ours = pieces
            source = value.index_copy(0, ours, source.float()[theirs])
        if source.shape != value.shape:
            raise ConfigError(
                f"--from: {name} is {tuple(source.shape)} in the checkpoint, {tuple(value.shape)}"
                " in this run: it is not of these layers."
            )
        value.copy_(source)
    if loaded.head is not None:
        session.head.load_state_dict(loaded.head.head.state_dict())


def _same_pieces(theirs: AnyTokenizer, ours: AnyTokenizer) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids (n,) of the pieces that both vocabularies have, in each of them."""
    known = {theirs.piece(i): i for i in range(theirs.vocab_size)}
    both = [(known[ours.piece(i)], i) for i in range(ours.vocab_size) if ours.piece(i) in known]
    first, second = torch.tensor(both).T
    return first, second


def _interpolated(places: torch.Tensor, patches: int) -> torch.Tensor:
    """Position embeddings (1 + P, C) of a class token and a square of P patches, for `patches`."""
    side, wanted = math.isqrt(len(places) - 1), math.isqrt(patches)
    grid = places[1:].T.unflatten(1, (side, side))[None]
    grid = F.interpolate(grid, size=(wanted, wanted), mode="bicubic", align_corners=False)
    return torch.cat((places[:1], grid[0].flatten(1).T))
