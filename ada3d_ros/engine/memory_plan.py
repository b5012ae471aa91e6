"""From settings to the most that is asked of a model at once, for which memory is planned at start.

The scene is the largest that the model takes; of its copies one answers while the next is built. A
request may ask for the longest answer there is, which takes a copy of its own.
"""

from __future__ import annotations

import torch

from ada3d_ros.config import AgentConfig
from ada3d_ros.engine.build_plan import prompts_of, prunes_at_build, serves_questions
from ada3d_ros.engine.prefix_cache import QUESTION_TOKENS, RESERVED_TOKENS
from ada3d_ros.engine.scene_pruning import ScenePruning
from ada3d_ros.model.config import BackboneConfig
from ada3d_ros.model.memory import Workload
from ada3d_ros.model.startup import LONGEST_ANSWER, TEXT_TOKENS, largest_prompt
from ada3d_ros.pruning.cost import DecoderShape, PromptSizes
from ada3d_ros.pruning.policy import Policy

SYSTEM_TOKENS = 64  # of the text before a scene, at most
CHARS_PER_TOKEN = 3  # of a prompt that rides along, at least
TEMPLATE_TOKENS = 16  # around it


def plan_workload(config: AgentConfig, model: BackboneConfig, device: torch.device) -> Workload:
    """What these settings ask of a model on this device. Raises ConfigError for a budget that
    cannot be met.
    """
    policy, shape = Policy.from_config(config.pruning), DecoderShape.from_config(model.decoder)
    length, int8 = largest_prompt(model, config.keyframe.max_views), config.cache.kv == "int8"
    scene = max(length - TEXT_TOKENS, 1)
    reserve = min(RESERVED_TOKENS, config.generation.max_new_tokens + QUESTION_TOKENS)

    # What one copy of the scene holds, its room for questions included; newlines come on top.
    newlines = model.max_newlines(scene)
    placed = scene - newlines
    cached, held, riding = serves_questions(config, policy), float(placed), 0
    if cached and policy.pre_llm and policy.prunes:
        held = float(policy.num_kept_pre_llm(placed))
    if config.cache.prune == "build" and prunes_at_build(config, policy):
        pruning = ScenePruning(shape)
        if config.model.path:  # a file of queries may lie beside its weights
            pruning = ScenePruning.from_config(config.model, model.decoder)
        pruning.check(config)
        pruning.configure(config.pruning)
        sizes = PromptSizes(int(held), TEXT_TOKENS + newlines, placed)
        counts = pruning.allocation(config, policy, sizes).counts(int(held), config.pruning.n_min)
        riding = _riding_tokens(config, int(held) + newlines)
        held = sum(counts[1]) / len(counts[1])
    copy = SYSTEM_TOKENS + held + newlines + reserve

    # A question's own: the longest answer's, on the cached scene or without it.
    longest = min(model.max_length, length + LONGEST_ANSWER)
    buffers = float(longest) if int8 and cached else 0.0  # dequantised
    if device.type == "cuda":
        from ada3d_ros.engine.static_decode import GRANULE  # loaded where there are graphs

        lengths = [longest]
        if not cached or config.cache.prune in ("question", "auto"):  # usual answers' beside it
            lengths.append(length)
        buffers = float(sum(-(-(n + GRANULE // 2) // GRANULE) * GRANULE for n in lengths))
    return Workload(
        tokens=length,
        scene_copies=2 if cached else 0,
        kv_int8=int8 and cached,
        own_tokens=longest,
        max_views=config.keyframe.max_views,
        scene_tokens=copy,
        decode_tokens=buffers,
        riding_tokens=riding,
        views_at_once=None if config.model.compat == "reference" else 1,
    )


def _riding_tokens(config: AgentConfig, scene: int) -> int:
    """Tokens that pass with the scene to rank it, at most."""
    if config.cache.ranking == "kvzip":  # reads the scene back
        return scene
    if config.cache.ranking not in ("auto", "prompts"):  # auto may have to fall back on them
        return 0
    return sum(len(text) // CHARS_PER_TOKEN + TEMPLATE_TOKENS for text in prompts_of(config))
