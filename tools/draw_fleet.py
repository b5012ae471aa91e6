"""Draw the figure of docs/fleet.md, docs/fleet.svg: python tools/draw_fleet.py

Plain strings, so the same file comes out everywhere; a test compares it.
"""

from __future__ import annotations

from pathlib import Path

from draw_architecture import SOFT, arrow, box, box_height, frame, svg, text

TARGET = Path(__file__).resolve().parents[1] / "docs" / "fleet.svg"
WIDTH, HEIGHT = 1120, 612
TOP = 66  # y of the three panels
ROBOT, ROBOT_WIDTH = 24, 328  # x and width of the panels
SERVE, SERVE_WIDTH = 452, 264
REPLICA, REPLICA_WIDTH = 776, 320
GAP = 22  # between two boxes
INNER = 14  # from a panel's edge to its boxes
BOLD = 'font-weight="600"'
HOME = {"r2": "#cf8a1c", "r3": "#3c82c4", "r5": "#3d9a4b", "r7": "#8456c4"}  # robots in the figure

ROBOT_PARTS = (  # title, lines, room
    ("ros/intake", ("colour, depth, poses: frames",), "ros"),
    ("scene/keyframes", ("the robot says what its scene is",), "scene"),
    (
        "fleet/scene_upload",
        ("the list; each keyframe once, JPEG + PNG,", "between questions"),
        "engine",
    ),
    (
        "fleet/remote_pipeline",
        ("a question with the digest of the list;", "again after a loss"),
        "engine",
    ),
    ("fleet/connection", ("HTTP(S), kept; token",), "engine"),
)
SERVE_PARTS = (
    ("proxy", ("TLS; a queue for each replica",), "model"),
    ("router", ("a ring of robot ids: each robot", "at one replica, with no second"), "model"),
    (
        "controller",
        ("health: an answer of one token", "more replicas, or fewer", "one by one for an update"),
        "model",
    ),
)
REPLICA_PARTS = (
    ("fleet/ingress", ("token, sizes, counts; lines of JSON",), "grounding"),
    (
        "fleet/scene_store",
        ("lists and keyframes of many robots;", "who asked longest ago goes first"),
        "grounding",
    ),
    (
        "fleet/scene_host",
        ("one thread, one copy of the weights,", "a pipeline for each scene"),
        "grounding",
    ),
)


def column(
    x: float, y: float, width: float, parts: tuple[tuple[str, tuple[str, ...], str], ...]
) -> tuple[list[str], float, list[float]]:
    """Boxes below each other, joined by arrows; where they end, and the middle of each."""
    drawn: list[str] = []
    middles: list[float] = []
    for i, (title, lines, room) in enumerate(parts):
        if i:
            drawn.append(arrow(((x + width / 2, y - GAP), (x + width / 2, y - 3))))
        drawn.append(box(x, y, width, title, lines, room))
        middles.append(y + box_height(lines) / 2)
        y += box_height(lines) + GAP
    return drawn, y - GAP, middles


def robots() -> tuple[list[str], float]:
    """One robot in front of others, and the height of what leaves it."""
    inner = ROBOT_WIDTH - 2 * INNER
    boxes, end, middles = column(ROBOT + INNER, TOP + 40, inner, ROBOT_PARTS)
    lines = ("a small model, while the server is lost",)
    height = end + GAP + box_height(lines) + INNER - TOP
    parts = [frame(ROBOT + d, TOP - d / 2, ROBOT_WIDTH, height, "outside") for d in (16, 8, 0)]
    parts.append(text(ROBOT + INNER, TOP + 25, "a robot's node, without torch", style=BOLD))
    side = ROBOT + INNER / 2
    down = arrow(
        (
            (ROBOT + INNER, middles[3]),
            (side, middles[3]),
            (side, end + GAP + 20),
            (ROBOT + INNER - 1, end + GAP + 20),
        ),
        dashed=True,
    )
    fall_back = box(ROBOT + INNER, end + GAP, inner, "remote.fallback", lines, "pipeline")
    return [*parts, *boxes, fall_back, down], middles[-1]


def serve() -> tuple[list[str], list[float]]:
    """Ray Serve: what takes requests, and what watches the replicas; the middle of each."""
    boxes, end, middles = column(SERVE + INNER, TOP + 40, SERVE_WIDTH - 2 * INNER, SERVE_PARTS[:2])
    title, lines, room = SERVE_PARTS[2]
    y = end + 64
    parts = [
        frame(SERVE, TOP, SERVE_WIDTH, y + box_height(lines) + INNER - TOP, "lab", dashed=True)
    ]
    parts.append(text(SERVE + INNER, TOP + 25, "Ray Serve", style=BOLD))
    parts.append(box(SERVE + INNER, y, SERVE_WIDTH - 2 * INNER, title, lines, room))
    return [*parts, *boxes], [*middles, y + box_height(lines) / 2]


def homes(x: float, y: float, names: tuple[str, ...]) -> str:
    """The robots whose scenes are here."""
    drawn = []
    for i, name in enumerate(names):
        at = x + 46 * i
        drawn.append(
            f'<rect x="{at:g}" y="{y:g}" width="38" height="22" rx="11" fill="{HOME[name]}"/>'
        )
        drawn.append(text(at + 19, y + 15.5, name, 12, 'text-anchor="middle"', "#ffffff"))
    return "\n".join(drawn)


def replicas() -> tuple[list[str], tuple[float, float]]:
    """One replica in full, another as a box; where requests enter each."""
    boxes, end, middles = column(
        REPLICA + INNER, TOP + 40, REPLICA_WIDTH - 2 * INNER, REPLICA_PARTS
    )
    parts = [frame(REPLICA, TOP, REPLICA_WIDTH, end + 66 - TOP, "outside")]
    parts.append(text(REPLICA + INNER, TOP + 25, "a replica: one GPU", style=BOLD))
    parts.append(homes(REPLICA + INNER, end + 14, ("r2", "r5", "r7")))
    parts.append(
        text(REPLICA + INNER, end + 56, "their scenes, keys and values cached", 13, colour=SOFT)
    )
    y = end + 90
    parts.append(frame(REPLICA, y, REPLICA_WIDTH, 76, "outside"))
    parts.append(text(REPLICA + INNER, y + 25, "another replica", style=BOLD))
    parts.append(homes(REPLICA + INNER, y + 40, ("r3",)))
    return [*parts, *boxes], (middles[0], y + 38)


def render() -> str:
    """The whole file."""
    (left, out_y), (middle, serve_y), (right, enter_y) = robots(), serve(), replicas()
    proxy_y, router_y, controller_y = serve_y
    edge, turn = SERVE + SERVE_WIDTH, SERVE + SERVE_WIDTH + 30
    arrows = [
        arrow(
            (
                (ROBOT + ROBOT_WIDTH - INNER, out_y),
                (SERVE - 40, out_y),
                (SERVE - 40, proxy_y),
                (SERVE + INNER - 3, proxy_y),
            )
        ),
        arrow(
            (
                (edge - INNER, router_y),
                (turn, router_y),
                (turn, enter_y[0]),
                (REPLICA - 3, enter_y[0]),
            )
        ),
        arrow(
            (
                (edge - INNER, router_y),
                (turn, router_y),
                (turn, enter_y[1]),
                (REPLICA - 3, enter_y[1]),
            )
        ),
        arrow(((edge - INNER, controller_y), (REPLICA - 3, controller_y)), dashed=True),
    ]
    label = (
        "the fleet: keyframes go up once, questions with their digest, answers come back in lines"
    )
    words = [
        text(SERVE - 2, HEIGHT - 92, "up: list, keyframes once, questions", 13, colour=SOFT),
        text(SERVE - 2, HEIGHT - 72, "down: stage, text, answer, a line a second", 13, colour=SOFT),
        text(
            SERVE - 2,
            HEIGHT - 52,
            "409: what the replica lacks is sent, asked again",
            13,
            colour=SOFT,
        ),
        text(SERVE - 2, HEIGHT - 32, "503: busy, ask again in so many seconds", 13, colour=SOFT),
    ]
    titles = [
        text(ROBOT, 36, "Robots", 18, BOLD),
        text(SERVE, 36, "The server", 18, BOLD),
    ]
    return svg(WIDTH, HEIGHT, label, [*titles, *left, *middle, *right, *arrows, *words])


if __name__ == "__main__":
    TARGET.write_text(render(), encoding="utf-8")
    print(f"wrote {TARGET}")
