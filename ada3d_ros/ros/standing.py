"""~/watch and ~/unwatch: questions that stand, asked again when the scene has changed; what changed
goes out on ~/events, a changed answer on ~/answer as well.

They are asked one at a time when there is nothing else to do, and give way to every request.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup, ReentrantCallbackGroup
from rclpy.clock import Clock, ClockType
from std_msgs.msg import Header

from ada3d_ros.asking.kinds import KindNames
from ada3d_ros.asking.standing import (
    EventKind,
    ObjectEvent,
    StandingQuestion,
    WatchKind,
    from_json,
    has_changed,
    object_events,
    to_json,
    watch_objects,
)
from ada3d_ros.asking.words import fits
from ada3d_ros.config import SETTINGS
from ada3d_ros.config.scene import quoted
from ada3d_ros.errors import (
    Ada3DError,
    BusyError,
    ErrorCode,
    InvalidRequestError,
    NotGroundedError,
    RequestError,
    SceneResetError,
)
from ada3d_ros.measures import ObjectsSnapshot
from ada3d_ros.msg import Answer as AnswerMsg
from ada3d_ros.msg import SceneEvent
from ada3d_ros.msg import StandingQuestion as StandingQuestionMsg
from ada3d_ros.ros.conversions import Request, box_to_msg, error_of, ns_to_time
from ada3d_ros.ros.guard import guarded
from ada3d_ros.ros.objects import object_to_msg
from ada3d_ros.ros.outputs import create_publisher
from ada3d_ros.ros.requests import RequestServer
from ada3d_ros.srv import Unwatch, Watch
from ada3d_ros.types import Question

if TYPE_CHECKING:
    from ada3d_ros.ros.node import AgentNode

PERIOD_S = 0.5  # between two looks at what is due
KEY = "standing_questions"  # in the store
ASIDE = f"{KEY}.damaged"  # the same: what could not be read
ALL = "*"
MAX_LISTED = 20  # ids or labels in a sentence
MAX_NAME = 80  # characters of an object's name in one
NEW = "new"  # in the place of an id, at the first asking
# What a question will get at every asking: it is refused at once.
HOPELESS = (ErrorCode.INVALID_REQUEST, ErrorCode.QUESTION_TOO_LONG, ErrorCode.UNKNOWN_KIND)
# Nothing was found out, at no cost: asked again as if it had not been asked.
NOT_ASKED = (
    *(ErrorCode.SCENE_RESET, ErrorCode.CANCELED, ErrorCode.NOT_ACTIVE, ErrorCode.LOADING),
    ErrorCode.NO_FRAMES,
)
# It cost time and was not finished: asked again, after its period.
NOT_DONE = (ErrorCode.PREEMPTED, ErrorCode.TIMEOUT)
NOT_FOUND = "not found"  # in the place of a text, of a phrase without a box


class StandingServer:
    """The standing questions of the node."""

    def __init__(self, node: AgentNode, requests: RequestServer) -> None:
        self._node, self._requests = node, requests
        self.questions: dict[str, StandingQuestion] = {}
        self._last_number = 0
        self.scene: str | None = None  # whose questions these are; None before the first
        self._snapshot: ObjectsSnapshot | None = None  # that was looked at last
        self._events = create_publisher(node, SceneEvent, "~/events", 20)
        group = ReentrantCallbackGroup()
        node.create_service(Watch, "~/watch", self._on_watch, callback_group=group)
        node.create_service(Unwatch, "~/unwatch", self._on_unwatch, callback_group=group)
        # One look at a time: while a question is answered, its group waits.
        node.create_timer(
            PERIOD_S,
            self._ask_again,
            callback_group=MutuallyExclusiveCallbackGroup(),
            clock=Clock(clock_type=ClockType.STEADY_TIME),
        )

    def report_error(self, where: str, error: BaseException, trace: str) -> None:
        self._node.report_error(where, error, trace)

    def to_msgs(self) -> list[StandingQuestionMsg]:
        """For ~/status."""
        return [_to_msg(question) for question in self.questions.values()]

    # -- services

    def _failed(self, error: Exception, request: Any, response: Any) -> Any:
        response.error_code, response.error_msg = error_of(error)
        return response

    @guarded(_failed)
    async def _on_watch(self, request: Any, response: Any) -> Any:
        self.follow_scene()
        scene = self.scene
        try:
            pipeline = self._node.active_pipeline()
            question = self._checked(request)
            pipeline.check_question(question.question)
            if question.kind is WatchKind.OBJECT:
                self._bind(question)
            else:
                await self._ask(question)  # what is no question is refused now
                self.follow_scene()
                if self.scene != scene:
                    raise SceneResetError("another scene was loaded meanwhile; watch it again.")
                if question.error_code in HOPELESS:
                    response.error_code = question.error_code
                    response.error_msg = question.error_msg
                    return response
            self._check_room()
        except Ada3DError as error:
            return self._failed(error, request, response)
        self._last_number += 1
        question.watch_id = f"w{self._last_number}"
        self.questions[question.watch_id] = question
        self._keep()
        response.success, response.watch_id = True, question.watch_id
        response.note = self._node.scenes.why_not_kept()
        if response.note:
            self._node.get_logger().info(f"~/watch {question.watch_id}: {response.note}")
        return response

    @guarded(_failed)
    def _on_unwatch(self, request: Any, response: Any) -> Any:
        self.follow_scene()
        try:
            self._node.active_pipeline()  # else what is ended here would stand again
        except Ada3DError as error:
            return self._failed(error, request, response)
        watch_id = request.watch_id
        if watch_id != ALL and watch_id not in self.questions:
            unknown = InvalidRequestError(
                f"watch_id = {quoted(watch_id)} is none that stands; there are:"
                f" {_listed(self.questions) or 'none'}, or '*' for all."
            )
            return self._failed(unknown, request, response)
        ended = list(self.questions) if watch_id == ALL else [watch_id]
        for name in ended:
            del self.questions[name]
        self._keep()
        response.success, response.ended = True, len(ended)
        return response

    def _checked(self, request: Any) -> StandingQuestion:
        """What is asked for. Raises InvalidRequestError, BusyError."""
        if request.kind not in list(WatchKind):
            allowed = ", ".join(f"{kind.value} ({kind.name})" for kind in WatchKind)
            raise InvalidRequestError(f"kind = {request.kind}; allowed: {allowed}.")
        if not request.question.strip():
            raise InvalidRequestError("question is empty: say what to watch.")
        period_s = float(request.min_period_sec)
        setting = SETTINGS["watch.min_period_sec"]
        low, high = float(setting.low or 0.0), float(setting.high or math.inf)
        if period_s != 0 and not low <= period_s <= high:  # also catches NaN
            raise InvalidRequestError(
                f"min_period_sec = {period_s:g} is out of range; allowed: {low:g} to {high:g}"
                " seconds, or 0 for the node's default."
            )
        self._check_room()
        period_s = period_s or self._node.config.watch.min_period_sec
        return StandingQuestion("", WatchKind(request.kind), request.question.strip(), period_s)

    def _check_room(self) -> None:
        most = self._node.config.watch.max_count
        if len(self.questions) >= most:
            raise BusyError(
                f"{len(self.questions)} questions stand already (watch.max_count {most}); end one"
                " with ~/unwatch."
            )

    def _bind(self, question: StandingQuestion) -> None:
        """Find the objects that a watch names. Raises NotGroundedError without one."""
        snapshot = self._node.kept_objects()
        name = question.question
        found = [thing for thing in snapshot.present if thing.id == name]
        if not found:
            same_name = names_of(snapshot)
            found = [thing for thing in snapshot.present if same_name(name, thing.label)]
        if not found:
            there = _listed(sorted({thing.label for thing in snapshot.present}))
            name = name if len(name) <= MAX_NAME else f"{name[:MAX_NAME]}..."
            raise NotGroundedError(
                f"no object {name!r} is kept, so there is nothing to watch; there are:"
                f" {there or 'none yet'}. To be told"
                f' when one comes, watch the question "Is there a {name}?".'
            )
        watch_objects(question, found, snapshot)
        question.last_text = "there" if len(found) == 1 else f"{len(found)} there"

    # -- again and again

    @guarded()
    async def _ask_again(self) -> None:
        """Ask what is due; one question at a time."""
        pipeline = self._node.pipeline
        self.follow_scene()
        serves = pipeline is not None and pipeline.ready and self._node.inputs is not None
        if pipeline is None or not serves or self._node.paused or not self.questions:
            return
        self._check_objects()
        state = pipeline.scene_state()
        now_ns = self._node.get_clock().now().nanoseconds
        for question in list(self.questions.values()):
            if not self._stands(question) or question.kind is WatchKind.OBJECT:
                continue
            if state.num_keyframes and question.is_due((state.epoch, state.version), now_ns):
                with suppress(RequestError):  # the node was deactivated meanwhile
                    await self._ask(question)

    def _stands(self, question: StandingQuestion) -> bool:
        """Whether it was not ended, and no other scene came, since this look began."""
        is_same_scene = self._node.scenes.name == self.scene
        return is_same_scene and self.questions.get(question.watch_id) is question

    async def _ask(self, question: StandingQuestion) -> None:
        """Ask it and tell of a change."""
        scene, is_new = self._node.scenes.name, not question.watch_id
        state = self._node.active_pipeline().scene_state()
        request = Request(Question(question.question), ground=question.kind is WatchKind.GROUND)
        message = await self._requests.ask_standing(question.watch_id or NEW, request)
        code = ErrorCode(message.error_code)
        if code in NOT_ASKED or self._node.scenes.name != scene:
            return
        if not is_new and not self._stands(question):
            return
        question.last_asked_ns = self._node.get_clock().now().nanoseconds
        question.timeouts = question.timeouts + 1 if code is ErrorCode.TIMEOUT else 0
        if code is ErrorCode.PREEMPTED:
            return
        question.error_code, question.error_msg = int(code), message.error_msg
        if code in NOT_DONE:
            return
        question.seen = (state.epoch, state.version)
        if message.success or code is ErrorCode.NOT_GROUNDED:  # else nothing is known: no news
            self._note_answer(question, message)

    def _note_answer(self, question: StandingQuestion, message: AnswerMsg) -> None:
        """Tell where the answer is another than that told last."""
        text = message.text if message.success else NOT_FOUND
        boxes = message.boxes if message.success else []
        centers = [(b.center.position.x, b.center.position.y, b.center.position.z) for b in boxes]
        moved_m = self._node.config.watch.moved_m
        first, before = question.told is None, question.told
        if before is not None and not has_changed(before, text, centers, moved_m):
            return
        old_text = question.last_text
        shown = text
        if centers and question.kind is WatchKind.GROUND:
            shown += " at [{:.2f}, {:.2f}, {:.2f}]".format(*centers[0])
        question.told, question.last_text = (text, tuple(centers)), shown
        question.last_changed_ns = question.last_asked_ns
        if question.watch_id in self.questions:
            self._keep()
        if first:
            return
        self._node.publish_answer(message)
        old = before[1] if before is not None else ()
        event = SceneEvent(
            header=message.header,
            kind=EventKind.ANSWER_CHANGED,
            watch_id=question.watch_id,
            sentence=_changed_sentence(question.question, old_text, shown),
            before=old_text,
            after=shown,
        )
        if len(old) == 1 and len(centers) == 1:
            event.moved_m = math.dist(old[0], centers[0])
            position = event.box_before.center.position
            position.x, position.y, position.z = old[0]
        self._events.publish(event)

    def _check_objects(self) -> None:
        """Tell what happened to watched objects, where the list is new and complete."""
        snapshot = self._node.pipeline.objects() if self._node.pipeline is not None else None
        if snapshot is None or snapshot is self._snapshot or not snapshot.complete:
            return
        self._snapshot = snapshot
        same_name, moved_m = names_of(snapshot), self._node.config.watch.moved_m
        now_ns = self._node.get_clock().now().nanoseconds
        for question in self.questions.values():
            if question.kind is not WatchKind.OBJECT:
                continue
            question.last_asked_ns = now_ns
            events = object_events(question, snapshot, same_name, moved_m)
            for event in events:
                question.last_changed_ns, question.last_text = now_ns, event.sentence
                self._events.publish(_event_msg(event, question.watch_id, snapshot))
            _say_if_lost(question)
            if events:
                self._keep()

    # -- over restarts

    def _keep(self) -> None:
        """With the scene in use, where that is saved."""
        if self.scene == self._node.scenes.name:
            self._node.scenes.keep(KEY, to_json(self.questions.values(), self._last_number))

    def follow_scene(self) -> None:
        """Take the questions of the scene in use, where it is another one than before."""
        if self._node.scenes.name != self.scene:
            self._load(self._node.scenes.name)

    def _load(self, scene: str) -> None:
        """The questions of another scene; those of a scene without a name go on with the first
        name that it gets.
        """
        if not scene:  # the node was taken down; what stands is there when it is up again
            self.scene = scene
            return
        kept = self._node.scenes.states.get(KEY, "")
        was_unnamed, self.scene = not self.scene, scene
        if was_unnamed and not kept:
            self._keep()
            return
        try:
            questions, self._last_number = from_json(kept)
        except ValueError as error:
            self._node.scenes.note_trouble(
                f"scene {scene!r}: {error} None stands; they are set aside in its index as"
                f" kept:{ASIDE}."
            )
            self._node.scenes.keep(ASIDE, kept)
            questions = []
        self.questions = {question.watch_id: question for question in questions}
        self._snapshot = None


def _say_if_lost(question: StandingQuestion) -> None:
    """A watched object that the scene which began anew does not have: no news, but no "there"."""
    question.error_code, question.error_msg = 0, ""
    if not all(watched.id for watched in question.watched):
        question.error_code = int(ErrorCode.NOT_GROUNDED)
        question.error_msg = "not seen since the scene began anew; it is watched once it is."


def _listed(names: Iterable[str]) -> str:
    first = list(itertools.islice(names, MAX_LISTED + 1))
    return ", ".join([*first[:MAX_LISTED], *["..."] * (len(first) > MAX_LISTED)])


def names_of(snapshot: ObjectsSnapshot) -> Any:
    """(name, label) -> whether an object of that label is what the name means."""
    names = KindNames((), sorted({thing.label for thing in snapshot.objects}))
    return lambda name, label: fits(name, label) or names.surely_fits(name, label)


def _changed_sentence(question: str, before: str, after: str) -> str:
    """'"Is the door open?" was "yes", now "no".'"""
    if before == after:
        return f'the place that answers "{question}" has changed.'
    return f'"{question}" was "{before}", now "{after}".'


def _event_msg(event: ObjectEvent, watch_id: str, snapshot: ObjectsSnapshot) -> SceneEvent:
    return SceneEvent(
        header=Header(stamp=ns_to_time(snapshot.stamp_ns), frame_id=snapshot.frame_id),
        kind=int(event.kind),
        watch_id=watch_id,
        sentence=event.sentence + ".",
        object=object_to_msg(event.thing),
        box_before=box_to_msg(event.before),
        moved_m=event.moved_m,
    )


def _to_msg(question: StandingQuestion) -> StandingQuestionMsg:
    return StandingQuestionMsg(
        watch_id=question.watch_id,
        kind=int(question.kind),
        question=question.question,
        min_period_sec=question.min_period_s,
        last_asked=ns_to_time(question.last_asked_ns),
        last_changed=ns_to_time(question.last_changed_ns),
        last_text=question.last_text,
        error_code=question.error_code,
        error_msg=question.error_msg,
    )
