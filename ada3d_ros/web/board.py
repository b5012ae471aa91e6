"""What every open page shows: the robot's state, its scene, and the turns of the conversation.

Lives on the event loop's thread alone. Each page is sent the whole of it when it connects, then
what changes.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections import OrderedDict
from typing import Any

MAX_TURNS = 100  # shown; older ones go
MAX_OPEN = 8  # turns that wait for their answer
MAX_NEWS = 30  # of standing questions
MAX_BEHIND = 500  # events that a page may lag behind; then it connects anew
OPEN = ("waiting", "running")
Event = tuple[str, str]  # name, and its data as JSON


class Board:
    """The state, and the queues of the pages that watch it. `None` in a queue ends its page."""

    def __init__(self, node: str, strategies: list[str]) -> None:
        self._name = secrets.token_hex(4)  # of this process: its turns are known by it
        self._count = 0
        self._state: dict[str, Any] = {
            "node": node,
            "strategies": strategies,
            "status": {},
            "keyframes": {"epoch": -1, "views": []},
            "pose": None,
            "settings": {},
            "watches": [],
            "news": [],
            "cloud": 0,
        }
        self.turns: OrderedDict[str, dict[str, Any]] = OrderedDict()
        self._kept: dict[str, bytes] = {}
        self.cloud = b""
        self.pictures: dict[str, bytes] = {}
        self._pages: set[asyncio.Queue[Event | None]] = set()

    # -- pages

    def watch(self) -> asyncio.Queue[Event | None]:
        """A queue that begins with all there is."""
        queue: asyncio.Queue[Event | None] = asyncio.Queue()
        whole = {**self._state, "process": self._name, "turns": list(self.turns.values())}
        queue.put_nowait(("whole", json.dumps(whole)))
        self._pages.add(queue)
        return queue

    def leave(self, queue: asyncio.Queue[Event | None]) -> None:
        self._pages.discard(queue)

    @property
    def is_watched(self) -> bool:
        return bool(self._pages)

    def close(self) -> None:
        """End every page's stream."""
        for queue in self._pages:
            queue.put_nowait(None)

    def _send(self, name: str, data: Any) -> None:
        event = name, json.dumps(data)
        for queue in list(self._pages):
            if queue.qsize() < MAX_BEHIND:
                queue.put_nowait(event)
            else:
                self._pages.discard(queue)
                queue.put_nowait(None)

    # -- what the robot says

    def set(self, name: str, value: Any) -> None:
        """A part of the state, told where it changed."""
        if self._state[name] != value:
            self._state[name] = value
            self._send(name, value)

    def set_settings(self, settings: dict[str, Any]) -> None:
        """Told also where nothing changed: a page shows what was chosen there until it hears."""
        self._state["settings"] = {**self._state["settings"], **settings}
        self._send("settings", self._state["settings"])

    def set_cloud(self, points: bytes) -> None:
        self.cloud = points
        self.set("cloud", self._state["cloud"] + 1)

    def set_keyframes(self, keyframes: dict[str, Any], pictures: dict[str, bytes]) -> None:
        self.pictures = pictures
        self.set("keyframes", keyframes)

    def add_news(self, event: dict[str, Any]) -> None:
        """What happened to a standing question, with the time at which it came, s; newest last."""
        news = [*self._state["news"], {**event, "at_s": time.time()}]
        self.set("news", news[-MAX_NEWS:])

    # -- turns

    @property
    def is_full(self) -> bool:
        return sum(turn["state"] in OPEN for turn in self.turns.values()) >= MAX_OPEN

    def begin(self, kind: str, question: str, page: str) -> str:
        """A new turn; returns its name. page: which page asked."""
        turn = {"kind": kind, "question": question, "page": page, "state": "waiting", "text": ""}
        return self._add(turn)

    def add_elsewhere(self, question: str, fields: dict[str, Any], kept: bytes) -> None:
        """What somebody else asked and was answered."""
        name = self._add(
            {"kind": "ask", "question": question, "page": "", "elsewhere": True, **fields}
        )
        self._kept[name] = kept

    def _add(self, turn: dict[str, Any]) -> str:
        self._count += 1
        name = f"{self._name}-{self._count}"
        self.turns[name] = {"turn": name, **turn}
        while len(self.turns) > MAX_TURNS:
            old, _ = self.turns.popitem(last=False)
            self._kept.pop(old, None)
        self._send("turn", self.turns[name])
        return name

    def add_text(self, name: str, delta: str) -> None:
        turn = self.turns.get(name)
        if turn is not None and turn["state"] in OPEN:
            turn["state"] = "running"
            turn["text"] += delta
            self._send("text", {"turn": name, "delta": delta})

    def end(self, name: str, fields: dict[str, Any], kept: bytes) -> None:
        """What became of a turn; its text so far stays where there is no other."""
        turn = self.turns.get(name)
        if turn is not None:
            told = {**fields, "text": fields.get("text") or turn["text"]}
            turn.update(told)
            self._kept[name] = kept
            self._send("turn", turn)

    def kept_of(self, name: str) -> bytes:
        """Places of the kept tokens of a turn, float32 (N, 3) metres; b"" without any."""
        return self._kept.get(name, b"")
