"""Sequences of spatial tokens with newlines, and which of them stay, said token by token."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from ada3d_ros.model.decoder import LlamaDecoder
from ada3d_ros.types import PromptSequence, SpatialTokens
from test.support.decoders import WIDTH, generator, scene_3d
from test.support.prefixes import SYSTEM, TEXT
from test.support.slow_engine import closed

ROWS: tuple[Sequence[int], ...] = (
    (5,) * 8,  # one frame of Video-3D-LLM, smaller
    (1, 9, 0, 3, 12, 0, 0, 7, 2, 6),  # holes: some rows are short, some were never filled
    (0, 20, 1, 1, 1, 17),
    (40,),
)
TAIL: Sequence[int] = (7, 0, 11, 13)  # and 9 more that no newline closes


@dataclass(frozen=True)
class Grid:
    """newlines: their indices among the spatial tokens; placed: those of the others."""

    total: int
    newlines: tuple[int, ...]

    @classmethod
    def of(cls, rows: Sequence[int], tail: int = 0) -> Grid:
        """Rows of so many tokens, each closed by a newline, and a tail that none closes."""
        newlines, at = [], 0
        for size in rows:
            at += size
            newlines.append(at)
            at += 1
        return cls(at + tail, tuple(newlines))

    @property
    def placed(self) -> list[int]:
        return [i for i in range(self.total) if i not in self.newlines]

    def row(self, token: int) -> int:
        return sum(newline < token for newline in self.newlines)

    def closed(self, kept: Iterable[int]) -> list[int]:
        """The kept tokens with a place, and the newlines of their rows, ascending."""
        return closed(list(kept), self.newlines)

    def with_place(self, kept: Iterable[int]) -> list[int]:
        return [i for i in kept if i not in self.newlines]

    def places(self, seed: int = 5) -> torch.Tensor:
        """(total, 3) float32, NaN for newlines."""
        xyz_m = 4 * torch.rand(self.total, 3, generator=generator(seed))
        xyz_m[list(self.newlines)] = torch.nan
        return xyz_m


def grid_prompt(grid: Grid, seed: int = 1) -> PromptSequence:
    """Random embeddings; all newlines are the same one."""
    total, made = SYSTEM + grid.total + TEXT, generator(seed)
    embeds = torch.randn(total, WIDTH, generator=made)
    newline = torch.randn(WIDTH, generator=made)
    embeds[[SYSTEM + i for i in grid.newlines]] = newline
    span = (SYSTEM, SYSTEM + grid.total)
    return PromptSequence(embeds, torch.arange(total), span, grid.places(seed))


def without_newlines(prompt: PromptSequence, grid: Grid) -> PromptSequence:
    """The same tokens without the newlines, at positions of their own."""
    start, stop = prompt.spatial_span
    index = [*range(start), *(start + i for i in grid.placed), *range(stop, len(prompt.embeds))]
    assert prompt.xyz_m is not None
    span = (start, start + len(grid.placed))
    positions = torch.arange(len(index))
    return PromptSequence(prompt.embeds[index], positions, span, prompt.xyz_m[grid.placed])


def grid_tokens(grid: Grid, seed: int = 3, channels: int = 24) -> SpatialTokens:
    """A room's tokens in rows, features of newlines all the same."""
    scene = scene_3d(len(grid.placed), seed, channels)
    features = torch.ones(grid.total, channels)
    xyz_m = torch.full((grid.total, 3), torch.nan)
    patches = torch.zeros(grid.total, dtype=torch.int64)
    features[grid.placed], xyz_m[grid.placed] = scene.features, scene.xyz_m
    patches[grid.placed] = scene.num_patches
    return SpatialTokens(features, xyz_m, patches, scene.voxel_size_m)


class Projecting:
    """What the choice before the language model asks of a model."""

    device = torch.device("cpu")

    def __init__(self, decoder: LlamaDecoder, channels: int = 24) -> None:
        self.decoder = decoder
        self._weight = torch.randn(channels, WIDTH, generator=generator(9)) / 4

    def project(self, features: torch.Tensor) -> torch.Tensor:
        return features @ self._weight
