"""The grounding head: a location query points at spatial tokens, a small regression gives a box.

LLaVA-3D's paper names such a decoder but its code holds none (reference/llava3d.md 5.1). Ours takes
final normed hidden states, so it fits any width: the query is the last prompt token's, which also
predicts the first word of the answer, and no token is added to the vocabulary. Its weights are a
file of their own, optional beside a checkpoint.

Shapes: B batch, Q queries, N spatial tokens, D hidden.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from ada3d_ros.errors import CheckpointError
from ada3d_ros.model.weight_files import damaged

HEAD_FILE = "grounding_head.safetensors"
FORMAT = "ada3d_grounding_head_1"
MASKED = -1e4  # logit of what is no token
LOG_SIZE_RANGE = (-3.0, 1.5)  # 5 cm to 4.5 m
START_LOG_SIZE = -0.5  # 0.6 m
PEAK_RADIUS_M = 0.8  # tokens this near the strongest one belong to its peak


class GroundingHead(nn.Module):
    """Pointing, presence and box, for decoders of hidden size `width`; all in float32."""

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
        """Pointer logits (B, Q, N) and presence logits (B, Q) of queries (B, Q, D) over tokens.

        tokens (B, N, D); mask (B, N) or (B, Q, N) bool, False = padding.
        """
        # Scaled dot products.
        logits = self.logits(queries, self.key_proj(tokens))
        if mask is None:
            count = logits.new_full((len(tokens), 1), float(tokens.shape[1]))
        else:
            mask = mask[:, None] if mask.ndim == 2 else mask
            logits = logits.masked_fill(~mask, MASKED)
            count = mask.sum(-1).float()

        # Presence: from the pointed tokens, and how far the peak stands out, whatever their number.
        wide = logits.float()
        peak = torch.stack((wide.logsumexp(-1) - count.log(), wide.amax(-1)), dim=-1)
        pointed = wide.softmax(-1) @ tokens.float()
        return logits, self.presence(torch.cat((queries, pointed, peak), dim=-1))[..., 0]

    def logits(self, queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        """Pointer logits (B, Q, N) of queries (B, Q, D) over `key_proj` of tokens, (B, N, C)."""
        return self.query_proj(queries) @ keys.transpose(1, 2) * self.head_width**-0.5

    def boxes(
        self,
        queries: torch.Tensor,
        tokens: torch.Tensor,
        weights: torch.Tensor,
        xyz_m: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Centre (B, Q, 3) and full axis-aligned extents (B, Q, 3), in metres, world frame.

        Of the tokens that weights (B, Q, N), which sum to 1 over N, point at; xyz_m (B, N, 3)
        float32. Works in coordinates around the pointed place, so any map origin will do.
        """
        # Mean and standard deviation of the pointed places.
        mean = weights @ xyz_m
        variance = ((xyz_m[:, None] - mean[:, :, None]).square() * weights[..., None]).sum(2)
        std = (variance + 1e-8).sqrt()

        # What the regression adds to them.
        features = torch.cat((queries, weights @ tokens, std), dim=-1)
        offset_and_log_size = self.box(features).float()
        offset, log_size = offset_and_log_size.split(3, dim=-1)
        return mean + offset, log_size.clamp(*LOG_SIZE_RANGE).exp()


def strongest_peak(
    weights: torch.Tensor, xyz_m: torch.Tensor, free: torch.Tensor | None = None
) -> torch.Tensor:
    """Which tokens (N,) bool belong to the peak of pointer weights (N,), of those that are `free`
    (N,) bool: the strongest one at xyz_m (N, 3), and what lies within PEAK_RADIUS_M of it. Waits
    for no device.
    """
    strongest = (weights if free is None else weights * free).argmax()
    inside = (xyz_m - xyz_m.index_select(0, strongest[None])).norm(dim=-1) <= PEAK_RADIUS_M
    return inside if free is None else inside & free


@dataclass(frozen=True, eq=False, slots=True)
class LoadedHead:
    """A head ready to run.

    threshold: boxes of a lower score are not shown. trained_on: in words. model_sha256: of the
    weights it was trained with, "" where its file has none.
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
    """Writes the head beside a checkpoint.

    model_sha256: of the weights it was trained with, "" = not recorded.
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
    tensors = {name: t.detach().float().contiguous() for name, t in head.state_dict().items()}
    save_file(tensors, path, {"head": json.dumps(facts)})
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

    # The header.
    try:
        with safe_open(path, "pt") as file:
            facts = json.loads((file.metadata() or {}).get("head", "{}"))
            names = list(file.keys())
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in names}
    except (SafetensorError, OSError, ValueError) as error:
        raise damaged(
            path,
            f"{path} is damaged ({error}): copy it again, or delete it to ground without a head.",
        ) from None

    # What it says about itself.
    found = facts.get("format") if isinstance(facts, dict) else None
    if found != FORMAT:
        raise CheckpointError(
            f"{path} has format {found!r}, expected {FORMAT!r}: it is not a grounding head of this"
            " package."
        )
    head_width, threshold = facts.get("head_width"), facts.get("threshold")
    if not (_is_number(head_width, 1, 2**20) and _is_number(threshold, 0.0, 1.0)):
        raise CheckpointError(
            f"{path} is damaged (its header says head_width {head_width!r}, threshold"
            f" {threshold!r}): copy it again, or delete it to ground without a head."
        )
    if facts.get("width") != width:
        raise CheckpointError(
            f"{path} is for a hidden size of {facts.get('width')}, the model has {width}: it"
            " belongs to another checkpoint. Delete it to ground without a head."
        )

    # Its tensors against a head of these sizes.
    with torch.device("meta"):
        state = GroundingHead(width, int(head_width)).state_dict()
    expected = {name: tuple(value.shape) for name, value in state.items()}
    if shapes != expected:
        either = expected.keys() | shapes.keys()
        wrong = sorted(name for name in either if expected.get(name) != shapes.get(name))
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
    """The head of a checkpoint folder for a decoder of hidden size `width`; None without one.

    Raises CheckpointError as `inspect_grounding_head` does.
    """
    facts = inspect_grounding_head(folder, width)
    if facts is None:
        return None

    # The header was checked against these sizes.
    head = GroundingHead(width, int(cast(int, facts["head_width"])))
    head.load_state_dict(load_file(folder / HEAD_FILE))
    return LoadedHead(
        head.to(device).eval().requires_grad_(False),
        float(cast(float, facts["threshold"])),
        str(facts.get("trained_on", "")),
        str(facts.get("model_sha256", "")),
    )
