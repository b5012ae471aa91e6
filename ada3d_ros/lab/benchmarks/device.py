"""Suite `device` of `ada3d bench`: what the device itself gives, and how the engine uses it.

Speeds of copies and products, launches of a decode step and of a cached question, whether steps run
as a CUDA graph, attention over whole masked buffers against exact lengths, memory against its
prediction. A row that fails says why and costs only itself.
"""

from __future__ import annotations

import argparse
import functools
import subprocess
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from ada3d_ros.config import AgentConfig
from ada3d_ros.engine.decode import GenerationRequest, decode, prepare_decoding
from ada3d_ros.engine.prefill import prefill_question
from ada3d_ros.engine.scene_prefix import PrefixOptions
from ada3d_ros.errors import Ada3DError
from ada3d_ros.lab.benchmarks.bench import Rows, Save, ignore, interleaved, ratio_of
from ada3d_ros.lab.benchmarks.models import BenchScene, BenchSettings, make_model
from ada3d_ros.lab.benchmarks.peak_memory import peak_bytes
from ada3d_ros.lab.benchmarks.shapes import BenchShape
from ada3d_ros.lab.benchmarks.spread import Spread
from ada3d_ros.model.decoder import LlamaDecoder
from ada3d_ros.model.memory import Workload, predict_memory
from ada3d_ros.model.weight_format import WeightFormat

COPY_BYTES = {"cpu": 2**26, "cuda": 2**31}
SIDE = {"cpu": 512, "cuda": 8192}  # of the square matrices of the product
ANSWER = 30  # tokens
MAX_LAUNCHES = 800  # of a decode step and of a cached question, at 32 layers
MASKED_ROOM = 512  # places behind the keys, of a buffer that attention reads whole
CLOCKS = "clocks.sm,clocks.mem,clocks.max.sm,power.draw,temperature.gpu,driver_version"


@torch.inference_mode()
def run_shape(
    shape: BenchShape, options: argparse.Namespace, device: torch.device, save: Save = ignore
) -> dict[str, Any]:
    """The rows on the largest scene of a shape, the safest first."""
    settings = BenchSettings.from_options(shape, options, device)
    rows = Rows({**settings.head("device"), "N": max(shape.spatial)}, save)
    probes: dict[str, Callable[[], dict[str, Any]]] = {
        "clocks before": lambda: clocks(device),
        "copy": lambda: copy_speed(device, settings.repetitions),
        "product": lambda: product_speed(device, settings.dtype, settings.repetitions),
        "masked attention": lambda: masked_attention(settings, max(shape.spatial)),
    }
    run_probes(probes, rows)

    # The model: made last, for it takes the memory.
    try:
        bench = _EngineProbes(settings, max(shape.spatial))
    except (Ada3DError, RuntimeError) as error:
        rows.add([failed("model", error)])
    else:
        run_probes(bench.probes(), rows)
    run_probes({"clocks after": lambda: clocks(device)}, rows)
    print(table(rows.rows))
    return rows.results


def run_probes(probes: Mapping[str, Callable[[], dict[str, Any]]], rows: Rows) -> None:
    """A row each, also of those that fail."""
    for name, probe in probes.items():
        try:
            rows.add([{"name": name, **probe()}])
        except (Ada3DError, OSError, RuntimeError, subprocess.SubprocessError) as error:
            rows.add([failed(name, error)])


def failed(name: str, error: Exception) -> dict[str, str]:
    """The row of a probe that ended in an error."""
    text = " ".join(str(error).split())
    return {"name": name, "error": f"{type(error).__name__}: {text[:500]}"}


def clocks(device: torch.device) -> dict[str, Any]:
    """What nvidia-smi says of the GPU now."""
    if device.type != "cuda":
        return {"absent": "no CUDA device"}
    asked = ["nvidia-smi", f"--query-gpu={CLOCKS}", "--format=csv,noheader"]
    said = subprocess.run(asked, capture_output=True, text=True, check=True, timeout=20).stdout
    values = said.splitlines()[device.index or 0].split(",")
    return {key: value.strip() for key, value in zip(CLOCKS.split(","), values, strict=True)}


def copy_speed(device: torch.device, repetitions: int) -> dict[str, Any]:
    """GB/s of a large copy, read and written bytes counted."""
    source = torch.ones(COPY_BYTES[device.type] // 4, device=device)
    target = torch.empty_like(source)
    times = interleaved({"copy": lambda: target.copy_(source)}, repetitions, device, label="copy")
    speeds = [2 * source.nbytes / t.seconds(device) / 1e9 for t in times["copy"]]
    return {"gb_s": Spread.from_values(speeds)}


def product_speed(device: torch.device, dtype: torch.dtype, repetitions: int) -> dict[str, Any]:
    """TFLOP/s of a product of large square matrices."""
    side = SIDE[device.type]
    a, b = (torch.ones(side, side, dtype=dtype, device=device) for _ in range(2))
    times = interleaved({"product": lambda: a @ b}, repetitions, device, label="product")
    speeds = [2 * side**3 / t.seconds(device) / 1e12 for t in times["product"]]
    return {"side": side, "tflop_s": Spread.from_values(speeds)}


def masked_attention(settings: BenchSettings, spatial: int) -> dict[str, Any]:
    """One query over all of a buffer with the places behind the keys masked, against the keys
    alone: what steps of fixed shapes pay for it.
    """
    config, device = settings.shape.config, settings.device
    size = (1, config.num_heads, spatial + MASKED_ROOM, config.head_dim)
    keys = torch.randn(size, device=device).to(settings.dtype)
    query = keys[:, :, :1]
    exact = keys[:, :, :spatial].contiguous()
    bias = torch.zeros(1, 1, 1, size[2], dtype=settings.dtype, device=device)
    bias[..., spatial:] = -torch.inf

    def repeat(keys: torch.Tensor, mask: torch.Tensor | None) -> None:
        for _ in range(config.num_layers):
            F.scaled_dot_product_attention(query, keys, keys, attn_mask=mask)

    runs = {
        "masked": functools.partial(repeat, keys, bias),
        "exact": functools.partial(repeat, exact, None),
    }
    times = interleaved(runs, settings.repetitions, device, label="attention")
    return {
        "keys": spatial,
        "places": size[2],
        "masked_over_exact": ratio_of(times["masked"], times["exact"], device),
        **{
            f"{name}_us_per_layer": Spread.from_values(
                [t.seconds(device) * 1e6 / config.num_layers for t in found]
            )
            for name, found in times.items()
        },
    }


class _EngineProbes:
    """The engine on one cached scene."""

    def __init__(self, settings: BenchSettings, spatial: int) -> None:
        self.settings, self.device = settings, settings.device
        self.decoder: LlamaDecoder = make_model(settings.shape, self.device, settings.dtype)[0]
        self.scene: BenchScene = settings.make_scene(spatial)
        self.memory = self._memory()
        self.prefix = self.scene.build_prefix(self.decoder)
        prepare_decoding(self.decoder, self.prefix.cache)

    def probes(self) -> dict[str, Callable[[], dict[str, Any]]]:
        return {
            "memory": lambda: self.memory,
            "launches of a question": self.launches_of_question,
            "launches of a step": self.launches_of_step,
            "graph": self.graph,
        }

    def _memory(self) -> dict[str, Any]:
        """Bytes of building the scene and answering on it, against their prediction."""
        shape, settings = self.settings.shape, self.settings

        def run() -> None:
            prefix = self.scene.build_prefix(self.decoder)
            output = prefill_question(prefix, self.scene.question, ANSWER)
            decode(self.decoder, output, GenerationRequest(ANSWER))

        measured = peak_bytes(run, self.device)
        config = shape.model_config
        form = WeightFormat(settings.dtype, "full", self.device.type)
        tokens = self.scene.prompt().spatial_span[1] + PrefixOptions().reserve
        chunk = AgentConfig().cache.chunk_tokens
        plan = predict_memory(config, form, Workload(tokens, chunk_tokens=chunk))
        predicted = plan.kv_cache + plan.prefill
        return {
            "peak_bytes": measured,
            "predicted_bytes": predicted,
            "peak_over_predicted": measured / predicted,
        }

    def _question(self) -> Any:
        return prefill_question(self.prefix, self.scene.question, ANSWER)

    def launches_of_question(self) -> dict[str, Any]:
        """Kernels from the question's embeddings to the logits of the first token."""
        return self._limit(count_launches(self._question, self.device))

    def launches_of_step(self) -> dict[str, Any]:
        """Kernels of one decode step that runs in no graph."""
        output = self._question()
        one, two = (
            functools.partial(self._decode_again, output, output.cache.lengths, tokens)
            for tokens in (2, 3)
        )
        first, second = (count_launches(run, self.device) for run in (one, two))
        return self._limit({name: second[name] - count for name, count in first.items()})

    def _decode_again(self, output: Any, lengths: Sequence[int], tokens: int) -> None:
        output.cache.set_lengths(lengths)
        decode(self.decoder, output, GenerationRequest(tokens), static=False)

    def _limit(self, counts: dict[str, int]) -> dict[str, Any]:
        """With the aim, which is for 32 layers on a GPU."""
        kernels = counts.get("kernels")
        at_most = MAX_LAUNCHES if self.decoder.config.num_layers == 32 and kernels else None
        met = None if at_most is None or kernels is None else kernels <= at_most
        return {**counts, "at_most": at_most, "met": met}

    def graph(self) -> dict[str, Any]:
        """How many graphs an answer launched: as many as steps where each is one."""
        if self.device.type != "cuda":
            return {"absent": "CUDA graphs are for CUDA"}
        for _ in range(2):  # the first one captures
            output = self._question()
            answer = functools.partial(decode, self.decoder, output, GenerationRequest(ANSWER))
            found = count_launches(answer, self.device)
        return {"tokens": ANSWER, **found, "met": found["graphs"] >= ANSWER - 1}


class _Operations(TorchDispatchMode):
    """Counts operations as torch dispatches them, views included."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


def count_launches(run: Callable[[], Any], device: torch.device) -> dict[str, int]:
    """On a GPU the kernels and graphs that one run launched, after a warm-up; elsewhere the
    operations it dispatched.
    """
    run()
    if device.type != "cuda":
        with _Operations() as operations:
            run()
        return {"operations": operations.count}
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiled:
        run()
        torch.cuda.synchronize(device)
    names = [event.name for event in profiled.events()]
    kernels = sum(name.startswith(("cudaLaunchKernel", "cuLaunchKernel")) for name in names)
    return {"kernels": kernels, "graphs": sum(name == "cudaGraphLaunch" for name in names)}


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows for a terminal."""
    lines = []
    for row in rows:
        values = [f"{key} {value}" for key, value in row.items() if key != "name"]
        lines.append(f"{row['name']:<24} {', '.join(values)}")
    return "\n".join(lines)
