"""A pruning policy applied to one prompt: the choice before the language model, and the pruner for
inside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ada3d_ros.model.backbone import Backbone
from ada3d_ros.model.decoder import LlamaDecoder
from ada3d_ros.pruning.cost import DecoderShape
from ada3d_ros.pruning.policy import Policy
from ada3d_ros.pruning.ranking import question_relevance
from ada3d_ros.pruning.strategy import Candidates, LayerPruner
from ada3d_ros.scene.keyframes import SceneSnapshot
from ada3d_ros.types import NAN, PromptSequence, SpatialTokens

if TYPE_CHECKING:
    from ada3d_ros.engine.scene_prefix import ScenePrefix


@dataclass(frozen=True, eq=False, slots=True)
class ChosenTokens:
    """Spatial tokens that enter the prompt.

    kept (k,) int64: which of the num_before_selection ones they are, of a merged group its anchor;
    features and places of such a group are its means.
    """

    tokens: SpatialTokens
    kept: torch.Tensor
    num_before_selection: int

    def positions(self, prompt: PromptSequence) -> torch.Tensor:
        """(T,) int64 of a prompt of them, each spatial token's and what follows as in the prompt of
        all num_before_selection.
        """
        (start, stop), total = prompt.spatial_span, self.num_before_selection
        device = prompt.positions.device
        kept = self.kept[: stop - start]
        behind = torch.arange(len(prompt.embeds) - stop, device=device)
        return torch.cat((torch.arange(start, device=device), start + kept, start + total + behind))

    def first(self, count: int) -> ChosenTokens:
        """The first `count` of them."""
        t = self.tokens
        part = SpatialTokens(
            t.features[:count], t.xyz_m[:count], t.num_patches[:count], t.voxel_size_m
        )
        return ChosenTokens(part, self.kept[:count], self.num_before_selection)


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
    total = tokens.features.shape[0]
    if policy.num_kept_pre_llm(total) == total:
        return ChosenTokens(tokens, torch.arange(total, device=tokens.features.device), total)
    base = Policy.from_config(policy.config)
    if (
        policy.nested and policy.num_kept_pre_llm(total) < base.num_kept_pre_llm(total) < total
    ):  # a first part, its merged groups too
        return choose_tokens(model, tokens, base).first(policy.num_kept_pre_llm(total))
    relevance = None
    if policy.is_query_conditioned:
        ids = torch.tensor(
            [i for i in question_ids if i >= 0], dtype=torch.int64, device=model.device
        )
        relevance = question_relevance(model.project(tokens.features), model.decoder.embed(ids))
    choice = policy.select(
        Candidates(
            tokens.features, tokens.xyz_m, tokens.num_patches, tokens.voxel_size_m, relevance
        )
    )
    merged, patches = choice.groups >= 0, torch.zeros_like(tokens.num_patches[choice.kept])
    patches.index_add_(0, choice.groups[merged], tokens.num_patches[merged])
    # A group lies at its mean place, as the position embedding in its mean feature says.
    chosen = SpatialTokens(
        choice.merge(tokens.features), choice.merge(tokens.xyz_m), patches, tokens.voxel_size_m
    )
    return ChosenTokens(chosen, choice.kept, total)


def pruner_for(
    decoder: LlamaDecoder,
    policy: Policy,
    prompt: PromptSequence,
    num_before_selection: int,
    information: tuple[float, ...] | None = None,
) -> LayerPruner | None:
    """The policy's part inside the language model for a prompt; None where there is none.

    num_before_selection: spatial tokens before any choice; information: I per layer, for fitted
    schedules (None: the policy reads its file).
    """
    entered = prompt.spatial_span[1] - prompt.spatial_span[0]
    shape, text = DecoderShape.from_config(decoder.config), prompt.embeds.shape[0] - entered
    return policy.pruner(shape, entered, num_before_selection, text, information)
