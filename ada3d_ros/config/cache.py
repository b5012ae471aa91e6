"""The settings of the prefix cache: what is kept of a scene between questions."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ada3d_ros.config.pruning import RATIO_LIST
from ada3d_ros.config.setting import setting


@dataclass(frozen=True, slots=True)
class CacheConfig:
    mode: str = setting(
        "cached",
        "cached = the scene passes through the language model once and questions attend to the best"
        " of it; paper = every question brings the scene along, and pruning drops tokens on the way"
        " (AdaToken-3D as published)",
        choices=("cached", "paper"),
    )
    prune: str = setting(
        "build",
        "when the cached scene is pruned: build = once, layer by layer, while it is made, with"
        " general questions in the place of one (smaller, and every question is faster); question ="
        " for each question, out of the whole scene; none = never; auto = whichever was measured to"
        " answer sooner",
        choices=("build", "question", "none", "auto"),
    )
    ranking: str = setting(
        "auto",
        "prune build: what ranks spatial tokens in the place of a question: auto = expected as the"
        " model's queries_file has it, prompts for a model without one; prompts = general prompts"
        " that ride along; expected = mean and covariance of past questions' queries"
        " (queries_file); last_questions = the queries of the questions asked last; values ="
        " length of the values; self_attention = attention among spatial tokens; kvzip = attention"
        " while the scene is read back; random = a control",
        choices=(
            "auto",
            "prompts",
            "expected",
            "last_questions",
            "values",
            "self_attention",
            "kvzip",
            "random",
        ),
    )
    prompts: str = setting(
        "What is in the room?", "ranking prompts: general questions, with | between them"
    )
    prompts_score: str = setting(
        "mean",
        "ranking prompts and last_questions: a token's score is the mean over them, or the largest",
        choices=("mean", "max"),
    )
    alive: str = setting(
        "auto",
        "prune build: share of spatial tokens that each layer computes: curve = the strategy's own;"
        " even = keep_ratio behind layer 1; double = twice that; or a share per layer, with commas;"
        " auto = curve from keep_ratio 0.3 on (on few layers, where it falls below keep_ratio at"
        " once: even), even from 0.15 on, double below",
        pattern=f"auto|curve|even|double|{RATIO_LIST}",
    )
    held: str = setting(
        "auto",
        "prune build: share of spatial tokens that each layer keeps for questions, at most those"
        " alive: alive = the same; even = keep_ratio in each; late = more in deep layers;"
        " measured = as queries_file says; or a share per layer, with commas; auto = alive from"
        " keep_ratio 0.3 on, even from 0.15 on, below measured where there is a file, else late",
        pattern=f"auto|alive|even|late|measured|{RATIO_LIST}",
    )
    queries_file: str = setting(
        "",
        "written by `ada3d calibrate --queries`: past questions' queries, and what each layer's"
        " share is worth; empty = the file beside the checkpoint's weights, if there is one",
    )
    kv: str = setting(
        "model",
        "number format of the cached scene's keys and values: the model's own, or int8 (about half"
        " the memory of 16 bits; docs/benchmarks.md has the error)",
        choices=("model", "int8"),
    )
    chunk_tokens: int = setting(
        256,
        "scene tokens per piece of background work; a question that comes meanwhile waits for it",
        unit="tokens",
        low=16,
        high=4096,
    )
    settle_sec: float = setting(
        1.0,
        "the scene is put in exact order once no keyframe and no question came for so long",
        unit="s",
        low=0.0,
        high=60.0,
    )
    max_staleness: float = setting(
        0.25,
        "share of stale spatial tokens from which on that begins without waiting",
        low=0.0,
        high=1.0,
    )

    def as_built(self) -> CacheConfig:
        """What decides what a scene holds: with the settings of when it is built left at theirs."""
        return replace(self, chunk_tokens=256, settle_sec=1.0, max_staleness=0.25)
