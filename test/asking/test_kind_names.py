"""What names mean to a detector of 80 kinds, of Open Images' words, and of none listed."""

import pytest

from ada3d_ros.asking import kind_table
from ada3d_ros.asking.kinds import KindNames
from ada3d_ros.asking.words import plural, singular
from ada3d_ros.perception.class_names import COCO_NAMES as COCO

OPEN_IMAGES = (
    *("Television", "Computer monitor", "Table", "Coffee table", "Desk", "Couch", "Mug", "Chair"),
    *("Kitchen & dining room table", "Coffee cup", "Houseplant", "Person", "Man", "Woman"),
    *("Mobile phone", "Waste container", "Bookcase", "Luggage and bags", "Backpack"),
)
VOC = ("aeroplane", "motorbike", "diningtable", "pottedplant", "sofa", "tvmonitor", "chair")
LVIS = ("television_set", "monitor_(computer_equipment) computer_monitor", "trash_can", "sofa")


@pytest.fixture(scope="module")
def coco() -> KindNames:
    return KindNames(COCO)


def test_the_kinds_themselves_are_names(coco: KindNames) -> None:
    assert len(COCO) == 80
    for kind in COCO:
        several = kind if kind in ("skis", "scissors", "broccoli") else plural(kind)
        for said in (kind, kind.upper(), f"the {kind}", kind.replace(" ", "-"), several):
            meaning = coco.meaning(said)
            assert meaning is not None, said
            assert meaning.kinds == {kind}, said
            assert meaning.covers
            assert meaning.is_sure


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *(("monitor", "tv"), ("screens", "tv"), ("display", "tv"), ("television", "tv")),
        *(("TVs", "tv"), ("computer screen", "tv"), ("couch", "couch"), ("sofa", "couch")),
        *(("settees", "couch"), ("table", "dining table")),
        *(("plant", "potted plant"), ("house plants", "potted plant"), ("fridge", "refrigerator")),
        *(("mobile phone", "cell phone"), ("smartphone", "cell phone"), ("people", "person")),
        *(("computer mouse", "mouse"), ("computer keyboard", "keyboard"), ("rucksack", "backpack")),
        *(("remote control", "remote"), ("hairdryer", "hair drier"), ("teddy", "teddy bear")),
        *(("bike", "bicycle"), ("aeroplane", "airplane"), ("doughnuts", "donut")),
        *(("pair of scissors", "scissors"), ("knives", "knife"), ("buses", "bus")),
        *(("stove", "oven"), ("lorry", "truck"), ("purse", "handbag"), ("ball", "sports ball")),
        *(("seats", "chair"), ("dining-tables", "dining table"), ("diningtable", "dining table")),
    ],
)
def test_other_words_for_a_kind(coco: KindNames, name: str, kind: str) -> None:
    meaning = coco.meaning(name)
    assert meaning is not None
    assert meaning.kinds == {kind}
    assert meaning.covers
    assert meaning.is_sure
    assert coco.fits(name, kind)
    assert coco.fits(name, f"black {kind}")


@pytest.mark.parametrize(
    "name",
    [
        *("piano", "whiteboard", "lamp", "light", "door", "window", "trash can", "shelf"),
        *("bookcase", "mouse pad", "toy car", "hot plate", "game controller", "pillow"),
        *(
            "pencil case",
            "dog bed",
            "sea horse",
            "plank",
            "cable",
            "battle",
            "phone book",
            "carpet",
            "printer",
        ),
        *("sofa next to the table", "thing on the chair", "box with a tv", "cup that is on a bed"),
    ],
)
def test_what_is_no_kind_means_nothing(coco: KindNames, name: str) -> None:
    assert coco.meaning(name) is None
    assert not any(coco.fits(name, kind) for kind in COCO)


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("bag", {"handbag", "backpack", "suitcase"}),
        ("computer", {"laptop"}),
        ("desk", {"dining table"}),
        ("pet", {"cat", "dog"}),
        ("phone", {"cell phone"}),
        ("fruit", {"banana", "apple", "orange"}),
        ("glasses", {"wine glass"}),
    ],
)
def test_a_name_of_many_sorts_is_not_denied(coco: KindNames, name: str, kinds: set[str]) -> None:
    meaning = coco.meaning(name)
    assert meaning is not None
    assert meaning.kinds == kinds
    assert not meaning.covers
    assert meaning.is_sure


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *(("office chair", "chair"), ("coffee table", "dining table"), ("wooden chair", "chair")),
        *(("woman", "person"), ("children", "person"), ("puppy", "dog"), ("mug", "cup")),
        *(("water bottle", "bottle"), ("wall clock", "clock"), ("broken monitor", "tv")),
    ],
)
def test_some_of_a_kind_are_not_told_apart(coco: KindNames, name: str, kind: str) -> None:
    meaning = coco.meaning(name)
    assert meaning is not None
    assert meaning.kinds == {kind}
    assert meaning.covers
    assert not meaning.is_sure
    assert coco.fits(name, kind)
    assert not coco.surely_fits(name, kind)
    assert coco.surely_fits(kind, kind)


def test_a_dog_is_no_hot_dog(coco: KindNames) -> None:
    assert not coco.fits("dog", "hot dog")
    assert not coco.fits("bear", "teddy bear")
    assert not coco.fits("light", "traffic light")
    assert coco.fits("hot dogs", "hot dog")


def test_colours(coco: KindNames) -> None:
    assert coco.fits("red chair", "red chair")
    assert coco.fits("the grey monitor", "gray tv")
    assert coco.fits("dark blue couch", "blue couch")
    assert coco.fits("red things", "red chair")
    assert not coco.fits("red chair", "blue chair")
    assert not coco.fits("red chair", "chair")
    # The colour of one that is not told may be any.
    meaning = coco.meaning("red chair")
    assert meaning is not None
    assert coco.may_be_one(meaning, "chair")
    assert not coco.may_be_one(meaning, "blue chair")
    # Oranges are a fruit, and a colour.
    assert coco.fits("oranges", "orange")
    assert coco.fits("orange chair", "orange chair")
    assert not coco.fits("orange", "orange chair")
    assert coco.split("orange") == ("", "orange")
    assert coco.split("orange orange") == ("orange", "orange")
    assert coco.split("black dining table") == ("black", "dining table")


def test_it_is_named_as_it_was_asked_for(coco: KindNames) -> None:
    shown = {}
    for name in ("monitors", "chair", "things", "sofa", "tv", "black screen"):
        meaning = coco.meaning(name)
        assert meaning is not None
        shown[name] = coco.shown(meaning, "black tv")
    assert shown == {
        "monitors": "black monitor",
        "chair": "black tv",
        "things": "black tv",
        "sofa": "black sofa",
        "tv": "black tv",
        "black screen": "black screen",
    }


@pytest.mark.parametrize(
    ("slip", "kind"),
    [("keybord", "keyboard"), ("Keybaord", "keyboard"), ("microwwave", "microwave")],
)
def test_a_slip_of_the_fingers_is_mended(coco: KindNames, slip: str, kind: str) -> None:
    assert coco.fits(slip, kind)
    assert coco.fits(f"white {slip}", f"white {kind}")


def test_kinds_that_are_written_otherwise() -> None:
    oi = KindNames(OPEN_IMAGES)
    wanted = {
        "monitor": {"Computer monitor"},
        "tv": {"Television"},
        "screen": {"Television", "Computer monitor"},
        "table": {"Table", "Coffee table", "Kitchen & dining room table"},
        "desk": {"Desk"},
        "dining table": {"Kitchen & dining room table"},
        "mug": {"Mug"},
        "plant": {"Houseplant"},
        "people": {"Person", "Man", "Woman"},
        "woman": {"Woman"},
        "cell phone": {"Mobile phone"},
        "rubbish bin": {"Waste container"},
        "book shelves": {"Bookcase"},
        "bag": {"Luggage and bags", "Backpack"},
    }
    for name, kinds in wanted.items():
        meaning = oi.meaning(name)
        assert meaning is not None, name
        assert meaning.kinds == kinds, name
    voc = KindNames(VOC)
    for name, kind in {"tv": VOC[5], "monitor": VOC[5], "desk": VOC[2], "plant": VOC[3]}.items():
        assert voc.fits(name, kind), name
    lvis = KindNames(LVIS)
    assert lvis.fits("tv", "television_set")
    assert lvis.fits("bin", "trash_can")


def test_nearest_kinds_of_a_name_that_is_none(coco: KindNames) -> None:
    assert coco.nearest("keyboarder")[0] == "keyboard"
    assert "traffic light" in coco.nearest("light")
    assert "refrigerator" in coco.nearest("refridgerator")
    assert set(coco.nearest("computers")) == {"laptop"}
    assert coco.nearest("piano") == ()


def test_kinds_that_nobody_listed_are_learnt_from_what_is_seen() -> None:
    names = KindNames((), seen=("red forklift", "pallet jack"))
    assert not names.is_closed
    assert set(names.kinds) == {"forklift", "pallet jack"}
    assert names.fits("forklifts", "red forklift")
    assert names.fits("jack", "pallet jack")
    assert names.meaning("chair") is None
    assert KindNames(COCO).is_closed


def test_the_tables_are_of_small_singular_names_that_differ() -> None:
    for table in (
        kind_table.GIVEN_AS,
        kind_table.OFTEN_GIVEN_AS,
        kind_table.SORTS,
        kind_table.SOME_OF,
    ):
        names = [line.partition(":")[0] for line in table.strip().splitlines()]
        assert len(names) == len(set(names))
        assert all(name == name.lower().strip() for name in names)
        assert all(name == singular(name) for name in names if " " not in name)
