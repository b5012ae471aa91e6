"""A scene pruned while it is built, written out slowly: float64, one attention over everything with
a mask, nothing reused.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Collection
from dataclasses import dataclass, field

import torch
from torch.nn import functional as F

from ada3d_ros.engine.scene_build import ScenePruner
from ada3d_ros.model.decoder import DecoderLayer, LlamaDecoder
from test.support.decoders import rotated
from test.support.slow_engine import closed


@dataclass
class SlowScene:
    """Keys and values per layer of what is held, and which tokens these are."""

    keys: list[torch.Tensor] = field(default_factory=list)
    values: list[torch.Tensor] = field(default_factory=list)
    held: list[list[int]] = field(default_factory=list)
    queries: list[torch.Tensor] = field(default_factory=list)  # unroped, (H, P, d)
    last: torch.Tensor | None = None


class SlowDecoder:
    def __init__(self, decoder: LlamaDecoder) -> None:
        self.decoder = copy.deepcopy(decoder).double()
        c = decoder.config
        self.heads, self.groups, self.width = c.num_heads, c.num_kv_heads, decoder.head_dim
        self.theta, self.layers = c.rope_theta, c.num_layers

    def parts(self, layer: int, hidden: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """q, k, v (H, T, d), unroped, keys repeated for the heads of a group."""
        block: DecoderLayer = self.decoder.layers[layer]
        normed, at = block.input_layernorm(hidden), block.self_attn
        q = at.q_proj(normed).view(len(hidden), self.heads, self.width).transpose(0, 1)
        kv = [
            p(normed).view(len(hidden), self.groups, self.width).transpose(0, 1)
            for p in (at.k_proj, at.v_proj)
        ]
        return q, *(x.repeat_interleave(self.heads // self.groups, dim=0) for x in kv)

    def scores(self, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        return (q @ k.transpose(1, 2)) / math.sqrt(self.width)

    def run(
        self,
        layer: int,
        hidden: torch.Tensor,
        at: torch.Tensor,
        past: tuple[torch.Tensor, torch.Tensor] | None,
        visible: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The layer's output, and its keys (roped) and values of these tokens."""
        block: DecoderLayer = self.decoder.layers[layer]
        q, k, v = self.parts(layer, hidden)
        q, k = rotated(q, at, self.theta), rotated(k, at, self.theta)
        keys, values = k, v
        if past is not None:
            keys, values = torch.cat((past[0], k), dim=1), torch.cat((past[1], v), dim=1)
        scores = self.scores(q, keys).masked_fill(~visible, -torch.inf)
        out = torch.softmax(scores, dim=-1) @ values
        out = block.self_attn.o_proj(out.transpose(0, 1).flatten(1))
        hidden = hidden + out
        return hidden + block.mlp(block.post_attention_layernorm(hidden)), k, v

    def build(
        self,
        embeds: torch.Tensor,
        start: int,
        pruner: ScenePruner,
        scene: SlowScene | None = None,
        newlines: Collection[int] = (),
    ) -> SlowScene:
        """All tokens of a scene, or of those appended to one, through the layers; newlines: which
        of the spatial tokens here close rows.
        """
        first = 0 if scene is None else scene.count
        old, scene = scene, SlowScene()
        total = len(embeds)
        closing = {start + i for i in newlines}
        placed = total - start - len(closing)
        alive_counts, held_counts = pruner.allocation.counts(placed, pruner.n_min)
        rows = [p.double() for p in pruner.prompts] if old is None else []
        kinds = [-1] * total + [i for i, p in enumerate(rows) for _ in p]
        ends = [j == len(rows[i]) - 1 for i in range(len(rows)) for j in range(len(rows[i]))]
        at = [first + i for i in range(total)] + [
            first + total + j for p in rows for j in range(len(p))
        ]
        hidden = torch.cat((embeds.double(), *rows))
        order = list(range(total)) + [-1] * (len(kinds) - total)
        needs = [
            (i > 0 and alive_counts[i] < alive_counts[i - 1]) or held_counts[i] < alive_counts[i]
            for i in range(self.layers)
        ]
        last = max((i for i, need in enumerate(needs) if need), default=-1)
        for layer in range(self.layers):
            points = torch.tensor(at, dtype=torch.float64)
            score: dict[int, float] = {}
            if needs[layer]:
                q, k, _ = self.parts(layer, hidden)
                roped = rotated(k, points, self.theta)
                shares = []
                scene_rows = [i for i, kind in enumerate(kinds) if kind < 0]
                if old is None:
                    for p in range(len(rows)):
                        own = [i for i, kind in enumerate(kinds) if kind == p]
                        last_row = own[-1]
                        turned = rotated(q[:, [last_row]], points[[last_row]], self.theta)
                        weights = torch.softmax(
                            self.scores(turned, roped[:, scene_rows + own]), dim=-1
                        )
                        shares.append(weights[:, 0, : len(scene_rows)].mean(0))
                    ends_at = [
                        i for i, kind in enumerate(kinds) if kind >= 0 and ends[i - kinds.index(0)]
                    ]
                    scene.queries.append(q[:, ends_at])
                else:
                    place = torch.tensor([first + total + pruner.offset], dtype=torch.float64)
                    keys = torch.cat((old.keys[layer], roped), dim=1)
                    for p in range(old.queries[layer].shape[1]):
                        turned = rotated(old.queries[layer][:, [p]], place, self.theta)
                        weights = torch.softmax(self.scores(turned, keys), dim=-1)
                        shares.append(weights[:, 0, old.keys[layer].shape[1] :].mean(0))
                mean = torch.stack(shares).mean(0)
                score = {order[i]: float(mean[j]) for j, i in enumerate(scene_rows)}
                ranked = (t for t in score if t >= start and t not in closing)
                best = sorted(ranked, key=lambda t: (-score[t], t))
                drops = alive_counts[layer] < len(best) or layer == last
                alive = closed(best[: alive_counts[layer]], closing) if drops else order
                stay = {t for t in alive if t >= 0} | set(range(start))
                index = [i for i, t in enumerate(order) if t in stay or (t < 0 and layer != last)]
                hidden, kinds = hidden[index], [kinds[i] for i in index]
                at, order = [at[i] for i in index], [order[i] for i in index]
                best = [t for t in best if t in stay]
            else:
                scene.queries.append(torch.zeros(0))
                best = [t for t in order if t >= start and t not in closing]
            keep = closed(best[: held_counts[layer]], closing)
            if held_counts[layer] == len(best):  # all that is alive
                keep = [t for t in order if t >= start]
            count = len(order)
            own_sees = torch.tensor(
                [
                    [
                        (kinds[j] < 0 and (kinds[i] >= 0 or j <= i))
                        or (kinds[i] >= 0 and kinds[i] == kinds[j] and j <= i)
                        for j in range(count)
                    ]
                    for i in range(count)
                ]
            )
            past = None
            if old is not None:
                past = old.keys[layer], old.values[layer]
                own_sees = F.pad(own_sees, (past[0].shape[1], 0), value=True)
            points = torch.tensor(at, dtype=torch.float64)
            hidden, k, v = self.run(layer, hidden, points, past, own_sees)
            stored = [i for i, t in enumerate(order) if 0 <= t < start or t in keep]
            before = (past[0], past[1]) if past is not None else (k[:, :0], v[:, :0])
            scene.keys.append(torch.cat((before[0], k[:, stored]), dim=1))
            scene.values.append(torch.cat((before[1], v[:, stored]), dim=1))
            offset = 0 if old is None else old.count - old.start
            earlier = [] if old is None else old.held[layer]
            scene.held.append(earlier + [t - start + offset for t in keep])
            if layer == self.layers - 1:
                scene.last = hidden[[i for i, t in enumerate(order) if t in keep]]
        scene.count = first + total
        scene.start = start if old is None else old.start
        return scene

    def ask(self, scene: SlowScene, question: torch.Tensor) -> torch.Tensor:
        hidden = question.double()
        at = scene.count + torch.arange(len(question), dtype=torch.float64)
        for layer in range(self.layers):
            past = scene.keys[layer], scene.values[layer]
            own = torch.ones(len(question), len(question), dtype=torch.bool).tril()
            sees = F.pad(own, (past[0].shape[1], 0), value=True)
            hidden, _, _ = self.run(layer, hidden, at, past, sees)
        return self.decoder.lm_head(self.decoder.norm(hidden[-1]))
