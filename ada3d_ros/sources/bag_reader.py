"""Opens a rosbag2 as it lies on a disk: a folder, with metadata.yaml or without, or one file of it.

Messages come as serialised bytes. Channels that are not ROS 2's (JSON, protobuf, ROS 1) are left
out and named; what cannot be read ends in a SourceError that says how to mend it.
"""

from __future__ import annotations

import heapq
import itertools
import re
import struct
from collections.abc import Collection, Generator, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

from rosbags.interfaces import Connection, ConnectionExtRosbag2, MessageDefinition
from rosbags.interfaces import MessageDefinitionFormat as Format
from rosbags.rosbag2 import Reader, ReaderError, storage_mcap
from rosbags.rosbag2.reader import DirectoryReader

from ada3d_ros.errors import SourceError

DATA_SUFFIXES = (".mcap", ".db3")
SCHEMA_FORMATS = {"ros2msg": Format.MSG, "ros2idl": Format.IDL, "omgidl": Format.IDL}
MCAP_MAGIC = b"\x89MCAP0\r\n"
FOOTER_SIZE = 37  # bytes, the closing magic included
ROS2_TYPE = re.compile(r"\w+/(msg|srv|action)/\w+")
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"

Message = tuple[Connection, int, bytes]  # its channel, bag time in ns, serialised


def _read_text(bio: BinaryIO) -> str:
    return storage_mcap.read_bytes(bio).decode(errors="replace")


def _definition(schema: Any) -> MessageDefinition:
    if schema is None or schema.encoding not in SCHEMA_FORMATS:
        return MessageDefinition(Format.NONE, "")
    return MessageDefinition(SCHEMA_FORMATS[schema.encoding], schema.data)


# One schema of another kind (jsonschema, or protobuf, which is no text) makes rosbags refuse the
# whole file. No definition is needed to leave its channel out.
storage_mcap.read_string = _read_text
storage_mcap.get_msgdef = _definition


class _McapReader(storage_mcap.McapReader):
    """One that takes files of any profile, and without an index in any order of time."""

    def _open(self) -> None:
        """Find channels, chunks and counts. rosbags refuses what other tools write: a profile other
        than `ros2` does not say what is in a channel, its encoding does.
        """
        # Where the data ends and the summary begins; 0: there is none.
        bio = self.bio
        assert bio is not None
        size, magic = bio.seek(0, 2), MCAP_MAGIC
        bio.seek(0)
        if bio.read(len(magic)) != magic:
            raise ReaderError("File magic is invalid.")
        bio.seek(max(size - FOOTER_SIZE, 0))
        footer = bio.read()
        if size < FOOTER_SIZE or not footer.endswith(magic):
            raise ReaderError("File end magic is invalid.")
        (summary_at,) = struct.unpack_from("<Q", footer, 9)

        # From the summary, else from the whole file.
        self.data_start = len(magic)
        self.data_end = summary_at or size - FOOTER_SIZE
        if summary_at:
            self.read_index()
        if self.statistics is None or not self.schemas:
            self.meta_scan()
        assert self.statistics is not None
        counts = self.statistics.channel_message_counts
        self.connections = [c._replace(msgcount=counts.get(c.id, 0)) for c in self.connections]

    def messages(
        self, connections: Collection[Connection], start: int | None = None, stop: int | None = None
    ) -> Generator[Message, None, None]:
        """Channel, bag time in ns, bytes."""
        read = super().messages if self.chunks else self.messages_scan
        yield from read(connections, start, stop)


class _FolderReader(DirectoryReader):
    STORAGE_PLUGINS: Mapping[str, type[Any]] = {
        **DirectoryReader.STORAGE_PLUGINS,
        "mcap": _McapReader,
    }


class _Reader(Reader):
    STORAGE_PLUGINS: Mapping[str, type[Any]] = {
        **Reader.STORAGE_PLUGINS,
        "dir": _FolderReader,
        ".mcap": _McapReader,
    }


class BagReader:
    """An open bag; close it, or use it as a context manager.

    `connections` are its ROS 2 channels, `notes` the sentences that a person should read: what was
    left out, and why. Raises SourceError naming the path, the cause and a way out.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser()  # a launch argument keeps its ~
        self.notes: list[str] = []
        self._stack = ExitStack()
        try:
            self._readers = self._open()
        except BaseException:
            self._stack.close()
            raise
        self.connections = [c for reader in self._readers for c in self._ros2_channels(reader)]

    def __enter__(self) -> BagReader:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close its files; a second time does nothing."""
        self._stack.close()

    @property
    def message_count(self) -> int:
        """How many messages of ROS 2 the bag says it holds."""
        return sum(connection.msgcount for connection in self.connections)

    def messages(self, connections: Collection[Connection]) -> Iterator[Message]:
        """The messages of some channels by bag time; without an index in the order of the file.

        Raises SourceError where the bag turns out to be damaged.
        """
        streams = []
        for reader in self._readers:
            wanted = [c for c in connections if c in reader.connections]
            if wanted:
                streams.append(reader.messages(wanted))
        merged = heapq.merge(*streams, key=lambda message: message[1])
        for count in itertools.count():
            try:
                connection, bag_ns, data = next(merged)
                if data[:4] == ZSTD_MAGIC:  # a metadata.yaml would have told of it
                    data = storage_mcap.DECOMPRESSORS["zstd"](data, 0)
            except StopIteration:
                return
            except Exception as error:  # a damaged file makes the readers raise almost anything
                raise SourceError(
                    f"{self.path} is damaged after {count} messages: {_one_line(error)}."
                    f" {_cure(self.path)}"
                ) from error
            yield connection, bag_ns, bytes(data)

    # -- opening

    def _open(self) -> list[Reader]:
        # A bag of ROS 2 is there.
        path = self.path
        if not path.exists():
            raise SourceError(f"no bag at {path}.")
        if path.suffix == ".bag" and path.is_file():
            raise SourceError(
                f"{path} is a ROS 1 bag; convert it with `rosbags-convert --src {path} --dst"
                " <folder>`."
            )
        if not path.is_dir():
            return [self._open_file(path)]

        # As its metadata.yaml describes it; without a usable one, its files.
        problem = "there is none"
        if (path / "metadata.yaml").exists():
            try:
                return [self._stack.enter_context(_Reader(path))]
            except Exception as error:  # rosbags, yaml, sqlite and struct have errors of their own
                problem = _one_line(error).removesuffix("; please report issue.")
        return self._open_files(problem)

    def _open_files(self, problem: str) -> list[Reader]:
        """The data files of a folder whose metadata.yaml has `problem`."""
        files = self._data_files()
        if len({re.sub(r"_\d+$", "", file.stem) for file in files}) > 1:
            raise SourceError(
                f"{self.path} has no usable metadata.yaml ({problem}) and holds several recordings"
                f" ({', '.join(file.name for file in files)}): name one of them."
            )
        readers = [self._open_file(file) for file in files]
        if "Serialization format" not in problem:  # else its channels are named below
            names = ", ".join(file.name for file in files)
            self.notes.append(f"metadata.yaml is not used ({problem}): read from {names}.")
        return readers

    def _data_files(self) -> list[Path]:
        """The storage files of the folder that are not empty. Raises SourceError without one."""
        found = sorted(f for f in self.path.iterdir() if f.suffix in DATA_SUFFIXES and f.is_file())
        files = [file for file in found if file.stat().st_size > 0]
        if files:
            empty = [file.name for file in found if file not in files]
            if empty:
                self.notes.append(f"{', '.join(empty)}: empty (0 bytes), left out.")
            return files

        # Why there is none.
        if found:
            why = f"{found[0].name} is empty (0 bytes): nothing was recorded in it."
        elif packed := sorted(self.path.glob("*.zstd")):
            why = f"{packed[0].name} is compressed; unpack it: `zstd -d {packed[0]}`."
        elif bags := sorted(meta.parent.name for meta in self.path.glob("*/metadata.yaml")):
            why = f"it holds folders that are bags; name one of them: {', '.join(bags[:10])}."
        else:
            why = "a bag is a folder with metadata.yaml and .mcap or .db3 files, or such a file."
        raise SourceError(f"no recording in {self.path}: {why}")

    def _open_file(self, file: Path) -> Reader:
        """One storage file by itself."""
        # What the reader would not say in words for a person.
        if file.suffix not in DATA_SUFFIXES:
            raise SourceError(
                f"{file} is not a readable rosbag2 (a folder with metadata.yaml, or one .mcap or"
                f" .db3 file).{f' Unpack it: `zstd -d {file}`.' if file.suffix == '.zstd' else ''}"
            )
        if file.stat().st_size == 0:
            raise SourceError(f"{file} is empty (0 bytes): nothing was recorded in it.")
        log = file.with_name(f"{file.name}-wal")
        if log.is_file() and log.stat().st_size > 0:
            raise SourceError(
                f"{file} is not complete, as after a recorder that was killed: {log.name} holds"
                f" messages. Bring them in: `sqlite3 {file} 'PRAGMA wal_checkpoint(TRUNCATE)'`."
            )

        # What it says itself.
        try:
            return self._stack.enter_context(_Reader(file))
        except Exception as error:
            raise SourceError(
                f"{file} is not a readable rosbag2: {_one_line(error)} {_cure(file)}"
            ) from None

    def _ros2_channels(self, reader: Reader) -> list[Connection]:
        """The channels that hold ROS 2 messages; a note for each of the others."""
        ours = []
        for connection in reader.connections:
            assert isinstance(connection.ext, ConnectionExtRosbag2)
            encoding = connection.ext.serialization_format
            if encoding == "cdr" and ROS2_TYPE.fullmatch(connection.msgtype):
                ours.append(connection)
                continue
            kind = encoding if encoding not in ("cdr", "") else "no message type"
            note = f"{connection.topic} ({kind}): not ROS 2, left out"
            if note not in self.notes:
                self.notes.append(note)
        return ours


def is_bag(path: Path) -> bool:
    """Whether a path is meant as a bag: a file, or a folder that holds bag files."""
    names = [child.name for child in path.iterdir()] if path.is_dir() else []
    suffixes = (*DATA_SUFFIXES, ".bag", ".mcap.zstd", ".db3.zstd")
    return path.is_file() or "metadata.yaml" in names or any(n.endswith(suffixes) for n in names)


def _cure(path: Path) -> str:
    """What mends a storage file, or those of a folder, that ends too early."""
    if path.suffix == ".db3" or (path.is_dir() and any(path.glob("*.db3"))):
        file = path if path.suffix == ".db3" else path / "<file>.db3"
        return (
            f"If it was cut off: `sqlite3 {file} .recover | sqlite3 mended.db3` saves what is in"
            " it; then name mended.db3."
        )
    file = path if path.suffix == ".mcap" else path / "<file>.mcap"
    return (
        f"If it was cut off, as by a recorder that was killed: `mcap recover {file} -o mended.mcap`"
        " saves what is in it; then name mended.mcap."
    )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
