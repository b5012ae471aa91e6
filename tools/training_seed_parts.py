"""What docs/pruning_tables.md says of the same model trained three times: a part of the page that
tools/write_pruning_tables_page.py writes.
"""

from __future__ import annotations

from pathlib import Path

from pruning_findings import MODES, Row, interval, loaded, measured, table

METRICS = (("qa", "QA"), ("acc25", "Acc@.25"))
HEAD = """## Three trainings

The model above is one training. To see how much of a row belongs to its weights, a smaller copy
was trained three times in less than 20 minutes of one core each: decoder and tower begin as those
that ship, what lies between them is new, and each seed draws other first weights and other rooms.
All three were asked the same {rooms} test rooms of level 1, each against its own whole scene:

```
ada3d train --out runs/seed0 --curriculum short --rooms 1000 --seed 0 --export runs/seed0/model \\
    --tower ada3d_ros/models/embedded --decoder ada3d_ros/models/embedded
ada3d eval pruning-tables --model runs/seed0/model --scenes {rooms} --budgets 0.4,0.1 \\
    --only random,voxel_dpp,adatoken3d,voxel_dpp+adatoken3d --modes before,build,paper \\
    --json docs/results/training_seed0.json
```

and alike for seeds 1 and 2."""


def training_seeds(results: Path) -> str:
    """The part, from training_seed*.json of these results; '' without one."""
    seeds = {
        file.stem.removeprefix("training_seed"): loaded(file)
        for file in sorted(results.glob("training_seed*.json"))
    }
    if not seeds:
        return ""
    wholes = [
        [seed, *(f"{data['none']['metrics'][name]['value']:.3f}" for name, _ in METRICS)]
        for seed, data in seeds.items()
    ]
    rooms = min(data["none"]["rooms"] for data in seeds.values())
    parts = [
        HEAD.format(rooms=rooms),
        table(["seed", *(f"{title}, whole scene" for _, title in METRICS)], wholes),
        *(_rows(seeds, name, title) for name, title in METRICS),
    ]
    return "\n\n".join(parts) + "\n"


def _rows(seeds: dict[str, Row], metric: str, title: str) -> str:
    """A line a row that all seeds have: the points of each, their mean, the least and the most."""
    found = [
        {(row["strategy"], row["mode"], row["budget"]): row["metrics"][metric] for row in rows}
        for rows in (measured(data) for data in seeds.values())
    ]
    lines = []
    for key in found[0]:
        if any(key not in rows for rows in found):
            continue
        each = [rows[key] for rows in found]
        points = [float(one["points"]) for one in each]
        strategy, mode, budget = key
        mean = sum(points) / len(points)
        pooled = f"{mean:+.1f} ({min(points):+.1f} to {max(points):+.1f})"
        lines.append(
            [strategy, MODES[mode], f"{budget:g}", *(interval(one) for one in each), pooled]
        )
    columns = ["strategy", "mode", "keep", *(f"seed {seed}" for seed in seeds)]
    return table([*columns, f"{title}: mean (least to most)"], lines)
