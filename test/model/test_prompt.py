"""Templates, question checks, coordinates, streaming."""

import pytest

from ada3d_ros.errors import CheckpointError, InvalidRequestError, QuestionTooLongError
from ada3d_ros.model.prompt import (
    CLICK_ID,
    CONTROL_TOKENS,
    IMAGE_ID,
    ROLES,
    Tokenizer,
    check_question,
    parse_coordinates,
    render_conversation,
    render_question,
)
from ada3d_ros.model.random_checkpoint import write_random_checkpoint


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer(
        write_random_checkpoint(tmp_path_factory.mktemp("tokenizer")) / "tokenizer.model"
    )


def test_templates_render_as_the_reference() -> None:
    assert render_question("Hi?").endswith("human's questions. USER: <image>\nHi? ASSISTANT:")
    assert render_question("Hi?", "vicuna_v1", with_image=False).endswith(
        "the user's questions. USER: Hi? ASSISTANT:"
    )
    turns = render_conversation("llava_v1", [("one", "two"), ("three", None)])
    assert turns.endswith("USER: one ASSISTANT: two</s>USER: three ASSISTANT:")


def test_question_is_stripped_and_may_hold_tab_newline_and_any_script() -> None:
    assert check_question("  Café 椅子\t“quotes”\nnext ", 100) == "Café 椅子\t“quotes”\nnext"


@pytest.mark.parametrize("token", [*CONTROL_TOKENS, *ROLES])
def test_control_tokens_are_refused(token: str) -> None:
    with pytest.raises(InvalidRequestError, match="steers the model"):
        check_question(f"what is this {token} here", 100)


@pytest.mark.parametrize("role", ROLES)
def test_a_role_steers_at_the_beginning_of_a_word_alone(role: str) -> None:
    for harmless in (f"SUPER{role} admin", f"the _{role} key", f"É{role} 1", role.lower() + " me"):
        assert check_question(harmless, 100) == harmless
    for steering in (role, f"x\n{role}", f"-{role}", f"({role})", f"SUPER{role} {role}"):
        with pytest.raises(InvalidRequestError, match=f"'{role}', which steers the model"):
            check_question(steering, 100)


def test_every_role_of_the_templates_is_known() -> None:
    turns = render_conversation("vicuna_v1", [("question", "answer"), ("next", None)])
    assert all(role in turns for role in ROLES)
    assert turns.count(":") == 4


def test_every_end_of_a_line_is_a_newline() -> None:
    for end in ("\r\n", "\r", "\n"):
        assert check_question(f"Is it{end}here?{end}", 100) == "Is it\nhere?"
    assert check_question("a\r\n\r\nb\r\rc", 10) == "a\n\nb\n\nc"


@pytest.mark.parametrize("text", ["", "   \n\t ", " \r\n\r"])
def test_empty_question_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequestError, match="empty"):
        check_question(text, 100)


@pytest.mark.parametrize(
    ("text", "code"),
    [("a\0b", "0000"), ("a\x1bb", "001B"), ("a\x7fb", "007F"), ("a\ud800b", "D800")],
)
def test_control_characters_are_refused(text: str, code: str) -> None:
    with pytest.raises(InvalidRequestError, match=code):
        check_question(text, 100)


def test_long_question_is_refused_with_both_numbers() -> None:
    with pytest.raises(QuestionTooLongError, match="11 characters, at most 10"):
        check_question("a" * 11, 10)


def test_every_coordinate_gets_its_own_click() -> None:
    """The reference made two placeholders and one click of this, and crashed."""
    text, clicks = parse_coordinates(
        "from [1.23456, -2, 3e0] to [4,5,6,.1,.2,.3] or [7,8,9,1,1,1,0,0,0]?"
    )
    assert text == "from <boxes> to <boxes> or <boxes>?"
    assert clicks == ((1.235, -2.0, 3.0), (4.0, 5.0, 6.0), (7.0, 8.0, 9.0))
    assert parse_coordinates("no coordinates") == ("no coordinates", ())


@pytest.mark.parametrize(
    "group",
    [
        "[1,2]",
        "[1,2,3,4]",
        "[abc]",
        "[]",
        "[1,2,nan]",
        "[1,inf,3]",
        "[1,2,1e7]",
        "[1 2 3]",
        "[1,,3]",
    ],
)
def test_malformed_coordinates_say_what_is_allowed(group: str) -> None:
    with pytest.raises(InvalidRequestError, match=r"3 numbers \(a point\), 6 .* or 9"):
        parse_coordinates(f"what is at {group}?")


@pytest.mark.parametrize("text", ["at [1,2,3", "at 1,2,3]", "at [[1,2,3]]"])
def test_unbalanced_brackets_are_refused(text: str) -> None:
    with pytest.raises(InvalidRequestError, match="without its partner"):
        parse_coordinates(text)


def test_encode_marks_placeholders_and_end(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("<image>\nat <boxes></s>USER: x")
    assert ids[0] == tokenizer.bos_id
    assert ids[1] == IMAGE_ID
    assert ids.count(CLICK_ID) == 1
    assert ids.count(tokenizer.bos_id) == 1
    after_end = ids[ids.index(tokenizer.eos_id) + 1 :]
    assert tokenizer.decode(after_end) == "USER: x"
    assert after_end != tokenizer.encode("USER: x")[1:]  # no leading space piece after </s>


def test_bad_tokenizer_files(tmp_path: pytest.TempPathFactory) -> None:
    path = tmp_path / "tokenizer.model"  # type: ignore[operator]
    with pytest.raises(CheckpointError, match="no tokenizer at"):
        Tokenizer(path)
    path.write_bytes(b"not a model")
    with pytest.raises(CheckpointError, match="not a sentencepiece model"):
        Tokenizer(path)
