"""Bags as they lie on disks: without metadata or footer, with foreign channels, packed, damaged."""

import shutil
import sqlite3

import pytest
import yaml
from rosbags.rosbag2 import CompressionMode, StoragePlugin

from ada3d_ros.config import AgentConfig
from ada3d_ros.errors import FrameReason, SourceError
from ada3d_ros.lab.evaluation.scenes import open_frames
from ada3d_ros.sources.bag import BagSource
from ada3d_ros.sources.bag_reader import BagReader, is_bag
from test.support.bags import (
    DEPTH,
    INFO,
    POSE,
    RGB,
    SECOND,
    START_NS,
    STORE,
    TYPES,
    record,
    rows,
    write_mcap,
)

COUNT = 6
BOTH = pytest.mark.parametrize("storage", list(StoragePlugin), ids=lambda s: s.name.lower())


def data_file(bag):
    return next(p for p in bag.iterdir() if p.suffix in (".mcap", ".db3"))


def edit_metadata(bag, **changes):
    path = bag / "metadata.yaml"
    content = yaml.safe_load(path.read_text())
    content["rosbag2_bagfile_information"].update(changes)
    path.write_text(yaml.safe_dump(content))


def notes_and_frames(path):
    with BagReader(path) as reader:
        notes = reader.notes
        assert reader.message_count == sum(1 for _ in reader.messages(reader.connections))
    source = BagSource(path)
    frames = list(source)
    assert source.dropped == {}
    return notes, len(frames)


# -- metadata.yaml is missing, or of no use

METADATA = {
    "none": lambda bag: (bag / "metadata.yaml").unlink(),
    "empty": lambda bag: (bag / "metadata.yaml").write_text(""),
    "not YAML": lambda bag: (bag / "metadata.yaml").write_text("{ a: ["),
    "of something else": lambda bag: (bag / "metadata.yaml").write_text("a: 1\n"),
    "no storage name": lambda bag: edit_metadata(bag, storage_identifier=""),
    "another storage": lambda bag: edit_metadata(bag, storage_identifier="rosbag_v9"),
    "another file name": lambda bag: edit_metadata(bag, relative_file_paths=["other.mcap"]),
    "a later version": lambda bag: edit_metadata(bag, version=10),
    "another format": lambda bag: edit_metadata(bag, compression_mode="FILE"),
}


@pytest.mark.parametrize("name", METADATA)
@BOTH
def test_a_bag_without_usable_metadata_is_read_from_its_files(tmp_path, storage, name):
    bag = record(tmp_path / "bag", rows(COUNT), storage)
    METADATA[name](bag)
    assert is_bag(bag)
    notes, count = notes_and_frames(bag)
    assert count == COUNT
    (note,) = notes
    assert note.startswith("metadata.yaml is not used (")
    assert note.endswith(f"read from {data_file(bag).name}.")
    assert "please report" not in note


@BOTH
def test_one_file_of_a_bag(tmp_path, storage):
    bag = record(tmp_path / "bag", rows(COUNT), storage)
    assert is_bag(data_file(bag))
    assert notes_and_frames(data_file(bag)) == ([], COUNT)


@BOTH
def test_the_parts_of_a_bag_are_read_in_the_order_of_time(tmp_path, storage):
    """Two parts and an empty third one, as when the recorder was killed behind a split."""
    parts = tmp_path / "parts"
    parts.mkdir()
    recorded = rows(COUNT)
    for number, part in enumerate((recorded[12:], recorded[:12])):  # names against time
        bag = record(tmp_path / f"part{number}", part, storage)
        shutil.copy(data_file(bag), parts / f"bag_{number}{data_file(bag).suffix}")
    (parts / f"bag_2{data_file(bag).suffix}").touch()
    with BagReader(parts) as reader:
        times = [bag_ns for _, bag_ns, _ in reader.messages(reader.connections)]
    assert times == sorted(times)
    notes, count = notes_and_frames(parts)
    assert count == COUNT
    assert notes[0] == f"bag_2{data_file(bag).suffix}: empty (0 bytes), left out."


def test_recordings_beside_each_other_are_not_mixed(tmp_path):
    folder = tmp_path / "several"
    folder.mkdir()
    for name in ("monday", "tuesday"):
        shutil.copy(data_file(record(tmp_path / name, rows(2))), folder / f"{name}.mcap")
    with pytest.raises(SourceError, match=r"monday\.mcap, tuesday\.mcap\): name one of them"):
        BagReader(folder)


# -- packed


@pytest.mark.parametrize("mode", [CompressionMode.FILE, CompressionMode.MESSAGE])
@BOTH
def test_a_packed_bag(tmp_path, storage, mode):
    bag = record(tmp_path / "bag", rows(COUNT), storage, mode)
    assert notes_and_frames(bag) == ([], COUNT)


@BOTH
def test_packed_messages_without_metadata(tmp_path, storage):
    bag = record(tmp_path / "bag", rows(COUNT), storage, CompressionMode.MESSAGE)
    (bag / "metadata.yaml").unlink()
    assert notes_and_frames(bag)[1] == COUNT


def test_a_packed_file_without_metadata_names_the_cure(tmp_path):
    bag = record(tmp_path / "bag", rows(2), compression=CompressionMode.FILE)
    (bag / "metadata.yaml").unlink()
    (packed,) = bag.iterdir()
    assert is_bag(bag)
    for path in (bag, packed):
        with pytest.raises(SourceError, match=r"`zstd -d .*\.mcap\.zstd`"):
            BagReader(path)


# -- cut off, empty, or no bag at all


def cut(bag, share):
    file = data_file(bag)
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])


@pytest.mark.parametrize("share", [0.0001, 0.1, 0.5, 0.8, 0.99])
@pytest.mark.parametrize("keep_metadata", [True, False])
@BOTH
def test_a_file_that_was_cut_off_names_the_cure(tmp_path, storage, share, keep_metadata):
    bag = record(tmp_path / "bag", rows(COUNT), storage)
    cut(bag, share)
    if not keep_metadata:
        (bag / "metadata.yaml").unlink()
    with pytest.raises(SourceError) as caught:
        list(BagSource(bag))
    cure = "mcap recover" if storage is StoragePlugin.MCAP else ".recover | sqlite3 mended.db3"
    assert cure in str(caught.value)
    assert str(bag) in str(caught.value)


@BOTH
def test_nothing_recorded(tmp_path, storage):
    bag = record(tmp_path / "bag", rows(1), storage)
    data_file(bag).write_bytes(b"")
    for path in (bag, data_file(bag)):
        with pytest.raises(SourceError, match=r"empty \(0 bytes\): nothing was recorded in it"):
            BagReader(path)


def test_messages_that_are_in_the_log_of_a_database(tmp_path):
    """A recorder that was killed leaves them there; the database alone looks complete."""
    bag = record(tmp_path / "bag", rows(2), StoragePlugin.SQLITE3)
    file = data_file(bag)
    file.with_name(f"{file.name}-wal").write_bytes(b"rows")
    with pytest.raises(SourceError, match=r"wal_checkpoint\(TRUNCATE\)"):
        BagReader(file)


def test_what_is_no_bag(tmp_path):
    record(tmp_path / "inner", rows(1))
    (tmp_path / "nothing").mkdir()
    (tmp_path / "a.bag").write_bytes(b"#ROSBAG V2.0\n")
    (tmp_path / "a.txt").write_text("text")
    for name, expected in {
        "nowhere": "no bag at",
        ".": r"holds folders that are bags; name one of them: inner\.",
        "nothing": r"a bag is a folder with metadata\.yaml",
        "a.bag": "rosbags-convert --src",
        "a.txt": "not a readable rosbag2",
    }.items():
        with pytest.raises(SourceError, match=expected):
            BagReader(tmp_path / name)


# -- channels that are not ours

PROTOBUF = bytes([0x0A, 0xFF, 0x80, 0xC3, 0x28])  # no UTF-8
FOREIGN = {
    "json": ("/log", "made.Log", "jsonschema", "json", b"{}"),
    "protobuf": ("/log", "made.Log", "protobuf", "protobuf", PROTOBUF),
    "flatbuffer": ("/log", "made.Log", "flatbuffer", "flatbuffer", PROTOBUF),
    "ros1": ("/log", "std_msgs/String", "ros1msg", "ros1", b"string data\n"),
    "cbor": ("/log", "", "", "cbor", b""),
}


@pytest.mark.parametrize("encoding", FOREIGN)
def test_a_foreign_channel_is_left_out_and_named(tmp_path, encoding):
    path = write_mcap(tmp_path / "mixed.mcap", rows(COUNT), [FOREIGN[encoding]])
    assert notes_and_frames(path) == ([f"/log ({encoding}): not ROS 2, left out"], COUNT)


@pytest.mark.parametrize("profile", ["", "ros1", "x-tool"])
def test_a_file_of_another_profile(tmp_path, profile):
    """It does not say what is in the channels; their encodings do."""
    path = write_mcap(tmp_path / "mixed.mcap", rows(COUNT), [FOREIGN["json"]], profile=profile)
    assert notes_and_frames(path) == (["/log (json): not ROS 2, left out"], COUNT)


def test_channels_of_ros_2_that_cannot_be_understood(tmp_path):
    """Without a schema, or with one that no parser takes."""
    foreign = [
        ("/raw", "", "", "cdr", b""),
        ("/odd", "odd_msgs/msg/Odd", "ros2msg", "cdr", b"%%% no definition\n"),
    ]
    path = write_mcap(tmp_path / "mixed.mcap", rows(COUNT), foreign)
    assert notes_and_frames(path) == (["/raw (no message type): not ROS 2, left out"], COUNT)


def test_a_foreign_channel_that_metadata_lists(tmp_path):
    bag = tmp_path / "bag"
    record(bag, rows(COUNT))
    write_mcap(data_file(bag), rows(COUNT), [FOREIGN["json"]])
    content = yaml.safe_load((bag / "metadata.yaml").read_text())
    topic = {"name": "/log", "type": "made.Log", "serialization_format": "json"}
    topics = content["rosbag2_bagfile_information"]["topics_with_message_count"]
    topics.append({"topic_metadata": topic, "message_count": 1})
    (bag / "metadata.yaml").write_text(yaml.safe_dump(content))
    assert notes_and_frames(bag) == (["/log (json): not ROS 2, left out"], COUNT)


def test_a_foreign_row_in_a_database(tmp_path):
    bag = record(tmp_path / "bag", rows(COUNT), StoragePlugin.SQLITE3)
    connection = sqlite3.connect(data_file(bag))
    connection.execute("INSERT INTO topics VALUES (9, '/log', 'made.Log', 'json', '', '')")
    connection.commit()
    connection.close()
    assert notes_and_frames(data_file(bag)) == (["/log (json): not ROS 2, left out"], COUNT)


@pytest.mark.parametrize("topic", TYPES)
def test_one_of_our_topics_with_another_type(tmp_path, topic):
    """Alone it is named, with what would fit; beside the right one it is left alone."""
    wrong = (topic, "std_msgs/msg/String", "ros2msg", "cdr", b"string data\n")
    path = write_mcap(tmp_path / "both.mcap", rows(COUNT), [wrong])
    assert len(list(BagSource(path))) == COUNT
    types = {name: kind for name, kind in TYPES.items() if name != topic}
    recorded = [row for row in rows(COUNT) if row[0] != topic]
    path = write_mcap(tmp_path / "wrong.mcap", recorded, [wrong], types)
    with pytest.raises(SourceError, match=f"{topic} .*std_msgs/msg/String|none fits"):
        BagSource(path)


# -- stamps

HOUR_NS = 3600 * SECOND


def with_stamps(recorded, changes):
    """`changes`: (topic, which of its messages) -> how far its stamp is moved, ns."""
    places = {}
    result = []
    for topic, bag_ns, data in recorded:
        place = places[topic] = places.get(topic, -1) + 1
        moved_ns = changes.get((topic, place), 0)
        message = STORE.deserialize_cdr(data, TYPES[topic])
        stamp = message.header.stamp
        total_ns = stamp.sec * SECOND + stamp.nanosec + moved_ns
        stamp.sec, stamp.nanosec = divmod(total_ns, SECOND)
        result.append((topic, bag_ns, bytes(STORE.serialize_cdr(message, TYPES[topic]))))
    return result


@pytest.mark.parametrize("moved_s", [3600, 1, -1, -3600, -1_600_000_000])
@pytest.mark.parametrize("place", [0, 1, 7])
@pytest.mark.parametrize("topic", TYPES)
def test_one_wrong_stamp_costs_one_message(tmp_path, topic, place, moved_s):
    recorded = with_stamps(rows(8), {(topic, place): moved_s * SECOND})
    source = BagSource(record(tmp_path / "bag", recorded))
    reason = FrameReason.FUTURE_STAMP if moved_s > 0 else FrameReason.BACKWARD_STAMP
    # a pose between two others is interpolated, another camera_info holds meanwhile; the others
    # cost their frame, which is counted once
    kept = 8 if topic == INFO or (topic == POSE and place == 1) else 7
    assert (len(list(source)), source.dropped) == (kept, {reason: 1})


def test_several_wrong_stamps(tmp_path):
    changes = {
        (RGB, 2): HOUR_NS,
        (RGB, 3): HOUR_NS,
        (DEPTH, 6): -HOUR_NS,
        (INFO, 9): HOUR_NS,
        (POSE, 11): 30 * 24 * HOUR_NS,
        (POSE, 12): -HOUR_NS,
    }
    source = BagSource(record(tmp_path / "bag", with_stamps(rows(16), changes)))
    frames = list(source)
    assert len(frames) == 11
    assert source.dropped == {FrameReason.FUTURE_STAMP: 4, FrameReason.BACKWARD_STAMP: 2}


@pytest.mark.parametrize("ahead_s", [-1_699_999_999, -60, 60, 100_000_000])
def test_stamps_on_a_clock_of_their_own(tmp_path, ahead_s):
    recorded = rows(8, stamps_ahead_ns=ahead_s * SECOND)
    source = BagSource(record(tmp_path / "bag", with_stamps(recorded, {(RGB, 1): HOUR_NS})))
    frames = list(source)
    assert (len(frames), source.dropped) == (7, {FrameReason.FUTURE_STAMP: 1})
    assert frames[0].stamp_ns == START_NS + ahead_s * SECOND


@pytest.mark.parametrize("topic", TYPES)
def test_a_message_recorded_at_time_zero_has_a_right_stamp(tmp_path, topic):
    recorded = rows(8)
    first = next(i for i, row in enumerate(recorded) if row[0] == topic)
    recorded[first] = (topic, 0, recorded[first][2])
    source = BagSource(record(tmp_path / "bag", sorted(recorded, key=lambda row: row[1])))
    assert (len(list(source)), source.dropped) == (8, {})


# -- the same for every verb


@pytest.mark.parametrize("name", ["cut", "empty", "a file", "ros1"])
def test_analyze_and_calibrate_say_the_same(tmp_path, name):
    bag = record(tmp_path / "bag", rows(2))
    (bag / "metadata.yaml").unlink()
    path = bag
    if name == "ros1":
        path = tmp_path / "old.bag"
        path.write_bytes(b"#ROSBAG V2.0\n")
    elif name == "empty":
        data_file(bag).write_bytes(b"")
    else:
        cut(bag, 0.5)
        path = data_file(bag) if name == "a file" else bag
    said = []
    for read in (BagReader, BagSource, lambda p: open_frames(str(p), AgentConfig())):
        with pytest.raises(SourceError) as caught:
            read(path)
        said.append(str(caught.value))
    assert said[0] == said[1] == said[2]


@BOTH
def test_analyze_and_calibrate_read_a_bag_without_metadata(tmp_path, storage):
    bag = record(tmp_path / "bag", rows(COUNT), storage)
    (bag / "metadata.yaml").unlink()
    for path in (bag, data_file(bag)):
        assert len(list(open_frames(str(path), AgentConfig()))) == COUNT
