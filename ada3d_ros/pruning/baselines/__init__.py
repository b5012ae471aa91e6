"""Rivals and controls of AdaToken-3D, one file each, called as the strategy in config/pruning.py.

A file is imported when its strategy is configured (`pruning.strategy.load_strategy`), and offers
three functions; `pruning/adatoken.py`, the package's own method, offers the same:

    read_settings(config: PruningConfig) -> S
        The settings that the strategy reads, hashable: what its result depends on beside its input.
    traits(settings: S) -> Traits
        What the policy and the engine must know of it (`pruning.strategy.Traits`).

and, inside the language model (fastv, pdrop, logistic),

    build(settings: S, budget: LayerBudget) -> LayerPruner
        Raises ConfigError where the decoder or the budget do not allow it.

or, before it (voxel_dpp, cond_dpp, geo_fps, coarse_voxels, kitoke, holitom, condensed_grid,
and the controls uniform and random),

    select(candidates: Candidates, budget: int, settings: S) -> Selection
        Of N candidates, 1 <= budget < N of them.
"""
