"""The memory of one device, counted to the byte as torch's allocator does; nothing is cached."""

from __future__ import annotations

import torch

BLOCK_BYTES = 512  # torch rounds every allocation up to it


class Pool:
    """Memory of a captured graph: what was alive at most during a capture stays taken until no
    graph and no tensor uses the pool.
    """

    def __init__(self, memory: DeviceMemory) -> None:
        self.live_bytes = self.peak_bytes = 0
        self._memory = memory

    def __del__(self) -> None:
        self._memory.pools_bytes -= self.peak_bytes

    def hold(self, num_bytes: int) -> None:
        """Count memory of a tensor in the pool."""
        self.live_bytes += num_bytes
        more = max(self.live_bytes - self.peak_bytes, 0)
        self.peak_bytes += more
        self._memory.pools_bytes += more


class Allocation:
    """Memory of one storage; given back when the last tensor on it goes."""

    def __init__(self, memory: DeviceMemory, num_bytes: int, pool: Pool | None, key: int) -> None:
        self.num_bytes, self.pool, self.key = num_bytes, pool, key
        self._memory = memory

    def __del__(self) -> None:
        self._memory.release(self)


class DeviceMemory:
    """total_bytes may be changed at any time; below what is held, nothing more is handed out.

    context_bytes: held by the driver, in no count of torch's but missing in `free_bytes`.
    """

    def __init__(self, index: int, total_bytes: int, context_bytes: int = 0) -> None:
        self.index, self.total_bytes, self.context_bytes = index, total_bytes, context_bytes
        self.pools_bytes = 0  # of living pools, each at its largest
        self.allocations = 0  # ever made
        self.allocated_bytes = self.max_allocated_bytes = 0
        self.max_reserved_bytes = 0
        self._outside_pools = 0
        self._refuse_in = 0

    @property
    def reserved_bytes(self) -> int:
        """Of living tensors, and of graphs' pools at their largest."""
        return self._outside_pools + self.pools_bytes

    @property
    def free_bytes(self) -> int:
        return max(self.total_bytes - self.context_bytes - self.reserved_bytes, 0)

    def leave(self, num_bytes: int) -> None:
        """Shrink or grow the device to so many free bytes."""
        self.total_bytes = self.reserved_bytes + self.context_bytes + num_bytes

    def refuse(self, nth: int) -> None:
        """Fail the nth allocation from now on (1: the next), that one only; 0: none."""
        self._refuse_in = nth

    @property
    def refusal_waits(self) -> bool:
        """Whether the allocation that `refuse` named has not come yet."""
        return self._refuse_in > 0

    def reset_peak(self) -> None:
        self.max_allocated_bytes = self.allocated_bytes
        self.max_reserved_bytes = self.reserved_bytes

    def allocate(self, wanted_bytes: int, pool: Pool | None, key: int) -> Allocation:
        """Memory of a storage that is known as `key`. Raises torch.OutOfMemoryError."""
        num_bytes = -(-wanted_bytes // BLOCK_BYTES) * BLOCK_BYTES
        self.allocations += 1
        in_pool = 0 if pool is None else pool.peak_bytes - pool.live_bytes
        refused = self._refuse_in == 1
        self._refuse_in = max(self._refuse_in - 1, 0)
        if refused or num_bytes - in_pool > self.free_bytes:
            raise torch.OutOfMemoryError(
                f"CUDA out of memory. Tried to allocate {num_bytes / 2**20:.2f} MiB. GPU"
                f" {self.index} has a total capacity of {self.total_bytes / 2**20:.2f} MiB of"
                f" which {self.free_bytes / 2**20:.2f} MiB is free."
            )
        allocation = Allocation(self, num_bytes, pool, key)
        self.allocated_bytes += num_bytes
        if pool is None:
            self._outside_pools += num_bytes
        else:
            pool.hold(num_bytes)
        self.max_allocated_bytes = max(self.max_allocated_bytes, self.allocated_bytes)
        self.max_reserved_bytes = max(self.max_reserved_bytes, self.reserved_bytes)
        return allocation

    def release(self, allocation: Allocation) -> None:
        self.allocated_bytes -= allocation.num_bytes
        if allocation.pool is None:
            self._outside_pools -= allocation.num_bytes
        else:
            allocation.pool.live_bytes -= allocation.num_bytes
