"""Parity of Video-3D-LLM's texts: prompts to ids and labels, ids to text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import tokenizers

from ada3d_ros.lab.parity.comparison import Row, exact, not_compared
from ada3d_ros.model.prompt import CLICK_ID, IMAGE_ID, QWEN_TEMPLATE, render_conversation
from ada3d_ros.model.qwen_tokenizer import BEGIN, COORD, END, GROUND, QwenTokenizer

IGNORED = -100  # a label that training does not count
INSTRUCTION = (  # of training alone
    "The video captures 3D spatial information of a scene. Please focus on the spatial"
    " relationships in the video and answer the following questions.\n"
)
SHOWN_TOKENS = "the reference leaves <ground> and <coord> in text; here no answer shows them"


def evaluation_prompt(value: str, answer: str | None = None) -> str:
    """The rendered prompt of a stored value: each `<image>` is followed by a newline.

    answer: of a grounding prompt, which holds it.
    """
    return render_conversation(QWEN_TEMPLATE, [(value.replace("<image>", "<image>\n"), answer)])


def encode_recorded(tokenizer: QwenTokenizer, prompt: str) -> list[int]:
    """Ids as the reference has them: a place keeps the id of its token."""
    ids = tokenizer.encode(prompt)
    return [tokenizer.coord_id if token == CLICK_ID else token for token in ids]


def check_prompts(label: str, tokenizer: QwenTokenizer, data: Mapping[str, Any]) -> Iterator[Row]:
    """unit/prompts.json: stored values to ids and labels; raw texts to ids and back."""
    for number, item in enumerate(data.get("prompts", [])):
        name, note = f"prompts[{number}]", item["task"]
        answer = GROUND if "eval_labels" in item else None
        ids = encode_recorded(tokenizer, evaluation_prompt(item["value"], answer))
        yield exact(label, f"{name}.eval_input_ids", ids, item["eval_input_ids"], note)
        if answer is not None:
            question = encode_recorded(tokenizer, evaluation_prompt(item["value"]))
            labels = _evaluation_labels(tokenizer, ids, len(question))
            yield exact(label, f"{name}.eval_labels", labels, item["eval_labels"], note)
        if "train_value" in item:
            value = "<image>\n" + INSTRUCTION + item["value"].replace("<image>", "")
            yield exact(label, f"{name}.train_value", value, item["train_value"], note)
            ids, labels = _train(tokenizer, value, item["train_answer"])
            yield exact(label, f"{name}.train_input_ids", ids, item["train_input_ids"], note)
            yield exact(label, f"{name}.train_labels", labels, item["train_labels"], note)
    for number, item in enumerate(data.get("encode", [])):
        ids, note = encode_recorded(tokenizer, item["text"]), repr(item["text"][:30])
        yield exact(label, f"encode[{number}].ids", ids, item["ids"], note)
        name = f"encode[{number}].decoded"
        if GROUND in item["decoded"] or COORD in item["decoded"]:
            yield not_compared(label, name, SHOWN_TOKENS)
        else:
            yield exact(label, name, tokenizer.decode(item["ids"]), item["decoded"], note)


def _evaluation_labels(tokenizer: QwenTokenizer, ids: list[int], num_question: int) -> list[int]:
    """Those that evaluation makes to find `<ground>`: of what closes turns, and of the answer."""
    begin, end = (tokenizer.control_id(token) for token in (BEGIN, END))
    kept = [
        index >= num_question or token in (begin, end) or (index > 0 and ids[index - 1] == end)
        for index, token in enumerate(ids)
    ]
    return [token if keep else IGNORED for token, keep in zip(ids, kept, strict=True)]


def _train(tokenizer: QwenTokenizer, value: str, answer: str) -> tuple[list[int], list[int]]:
    """Ids and labels of a training sample: whole messages, in which a newline may merge with what
    stands before it.
    """
    library = tokenizers.Tokenizer.from_str(tokenizer.to_bytes().decode())
    rendered = render_conversation(QWEN_TEMPLATE, [(value, answer)])
    ids, labels = list[int](), list[int]()
    messages = [BEGIN + message for message in rendered.split(BEGIN)[1:]]
    for message in messages:
        before, *after = (
            library.encode(text, add_special_tokens=False).ids for text in message.split("<image>")
        )
        own = before + [token for part in after for token in (IMAGE_ID, *part)]
        counted = {tokenizer.control_id(BEGIN), tokenizer.control_id(END), *tokenizer.encode("\n")}
        ids += own
        labels += own if message is messages[-1] else [t if t in counted else IGNORED for t in own]
    return ids, labels


def check_texts(
    label: str, tokenizer: QwenTokenizer, text: Mapping[str, Any], greedy: list[int] | None
) -> Iterator[Row]:
    """text.json of a case: prompts as rendered and as ids, greedy ids as text."""
    for prefix in ("", "ground_"):
        value = text.get(f"{prefix}question_value")
        if value is None:
            continue
        rendered = evaluation_prompt(value, text.get(f"{prefix}answer") if prefix else None)
        yield exact(label, f"{prefix}prompt", rendered, text[f"{prefix}prompt_rendered"])
        ids = encode_recorded(tokenizer, rendered)
        yield exact(label, f"{prefix}prompt_ids", ids, text[f"{prefix}input_ids"])
    if "greedy_text" in text and greedy is not None:
        said = tokenizer.decode(greedy).strip()
        yield exact(label, "greedy_text", said, text["greedy_text"], "ids -> text")
