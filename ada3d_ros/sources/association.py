"""Which recorded stamps belong together: nearest first, one to one.

For files, where all stamps are known.
"""

import numpy as np
import numpy.typing as npt

Stamps = npt.NDArray[np.int64]


def pair_nearest(a_ns: Stamps, b_ns: Stamps, max_gap_s: float) -> list[tuple[int, int]]:
    """Index pairs (i, j), i ascending, of a_ns (A,) and b_ns (B,) int64 at most max_gap_s apart.

    Inclusive. The closest pair of all is taken first, each index once; among equals the smaller i,
    then the smaller j.
    """
    # All pairs near enough: (gap, i, j).
    order = np.argsort(b_ns, kind="stable")
    b_sorted = b_ns[order]
    gap_ns = round(max_gap_s * 1e9)
    candidates: list[tuple[int, int, int]] = []
    for i, stamp in enumerate(a_ns.tolist()):
        start = np.searchsorted(b_sorted, stamp - gap_ns)
        stop = np.searchsorted(b_sorted, stamp + gap_ns, side="right")
        candidates += [(abs(int(b_ns[j]) - stamp), i, int(j)) for j in order[start:stop]]

    # The closest first, each stamp once.
    free_a, free_b = set(range(len(a_ns))), set(range(len(b_ns)))
    pairs = []
    for _, i, j in sorted(candidates):
        if i in free_a and j in free_b:
            free_a.remove(i)
            free_b.remove(j)
            pairs.append((i, j))
    return sorted(pairs)
