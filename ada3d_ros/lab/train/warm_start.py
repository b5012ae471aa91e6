"""A run that begins with a checkpoint's weights instead of new ones: `ada3d train --from`, or with
those of parts of it: `--decoder`, `--tower`.
"""

from __future__ import annotations

import math

import torch
from torch.nn import functional as F

from ada3d_ros.errors import ConfigError
from ada3d_ros.lab.train.gallery import normalise
from ada3d_ros.lab.train.session import Session
from ada3d_ros.lab.world.render import render
from ada3d_ros.lab.world.rooms import make_rooms
from ada3d_ros.model.checkpoint import LoadedModel
from ada3d_ros.model.config import VisionConfig
from ada3d_ros.model.prompt import AnyTokenizer
from ada3d_ros.model.video3dllm.vision import SiglipTower
from ada3d_ros.model.vision import VisionTower

PLACES = "embeddings.position_embedding.weight"
NORM_ROOMS = 4  # whose pictures say how large embeddings of patches are
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


@torch.no_grad()
def take_decoder(session: Session, loaded: LoadedModel) -> None:
    """Decoder and grounding head of a checkpoint, into a new run, tokens matched by their pieces;
    what the run's decoder has beside that (biases) keeps its first values. Raises ConfigError where
    another weight has another shape.
    """
    ours, old = session.model.decoder.state_dict(), loaded.model.decoder.state_dict()
    theirs, here = _same_pieces(loaded.tokenizer, session.packer.tokenizer)
    for name, source in old.items():
        value = ours.get(name)
        if value is not None and name.endswith(BY_TOKEN):
            source = value.index_copy(0, here, source.float()[theirs])
        if value is None or source.shape != value.shape:
            raise ConfigError(f"--decoder: {name} of the checkpoint does not fit in this run.")
        value.copy_(source)
    if loaded.head is not None:
        session.head.load_state_dict(loaded.head.head.state_dict())


@torch.no_grad()
def take_tower(session: Session, loaded: LoadedModel) -> None:
    """The vision tower of a LLaVA-3D checkpoint, into a new run; as `siglip_state` has it where the
    run's is a SigLIP tower. Raises ConfigError where the layers are others.
    """
    theirs, ours = loaded.llava3d.vision, session.model.vision
    if isinstance(ours, SiglipTower):
        state = siglip_state(theirs, loaded.llava3d.config.vision, session.model.config.vision)
    else:
        state = theirs.state_dict()
    try:
        ours.load_state_dict(state)
    except RuntimeError as error:
        raise ConfigError(f"--tower: its layers are not those of this run ({error}).") from None


def siglip_state(
    clip: VisionTower, theirs: VisionConfig, ours: VisionConfig
) -> dict[str, torch.Tensor]:
    """A CLIP tower's weights under the names of a SigLIP tower, which has no class token and no
    norm before its layers.

    Another mean and deviation of the pixels, and that norm by its mean over patches of some drawn
    pictures, go into the convolution; so the tower is near the old one, not equal, and is trained
    on.
    """
    state = {n: t.float() for n, t in clip.state_dict().items() if n.startswith("encoder.")}
    embeddings, norm = clip.embeddings, clip.pre_layrnorm
    places = _interpolated(embeddings.position_embedding.weight.float(), ours.patches_per_side**2)

    # pixel of theirs = (pixel of ours * its deviation + its mean - mean) / deviation
    weight = embeddings.patch_embedding.weight.float()
    scale = torch.tensor(ours.image_std) / torch.tensor(theirs.image_std)
    offset = torch.tensor(ours.image_mean) - torch.tensor(theirs.image_mean)
    bias = (weight.sum((2, 3)) * offset / torch.tensor(theirs.image_std)).sum(1)
    weight = weight * scale[:, None, None]

    rooms = render(make_rooms("train", torch.arange(NORM_ROOMS)), ours.image_size)
    pixels = normalise(rooms.rgb.flatten(0, 1), ours)
    patches = F.conv2d(pixels, weight, bias, stride=ours.patch_size).flatten(2).transpose(1, 2)
    patches = patches + places[1:]
    mean, deviation = patches.mean(-1).mean(), patches.std(-1, correction=0).mean()
    gain, shift = norm.weight.float() / deviation, norm.bias.float()
    return state | {
        "embeddings.patch_embedding.weight": weight * gain[:, None, None, None],
        "embeddings.patch_embedding.bias": (bias - mean) * gain + shift,
        "embeddings.position_embedding.weight": places[1:] * gain,
    }
