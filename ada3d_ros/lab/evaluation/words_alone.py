"""What the words of a question alone give away: a learner that sees questions and no room.

Naive Bayes over the words of each kind of question, fitted to rooms of the split that models train
on. Real-3DQA finds such learners level with 3D language models on published data sets; here it is
the honest blind row, since the model itself was never trained to answer without a scene.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable

from ada3d_ros.lab.evaluation.selection import RoomSelection, rooms_of
from ada3d_ros.lab.world.room_question import RoomQuestion

FITTED_ROOMS = 1000


class WordsAlone:
    """The most probable answer of a question's kind, by its words."""

    def __init__(self, questions: Iterable[RoomQuestion]) -> None:
        self._answers: dict[str, Counter[str]] = defaultdict(Counter)
        self._words: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
        self._vocabulary: dict[str, set[str]] = defaultdict(set)
        for question in questions:
            words = words_of(question.text)
            self._answers[question.kind][question.answer] += 1
            self._words[question.kind, question.answer].update(words)
            self._vocabulary[question.kind] |= words

    def answer(self, question: RoomQuestion) -> str:
        """The empty text for a kind it was not fitted to; of equals the first in the alphabet."""
        answers = sorted(self._answers[question.kind])
        known = words_of(question.text) & self._vocabulary[question.kind]
        return max(
            answers, key=lambda answer: self.log_score(question.kind, answer, known), default=""
        )

    def log_score(self, kind: str, answer: str, words: set[str]) -> float:
        """log P(answer) + the sum of log P(word | answer), each word seen once more than it was."""
        asked, counts = self._answers[kind][answer], self._words[kind, answer]
        return math.log(asked) + sum(math.log((counts[w] + 1) / (asked + 2)) for w in words)


def words_of(text: str) -> set[str]:
    """Lower-case words, numbers of coordinates left out."""
    parts = text.lower().replace("[", " ").replace("]", " ").replace(",", " ").split()
    return {word.strip(".?!") for word in parts if not word.lstrip("-")[:1].isdigit()}


def fitted(level: int) -> WordsAlone:
    """Fitted to rooms of split train."""
    rooms = rooms_of(RoomSelection("train", scenes=FITTED_ROOMS, level=level), None)
    return WordsAlone(q for room in rooms for q in room.questions if not q.phrase)
