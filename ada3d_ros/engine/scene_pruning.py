"""What pruning keeps between questions: the calibration file that was read, and per scene the
choice before the language model and the measured attention masses.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, TypeVar, cast

from ada3d_ros.config import AgentConfig, ModelConfig, PruningConfig
from ada3d_ros.engine.build_plan import (
    leaves_whole,
    plan_allocation,
    prompts_of,
    prunes_at_build,
)
from ada3d_ros.engine.token_selection import ChosenTokens, choose_tokens, sizes_of
from ada3d_ros.errors import ConfigError
from ada3d_ros.model.backbone import Backbone
from ada3d_ros.model.config import DecoderConfig
from ada3d_ros.model.decoder import LlamaDecoder
from ada3d_ros.model.startup import checkpoint_folder
from ada3d_ros.pruning.allocation import Allocation
from ada3d_ros.pruning.cost import DecoderShape, PromptSizes
from ada3d_ros.pruning.policy import (
    NOMINAL_SPATIAL,
    Policy,
    check_policy,
    describe_policy,
    planned_retention,
)
from ada3d_ros.pruning.queries_file import HeadSizes, QueryFiles
from ada3d_ros.pruning.strategy import LayerPruner
from ada3d_ros.token_rows import rows_of
from ada3d_ros.types import PromptSequence, SpatialTokens

if TYPE_CHECKING:
    from ada3d_ros.config.pruning import AdaTokenConfig
    from ada3d_ros.pruning.calibration import Calibration
    from ada3d_ros.pruning.information import Masses
    from ada3d_ros.pruning.question_queries import QueriesFile

logger = logging.getLogger(__name__)
T = TypeVar("T")
SceneKey = tuple[object, ...]  # what makes two scenes the same one


class KeyedMemo:
    """Values made once for a key, one per name; made anew when the key changes. Safe to clear from
    another thread.
    """

    def __init__(self) -> None:
        self._made: dict[str, tuple[object, object]] = {}

    def get(self, name: str, key: object, make: Callable[[], T]) -> T:
        cached = self._made.get(name)
        if cached is None or cached[0] != key:
            cached = (key, make())
            self._made[name] = cached
        return cast(T, cached[1])

    def clear(self) -> None:
        self._made.clear()


class ScenePruning:
    """One robot's pruning on one decoder. Settings come with every call; nothing here decides what
    they are.
    """

    def __init__(self, shape: DecoderShape, files: QueryFiles | None = None) -> None:
        """files: of past questions' queries."""
        self.shape, self._files = shape, files
        self._memo = KeyedMemo()
        self._pruners: dict[Hashable, LayerPruner | None] = {}
        self._calibration: Calibration | None = None
        self._configured: tuple[PruningConfig, tuple[float, ...] | None] | None = None

    @classmethod
    def from_config(cls, settings: ModelConfig, decoder: DecoderConfig) -> ScenePruning:
        """For the decoder of a checkpoint, with the file of queries beside its weights."""
        sizes = HeadSizes(decoder.num_layers, decoder.num_heads, decoder.head_dim)
        files = QueryFiles(checkpoint_folder(settings), sizes)
        return cls(DecoderShape.from_config(decoder), files)

    def check(self, config: AgentConfig) -> None:
        """Raise ConfigError where these settings do not work with the model: budgets, layers,
        calibration files, files of queries, prompts.
        """
        information = self._information(config.pruning, self._read(config.pruning))
        policy = Policy.from_config(config.pruning)
        if prunes_at_build(config, policy):
            prompts_of(config)
            file = None if self._files is None else self._files.check(config.cache)
            worth = None if file is None else file.held
            plan_allocation(config, policy, self.shape, information, None, worth)
        else:
            check_policy(config.pruning, self.shape, information=information)

    def allocation(
        self, config: AgentConfig, policy: Policy, sizes: PromptSizes | None = None
    ) -> Allocation:
        """The layers' shares of a scene of these sizes that is pruned while it is built.

        Raises as `plan_allocation`.
        """
        information = self._information(config.pruning, self._calibration)
        file = self.queries_file(config)
        worth = None if file is None else file.held
        return plan_allocation(config, policy, self.shape, information, sizes, worth)

    def queries_file(self, config: AgentConfig) -> QueriesFile | None:
        """What is known of past questions from the file in force."""
        return None if self._files is None else self._files.in_force(config.cache)

    def check_policy(self, policy: Policy) -> None:
        """The same for one request's keep ratio, with the calibration in force."""
        information = self._information(policy.config, self._calibration)
        check_policy(policy.config, self.shape, policy.keep_ratio, information)

    def configure(self, config: PruningConfig) -> None:
        """Take checked settings: reads the calibration file they name. One that cannot be read any
        more leaves the curve read before in force, with a warning.
        """
        try:
            self._calibration = self._read(config)
        except ConfigError as error:
            logger.warning("%s The curve read before stays in force.", error)
        self._configured = config, self._information(config, self._calibration)

    def warn_on_weight_mismatch(self, sha256: str) -> None:
        """Warn where calibration or queries were measured on other weights than those loaded, or on
        random ones.
        """
        if self._files is not None:
            self._files.warn_on_weight_mismatch(sha256)
        calibration = self._calibration
        if calibration is None:
            return
        if calibration.random_weights:
            logger.warning(
                "the calibration was measured on random weights: its curve means nothing."
            )
        # The grounding head, which stands behind the weights and the tower, changes no attention.
        if calibration.sha256 and sha256 and not sha256.startswith(calibration.sha256):
            logger.warning(
                "the calibration was measured on %s (sha256 %s), the loaded weights have sha256 %s:"
                " calibrate this model.",
                calibration.model,
                calibration.sha256[:12],
                sha256[:12],
            )

    def forget_scene(self) -> None:
        self._memo.clear()

    def choose(
        self,
        model: Backbone,
        tokens: SpatialTokens,
        policy: Policy,
        scene: SceneKey | None,
        question_ids: Sequence[int],
    ) -> ChosenTokens:
        """The choice before the language model; made once per scene, unless it asks the question or
        scene is None.
        """
        if scene is None or policy.is_query_conditioned:
            return choose_tokens(model, tokens, policy, question_ids)
        key = (*scene, policy.choice_key(rows_of(tokens).num_placed))
        return self._memo.get("choice", key, lambda: choose_tokens(model, tokens, policy))

    def pruner(
        self,
        decoder: LlamaDecoder,
        policy: Policy,
        prompt: PromptSequence,
        num_before_selection: int,
        scene: SceneKey,
        scope: str,
    ) -> LayerPruner | None:
        """The part inside the language model; num_before_selection: spatial tokens of the scene
        with a place. A schedule fitted per scene pays one unpruned pass at
        the scene's first question of this scope; with `cond_dpp` before it, that question's tokens
        are measured.
        """
        configured = self._configured  # read once: the settings may change meanwhile
        if configured is not None and configured[0] is policy.config:
            information = configured[1]
        else:
            information = self._information(policy.config, self._calibration)
        if policy.per_scene:
            from ada3d_ros.engine.information import measure_information

            ada = policy.config.adatoken3d
            measured = (*scene, policy.choice_key(num_before_selection), ada.inf.query_stride)
            masses = self._memo.get(
                f"masses {scope}",
                measured,
                lambda: measure_information(decoder, prompt, ada.inf.query_stride),
            )
            information = self._curve(masses, ada)
        elif policy.fitted and information is None:  # the node's own ratio needs no curve
            from ada3d_ros.pruning.fitted import filed_information

            information = filed_information(policy.config.adatoken3d, self.shape.num_layers)
        sizes = sizes_of(prompt, num_before_selection)
        key = policy, sizes, information
        if key not in self._pruners:  # the last one serves the next question
            entered, before = sizes.num_spatial, sizes.num_before_selection
            pruner = policy.pruner(self.shape, entered, before, sizes.num_text, information)
            self._pruners = {key: pruner}
        return self._pruners[key]

    def retention(self, config: AgentConfig) -> tuple[float, ...]:
        """Share of all spatial tokens that each layer will keep for a question about the scene; ()
        where the strategy is none, or where scene, question or `cache.prune: auto` decide.
        """
        policy, pruning = Policy.from_config(config.pruning), config.pruning
        share = policy.num_kept_pre_llm(NOMINAL_SPATIAL) / NOMINAL_SPATIAL
        if leaves_whole(config, policy):
            return (share,) * self.shape.num_layers
        if prunes_at_build(config, policy):
            if config.cache.prune == "auto":
                return ()
            return tuple(share * held for held in self.allocation(config, policy).held)
        information = self._information(pruning, self._calibration)
        return planned_retention(pruning, self.shape, information)

    def describe(self, config: AgentConfig) -> str:
        """Strategy and what decides how much is kept, for a person."""
        text = describe_policy(config.pruning, self.retention(config))
        if leaves_whole(config, Policy.from_config(config.pruning)):
            text += ", not inside the language model on the cached scene (cache.prune none)"
        return text

    def _read(self, config: PruningConfig) -> Calibration | None:
        if not Policy.from_config(config).from_file:
            return None
        from ada3d_ros.pruning.fitted import filed_calibration  # where something is fitted

        return filed_calibration(config.adatoken3d, self.shape.num_layers)

    def _information(
        self, config: PruningConfig, calibration: Calibration | None
    ) -> tuple[float, ...] | None:
        """I of the file's masses under the configured weights of eqs. 2-4."""
        if calibration is None or not Policy.from_config(config).from_file:
            return None
        return self._curve(calibration.masses, config.adatoken3d)

    @staticmethod
    def _curve(masses: Sequence[Masses], config: AdaTokenConfig) -> tuple[float, ...]:
        from ada3d_ros.pruning.fitted import information_settings
        from ada3d_ros.pruning.information import information_of

        return tuple(map(float, information_of(masses, information_settings(config)).I))
