"""The emulator itself: what CUDA refuses it refuses, what CUDA computes it computes."""

from __future__ import annotations

import gc

import pytest
import torch
from torch.nn import functional as F

from test.cuda.emulator import CudaTensor, EmulatedCuda

pytestmark = pytest.mark.usefixtures("inference")
PERMUTED = torch.tensor([2, 0, 3, 1])


@pytest.fixture
def inference() -> object:
    with torch.inference_mode():
        yield


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_leaves_no_trace_in_torch() -> None:
    owners = torch.cuda, torch, torch.Tensor, torch.__future__
    before = [dict(vars(owner)) for owner in owners]
    with EmulatedCuda():
        assert torch.cuda.is_available()
        assert torch.ones(2, device="cuda").is_cuda
    assert [dict(vars(owner)) for owner in owners] == before
    assert not torch.cuda.is_available()
    assert not isinstance(torch.tensor([1.0]), CudaTensor)


def test_only_one_at_a_time_and_none_left_behind_by_an_error() -> None:
    with EmulatedCuda(), pytest.raises(AssertionError, match="one emulator"):
        EmulatedCuda().__enter__()
    with pytest.raises(ZeroDivisionError), EmulatedCuda():
        raise ZeroDivisionError
    with EmulatedCuda():
        pass


def operators(x: torch.Tensor) -> dict[str, torch.Tensor]:
    """Of x (4, 6), by name: what the package's models are made of."""
    index = torch.arange(4, device=x.device).flip(0)
    heads = x.view(1, 2, 4, 3)
    cache = torch.zeros(1, 2, 4, 3, device=x.device)
    cache.index_copy_(2, index[:2], heads[:, :, :2])
    mask = torch.ones(4, 4, dtype=torch.bool, device=x.device).tril()
    wide = torch.zeros(5, 6, device=x.device)
    wide[1:] = x
    wide[0] = 0.5
    wide[:, 2] += 1.0
    return {
        "linear": F.linear(x, x),
        "attention": F.scaled_dot_product_attention(heads, heads, heads, attn_mask=mask),
        "rms norm": F.rms_norm(x, (6,), x[0], 1e-5),
        "softmax": torch.softmax(x.mT, dim=-1),
        "gathered": x[index, 1:3],
        "masked": x.masked_fill(x > 0, -torch.inf),
        "chosen": torch.where(x > 0, x, -1.0),
        "embedded": F.embedding(index, x),
        "topk": x.topk(2).indices,
        "halves": torch.cat(x.to(torch.bfloat16).chunk(2, dim=-1)),
        "cache": cache,
        "written": wide,
        "mean": x.float().mean(dim=0, keepdim=True),
    }


@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_operators_give_what_the_cpu_gives(cuda: EmulatedCuda, device: str) -> None:
    x = numbers(4, 6)
    index = 1 if device == "cuda:1" else 0
    for (name, expected), result in zip(
        operators(x).items(), operators(x.to(device)).values(), strict=True
    ):
        assert result.device == torch.device("cuda", index), name
        assert result.is_cuda, name
        assert torch.equal(result.cpu(), expected), name


def test_a_module_moves_to_the_device(cuda: EmulatedCuda) -> None:
    linear = torch.nn.Linear(6, 3)
    expected = linear(numbers(4, 6))
    moved = linear.to("cuda:1")
    assert isinstance(moved.weight, torch.nn.Parameter)
    assert moved.weight.device == torch.device("cuda:1")
    assert torch.equal(moved(numbers(4, 6).to("cuda:1")).cpu(), expected)


def test_tensors_of_two_devices_do_not_meet(cuda: EmulatedCuda) -> None:
    here, there, host = numbers(4).cuda(), numbers(4).to("cuda:1"), numbers(4)
    for other in (there, host):
        for mix in (lambda b: here + b, lambda b: torch.cat((here, b)), lambda b: b.mul_(here)):
            with pytest.raises(RuntimeError, match="same device"):
                mix(other)
    with pytest.raises(RuntimeError, match="same device"):
        host[here.long()]
    with pytest.raises(RuntimeError, match="same device"):
        here[torch.arange(2)] = host[:2]
    # A number may be on the host, an index too; a copy is what moves things.
    assert torch.equal((here * torch.tensor(2.0)).cpu(), numbers(4) * 2.0)
    assert torch.equal(here[PERMUTED].cpu(), numbers(4)[PERMUTED])
    assert torch.equal(torch.zeros_like(here).copy_(there).cpu(), numbers(4))
    with pytest.raises(TypeError, match="cuda:0"):
        here.numpy()
    with pytest.raises(RuntimeError, match="invalid device"):
        host.to("cuda:2")


WAITS = {
    "item": lambda x: x[0].item(),
    "is_nonzero": lambda x: bool(x[0] > 0),
    "tolist": lambda x: x.tolist(),
    "device to host": lambda x: x.cpu(),
    "host to device": lambda x: torch.tensor([1], device=x.device),
    "nonzero": lambda x: torch.nonzero(x),
    "mask as index": lambda x: x[x > 0],
    "equal": lambda x: torch.equal(x, x),
    "device": lambda x: torch.cuda.synchronize(),
}


@pytest.mark.parametrize("kind", WAITS)
def test_the_host_waits(cuda: EmulatedCuda, kind: str) -> None:
    x = numbers(4).cuda()
    cuda.counters.clear()
    with cuda.phase("here"):
        WAITS[kind](x)
    (sync,) = cuda.counters.syncs
    assert (sync.kind, sync.phase) == (kind, "here")
    assert sync.place.startswith("cuda/test_emulator.py:")
    graph = torch.cuda.CUDAGraph()
    with (
        pytest.raises(RuntimeError, match="previous error during capture"),
        torch.cuda.graph(graph),
    ):
        WAITS[kind](x)
    with torch.cuda.graph(graph):  # the next one is none the worse for it
        x + 1


def test_the_host_does_not_wait_for_kernels(cuda: EmulatedCuda) -> None:
    x = numbers(4, 6).cuda()
    cuda.counters.clear()
    operators(x)
    x.to("cuda:1")
    x[x > 0] = 1.0
    numbers(4, 6).to("cuda", non_blocking=True)
    x[1:3] = 2
    assert not cuda.counters.syncs


def test_counts_kernels_and_bytes_by_phase(cuda: EmulatedCuda) -> None:
    x = numbers(8, 16).cuda()
    cuda.counters.clear()
    with cuda.phase("a"):
        view = x.view(16, 8).T[1:]  # no kernel
        torch.empty_like(x)
        view + 1.0
    with cuda.phase("b"):
        x.mul_(2.0)
        x.index_select(0, torch.tensor([1, 2]).cuda())
    assert cuda.counters.kernels == {"a": 1, "b": 3}
    assert cuda.counters.launches == {"a": 1, "b": 3}
    assert cuda.counters.names["b"] == {"mul_": 1, "index_select": 1, "copy": 1}
    assert cuda.counters.moved_bytes["a"] == 2 * 7 * 16 * 4


def test_a_graph_computes_from_what_its_inputs_hold_at_the_replay(cuda: EmulatedCuda) -> None:
    x, total = torch.zeros(4, device="cuda"), torch.zeros(4, device="cuda")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        doubled = x[1:] * 2
        total.add_(1)
        made = torch.ones_like(x)
    assert total.tolist() == [0.0] * 4, "nothing runs in a capture"
    assert doubled.isnan().all(), "nor is anything computed"
    for values in (numbers(4), numbers(4, seed=1)):
        x.copy_(values.cuda())
        with cuda.phase("replay"):
            graph.replay()
        assert torch.equal(doubled.cpu(), values[1:] * 2)
    assert total.tolist() == [2.0] * 4
    assert made.tolist() == [1.0] * 4
    assert cuda.counters.launches["replay"] == cuda.counters.replays["replay"] == 2
    assert cuda.counters.kernels["replay"] == 2 * 3


def test_a_graph_keeps_the_numbers_of_the_host(cuda: EmulatedCuda) -> None:
    x, factor = torch.ones(2, device="cuda"), torch.tensor(2.0)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = x * factor
    factor.fill_(5.0)
    graph.replay()
    assert y.tolist() == [2.0, 2.0]


def test_a_graph_of_another_device_is_empty(cuda: EmulatedCuda) -> None:
    """pytorch#87894: the capture is on a stream of the current device."""
    x = torch.ones(2, device="cuda:1")
    graph = torch.cuda.CUDAGraph()
    with pytest.warns(UserWarning, match="Graph is empty"), torch.cuda.graph(graph):
        y = x * 2
    x.fill_(3.0)
    graph.replay()
    assert y.tolist() == [2.0, 2.0], "computed once, at the capture"

    # The stream of the first capture stays that of all, so it must be named as well.
    side = torch.cuda.Stream("cuda:1")
    with torch.cuda.device(1), torch.cuda.graph(graph, stream=side):
        assert torch.cuda.is_current_stream_capturing()
        y = x * 2
    graph.replay()
    assert y.tolist() == [6.0, 6.0]
    assert torch.cuda.current_device() == 0


def test_no_graph_reads_freed_memory(cuda: EmulatedCuda) -> None:
    x = torch.ones(2, device="cuda")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = x * 2
    graph.replay()
    assert y.tolist() == [2.0, 2.0]
    del x
    with pytest.raises(RuntimeError, match="freed"):
        graph.replay()


def test_streams_take_part_in_a_capture(cuda: EmulatedCuda) -> None:
    x, side = torch.ones(2, device="cuda"), torch.cuda.Stream()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        with torch.cuda.stream(side):
            outside = x * 3
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            inside = x * 2
        torch.cuda.current_stream().wait_stream(side)
    x.fill_(2.0)
    graph.replay()
    assert outside.tolist() == [3.0, 3.0]
    assert inside.tolist() == [4.0, 4.0]


def test_pinned_memory_holds_the_old_value_until_something_waits(cuda: EmulatedCuda) -> None:
    host = torch.zeros((), dtype=torch.int64, pin_memory=True)
    assert host.is_pinned()
    token, arrived = torch.tensor(7, device="cuda"), torch.cuda.Event()
    cuda.counters.clear()
    host.copy_(token, non_blocking=True)
    arrived.record()
    token.fill_(9)  # behind the copy
    later = torch.zeros_like(host).pin_memory().copy_(token, non_blocking=True)
    assert host == 0
    assert not cuda.counters.syncs
    arrived.synchronize()
    assert (int(host), int(later)) == (7, 0)
    torch.cuda.synchronize()
    assert later == 9


def test_an_event_of_another_device_waits_for_nothing(cuda: EmulatedCuda) -> None:
    host, arrived = torch.zeros(1, pin_memory=True), torch.cuda.Event()
    host.copy_(torch.ones(1, device="cuda:1"), non_blocking=True)
    arrived.record()  # on the current device's stream
    arrived.synchronize()
    assert host == 0
    with torch.cuda.device(1), pytest.raises(RuntimeError, match="does not match"):
        arrived.record()


def test_memory_is_counted_to_the_block(cuda: EmulatedCuda) -> None:
    memory = cuda.memories[0]
    x = torch.zeros(1000, device="cuda")
    views = x.view(10, 100), x[5:]
    small = torch.zeros(1, device="cuda", dtype=torch.int8)
    assert torch.cuda.memory_allocated() == memory.allocated_bytes == 4096 + 512
    x.add_(1.0)
    assert torch.cuda.max_memory_allocated() == 4096 + 512
    del x
    y = views[0] * 2
    del views, small
    gc.collect()
    assert torch.cuda.memory_allocated() == 4096 == y.nbytes + 96
    assert torch.cuda.max_memory_allocated() == 2 * 4096 + 512
    torch.cuda.reset_peak_memory_stats()
    assert torch.cuda.max_memory_allocated("cuda:0") == 4096
    assert torch.cuda.mem_get_info() == (memory.total_bytes - 4096, memory.total_bytes)
    assert torch.cuda.memory_allocated("cuda:1") == 0


def test_memory_ends(cuda: EmulatedCuda) -> None:
    memory = cuda.memories[0]
    memory.leave(4096)
    x = torch.zeros(1000, device="cuda")
    with pytest.raises(torch.OutOfMemoryError, match="Tried to allocate"):
        x + 1
    x.add_(1)
    torch.zeros(1000, device="cuda:1")
    del x
    torch.zeros(1000, device="cuda")
    memory.refuse(2)
    kept = [torch.zeros(1, device="cuda")]
    with pytest.raises(torch.OutOfMemoryError):
        kept.append(torch.zeros(1, device="cuda"))
    kept.append(torch.zeros(1, device="cuda"))
    assert torch.cuda.memory_allocated() == 1024


def test_a_graph_keeps_the_memory_of_what_it_makes(cuda: EmulatedCuda) -> None:
    x = torch.zeros(1024, device="cuda")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = (x + 1) + 1  # at most two at a time
        del y
        y = x * 2
    assert torch.cuda.memory_allocated() == 2 * 4096
    assert torch.cuda.memory_reserved() == 3 * 4096
    del graph
    gc.collect()
    assert torch.cuda.memory_reserved() == 3 * 4096, "a tensor is in the pool"
    del y
    gc.collect()
    assert torch.cuda.memory_reserved() == 4096


def test_memory_may_end_in_a_capture(cuda: EmulatedCuda) -> None:
    x = torch.zeros(1024, device="cuda")
    cuda.memories[0].leave(2048)
    graph = torch.cuda.CUDAGraph()
    with pytest.raises(torch.OutOfMemoryError), torch.cuda.graph(graph):
        x.add_(1) * 2
    del graph
    gc.collect()
    assert torch.cuda.memory_reserved() == 4096
    assert not torch.cuda.is_current_stream_capturing()
