"""The grounding decoder: a location query points at spatial tokens; the pointed voxels and a small
regression give a box.

LLaVA-3D's paper names such a decoder but its code holds none (reference/llava3d.md 5.1). Ours takes
final normed hidden states, so it fits any width: the query is the last prompt token's, which also
predicts the first word of the answer, and no token is added to the vocabulary. Its weights are a
file of their own, optional beside a checkpoint. Shapes: B batch, Q queries, N spatial tokens, D
hidden.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from ada3d_ros.errors import CheckpointError

HEAD_FILE = "grounding_head.safetensors"
FORMAT = "ada3d_grounding_head_1"
MASKED = -1e4  # logit of what is no token
LOG_SIZE_RANGE = (-3.0, 1.5)  # 5 cm to 4.5 m
START_LOG_SIZE = -0.5  # 0.6 m


class GroundingHead(nn.Module):
    """Pointing, presence and box, for decoders of hidden size `width`. Weights and arithmetic are
    float32.
    """

    def __init__(self, width: int, head_width: int = 128) -> None:
        super().__init__()
        self.width, self.head_width = width, head_width
        self.query_proj = nn.Linear(width, head_width)
        self.key_proj = nn.Linear(width, head_width)
        self.presence = nn.Sequential(
            nn.Linear(2 * width + 2, head_width), nn.GELU(), nn.Linear(head_width, 1)
        )
        self.box = nn.Sequential(
            nn.Linear(2 * width + 3, head_width), nn.GELU(), nn.Linear(head_width, 6)
        )
        last = cast(nn.Linear, self.box[2])
        nn.init.zeros_(last.weight)
        with torch.no_grad():
            last.bias.copy_(torch.tensor([0.0, 0.0, 0.0, *[START_LOG_SIZE] * 3]))

    def point(
        self, queries: torch.Tensor, tokens: torch.Tensor, mask: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Pointer logits (B, Q, N) and presence logits (B, Q) of queries (B, Q, D) over tokens (B,
        N, D); mask (B, N) False = padding.
        """
        logits = (
            self.query_proj(queries) @ self.key_proj(tokens).transpose(1, 2) * self.head_width**-0.5
        )
        if mask is None:
            count = logits.new_full((len(tokens), 1), float(tokens.shape[1]))
        else:
            logits = logits.masked_fill(~mask[:, None], MASKED)
            count = mask.sum(-1)[:, None].float()
        wide = logits.float()
        peak = torch.stack((wide.logsumexp(-1) - count.log(), wide.amax(-1)), dim=-1)
        pointed = wide.softmax(-1) @ tokens.float()
        return logits, self.presence(torch.cat((queries, pointed, peak), dim=-1))[..., 0]

    def boxes(
        self,
        queries: torch.Tensor,
        tokens: torch.Tensor,
        weights: torch.Tensor,
        xyz_m: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Centre (B, Q, 3) in metres, world frame, and full axis-aligned extents (B, Q, 3), of the
        tokens that weights (B, Q, N) point at.

        weights sum to 1 over N; xyz_m (B, N, 3) float32. Works in coordinates around the pointed
        place, so any map origin will do.
        """
        middle = weights @ xyz_m
        spread = ((xyz_m[:, None] - middle[:, :, None]).square() * weights[..., None]).sum(2)
        offset_and_log_size = self.box(
            torch.cat((queries, weights @ tokens, (spread + 1e-8).sqrt()), dim=-1)
        ).float()
        return middle + offset_and_log_size[..., :3], offset_and_log_size[..., 3:].clamp(
            *LOG_SIZE_RANGE
        ).exp()


@dataclass(frozen=True, eq=False, slots=True)
class LoadedHead:
    """A head ready to run. threshold: boxes of a lower score are not shown; trained_on: words;
    model_sha256: of the weights it was trained with, "" where it does not say.
    """

    head: GroundingHead
    threshold: float
    trained_on: str
    model_sha256: str = ""


def save_grounding_head(
    head: GroundingHead,
    folder: Path,
    threshold: float,
    trained_on: str = "",
    model_sha256: str = "",
) -> Path:
    """Writes the head beside a checkpoint. model_sha256: of the weights it was trained with ("" =
    not offset_and_log_size).
    """
    facts = {
        "format": FORMAT,
        "width": head.width,
        "head_width": head.head_width,
        "threshold": threshold,
        "trained_on": trained_on,
        "model_sha256": model_sha256,
    }
    path = folder / HEAD_FILE
    save_file(
        {name: value.detach().float().contiguous() for name, value in head.state_dict().items()},
        path,
        {"head": json.dumps(facts)},
    )
    path.chmod(0o644)  # save_file makes it private
    return path


def inspect_grounding_head(folder: Path, width: int) -> Mapping[str, object] | None:
    """The facts in a head's header, weights unread; None where the folder has no head.

    Raises CheckpointError for a damaged file, one of another format, or a head for another hidden
    size.
    """
    path = folder / HEAD_FILE
    if not path.exists():
        return None
    try:
        with safe_open(path, "pt") as file:
            facts = json.loads((file.metadata() or {}).get("head", "{}"))
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} is damaged ({error}): copy it again, or delete it to ground without a head."
        ) from None
    found = facts.get("format") if isinstance(facts, dict) else None
    if found != FORMAT:
        raise CheckpointError(
            f"{path} has format {found!r}, expected {FORMAT!r}: it is not a grounding head of this"
            " package."
        )
    if not _is_number(facts.get("head_width"), 1, 2**20) or not _is_number(
        facts.get("threshold"), 0.0, 1.0
    ):
        raise CheckpointError(
            f"{path} is damaged (its header says head_width {facts.get('head_width')!r}, threshold"
            f" {facts.get('threshold')!r}): copy it again, or delete it to ground without a head."
        )
    if facts.get("width") != width:
        raise CheckpointError(
            f"{path} is for a hidden size of {facts.get('width')}, the model has {width}: it"
            " belongs to another checkpoint. Delete it to ground without a head."
        )
    with torch.device("meta"):
        expected = {
            n: tuple(v.shape)
            for n, v in GroundingHead(width, int(facts["head_width"])).state_dict().items()
        }
    if shapes != expected:
        wrong = sorted(
            n for n in expected.keys() | shapes.keys() if expected.get(n) != shapes.get(n)
        )
        raise CheckpointError(
            f"{path}: {', '.join(wrong[:4])} missing, unexpected or of another shape: copy the file"
            " again."
        )
    return cast(Mapping[str, object], facts)


def _is_number(value: object, low: float, high: float) -> bool:
    """Whether a header's value is a number within bounds, NaN and true excluded."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high


def load_grounding_head(
    folder: Path, width: int, device: torch.device | str = "cpu"
) -> LoadedHead | None:
    """The head of a checkpoint folder for a decoder of hidden size `width`; None where there is
    none. Raises CheckpointError.
    """
    facts = inspect_grounding_head(folder, width)
    if facts is None:
        return None
    head = GroundingHead(width, int(cast(int, facts["head_width"])))
    with safe_open(folder / HEAD_FILE, "pt") as file:
        head.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    threshold = float(cast(float, facts["threshold"]))
    ready = head.to(device).eval().requires_grad_(False)
    return LoadedHead(
        ready, threshold, str(facts.get("trained_on", "")), str(facts.get("model_sha256", ""))
    )
