"""Asks a pipeline a benchmark's items, scene by scene, in one process or several.

A scene is shown once and asked all its items. Several processes (`accelerate launch -m ada3d_ros
eval ...`) share the scenes out; an item's answer does not depend on who asks it, so records and
scores are those of one process. docs/benchmarks_of_the_field.md is the user's page.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from tqdm import tqdm

from ada3d_ros.errors import FrameError, NotGroundedError, RequestError, SourceError
from ada3d_ros.lab.evaluation.field.benchmark import Benchmark, Item, Record
from ada3d_ros.lab.evaluation.field.records import ItemRecordFile
from ada3d_ros.lab.evaluation.field.scenes import Shown
from ada3d_ros.pipeline import Ada3DPipeline
from ada3d_ros.types import Answer, AskHooks, Question


@dataclass(frozen=True, slots=True)
class Asking:
    """What is the same for all items. suffix: appended to every question, after a blank; bare:
    without the benchmark's own prompt; routed: answers are measured where that can be (else the
    model answers whatever is asked); together: questions that are answered in one batch.
    """

    suffix: str = ""
    bare: bool = False
    max_new_tokens: int = 0
    routed: bool = False
    together: int = 1


class PipelineAsker:
    """The node's own pipeline answers."""

    def __init__(
        self, pipeline: Ada3DPipeline, benchmark: Benchmark, shown: Shown, asking: Asking
    ) -> None:
        self.pipeline, self.benchmark, self.shown = pipeline, benchmark, shown
        self.asking = asking

    def show(self, item: Item) -> None:
        """The scene or image of this item is asked about from now on. A frame that cannot be used
        is left out, as at the node. Raises SourceError where none is left.
        """
        frames = self.shown.frames(item)
        self.pipeline.reset_scene()
        why = ""
        for frame in frames:
            try:
                self.pipeline.observe(frame)
            except FrameError as error:
                why = f"; the last: {error}"
        if not self.pipeline.scene_state().num_keyframes:
            raise SourceError(f"{item.source}: none of {len(frames)} frames could be used{why}")

    def answer(self, items: Sequence[Item]) -> list[Record]:
        """Records of items about what is shown. Raises ModelError."""
        asked = [self._asked(item) for item in items]
        if self.benchmark.grounds:
            answers = [self._grounded(question) for question in asked]
        else:
            answers = self.pipeline.ask_together([(question, AskHooks()) for question in asked])
        return [self._record(item, answer) for item, answer in zip(items, answers, strict=True)]

    def _asked(self, item: Item) -> Question:
        question = self.benchmark.question(item)
        asking = self.asking
        text = question.text
        if asking.bare:
            text = text.removesuffix(f"\n{self.benchmark.prompt}")
        return replace(
            question,
            text=f"{text} {asking.suffix}".strip() if asking.suffix else text,
            max_new_tokens=asking.max_new_tokens or question.max_new_tokens,
            scope=self.benchmark.scope,
            routed=asking.routed,
        )

    def _grounded(self, question: Question) -> Answer | Exception:
        try:
            return self.pipeline.ground(question)
        except RequestError as error:
            return error

    def _record(self, item: Item, answer: Answer | Exception) -> Record:
        """Raises what is no fault of the question: the model's, the machine's."""
        if isinstance(answer, Answer):
            return self.benchmark.record(item, answer)
        if self.benchmark.grounds and isinstance(answer, NotGroundedError):
            return {"text": "", "boxes": []}  # an answer, too: there is no such thing
        if isinstance(answer, RequestError):
            return {"text": "", "error": answer.code.name, "why": str(answer)}
        raise answer


def pending(items: Sequence[Item], records: Mapping[str, Record]) -> dict[str, list[Item]]:
    """What is still to be asked: scene -> items, in the order of the files."""
    by_source: dict[str, list[Item]] = {}
    for item in items:
        if item.id not in records:
            by_source.setdefault(item.source, []).append(item)
    return by_source


def share_of(by_source: Mapping[str, list[Item]], count: int, rank: int) -> dict[str, list[Item]]:
    """The scenes of one of `count` processes: each scene goes, in order, to whichever has fewest
    items so far.
    """
    loads, own = [0] * count, {}
    for source, items in by_source.items():
        least = loads.index(min(loads))
        loads[least] += len(items)
        if least == rank:
            own[source] = items
    return own


class RunningScore:
    """A progress bar over items with the mean score of those that can be scored alone."""

    def __init__(self, benchmark: Benchmark, total: int, visible: bool = True) -> None:
        self.benchmark = benchmark
        self._sum, self._count = 0.0, 0
        self.bar = tqdm(
            total=total, desc=benchmark.name, unit="item", mininterval=2, disable=not visible
        )

    @property
    def mean(self) -> float:
        """NaN where nothing was scored yet."""
        return self._sum / self._count if self._count else float("nan")

    def add(self, item: Item, record: Record) -> None:
        score = self.benchmark.item_score(item, record)
        if score == score:
            self._sum, self._count = self._sum + score, self._count + 1
        self.bar.set_postfix_str(f"score {self.mean:.3f}", refresh=False)
        self.bar.update()


def ask_all(
    asker: PipelineAsker,
    by_source: Mapping[str, list[Item]],
    file: ItemRecordFile,
    progress: RunningScore,
    together: int = 1,
) -> None:
    """Ask scene by scene; each record is on disk before the next item is asked.

    Raises SourceError, ModelError; what was asked until then stays.
    """
    for items in by_source.values():
        asker.show(items[0])
        for some in _chunks(items, together):
            for item, record in zip(some, asker.answer(some), strict=True):
                file.append(item.id, record)
                progress.add(item, record)


def _chunks(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    return (items[i : i + size] for i in range(0, len(items), size))
