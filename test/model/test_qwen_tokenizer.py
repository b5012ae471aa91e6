"""Qwen2's tokenizer: the reference's ids, other files of the same, streaming, what is refused."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import tokenizers

from ada3d_ros.errors import CheckpointError, InvalidRequestError
from ada3d_ros.model.prompt import (
    CLICK_ID,
    IMAGE_ID,
    QWEN_TEMPLATE,
    QWEN_TOKENS,
    check_question,
    parse_coordinates,
    render_conversation,
    render_question,
)
from ada3d_ros.model.qwen_tokenizer import QwenTokenizer

CASES = ("case_a", "case_b", "case_c_ground")


@pytest.fixture(scope="module")
def golden(shared_dir: Path) -> Path:
    return shared_dir / "golden/video3dllm"


@pytest.fixture(scope="module")
def tokenizer(golden: Path) -> QwenTokenizer:
    return QwenTokenizer(golden / "tokenizer")


@pytest.fixture
def folder(golden: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(golden / "tokenizer", tmp_path / "tokenizer"))


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def rendered(value: str, answer: str | None = None) -> str:
    """What evaluation makes of a value: a newline follows every image."""
    return render_conversation(QWEN_TEMPLATE, [(value.replace("<image>", "<image>\n"), answer)])


def with_coord(tokenizer: QwenTokenizer, ids: list[int]) -> list[int]:
    """Ids as recorded, where a point is the token's own id."""
    return [tokenizer.coord_id if token == CLICK_ID else token for token in ids]


@pytest.mark.parametrize("files", ["tokenizer.json", "vocab.json"])
def test_ids_of_every_recorded_prompt(golden: Path, folder: Path, files: str) -> None:
    if files == "vocab.json":
        (folder / "tokenizer.json").unlink()
    tokenizer, recorded = QwenTokenizer(folder), read(golden / "unit/prompts.json")
    for item in recorded["prompts"]:
        answer = "<ground>" if "eval_labels" in item else None
        ids = tokenizer.encode(rendered(item["value"], answer))
        assert with_coord(tokenizer, ids) == item["eval_input_ids"]
        assert ids.count(CLICK_ID) == item["value"].count("<coord>")
    assert len(recorded["prompts"]) == 9
    for item in recorded["encode"]:
        # What ends a turn is a piece of its own here too, and nothing merges with it.
        assert with_coord(tokenizer, tokenizer.encode(item["text"])) == item["ids"]
        assert tokenizer.decode(item["ids"]) == item["decoded"].replace("<ground>", "")


@pytest.mark.parametrize("case", CASES)
def test_ids_and_text_of_every_case(golden: Path, tokenizer: QwenTokenizer, case: str) -> None:
    text = read(golden / case / "text.json")
    for prefix, answer in (("", None), ("ground_", "<ground>")):
        if f"{prefix}input_ids" not in text:
            continue
        prompt = rendered(text[f"{prefix}question_value"], answer)
        assert prompt == text[f"{prefix}prompt_rendered"]
        assert with_coord(tokenizer, tokenizer.encode(prompt)) == text[f"{prefix}input_ids"]


def test_generated_text_is_the_references(golden: Path, tokenizer: QwenTokenizer) -> None:
    from safetensors.torch import load_file

    for case in CASES:
        ids = load_file(golden / case / "expected.safetensors")["greedy_ids"].tolist()
        assert tokenizer.decode(ids) == read(golden / case / "text.json")["greedy_text"]


def test_a_question_is_put_into_the_template(tokenizer: QwenTokenizer) -> None:
    question = "What color is the chair?"
    ids = tokenizer.encode_question(question)
    assert ids == tokenizer.encode(rendered(f"<image> {question}"))
    at = ids.index(IMAGE_ID)
    assert tokenizer.piece(ids[at + 1]) == "Ċ"
    assert tokenizer.decode(ids[at + 2 :]) == f" {question}\nassistant\n"
    # What precedes the scene is the same for every question, so that it can be kept.
    assert tokenizer.encode_question("")[: at + 1] == ids[: at + 1]

    # Without a scene there is no newline and no space.
    alone = tokenizer.encode_question(question, with_image=False)
    assert alone == tokenizer.encode(render_question(question, QWEN_TEMPLATE, with_image=False))
    assert IMAGE_ID not in alone
    assert tokenizer.decode(alone).endswith(f"user\n{question}\nassistant\n")


def test_a_newline_of_the_question_does_not_merge_with_that_of_the_image(
    tokenizer: QwenTokenizer,
) -> None:
    ids = tokenizer.encode("<image>\n\n\nx")
    assert [tokenizer.piece(token) for token in ids[1:]] == ["Ċ", "Ċ", "Ċ", "x"]
    assert tokenizer.encode("<image>x") == [IMAGE_ID, *tokenizer.encode("x")]


def test_points_stand_between_spaces_as_in_the_data(tokenizer: QwenTokenizer) -> None:
    """Each its own, unlike the reference, whose tokens all get the first point."""
    text, clicks = parse_coordinates("From [1, 2, 3] to [4,5,6], what is at [7,8,9]?")
    assert len(clicks) == 3
    ids = tokenizer.encode_question(text)
    expected = "<image>\n From <coord> to <coord> , what is at <coord> ?"
    assert ids == tokenizer.encode(render_conversation(QWEN_TEMPLATE, [(expected, None)]))
    assert ids.count(CLICK_ID) == 3


@pytest.mark.parametrize("token", QWEN_TOKENS)
def test_what_steers_is_refused_and_is_no_text(tokenizer: QwenTokenizer, token: str) -> None:
    with pytest.raises(InvalidRequestError, match="steers the model"):
        check_question(f"what is {token} here", 100)
    with pytest.raises(InvalidRequestError, match="steers the model"):
        tokenizer.encode_question(f"what is {token} here")
    assert not tokenizer.is_text(tokenizer.control_id(token))
    assert tokenizer.decode([tokenizer.control_id(token), *tokenizer.encode("a")]) == "a"


def test_ids_that_only_the_embedding_has_are_no_text(tokenizer: QwenTokenizer) -> None:
    assert tokenizer.vocab_size == 351
    assert [tokenizer.is_text(i) for i in (-200, -1, 0, 345, 346, 350, 351, 10**9)] == [
        *(False, False, True, True),
        *(False, False, False, False),
    ]
    assert tokenizer.decode([351, 10**9]) == ""
    assert tokenizer.control_id("a") == tokenizer.control_id("nothing") == -1


@pytest.mark.parametrize("text", ["🙂 桌子 é", "a🙂", "plain"])
def test_an_incomplete_character_is_held_back(tokenizer: QwenTokenizer, text: str) -> None:
    ids, shown = tokenizer.encode_text(text), ""
    assert tokenizer.decode(ids) == text
    for stop in range(1, len(ids) + 1):
        decoded = tokenizer.decode(ids[:stop])
        settled = decoded[: len(decoded) - tokenizer.pending_characters(ids[:stop])]
        assert text.startswith(settled)
        assert settled.startswith(shown)
        shown = settled
    assert shown == text


def test_bytes_that_are_no_character_are_shown_and_not_held_back(tokenizer: QwenTokenizer) -> None:
    (first, *_), (letter,) = tokenizer.encode_text("🙂"), tokenizer.encode_text("a")
    assert tokenizer.pending_characters([first]) == 1
    assert tokenizer.pending_characters([first, letter]) == 0
    assert tokenizer.decode([first, letter]) == "\ufffda"
    assert tokenizer.pending_characters([]) == 0
    # What steers is no text: the character goes on behind it.
    assert tokenizer.pending_characters([first, tokenizer.eos_id]) == 1


def test_end_of_a_prompt_is_counted(tokenizer: QwenTokenizer) -> None:
    ids = tokenizer.encode_question("Where is the chair.")
    count = tokenizer.num_end_tokens("chair.")
    assert tokenizer.decode(ids[-count:]) == " chair.\nassistant\n"


def test_the_saved_file_is_read_back_the_same(tokenizer: QwenTokenizer, tmp_path: Path) -> None:
    (tmp_path / tokenizer.file_name).write_bytes(tokenizer.to_bytes())
    again, prompt = QwenTokenizer(tmp_path), rendered("<image> Ünï <coord> 桌子  12?")
    assert again.encode(prompt) == tokenizer.encode(prompt)
    assert again.special_ids == tokenizer.special_ids
    assert again.to_bytes() == tokenizer.to_bytes()


def test_other_special_tokens_are_accepted_and_kept_out_of_text(folder: Path) -> None:
    """As Qwen2.5 and Qwen2-VL have them; LLaVA-Video has <image>."""
    made = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    made.add_special_tokens(["<|vision_start|>"])
    made.add_tokens(["<image>", "<tool_call>"])
    made.save(str(folder / "tokenizer.json"))
    tokenizer = QwenTokenizer(folder)
    assert tokenizer.vocab_size == 354
    assert tokenizer.control_id("<|vision_start|>") == 351
    assert tokenizer.control_id("<image>") == 352
    assert not tokenizer.is_text(351)
    assert tokenizer.encode("<image>\nx")[0] == IMAGE_ID
    with pytest.raises(InvalidRequestError, match=r"'<\|vision_start\|>', which steers"):
        tokenizer.encode_question("a <|vision_start|> b")
    # A token that is not special is a piece of text with a name of its own.
    assert tokenizer.decode([353]) == "<tool_call>"


@pytest.mark.parametrize("gone", ["<|im_start|>", "<|im_end|>"])
def test_a_tokenizer_without_the_templates_tokens_is_refused(folder: Path, gone: str) -> None:
    data = read(folder / "tokenizer.json")
    for entry in data["added_tokens"]:
        if entry["content"] == gone:
            entry["content"] = "<|other|>"
    (folder / "tokenizer.json").write_text(json.dumps(data))
    with pytest.raises(CheckpointError, match=re.escape(f"the tokenizer has no {gone}:")):
        QwenTokenizer(folder)


def test_files_that_are_no_such_tokenizer(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"lacks tokenizer\.json \(or vocab\.json and merges"):
        QwenTokenizer(tmp_path)
    (folder / "tokenizer.json").write_text('{"version": "1.0"}')
    with pytest.raises(CheckpointError, match=r"tokenizer\.json is not a tokenizer \("):
        QwenTokenizer(folder)
    (folder / "tokenizer.json").write_text("version https://git-lfs.github.com/spec/v1\noid")
    with pytest.raises(CheckpointError, match="Git LFS pointer"):
        QwenTokenizer(folder)
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0}, unk_token="a"))
    words.save(str(folder / "tokenizer.json"))
    with pytest.raises(CheckpointError, match=r"another kind \(WordLevel\), expected byte-level"):
        QwenTokenizer(folder)

    # Without tokenizer.json.
    (folder / "tokenizer.json").unlink()
    (folder / "added_tokens.json").write_text('{"<|im_start|>": 346, "<|im_end|>": 400}')
    with pytest.raises(CheckpointError, match=r"gives <\|im_end\|> the id 400, which does not"):
        QwenTokenizer(folder)
    (folder / "merges.txt").unlink()
    with pytest.raises(CheckpointError, match=r"lacks tokenizer\.json"):
        QwenTokenizer(folder)
    (folder / "merges.txt").write_text("a\n")
    with pytest.raises(CheckpointError, match="not a BPE vocabulary"):
        QwenTokenizer(folder)


def test_a_trainers_length_and_padding_are_not_applied(folder: Path) -> None:
    """They are written into tokenizer.json where it was saved after training."""
    text = "Where is the chair that stands next to the table?"
    whole = QwenTokenizer(folder).encode_question(text)
    data = json.loads((folder / "tokenizer.json").read_text())
    data["truncation"] = {
        "direction": "Right",
        "max_length": 4,
        "strategy": "LongestFirst",
        "stride": 0,
    }
    data["padding"] = {
        "strategy": {"Fixed": 64},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "!",
    }
    (folder / "tokenizer.json").write_text(json.dumps(data))
    assert QwenTokenizer(folder).encode_question(text) == whole


@pytest.mark.parametrize("odd", [None, "347", 1.5, [1], True])
def test_an_added_token_whose_id_is_no_number_is_named(folder: Path, odd: object) -> None:
    (folder / "tokenizer.json").unlink()
    added = json.loads((folder / "added_tokens.json").read_text())
    (folder / "added_tokens.json").write_text(json.dumps(added | {"<ground>": odd}))
    with pytest.raises(
        CheckpointError, match=r"added_tokens.json gives <ground> the id .*no whole"
    ):
        QwenTokenizer(folder)
