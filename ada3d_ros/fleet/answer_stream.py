"""What a server tells about one question, line by line: stages, text, the answer or an error."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ada3d_ros.errors import InvalidRequestError, ModelError, RemoteLostError
from ada3d_ros.fleet.protocol import error_from_json
from ada3d_ros.store.json_form import from_json
from ada3d_ros.types import Answer, AskHooks, Stage


class AnswerStream:
    """What a server tells on the way to an answer, for the hooks. An answer that is begun anew
    after the server was lost goes on where the text had come to.
    """

    def __init__(self, hooks: AskHooks) -> None:
        self.hooks = hooks
        self.emitted = ""
        self._text, self._stage = "", Stage.QUEUED

    def take(self, lines: Iterable[Mapping[str, Any]]) -> tuple[Answer, float]:
        """The answer at the end of these lines, and the seconds that the server had it. Raises
        RemoteLostError where there is none, ModelError for one that cannot be read, or the error
        that was told.
        """
        self._text = ""
        for line in lines:
            if "error" in line:
                raise error_from_json(line["error"])
            if "answer" in line:
                return _answer_of(line)
            self._take(line)
        raise RemoteLostError("the server ended before the answer did.")

    def _take(self, line: Mapping[str, Any]) -> None:
        """A stage, or a piece of text."""
        stage, text, tokens = line.get("stage"), line.get("text"), line.get("tokens")
        if isinstance(stage, int) and stage in {s.value for s in Stage}:
            if stage > self._stage.value:
                self._stage = Stage(stage)
                self.hooks.on_stage(self._stage)
        elif isinstance(text, str):
            self._text += text
            new = self._text[len(self.emitted) :]
            if new:
                self.emitted += new
                self.hooks.on_text(new, tokens if isinstance(tokens, int) else 0)


def _answer_of(line: Mapping[str, Any]) -> tuple[Answer, float]:
    seconds = line.get("server_s", 0.0)
    try:
        return from_json(Answer, line["answer"]), float(seconds or 0.0)
    except (InvalidRequestError, TypeError, ValueError) as error:
        raise ModelError(
            f"the server's answer cannot be read ({error}): is `ada3d serve` there of this version?"
        ) from None
