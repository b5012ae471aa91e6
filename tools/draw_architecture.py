"""Draw the figure of docs/architecture.md, docs/architecture.svg: python tools/draw_architecture.py

Plain strings, so the same file comes out everywhere; a test compares it.
"""

from __future__ import annotations

import html
from dataclasses import dataclass
from pathlib import Path

TARGET = Path(__file__).resolve().parents[1] / "docs" / "architecture.svg"
WIDTH, HEIGHT = 1120, 800
LEFT, LANE = 24, 344  # x and width of the frames' lane
RIGHT = 440  # x of the question's lane; it ends LEFT before the edge
STEP_TOP, STEP_HEIGHT = 236, 56
INK, SOFT = "#1f2933", "#52606d"
COLOURS = {  # room -> fill, border
    "outside": ("#ffffff", "#9aa5b1"),
    "ros": ("#e3f0fb", "#3c82c4"),
    "sources": ("#e3f0fb", "#3c82c4"),
    "scene": ("#e4f5e6", "#3d9a4b"),
    "model": ("#fdf0dc", "#cf8a1c"),
    "engine": ("#efe7fa", "#8456c4"),
    "pruning": ("#fde6e6", "#cf4545"),
    "grounding": ("#def4f3", "#24918c"),
    "pipeline": ("#f5f7fa", "#52606d"),
    "lab": ("#f5f7fa", "#9aa5b1"),
}


@dataclass(frozen=True)
class Step:
    """One step of `pipeline.ask`: what it is called, what comes out, and whose files do it."""

    title: str
    result: str
    files: tuple[str, ...]


STEPS = (
    Step(
        "scene to tokens",
        "SpatialTokens",
        ("engine/scene_encoder", "model/vision", "scene/voxel_table"),
    ),
    Step(
        "tokens to prefix",
        "pruned once, cached",
        ("engine/prefix_cache", "engine/scene_build", "pruning/pre_llm"),
    ),
    Step("prompt", "PromptSequence", ("model/prompt",)),
    Step(
        "prefill",
        "KV cache, logits",
        ("engine/prefill", "engine/layer_walk", "engine/select_keys"),
    ),
    Step("decode, streamed", "text", ("engine/decode", "engine/streaming")),
    Step("ground", "boxes on depth", ("grounding/from_head", "grounding/refine")),
    Step("answer", "Answer", ("engine/answer",)),
)
LEGEND = ("ros", "scene", "model", "engine", "pruning", "grounding")


def text(x: float, y: float, words: str, size: int = 14, style: str = "", colour: str = INK) -> str:
    """One line of text, its baseline at y. style: further attributes."""
    place = f'x="{x:g}" y="{y:g}" font-size="{size}" fill="{colour}" {style}'.rstrip()
    return f"<text {place}>{html.escape(words)}</text>"


def frame(x: float, y: float, width: float, height: float, room: str, dashed: bool = False) -> str:
    """A rounded rectangle in the room's colours."""
    fill, border = COLOURS[room]
    dash = ' stroke-dasharray="6 4"' if dashed else ""
    return (
        f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="7" fill="{fill}"'
        f' stroke="{border}" stroke-width="1.5"{dash}/>'
    )


def box(x: float, y: float, width: float, title: str, lines: tuple[str, ...], room: str) -> str:
    """A box with a bold title and lines below it; its height follows."""
    parts = [frame(x, y, width, box_height(lines), room)]
    parts.append(text(x + 14, y + 24, title, style='font-weight="600"'))
    parts += [text(x + 14, y + 44 + 18 * i, line, 13, colour=SOFT) for i, line in enumerate(lines)]
    return "\n".join(parts)


def box_height(lines: tuple[str, ...]) -> int:
    return 36 + 18 * len(lines)


def arrow(points: tuple[tuple[float, float], ...], dashed: bool = False) -> str:
    """A line through the points with a head at the last."""
    path = " ".join(f"{x:g},{y:g}" for x, y in points)
    dash = ' stroke-dasharray="6 4"' if dashed else ""
    return (
        f'<polyline points="{path}" fill="none" stroke="{SOFT}" stroke-width="1.8"'
        f' marker-end="url(#head)"{dash}/>'
    )


def chip(x: float, y: float, name: str) -> tuple[str, float]:
    """A file name in its room's colours, and where the next one begins."""
    room = name.split("/")[0]
    width = 7.3 * len(name) + 16
    fill, border = COLOURS[room]
    shape = (
        f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="22" rx="4" fill="{fill}"'
        f' stroke="{border}"/>'
    )
    return shape + text(x + 8, y + 15.5, name, 12, 'font-family="monospace"'), x + width + 8


def step(number: int, entry: Step) -> str:
    """One row inside `pipeline.ask`."""
    y = STEP_TOP + (number - 1) * STEP_HEIGHT
    parts = [
        f'<circle cx="{RIGHT + 30}" cy="{y + 22}" r="13" fill="{SOFT}"/>',
        text(
            RIGHT + 30, y + 27, str(number), 14, 'text-anchor="middle" font-weight="600"', "#ffffff"
        ),
        text(RIGHT + 54, y + 18, entry.title, style='font-weight="600"'),
        text(RIGHT + 54, y + 37, entry.result, 13, colour=SOFT),
    ]
    x = RIGHT + 206.0
    for name in entry.files:
        drawn, x = chip(x, y + 11, name)
        parts.append(drawn)
    return "\n".join(parts)


FRAMES = (  # the frames' lane: title, lines, room
    ("camera and pose messages", ("colour, depth, camera_info, pose",), "outside"),
    ("ros/inputs, ros/sync", ("nearest stamps, pose at the image's stamp",), "ros"),
    ("ros/intake", ("own thread, newest wins:", "decode, check, undistort to RgbdFrame"), "ros"),
    ("pipeline.observe: scene/keyframes", ("admit or not, evict, keep coverage",), "scene"),
)


def frames_lane() -> list[str]:
    """Messages to keyframes, then what is done between questions."""
    parts, y = [], 66.0
    for i, (title, lines, room) in enumerate(FRAMES):
        if i:
            parts.append(arrow(((LEFT + LANE / 2, y - 24), (LEFT + LANE / 2, y - 3))))
        parts.append(box(LEFT, y, LANE, title, lines, room))
        y += box_height(lines) + 24
    middle, lane_end = LEFT + LANE / 2, LEFT + LANE
    keyframes_y = y - 24 - box_height(FRAMES[-1][1]) / 2
    # the snapshot of the keyframes goes to step 1
    parts.append(
        arrow(
            (
                (lane_end, keyframes_y),
                (404, keyframes_y),
                (404, STEP_TOP + 22),
                (RIGHT - 3, STEP_TOP + 22),
            )
        )
    )
    # between questions: encode and build the prefix, which step 2 finds ready
    lines = (
        "engine/scene_encoder: a new keyframe, once",
        "engine/prefix_cache: one piece of the scene",
    )
    y += 6
    parts.append(arrow(((middle, y - 30), (middle, y - 3)), dashed=True))
    parts.append(box(LEFT, y, LANE, "pipeline.run_background_step", lines, "engine"))
    parts.append(
        text(
            LEFT + 14,
            y + box_height(lines) + 20,
            "between questions, on the model's thread",
            13,
            colour=SOFT,
        )
    )
    ready_y, second = y + box_height(lines) / 2, STEP_TOP + STEP_HEIGHT + 22
    parts.append(
        arrow(
            ((lane_end, ready_y), (420, ready_y), (420, second), (RIGHT - 3, second)), dashed=True
        )
    )
    return parts


def question_lane() -> list[str]:
    """A question, the seven steps of `pipeline.ask`, and the messages that come out."""
    width = WIDTH - LEFT - RIGHT
    middle, bottom = RIGHT + width / 2, STEP_TOP + len(STEPS) * STEP_HEIGHT
    return [
        box(RIGHT, 66, width, "a question: service, action or topic", (), "outside"),
        arrow(((middle, 102), (middle, 119))),
        box(
            RIGHT,
            122,
            width,
            "ros/requests, worker",
            ("a queue; one thread owns the model",),
            "ros",
        ),
        arrow(((middle, 176), (middle, 193))),
        frame(RIGHT, 196, width, bottom - 196 + 4, "pipeline"),
        text(RIGHT + 14, 219, "pipeline.ask", style='font-weight="600"'),
        *(step(i, entry) for i, entry in enumerate(STEPS, start=1)),
        arrow(((middle, bottom + 4), (middle, bottom + 21))),
        box(
            RIGHT,
            bottom + 24,
            width,
            "ros/conversions, ros/outputs",
            ("answer, text, boxes, markers",),
            "ros",
        ),
    ]


def footer() -> list[str]:
    """Who is who, and the laboratory apart."""
    y, parts, x = 738, [], float(RIGHT)
    for room in LEGEND:
        fill, border = COLOURS[room]
        parts.append(
            f'<rect x="{x:g}" y="{y + 10}" width="16" height="16" rx="3" fill="{fill}"'
            f' stroke="{border}"/>'
        )
        parts.append(text(x + 23, y + 23, f"{room}/", 13))
        x += 50 + 7.6 * len(room)
    recorded = ("bags and folders: the same RgbdFrame,", "to pipeline.observe of a library caller")
    parts.append(box(LEFT, y - 114, LANE, "sources/", recorded, "sources"))
    parts.append(frame(LEFT, y - 14, LANE, 60, "lab", dashed=True))
    parts.append(text(LEFT + 14, y + 10, "lab/", style='font-weight="600"'))
    parts.append(
        text(LEFT + 14, y + 30, "imports all of this; nothing here imports it", 13, colour=SOFT)
    )
    return parts


def svg(width: int, height: int, label: str, parts: list[str]) -> str:
    """A file of these parts, on white. label: what it shows, for those who cannot see it."""
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}"'
        f' height="{height}" font-family="system-ui, Helvetica, Arial, sans-serif" role="img"'
        f' aria-label="{label}">'
    )
    marker = (
        '<defs><marker id="head" viewBox="0 0 10 10" refX="8" refY="5" markerWidth="7"'
        ' markerHeight="7" orient="auto">'
        f'<path d="M0,0 L10,5 L0,10 z" fill="{SOFT}"/></marker></defs>'
    )
    ground = f'<rect width="{width}" height="{height}" fill="#ffffff"/>'
    return "\n".join([head, marker, ground, *parts, "</svg>"]) + "\n"


def render() -> str:
    """The whole file."""
    label = "the main path: from messages to keyframes, from a question to its answer"
    titles = [
        text(LEFT, 40, "Frames come in", 18, 'font-weight="600"'),
        text(RIGHT, 40, "A question comes in", 18, 'font-weight="600"'),
    ]
    return svg(WIDTH, HEIGHT, label, [*titles, *frames_lane(), *question_lane(), *footer()])


if __name__ == "__main__":
    TARGET.write_text(render(), encoding="utf-8")
    print(f"wrote {TARGET}")
