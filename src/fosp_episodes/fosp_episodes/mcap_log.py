"""MCAP files of serialized ROS 2 messages, as Foxglove and rosbag2 read them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ament_index_python.packages import PackageNotFoundError, get_package_share_directory

_SEPARATOR: Final = "=" * 80
_PRIMITIVES: Final = frozenset(
    [
        "bool",
        "byte",
        "char",
        "float32",
        "float64",
        "int8",
        "uint8",
        "int16",
        "uint16",
        "int32",
        "uint32",
        "int64",
        "uint64",
        "string",
        "wstring",
    ]
)
_FIELD: Final = re.compile(r"^\s*([A-Za-z][\w/]*)(?:<=\d+)?(?:\[[^\]]*\])?\s+\w+")


@dataclass(frozen=True)
class LoggedMessage:
    """One serialized message (CDR) with its times, nanoseconds."""

    topic: str
    type_name: str
    """For example ``sensor_msgs/msg/Image``."""
    data: bytes
    received_ns: int
    published_ns: int


def write_mcap(path: Path, messages: Iterable[LoggedMessage], definition: Callable[[str], str] | None = None) -> None:
    """Write messages as one zstd-compressed MCAP file with the profile ``ros2``.

    Args:
        path: the file, replaced when it exists.
        messages: in any order.
        definition: gives the ``ros2msg`` text of a type; by default from the installed interface packages.
    """
    from mcap.well_known import MessageEncoding, Profile, SchemaEncoding
    from mcap.writer import CompressionType, Writer

    define = definition or message_definition
    with path.open("wb") as stream:
        writer = Writer(stream, compression=CompressionType.ZSTD)
        writer.start(profile=Profile.ROS2, library="fosp_episodes")
        schemas: dict[str, int] = {}
        channels: dict[str, int] = {}
        for sequence, message in enumerate(sorted(messages, key=lambda m: m.received_ns)):
            if message.type_name not in schemas:
                schemas[message.type_name] = writer.register_schema(
                    message.type_name, SchemaEncoding.ROS2, define(message.type_name).encode()
                )
            if message.topic not in channels:
                channels[message.topic] = writer.register_channel(
                    message.topic, MessageEncoding.CDR, schemas[message.type_name]
                )
            writer.add_message(
                channels[message.topic], message.received_ns, message.data, message.published_ns, sequence
            )
        writer.finish()


def read_mcap(path: Path, topics: Iterable[str] | None = None) -> Iterable[tuple[str, int, Any]]:
    """Decoded messages of an MCAP file in the order of their receipt: topic, receive time in ns, message."""
    from mcap.reader import make_reader
    from mcap_ros2.decoder import DecoderFactory

    with path.open("rb") as stream:
        reader = make_reader(stream, decoder_factories=[DecoderFactory()])
        wanted = None if topics is None else list(topics)
        for _, channel, message, decoded in reader.iter_decoded_messages(topics=wanted):
            yield channel.topic, message.log_time, decoded


def message_definition(type_name: str) -> str:
    """Text of a message type with all types it is made of, in the form of the MCAP schema ``ros2msg``.

    Raises:
        LookupError: the package of a type is not installed or holds no such message.
    """
    texts: dict[str, str] = {}
    waiting = [type_name]
    while waiting:
        name = waiting.pop(0)
        if name in texts:
            continue
        texts[name] = _definition_file(name).read_text(encoding="utf-8")
        waiting.extend(_parts(texts[name], package=name.split("/")[0]))
    first, *rest = texts
    sections = [texts[first]]
    sections += [f"{_SEPARATOR}\nMSG: {_short(name)}\n{texts[name]}" for name in rest]
    return "\n".join(sections)


def _definition_file(type_name: str) -> Path:
    package, name = type_name.split("/")[0], type_name.split("/")[-1]
    try:
        file = Path(get_package_share_directory(package)) / "msg" / f"{name}.msg"
    except PackageNotFoundError as error:
        raise LookupError(f"{type_name}: package {package} is not installed") from error
    if not file.is_file():
        raise LookupError(f"{type_name}: {file} is missing")
    return file


def _parts(text: str, package: str) -> list[str]:
    found = []
    for line in text.splitlines():
        match = _FIELD.match(line.split("#")[0])
        if match is None or match[1] in _PRIMITIVES:
            continue
        name = match[1]
        if "/" not in name:
            name = f"std_msgs/{name}" if name == "Header" else f"{package}/{name}"
        found.append(f"{name.split('/')[0]}/msg/{name.split('/')[-1]}")
    return found


def _short(type_name: str) -> str:
    return f"{type_name.split('/')[0]}/{type_name.split('/')[-1]}"
