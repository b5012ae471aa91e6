"""KV cache: what goes in comes out, per layer, through growth."""

import pytest
import torch

from ada3d_ros.engine.kv_cache import Int8KVCache, KVCache


def test_returns_everything_appended_in_order_through_growth() -> None:
    cache, generator = KVCache(2, reserve=1), torch.Generator().manual_seed(0)
    keys, values = torch.empty(1, 2, 0, 4), torch.empty(1, 2, 0, 4)
    for count in (3, 1, 1, 7, 1):
        k, v = torch.randn(2, 1, 2, count, 4, generator=generator)
        keys, values = torch.cat((keys, k), dim=2), torch.cat((values, v), dim=2)
        all_keys, all_values = cache.append(1, k, v)
        assert torch.equal(all_keys, keys)
        assert torch.equal(all_values, values)
    assert cache.lengths == (0, 13)


def test_buffer_is_not_replaced_while_there_is_room() -> None:
    cache = KVCache(1, reserve=5)
    first, _ = cache.append(0, torch.ones(1, 1, 2, 4), torch.ones(1, 1, 2, 4))
    size = cache.num_bytes
    for _ in range(5):
        last, _ = cache.append(0, torch.zeros(1, 1, 1, 4), torch.zeros(1, 1, 1, 4))
    assert cache.num_bytes == size == 2 * 7 * 4 * 4
    assert last.data_ptr() == first.data_ptr()
    assert bool((first == 1).all())  # later appends do not write into earlier views


def test_batches_and_dtype_are_kept() -> None:
    ones = torch.ones(3, 2, 5, 4, dtype=torch.bfloat16)
    keys, _ = KVCache(1).append(0, ones, ones)
    assert keys.shape == (3, 2, 5, 4)
    assert keys.dtype == torch.bfloat16


def test_rows_of_a_batch_go_on_with_their_reserve() -> None:
    k, v = torch.randn(2, 4, 2, 5, 3).unbind(0)
    cache = KVCache.holding([(k, v), (k[:, :, :3], v[:, :, :3])], reserve=2)
    cache.keep_rows(torch.tensor([1, 3]))
    assert cache.lengths == (5, 3)
    assert [buffer.shape for buffer in cache.buffers] == [(2, 2, 2, 7, 3), (2, 2, 2, 5, 3)]
    assert torch.equal(cache.held(0)[0], k[[1, 3]])
    assert torch.equal(cache.held(1)[1], v[[1, 3], :, :3])


def test_copies_with_room_and_forgetting_keep_what_is_held() -> None:
    k, v = torch.randn(2, 1, 2, 5, 4).unbind(0)
    cache = KVCache.holding([(k, v), (k[:, :, :3], v[:, :, :3])])
    assert not cache.has_room(1)
    cache = cache.copied(7)
    assert cache.has_room(7)
    assert not cache.has_room(8)
    before = [buffer.data_ptr() for buffer in cache.buffers]
    for layer in range(2):
        cache.append(layer, torch.ones(1, 2, 7, 4), torch.ones(1, 2, 7, 4))
    assert [buffer.data_ptr() for buffer in cache.buffers] == before
    assert cache.lengths == (12, 10)
    cache.set_lengths((5, 3))
    assert torch.equal(cache.held(0)[0], k)
    assert torch.equal(cache.held(1)[1], v[:, :, :3])
    with pytest.raises(AssertionError):
        cache.set_lengths((5, 99))


@pytest.mark.parametrize("kind", [KVCache, Int8KVCache])
def test_a_copy_holds_the_same_in_the_same_format_and_is_its_own(kind: type[KVCache]) -> None:
    k, v = torch.randn(2, 1, 2, 5, 4, generator=torch.Generator().manual_seed(1)).unbind(0)
    cache = kind.holding([(k, v), (k[:, :, :3], v[:, :, :3])])
    held, size = [pair[0].clone() for pair in map(cache.held, range(2))], cache.num_bytes
    copy = cache.copied(2)
    assert type(copy) is kind
    assert copy.num_bytes * 8 == size * 12  # 5 and 3 tokens with room for 2 more each
    copy.append(0, torch.ones(1, 2, 2, 4), torch.ones(1, 2, 2, 4))
    assert (copy.lengths, cache.lengths, cache.num_bytes) == ((7, 3), (5, 3), size)
    assert [torch.equal(a, cache.held(i)[0]) for i, a in enumerate(held)] == [True, True]
    assert torch.equal(copy.held(0)[0][:, :, :5], held[0])
    assert torch.equal(copy.held(1)[0], held[1])
