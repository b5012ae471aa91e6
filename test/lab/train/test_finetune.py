"""`ada3d train --from CHECKPOINT --lora` on a tiny checkpoint of random weights.

What was learnt is compared with what lies on disk: base and adapters by value, peft's own files on
transformers' LLaMA, an uninterrupted run.
"""

import argparse
import dataclasses
import json
import math
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from ada3d_ros.config import from_flat
from ada3d_ros.engine.prefill import prefill
from ada3d_ros.lab.train import batches, finetune, run
from ada3d_ros.lab.train.embedded import feature_code
from ada3d_ros.lab.train.lora import add_point_tokens
from ada3d_ros.lab.train.objective import run_packed
from ada3d_ros.lab.train.session import Session
from ada3d_ros.lab.train.stages import Stage
from ada3d_ros.lab.train.tokens import SYMBOLIC_VOXEL_M, room_tokens, symbolic_points
from ada3d_ros.lab.train.workers import Workers
from ada3d_ros.lab.world.generated import frames_of
from ada3d_ros.lab.world.graph import graphs
from ada3d_ros.lab.world.questions import make_questions
from ada3d_ros.lab.world.render import render
from ada3d_ros.lab.world.rooms import make_rooms
from ada3d_ros.model.checkpoint import load_model, weights_sha256
from ada3d_ros.model.grounding_head import load_grounding_head
from ada3d_ros.model.random_checkpoint import TINY_CONFIG, write_random_checkpoint
from ada3d_ros.pipeline import Ada3DPipeline
from ada3d_ros.types import Answer, Question

peft = pytest.importorskip("peft", reason="fine-tuning needs peft")

CONFIG = dataclasses.replace(
    TINY_CONFIG,
    decoder=dataclasses.replace(TINY_CONFIG.decoder, num_layers=2),
    vision=dataclasses.replace(TINY_CONFIG.vision, num_hidden_layers=2),
    voxel_size_m=0.5,
)
ROWS = CONFIG.decoder.vocab_size
RANK, STEPS = 4, 5
SMALL = ["--rooms", "2", "--questions", "6", "--rank", str(RANK), "--passes", str(STEPS)]


@dataclass(frozen=True)
class Trained:
    """A run of STEPS steps, and what it wrote."""

    base: Path
    out: Path
    whole: Path
    adapter: Path

    def options(self, out: Path, *more: str) -> list[str]:
        return ["--from", str(self.base), "--lora", "--out", str(out), *SMALL, *more]


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    """One validation room, and a rate at which a few steps show."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches, "VAL_ROOMS", 1)
        patch.setattr(finetune, "LEARNING_RATE", 0.05)
        yield


@pytest.fixture(scope="module")
def trained(quick: None, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("finetune")
    made = Trained(*(folder / name for name in ("base", "run", "whole", "adapter")))
    write_random_checkpoint(made.base, config=CONFIG)
    whole = ["--export", str(made.whole), "--threshold", "0.25"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finetune, "REPORT_EVERY_S", -1.0)  # validated after every step
        assert run.main(made.options(made.out, *whole)) == 0
    adapter = ["--export", str(made.adapter), "--adapter-only"]
    assert run.main(made.options(made.out, *adapter)) == 0  # it was done: nothing more is learnt
    return made


def test_some_steps_lower_the_loss(trained: Trained) -> None:
    lines = [json.loads(line) for line in (trained.out / "log.jsonl").read_text().splitlines()]
    assert [line["rooms"] for line in lines] == list(range(1, STEPS + 1))
    losses = [line["val"]["answer"] for line in lines]
    assert all(map(math.isfinite, losses))
    assert losses[-1] < losses[0] - 0.1


def test_the_whole_checkpoint_is_the_base_and_what_the_adapters_add(trained: Trained) -> None:
    before = load_file(trained.base / "model.safetensors")
    after = load_file(trained.whole / "model.safetensors")
    learnt = torch.load(trained.out / "state.pt", weights_only=True)["adapters"]
    assert before.keys() == after.keys()
    wrapped = 0
    for name, weight in before.items():
        path = "base_model." + name.removesuffix(".weight")
        if f"{path}.lora_A.weight" in learnt:
            wrapped += 1
            added = 2.0 * learnt[f"{path}.lora_B.weight"] @ learnt[f"{path}.lora_A.weight"]
            assert float(added.abs().max()) > 1e-4
            torch.testing.assert_close(after[name], weight + added, rtol=0, atol=1e-5)
        else:
            assert torch.equal(after[name][: len(weight)], weight), name
            assert len(after[name]) == len(weight) + 2 * (len(weight) == ROWS)
    assert wrapped == 7 * CONFIG.decoder.num_layers

    # The head's two rows are what was learnt of them, those of the embedding nobody reads.
    rows = learnt["base_model.model.lm_head.token_adapter.trainable_tokens_delta"]
    assert torch.equal(after["lm_head.weight"][ROWS:], rows)
    assert not torch.equal(rows[0], rows[1])
    mean = before["model.embed_tokens.weight"].mean(0)
    torch.testing.assert_close(after["model.embed_tokens.weight"][ROWS:], mean.expand(2, -1))


def test_the_export_is_a_checkpoint_that_points(trained: Trained) -> None:
    loaded = load_model(trained.whole)
    config = loaded.model.config
    assert (config.point_id, config.egocentric_point_id) == (ROWS, ROWS + 1)
    assert config.decoder.vocab_size == ROWS + 2
    assert not any(loaded.tokenizer.is_text(i) for i in (ROWS, ROWS + 1))
    assert loaded.head is not None
    assert loaded.head.threshold == 0.25
    assert loaded.head.model_sha256 == weights_sha256(trained.whole)
    state = torch.load(trained.out / "state.pt", weights_only=True)["head"]
    assert all(torch.equal(v, state[name]) for name, v in loaded.head.head.state_dict().items())


def ask(folder: Path) -> Answer:
    """Of the model in a folder, about a generated room."""
    settings = {
        "model.path": str(folder),
        "generation.max_new_tokens": 12,
        "pruning.strategy": "none",
        "question.measure": False,  # the model is to say it
    }
    pipeline = Ada3DPipeline(from_flat(settings))
    assert pipeline.check().has_grounding_head
    pipeline.load()
    rooms = make_rooms("test", torch.tensor([0]))
    for frame in frames_of(rooms, render(rooms, CONFIG.vision.image_size), 0):
        pipeline.observe(frame)
    return pipeline.ask(Question("How many chairs are there?"))


def test_the_export_answers(trained: Trained) -> None:
    answer = ask(trained.whole)
    assert answer.text
    assert 0 < answer.tokens.generated <= 12


def test_its_tokens_beyond_the_vocabulary_point(trained: Trained, tmp_path: Path) -> None:
    """A few steps bring no pointing: here the two rows are made such that they are often chosen."""
    folder = tmp_path / "pointing"
    shutil.copytree(trained.whole, folder)
    tensors = load_file(folder / "model.safetensors")
    width = CONFIG.decoder.hidden_size
    rows = 5.0 * torch.randn(2, width, generator=torch.Generator().manual_seed(0)) * width**-0.5
    tensors["lm_head.weight"][ROWS:] = rows
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    answer = ask(folder)
    assert 1 <= len(answer.places) <= 8
    assert answer.text
    assert all(abs(place.center_m).max() < 10.0 for place in answer.places)


def test_the_adapters_are_peft_s_for_a_llama_of_transformers(trained: Trained) -> None:
    """With two rows more its logits are those of the whole checkpoint."""
    sizes, ids = CONFIG.decoder, torch.arange(3, 12)[None]
    llama = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=ROWS + 2,
            hidden_size=sizes.hidden_size,
            intermediate_size=sizes.intermediate_size,
            num_hidden_layers=sizes.num_layers,
            num_attention_heads=sizes.num_heads,
            num_key_value_heads=sizes.num_kv_heads,
            rms_norm_eps=sizes.rms_norm_eps,
            max_position_embeddings=sizes.max_positions,
        )
    )
    model = load_model(trained.base).model
    add_point_tokens(model)
    names = {f"model.{n}".replace("model.lm_head", "lm_head") for n in model.decoder.state_dict()}
    assert names == llama.state_dict().keys()
    llama.load_state_dict(
        {
            f"model.{n}".replace("model.lm_head", "lm_head"): v
            for n, v in model.decoder.state_dict().items()
        }
    )
    adapted = peft.PeftModel.from_pretrained(llama.eval(), str(trained.adapter))
    whole = load_model(trained.whole).model.decoder
    with torch.no_grad():
        theirs = adapted(input_ids=ids).logits[0]
        hidden = whole.run_layers(0, sizes.num_layers, whole.embed(ids), torch.arange(9))
        ours = whole.logits(hidden[0])
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    head = load_grounding_head(trained.adapter, sizes.hidden_size)
    assert head is not None
    assert head.model_sha256 not in ("", weights_sha256(trained.base))


def test_a_run_that_was_stopped_goes_on_to_the_same_weights(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(trained.out / "gallery", tmp_path / "gallery")
    count, once = [0], finetune.batch_loss

    def stopping(
        session: Session, stage: Stage, split: str, number: int, shared: bool = False
    ) -> object:
        count[0] += split == "train"
        if count[0] == 2:
            session.stop()
        return once(session, stage, split, number, shared)

    monkeypatch.setattr(finetune, "batch_loss", stopping)
    assert run.main(trained.options(tmp_path)) == 0
    assert torch.load(tmp_path / "state.pt", weights_only=True)["seen"] == {"pointing": 2}
    assert run.main(trained.options(tmp_path)) == 0
    assert count[0] == STEPS
    once_done, in_two = (
        torch.load(out / "state.pt", weights_only=True) for out in (trained.out, tmp_path)
    )
    assert in_two["seen"] == once_done["seen"] == {"pointing": STEPS}
    for part in ("adapters", "head"):
        assert once_done[part].keys() == in_two[part].keys()
        assert all(torch.equal(once_done[part][n], v) for n, v in in_two[part].items())


def test_clicks_learn_only_if_wished(trained: Trained, tmp_path: Path) -> None:
    shutil.copytree(trained.out / "gallery", tmp_path / "run" / "gallery")
    whole = tmp_path / "whole"
    more = ["--train-clicks", "--passes", "1", "--export", str(whole)]
    options = trained.options(tmp_path / "run", *more)
    assert run.main(options) == 0
    before, after = (
        {n: v for n, v in load_file(f / "model.safetensors").items() if "prompt_encoder" in n}
        for f in (trained.base, whole)
    )
    assert before
    assert all(not torch.equal(before[name], after[name]) for name in before)


# -- one step


def opened(trained: Trained, out: Path, base: Path | None = None) -> finetune.FineTune:
    """A run that has not begun."""
    shutil.copytree(trained.out / "gallery", out / "gallery")
    options = argparse.Namespace(
        start_from=base or trained.base,
        vision_path=None,
        out=out,
        rank=RANK,
        passes=1,
        batch=1,
        questions=6,
        level=1,
        rooms=2,
        seed=0,
        train_clicks=True,
    )
    return finetune.open_finetune(options, Workers("cpu"))


def gradients(tune: finetune.FineTune) -> list[torch.Tensor]:
    """Of the first batch, after the adapters were moved off zero."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in tune.session.model.decoder.named_parameters():
        if "lora_B" in name:
            parameter.data += 0.02 * torch.randn(parameter.shape, generator=generator)
    with batches.autocast(tune.session):
        loss, _, _ = batches.batch_loss(tune.session, tune.stage, "train", 0)
    loss.backward()
    return [torch.zeros_like(p) if p.grad is None else p.grad for p in tune.parameters]


def test_large_models_compute_their_activations_anew(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From LARGE parameters on; the gradients are the same."""
    kept = opened(trained, tmp_path / "kept")
    monkeypatch.setattr(finetune, "LARGE", kept.loaded.info.num_parameters)
    anew = opened(trained, tmp_path / "anew")
    assert (kept.session.recompute, anew.session.recompute) == (False, True)
    pairs = list(zip(gradients(kept), gradients(anew), strict=True))
    assert sum(bool(one.any()) for one, _ in pairs) > len(pairs) // 2
    assert all(torch.equal(one, other) for one, other in pairs)


def test_weights_in_bfloat16_learn_in_float32(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU."""
    monkeypatch.setattr(finetune, "weights_dtype", lambda device: torch.bfloat16)
    tune = opened(trained, tmp_path / "run")
    assert tune.session.model.decoder.layers[0].self_attn.o_proj.weight.dtype == torch.bfloat16
    assert {p.dtype for p in tune.parameters} == {torch.float32}
    exact, rounded = gradients(opened(trained, tmp_path / "exact")), gradients(tune)
    assert all(torch.isfinite(g).all() for g in rounded)
    both = (torch.cat([g.flatten() for g in grads]) for grads in (exact, rounded))
    assert float(torch.cosine_similarity(*both, dim=0)) > 0.99
    finetune.export(tune, tmp_path / "whole", 0.5)
    stored = load_file(tmp_path / "whole" / "model.safetensors")
    assert stored["model.layers.0.mlp.up_proj.weight"].dtype == torch.bfloat16


def test_heads_that_share_their_keys_learn_as_they_are_run(
    trained: Trained, tmp_path: Path
) -> None:
    """Grouped-query attention: a packed question's states are those of the engine's prefill."""
    decoder = dataclasses.replace(CONFIG.decoder, num_kv_heads=2)
    base = write_random_checkpoint(
        tmp_path / "base", config=dataclasses.replace(CONFIG, decoder=decoder)
    )
    tune = opened(trained, tmp_path / "run", base)
    model, packer = tune.session.model, tune.session.packer
    rooms = make_rooms("val", torch.arange(1))
    points = symbolic_points(rooms, 4, 12, torch.Generator().manual_seed(0))
    code = feature_code(model.config.vision.hidden_size)
    known = graphs(rooms)
    asked = [make_questions(known[0], 5, ("color", "existence", "count"), 3)]
    packed = packer.pack(known, asked, rooms.category.shape[1])
    with torch.no_grad():
        (tokens,) = room_tokens(model, rooms, points, code, SYMBOLIC_VOXEL_M)
        states = run_packed(model, packer.prefix_ids, [tokens], packed)
        for number, question in enumerate(packed.questions):
            ids = packer.tokenizer.encode_question(question.text)
            visual = model.project(tokens.tokens.features)
            alone = prefill(model.decoder, model.build_prompt(ids, visual)).logits
            together = model.decoder.lm_head(states.text[0, packed.query[number]])
            torch.testing.assert_close(together, alone, rtol=2e-4, atol=2e-4)


# -- what is refused


@pytest.fixture
def refused(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    def run_it(*more: str, out: Path = tmp_path, base: Path = trained.base) -> str:
        assert run.main(["--from", str(base), "--lora", "--out", str(out), *SMALL, *more]) == 2
        return capsys.readouterr().err

    return run_it


def test_without_peft_the_command_is_named(
    refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    assert "pip install -c constraints/python.txt peft" in refused()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--rank", "0"), "--rank 0: allowed: 1 to 1024"),
        (("--passes", "0"), "--passes 0: must be 1 or more"),
        (("--keep-ratio", "0.4"), "--keep-ratio is for training from nothing"),
        (("--train-clicks", "--adapter-only"), "train without --train-clicks"),
    ],
)
def test_options_out_of_range(
    refused: Callable[..., str], options: tuple[str, ...], said: str
) -> None:
    assert said in refused(*options)


def test_other_checkpoints(refused: Callable[..., str], trained: Trained, tmp_path: Path) -> None:
    assert "is not a folder" in refused(base=tmp_path / "nothing")
    flat = dataclasses.replace(CONFIG, has_video_tower=False)
    assert "is 2D only" in refused(base=write_random_checkpoint(tmp_path / "flat", config=flat))
    folder = shutil.copytree(trained.base, tmp_path / "four")
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes"}
    (folder / "config.json").write_text(json.dumps(config))
    assert "quantised weights are not supported" in refused(base=folder)
    assert "is the checkpoint itself" in refused("--export", str(trained.base))


def test_too_little_memory_for_a_step(
    refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*args: object, **kwargs: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(finetune, "batch_loss", fails)
    assert "use a smaller --batch or --questions" in refused()


def test_a_run_of_other_options_is_not_gone_on_with(
    refused: Callable[..., str], trained: Trained, tmp_path: Path
) -> None:
    assert "holds a run with rank 4, not 2" in refused("--rank", "2", out=trained.out)
    (tmp_path / "state.pt").write_bytes(b"")
    torch.save({"stage": "images", "seen": {}}, tmp_path / "state.pt")
    assert "is of a training without --lora" in refused()
    torch.save({"facts": {"rank": RANK}, "seen": {}}, tmp_path / "state.pt")
    said = refused()
    assert all(name in said for name in ("adapters", "optimizer", "train_clicks"))
    assert "a version before this one wrote it. Name another folder as --out" in said


def test_lora_is_of_a_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["--out", str(tmp_path), "--lora"]) == 2
    assert "name it by --from CHECKPOINT" in capsys.readouterr().err
