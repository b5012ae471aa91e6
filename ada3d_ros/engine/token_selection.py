"""A pruning policy applied to one prompt: the choice before the language model, and the pruner for
inside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from ada3d_ros.model.backbone import Backbone
from ada3d_ros.model.decoder import LlamaDecoder
from ada3d_ros.pruning.cost import DecoderShape, PromptSizes
from ada3d_ros.pruning.policy import Policy
from ada3d_ros.pruning.ranking import question_relevance
from ada3d_ros.pruning.strategy import Candidates, LayerPruner
from ada3d_ros.scene.keyframes import SceneSnapshot
from ada3d_ros.token_rows import TokenRows, rows_of
from ada3d_ros.types import NAN, PromptSequence, SpatialTokens

if TYPE_CHECKING:
    from ada3d_ros.engine.scene_prefix import ScenePrefix


@dataclass(frozen=True, eq=False, slots=True)
class ChosenTokens:
    """Spatial tokens that enter the prompt.

    kept (k,) int64: which of the num_before_selection ones they are, of a merged group its anchor;
    features and places of such a group are its means. num_placed_before: those of them that have a
    place, None where all entered.
    """

    tokens: SpatialTokens
    kept: torch.Tensor
    num_before_selection: int
    num_placed_before: int | None = None

    @property
    def rows(self) -> TokenRows:
        """Of the tokens that enter."""
        return rows_of(self.tokens)

    @property
    def num_candidates(self) -> int:
        """Tokens of the scene that have a place, which budgets and keep ratios count."""
        before = self.num_placed_before
        return self.rows.num_placed if before is None else before

    def keep_ratio_of(self, kept: Sequence[torch.Tensor]) -> float:
        """Mean over layers of the share of all tokens with a place that a layer keeps, kept (n_i,)
        of those that entered; NaN of an empty scene.
        """
        total = self.num_candidates
        counts = self.rows.count_placed(kept)
        return sum(counts) / len(counts) / total if total else NAN

    def positions(self, prompt: PromptSequence) -> torch.Tensor:
        """(T,) int64 of a prompt of them, each spatial token's and what follows as in the prompt of
        all num_before_selection.
        """
        (start, stop), total = prompt.spatial_span, self.num_before_selection
        device = prompt.positions.device
        kept = self.kept[: stop - start]
        behind = torch.arange(len(prompt.embeds) - stop, device=device)
        return torch.cat((torch.arange(start, device=device), start + kept, start + total + behind))

    def in_prompt(self, prompt: PromptSequence) -> PromptSequence:
        """The prompt of them, which knows their rows."""
        start, stop = prompt.spatial_span
        is_cut = stop - start < len(self.kept)  # at the model's end (preset `reference`)
        return replace(prompt, rows=self.rows.crop(0, stop - start) if is_cut else self.rows)

    def first(self, count: int) -> ChosenTokens:
        """The first `count` of those that have a place, and the newlines of their rows."""
        t, stop = self.tokens, self.rows.end_of(count)
        part = SpatialTokens(
            t.features[:stop],
            t.xyz_m[:stop],
            t.num_patches[:stop],
            t.voxel_size_m,
            self.rows.crop(0, stop),
        )
        total = self.num_before_selection
        return ChosenTokens(part, self.kept[:stop], total, self.num_candidates)


@dataclass(frozen=True, eq=False, slots=True)
class SceneContext:
    """What a question is answered from.

    scene: the keyframes; tokens: all spatial tokens of them, or an image's patches; chosen: those
    that enter the language model; embeds (N, D): the same as it gets them; prefix: the cached
    prefix that holds them, or None; staleness: of that, NaN without one. mode: how it was pruned,
    as `cache.prune` says of a prefix, else "paper"; cold_reason: why no prefix serves the question.
    """

    scene: SceneSnapshot
    tokens: SpatialTokens
    chosen: ChosenTokens
    embeds: torch.Tensor
    prefix: ScenePrefix | None = None
    staleness: float = NAN
    mode: str = "paper"
    cold_reason: str = ""


@torch.inference_mode()
def choose_tokens(
    model: Backbone, tokens: SpatialTokens, policy: Policy, question_ids: Sequence[int] = ()
) -> ChosenTokens:
    """The strategy's choice among all spatial tokens; all of them where it has no part before the
    language model.

    question_ids: text ids of the question, for strategies conditioned on it.
    """
    device, total = tokens.features.device, tokens.features.shape[0]
    rows = rows_of(tokens)
    budget = policy.num_kept_pre_llm(rows.num_placed)
    if budget == rows.num_placed:
        return ChosenTokens(tokens, torch.arange(total, device=device), total)
    base = Policy.from_config(policy.config)
    configured = base.num_kept_pre_llm(rows.num_placed)
    if policy.nested and budget < configured < rows.num_placed:  # a first part, its groups too
        return choose_tokens(model, tokens, base).first(budget)
    placed = tokens if rows.plain else tokens.at(rows.placed)
    relevance = None
    if policy.is_query_conditioned:
        ids = torch.tensor(
            [i for i in question_ids if i >= 0], dtype=torch.int64, device=model.device
        )
        relevance = question_relevance(model.project(placed.features), model.decoder.embed(ids))
    choice = policy.select(
        Candidates(
            placed.features, placed.xyz_m, placed.num_patches, placed.voxel_size_m, relevance
        )
    )
    merged, patches = choice.groups >= 0, torch.zeros_like(placed.num_patches[choice.kept])
    patches.index_add_(0, choice.groups[merged], placed.num_patches[merged])
    # A group lies at its mean place, as the position embedding in its mean feature says.
    chosen = SpatialTokens(
        choice.merge(placed.features), choice.merge(placed.xyz_m), patches, tokens.voxel_size_m
    )
    if rows.plain:
        return ChosenTokens(chosen, choice.kept, total, total)
    return _with_newlines(tokens, chosen, choice.kept, policy.config.order == "sorted")


def _with_newlines(
    tokens: SpatialTokens, chosen: SpatialTokens, kept: torch.Tensor, in_order: bool
) -> ChosenTokens:
    """What was chosen of all the tokens that have a place, and the newlines of what is left.

    kept (k,): which of those with a place `chosen` are. in_order: all stand in the scene's order;
    else in that of selection, a newline directly behind the first token of its row, so that the
    first tokens are the choice of a smaller budget.
    """
    rows = rows_of(tokens)
    index = rows.order(kept).first(len(kept))
    index = torch.sort(index).values if in_order else index

    # The newlines as they were, in the places left by what was chosen.
    is_newline = rows.is_newline[index]
    features, patches = tokens.features[index], tokens.num_patches[index]
    xyz_m = tokens.xyz_m[index]
    features[~is_newline], xyz_m[~is_newline] = chosen.features, chosen.xyz_m
    patches[~is_newline] = chosen.num_patches
    made = SpatialTokens(
        features,
        xyz_m,
        patches,
        tokens.voxel_size_m,
        TokenRows.from_mask(is_newline, rows.row[index]),
    )
    return ChosenTokens(made, index, rows.count, rows.num_placed)


def pruner_for(
    decoder: LlamaDecoder,
    policy: Policy,
    prompt: PromptSequence,
    num_before_selection: int,
    information: tuple[float, ...] | None = None,
) -> LayerPruner | None:
    """The policy's part inside the language model for a prompt; None where there is none.

    num_before_selection: spatial tokens with a place before any choice; information: I per layer,
    for fitted schedules (None: the policy reads its file).
    """
    shape, sizes = DecoderShape.from_config(decoder.config), sizes_of(prompt, num_before_selection)
    return policy.pruner(
        shape, sizes.num_spatial, sizes.num_before_selection, sizes.num_text, information
    )


def sizes_of(prompt: PromptSequence, num_before_selection: int) -> PromptSizes:
    """What a budget counts of a prompt: spatial tokens with a place; newlines count as text, since
    they stay as long as anything of their row does.
    """
    placed = rows_of(prompt).num_placed
    return PromptSizes(placed, prompt.embeds.shape[0] - placed, num_before_selection)
