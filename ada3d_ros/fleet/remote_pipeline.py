"""A robot whose questions a server answers (`model.remote`): the scene is kept here, images go up
once, between questions; answers come back. Loads no torch, unless a fall-back answers.

Every question carries the digest of the scene that it is about. A server that lacks that scene (it
was started anew, or another replica has taken over) says so, gets it, and is asked again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ada3d_ros.config import AgentConfig
from ada3d_ros.engine.cache_report import CacheReport
from ada3d_ros.errors import (
    Ada3DError,
    ConfigError,
    InvalidRequestError,
    KeyframesMissingError,
    LoadingError,
    NotMeasurableError,
    RemoteLostError,
)
from ada3d_ros.fleet.answer_stream import AnswerStream
from ada3d_ros.fleet.connection import CHECK_S, Address, Backoff, Connection
from ada3d_ros.fleet.fallback import check_fallback, local_pipeline
from ada3d_ros.fleet.protocol import Call
from ada3d_ros.fleet.scene_upload import SceneUpload, dumped
from ada3d_ros.measures import MeasureRequest, ObjectsSnapshot
from ada3d_ros.scene.keyframes import SceneSnapshot
from ada3d_ros.scene_pipeline import MEASURE, ScenePipeline
from ada3d_ros.store.json_form import from_json, to_json
from ada3d_ros.types import NAN, Answer, AskHooks, ModelInfo, Question

if TYPE_CHECKING:
    from ada3d_ros.pipeline import Ada3DPipeline

logger = logging.getLogger(__name__)
MAX_ROUNDS = 3  # in which a server may say that it lacks the scene it was just given
NOT_HERE = ObjectsSnapshot(
    why_not="no objects are kept here: the server of model.remote finds them when it is asked (ask,"
    " ground, measure)."
)


@dataclass(slots=True)
class RemoteCounts:
    """What the network cost. network_s: of the last answer, beside the server's own time."""

    answers: int = 0
    fallback_answers: int = 0
    retries: int = 0
    network_s: float = NAN


class RemotePipeline(ScenePipeline):
    """One robot's scene; `model.remote` answers. The robot alone decides which keyframes it has.

    make_fallback: makes the pipeline of remote.fallback.
    """

    def __init__(
        self,
        config: AgentConfig,
        background: bool = False,
        make_fallback: Callable[[AgentConfig], Ada3DPipeline] | None = None,
    ) -> None:
        super().__init__(config, background)
        self.counts, self.backoff = RemoteCounts(), Backoff()
        self.problem = ""  # why the server does not answer; '' while it does
        self._make_fallback = make_fallback or local_pipeline
        self._fallback: Ada3DPipeline | None = None
        self._remote_info: ModelInfo | None = None
        self._upload: SceneUpload | None = None  # from check on

    # -- the server

    def check(self) -> ModelInfo:
        """Who answers, as far as is known now. Raises ConfigError."""
        if self.has_detector:
            raise ConfigError(
                f"detector.path = {self.config.detector.path!r} and model.remote ="
                f" {self.config.model.remote!r}: a detector's objects stay on the robot, questions"
                " leave it. Leave one of them empty."
            )
        check_fallback(self.config)
        self._upload = SceneUpload(Connection(Address.from_config(self.config)))
        self.info = self._unknown_info()
        return self.info

    def check_settings(self, config: AgentConfig) -> None:
        """Whatever these settings are, the server has its own of model and pruning."""

    def load(self) -> None:
        """Ask the server what model it has. One that is not there now may come later. Raises
        ConfigError, AccessDeniedError.
        """
        if self._upload is None:
            self.check()
        try:
            self._learn_model()
        except RemoteLostError as error:
            self._lost(error)

    def beside(self) -> RemotePipeline:
        """A pipeline for another scene, at the same server."""
        other = RemotePipeline(self.config, make_fallback=self._make_fallback)
        other.load()
        return other

    @property
    def ready(self) -> bool:
        return self._upload is not None

    @property
    def upload(self) -> SceneUpload:
        """Raises LoadingError before `check`."""
        if self._upload is None:
            raise LoadingError("the server has not been looked for yet.")
        return self._upload

    def remote_report(self) -> dict[str, object]:
        """Where answers come from and what the network costs, for diagnostics; never waits."""
        if self._upload is None:
            return {}
        counts, upload, traffic = self.counts, self._upload, self._upload.connection.traffic
        return {
            "remote.url": self.config.model.remote,
            "remote.answers_from": self.answers_from,
            "remote.problem": self.problem,
            "remote.keyframes_to_send": len(upload.missing),
            "remote.keyframes_sent": upload.sent,
            "remote.scenes_sent_again": upload.again,
            "remote.retries": counts.retries,
            "remote.answers": counts.answers,
            "remote.fallback_answers": counts.fallback_answers,
            "remote.network_ms": counts.network_s * 1e3,
            "remote.sent_mib": traffic.sent / 2**20,
            "remote.received_mib": traffic.received / 2**20,
            "remote.connections": traffic.connections,
        }

    @property
    def answers_from(self) -> str:
        """Who answers now: the server, the fall-back, or nobody."""
        if not self.problem:
            return "server"
        fallback = self.config.remote.fallback
        return f"fall-back {fallback}" if fallback else "nobody"

    @property
    def remote_problem(self) -> str:
        return f"{self.answers_from} answers: {self.problem}" if self.problem else ""

    def device_memory_mib(self) -> tuple[float, float]:
        return NAN, NAN

    def pruning_in_force(self) -> tuple[str, tuple[float, ...]]:
        return "as the server is set", ()

    def cache_report(self) -> CacheReport:
        """The cache is the server's."""
        return CacheReport()

    def free_memory(self) -> None:
        """Nothing is kept that could be made again."""

    def objects(self) -> ObjectsSnapshot:
        return NOT_HERE

    def inventory_now(self) -> ObjectsSnapshot:
        """Raises NotMeasurableError."""
        raise NotMeasurableError(NOT_HERE.why_not)

    def _learn_model(self) -> None:
        connection = self.upload.connection
        told = connection.request("GET", connection.address.path("model"))
        try:
            info = from_json(ModelInfo, told)
        except InvalidRequestError as error:
            raise RemoteLostError(
                f"{connection.address.url} answers, but not as `ada3d serve` of this version"
                f" ({error}): does model.remote name one?"
            ) from None
        device = f"{info.device} of {connection.address.url}"
        self.info = self._remote_info = replace(info, device=device)
        self._found()

    def _unknown_info(self) -> ModelInfo:
        """Before the server said what it has."""
        url = self.config.model.remote
        return ModelInfo("remote", "unknown", "", url, "", 0, 0, 0, False, True, False)

    def _lost(self, error: RemoteLostError) -> None:
        if not self.problem:
            logger.warning("%s", error)
        self.problem = str(error)
        self.backoff.failed()
        self.upload.forget()

    def _found(self) -> None:
        if self.problem:
            logger.warning("the server %s answers again.", self.config.model.remote)
        self.problem = ""
        self.backoff.worked()
        if self._remote_info is not None:
            self.info = self._remote_info

    # -- between questions

    def run_background_step(self) -> bool:
        """The scene's list to the server, or one of the keyframes that it lacks; False where
        nothing is left for now. Call it on the asking thread, until False, now and then.
        """
        scene, upload = self._scene, self._upload
        if upload is None or not self.backoff.due:
            return False
        try:
            if self._remote_info is None or self.problem:
                self._learn_model()
            if not scene.keyframes or upload.has(scene):
                return False
            upload.send_piece(scene)
            return not upload.has(scene)
        except RemoteLostError as error:
            self._lost(error)
        except Ada3DError as error:  # a question says the same
            logger.warning("the scene was not sent: %s", error)
            upload.forget()
            self.backoff.failed()
        return False

    # -- questions

    def ask(self, question: Question, hooks: AskHooks = AskHooks()) -> Answer:
        """As Ada3DPipeline.ask, on the server. Raises RemoteLostError where it is not reached
        within remote.retry_sec and nothing answers in its place; BusyError, AccessDeniedError.
        """
        return self._answered("ask", question, hooks)

    def ground(self, question: Question, hooks: AskHooks = AskHooks()) -> Answer:
        """As Ada3DPipeline.ground; raises as `ask`."""
        return self._answered("ground", question, hooks)

    def measure(
        self, request: MeasureRequest, hooks: AskHooks = AskHooks(), question: Question = MEASURE
    ) -> Answer:
        """As Ada3DPipeline.measure; raises as `ask`."""
        return self._answered("measure", question, hooks, request)

    def ask_together(self, asked: Sequence[tuple[Question, AskHooks]]) -> list[Answer | Exception]:
        """Answers, or what `ask` would have raised, in the order asked."""
        answers: list[Answer | Exception] = []
        for question, hooks in asked:
            try:
                answers.append(self.ask(question, hooks))
            except Exception as error:  # told to this caller; the others go on
                answers.append(error)
        return answers

    def _answered(
        self,
        kind: str,
        question: Question,
        hooks: AskHooks,
        request: MeasureRequest | None = None,
    ) -> Answer:
        if kind != "measure":
            self.check_question(question.text)
        scene = self._scene_to_ask()
        asked = self._with_defaults(question)
        call = Call(self.upload.digest(scene), asked, self.config.generation.timeout_sec, request)
        told = AnswerStream(hooks)
        end_s = time.monotonic() + (0.0 if self._falls_back else self.config.remote.retry_sec)
        if self._falls_back and not self.backoff.due:
            return self._answered_here(kind, question, hooks, request, scene)
        while True:
            try:
                return self._from_server(kind, call, scene, told)
            except RemoteLostError as error:
                self._lost(error)
                lost = error
            if time.monotonic() + self.backoff.left_s > end_s:
                break
            self.counts.retries += 1
            _wait(self.backoff, hooks.check)
        if self.config.remote.fallback and not told.emitted:
            return self._answered_here(kind, question, hooks, request, scene)
        raise lost

    @property
    def _falls_back(self) -> bool:
        """Whether the server was lost before, and someone answers in its place."""
        return bool(self.problem and self.config.remote.fallback)

    def _with_defaults(self, question: Question) -> Question:
        """With the robot's own settings where the server would take its own."""
        config = self.config
        return replace(
            question,
            max_new_tokens=question.max_new_tokens or config.generation.max_new_tokens,
            max_boxes=question.max_boxes or config.boxes.max_count,
            min_score=question.min_score or config.boxes.min_score,
        )

    def _from_server(
        self, kind: str, call: Call, scene: SceneSnapshot, told: AnswerStream
    ) -> Answer:
        """Raises RemoteLostError, or what the server told."""
        upload, begun = self.upload, time.perf_counter()
        path, body = upload.path(kind), dumped(to_json(call))
        for _ in range(MAX_ROUNDS):
            if self._remote_info is None:
                self._learn_model()
            while not upload.has(scene):
                told.hooks.check()
                upload.send_piece(scene)
            try:
                answer, server_s = told.take(upload.connection.lines(path, body, told.hooks.check))
            except KeyframesMissingError:
                upload.lacked()
                continue
            self._found()
            self.counts.answers += 1
            self.counts.network_s = time.perf_counter() - begun - server_s
            return answer
        raise RemoteLostError(
            f"{self.config.model.remote} lacks the scene, sent {MAX_ROUNDS} times: it has"
            " too little room for so many robots (ada3d serve --scenes)."
        )

    def _answered_here(
        self,
        kind: str,
        question: Question,
        hooks: AskHooks,
        request: MeasureRequest | None,
        scene: SceneSnapshot,
    ) -> Answer:
        """By the fall-back, which is loaded where it was not."""
        if self._fallback is None:
            logger.warning("%s answers while the server is lost.", self.config.remote.fallback)
            local = self._make_fallback(self.config)
            local.check()
            local.load()
            self._fallback = local
        local = self._fallback
        local.restore(scene)
        self.info = local.info
        if kind == "measure":
            assert request is not None
            answer = local.measure(request, hooks, question)
        else:
            answer = (local.ground if kind == "ground" else local.ask)(question, hooks)
        self.counts.fallback_answers += 1
        return answer


def _wait(backoff: Backoff, check: Callable[[], None]) -> None:
    """Until the server is tried again; check is called meanwhile."""
    while not backoff.due:
        check()
        time.sleep(min(CHECK_S, max(backoff.left_s, 0.0)))
