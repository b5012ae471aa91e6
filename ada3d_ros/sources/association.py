"""Which recorded stamps belong together: nearest first, one to one.

For files, where all stamps are known.
"""

import numpy as np
import numpy.typing as npt

Stamps = npt.NDArray[np.int64]

NEIGHBOURS = 11  # messages of a topic that a stamp is compared with, its own included
STRAY_NS = 500_000_000  # nearer stamps cannot be told from a message that was recorded late
ROWS = 100_000  # compared at once, so that memory stays small


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


def stray_leads(stamps_ns: Stamps, bag_ns: Stamps) -> Stamps:
    """By how many ns each stamp of one topic (N,) is wrong: + ahead, - behind, 0 where it is right.

    bag_ns (N,): when each was recorded, on whatever clock. A stamp is wrong where it lies more than
    0.5 s from where the messages recorded around it put it: at the median distance of their stamps
    from their bag times. Clocks may so differ, drift apart and be set. A message whose bag time is
    the odd one is right. Of fewer than three messages none can be told.
    """
    leads = stamps_ns - bag_ns
    result = np.zeros_like(leads)
    count = len(leads)
    if count < 3 or np.ptp(leads) <= STRAY_NS:
        return result
    width = min(NEIGHBOURS, count)
    first = np.clip(np.arange(count) - width // 2, 0, count - width)
    for start in range(0, count, ROWS):
        # The neighbours of these rows.
        rows = slice(start, start + ROWS)
        around = first[rows, None] + np.arange(width)
        lead, lead_limit = _middle_and_limit(leads[around])
        recorded, recorded_limit = _middle_and_limit(bag_ns[around])

        # Far from them by its stamp, and not by when it was recorded.
        off = leads[rows] - lead
        wrong = np.abs(off) > lead_limit
        wrong &= np.abs(bag_ns[rows] - recorded) <= recorded_limit
        result[rows] = np.where(wrong, off, 0)
    return result


def _middle_and_limit(values: Stamps) -> tuple[Stamps, Stamps]:
    """Median of each row, and how far from it a value of the row may lie; both (N,) ns."""
    middle = np.partition(values, values.shape[1] // 2)[:, values.shape[1] // 2]
    apart = np.abs(values - middle[:, None])
    spread = np.partition(apart, apart.shape[1] // 2)[:, apart.shape[1] // 2]
    return middle, STRAY_NS + 3 * spread
