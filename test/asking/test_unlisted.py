"""What no listed object explains, by its colour; on a generated room."""

from dataclasses import replace

import pytest

from ada3d_ros.asking.unlisted import SMALL_THING, count_unlisted, shows_unlisted
from ada3d_ros.lab.world.generated import GeneratedRoom, generate_room
from ada3d_ros.measures import SceneObject
from test.support.measured import objects


@pytest.fixture(scope="module")
def room() -> GeneratedRoom:
    return generate_room(503, side_px=128, split="val")


def listed(room: GeneratedRoom) -> tuple[SceneObject, ...]:
    """Every thing, in a box that encloses it."""
    return objects(*room.boxes)


def test_a_thing_that_is_not_listed_shows_in_its_colour(room: GeneratedRoom) -> None:
    """And in that alone: its readings are what is left."""
    things, known = room.graph.things, listed(room)
    chosen = next(t for t in things if len(room.graph.matching(color=t.color)) == 1)
    others = {t.color for t in things} - {chosen.color}
    without = tuple(thing for i, thing in enumerate(known) if i != things.index(chosen))
    assert count_unlisted(chosen.color, room.frames, 0.0, known) < SMALL_THING[0]
    assert count_unlisted(chosen.color, room.frames, 0.0, without) > SMALL_THING[0]
    for color in others:
        counts = [count_unlisted(color, room.frames, 0.0, some) for some in (known, without)]
        assert counts[1] - counts[0] <= 0.1 * count_unlisted(
            chosen.color, room.frames, 0.0, without
        )


def test_too_little_and_too_much_are_no_small_thing(
    room: GeneratedRoom, monkeypatch: pytest.MonkeyPatch
) -> None:
    color = room.graph.things[0].color
    count = count_unlisted(color, room.frames, 0.0, ())
    for least, most, shows in (
        (count, count, True),
        (count + 1, count + 2, False),
        (0, count - 1, False),
    ):
        monkeypatch.setattr("ada3d_ros.asking.unlisted.SMALL_THING", (least, most))
        assert shows_unlisted(color, room.frames, 0.0, ()) is shows


def test_a_word_that_is_no_known_colour_shows_nothing(room: GeneratedRoom) -> None:
    assert not shows_unlisted("mauve", room.frames, 0.0, ())


def test_a_finer_camera_counts_about_the_same(room: GeneratedRoom) -> None:
    """A view of twice the side is read at every other pixel."""
    fine = generate_room(503, side_px=256, split="val")
    color = room.graph.things[0].color
    counts = [count_unlisted(color, one.frames, 0.0, ()) for one in (room, fine)]
    assert counts[1] == pytest.approx(counts[0], rel=0.05)


def test_colours_come_from_the_pixels_of_the_readings(room: GeneratedRoom) -> None:
    """A grey picture shows nothing red."""
    red = next(t.color for t in room.graph.things if t.color not in ("white", "black"))
    gray = tuple(replace(frame, rgb=frame.rgb * 0 + 120) for frame in room.frames)
    assert count_unlisted(red, room.frames, 0.0, ()) > 100
    assert count_unlisted(red, gray, 0.0, ()) == 0
