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


@pytest.mark.parametrize("kind", [KVCache, Int8KVCache])
def test_a_cut_stays_in_its_buffers(kind: type[KVCache]) -> None:
    """What is kept moves up; where memory for one layer on the way is refused, nothing has."""
    k, v = torch.randn(2, 1, 2, 9, 4, generator=torch.Generator().manual_seed(0)).unbind(0)
    cache = kind(2, reserve=3)
    cache.append(0, k, v)
    cache.append(1, k[:, :, :6], v[:, :, :6])
    before = [[t.clone() for t in cache.held(layer)] for layer in range(2)]
    places, size = [b.data_ptr() for b in cache.buffers], cache.num_bytes
    rows = torch.tensor([0, 1, 4, 8]), torch.tensor([0, 5])
    cache.keep_tokens(rows)
    assert cache.lengths == (4, 2)
    for layer, index in enumerate(rows):
        for ours, theirs in zip(cache.held(layer), before[layer], strict=True):
            assert torch.equal(ours, theirs[:, :, index])
    assert ([b.data_ptr() for b in cache.buffers], cache.num_bytes) == (places, size)
    cache.append(0, k[:, :, :8], v[:, :, :8])  # the room of what went is there again
    assert cache.buffers[0].data_ptr() == places[0]
    cache.give_back()
    assert cache.num_bytes == size


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


def counted(cache: KVCache) -> int:
    """Bytes as the allocator counts them."""
    buffers = [*cache.buffers, *(cache.scales.buffers if isinstance(cache, Int8KVCache) else ())]
    return sum(buffer.untyped_storage().nbytes() for buffer in buffers)


@pytest.mark.parametrize("kind", [KVCache, Int8KVCache])
def test_room_that_an_answer_took_is_given_back(kind: type[KVCache]) -> None:
    k, v = torch.randn(2, 1, 2, 50, 4, generator=torch.Generator().manual_seed(1)).unbind(0)
    cache = kind.holding([(k, v), (k[:, :, :30], v[:, :, :30])], reserve=10)
    planned, held = counted(cache), [cache.held(layer)[0].clone() for layer in range(2)]
    per_token = planned // (60 + 40)
    assert cache.num_bytes == planned
    assert cache.held_bytes == 80 * per_token
    for _ in range(20):
        for step in range(300):
            for layer in range(2):
                cache.append(layer, *torch.full((2, 1, 2, 1, 4), float(step)).unbind(0))
        assert cache.num_bytes == counted(cache) > 6 * planned
        assert cache.held_bytes == (80 + 600) * per_token
        cache.set_lengths((50, 30))
        cache.give_back()
        assert cache.num_bytes == counted(cache) == planned
    assert all(torch.equal(cache.held(layer)[0], held[layer]) for layer in range(2))
    buffers = cache.buffers
    cache.give_back()  # nothing to give
    assert all(a is b for a, b in zip(buffers, cache.buffers, strict=True))


def test_room_follows_a_scene_that_grows() -> None:
    """Appended keyframes are no answer: what they need stays, with a reserve behind."""
    ones = torch.ones(1, 1, 100, 4)
    cache, moves = KVCache.holding([(ones, ones)], reserve=160), set[int]()
    for total in range(200, 1100, 100):
        cache.append(0, ones, ones)
        cache.append(0, ones[:, :, :150], ones[:, :, :150])  # a question and its answer
        cache.set_lengths((total,))
        cache.give_back()
        moves.add(cache.buffers[0].data_ptr())
        assert total + 100 <= cache.buffers[0].shape[3] <= total + 300
    assert cache.lengths == (1000,)


def test_keys_are_copied_into_larger_buffers_of_another_format() -> None:
    k, v = torch.randn(2, 1, 2, 5, 4, generator=torch.Generator().manual_seed(2)).unbind(0)
    for kind in (KVCache, Int8KVCache):
        cache = kind.holding([(k, v), (k[:, :, :3], v[:, :, :3])])
        for layer, length in enumerate((5, 3)):
            buffer = torch.full((2, 1, 2, 9, 4), 7.0)
            cache.copy_to(layer, buffer)
            assert torch.equal(buffer[0, :, :, :length], cache.held(layer)[0])
            assert torch.equal(buffer[1, :, :, :length], cache.held(layer)[1])
            assert bool((buffer[:, :, :, length:] == 7.0).all())
