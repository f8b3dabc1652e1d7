"""What an engine is given of an ONNX variant, and that its graph reads no file but those the manifest lists.

An ONNX tensor may name a file that holds its values, by any path; engines resolve it against the model's folder, or
against the working directory when they got bytes. So the locations are read first, by a walk over the protobuf fields
that can lead to a tensor (field numbers of onnx.proto). What is no protobuf is left for the engine to refuse.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator

from aigc_rt.backends.base import Job
from aigc_rt.errors import IntegrityError

_INTO: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
    "entry": {},
}
"""The fields of each message that lead to an entry of TensorProto.external_data."""
_KEY, _VALUE = 1, 2
_LENGTH_DELIMITED = 2
_FIXED = {1: 8, 5: 4}
"""Bytes of the wire types of fixed size."""


def source(job: Job) -> bytes | str:
    """The variant as engines load it: its bytes, or its path where weights lie in files beside it; all hashed.

    Raises:
        IntegrityError: a file is not what was hashed, or the graph reads one that the manifest does not list for it.
    """
    stored = job.stored
    data = job.bundle.read(stored.file)
    for location in external(data):
        if posixpath.join(posixpath.dirname(stored.file), location) not in stored.data:
            raise IntegrityError(
                f"open {job}",
                f"{stored.file} reads weights from {location!r}, which the manifest does not list for it",
                "Do not use this bundle; export it again if it is yours",
            )
    for name in stored.data:
        job.bundle.file(name)
    return str(job.bundle.path / stored.file) if stored.data else data


def external(model: bytes) -> set[str]:
    """Every location that a tensor of an ONNX model names; none in what is no ONNX."""
    if b"location" not in model:  # the key that goes with one: most files need no walk
        return set()
    found: set[str] = set()
    waiting = [("model", memoryview(model))]
    while waiting:
        kind, message = waiting.pop()
        key, value = b"", b""
        for number, part in _fields(message):
            if kind == "entry":
                key, value = (
                    (bytes(part), value) if number == _KEY else (key, bytes(part) if number == _VALUE else value)
                )
            elif inner := _INTO[kind].get(number):
                waiting.append((inner, part))
        if key == b"location":
            found.add(value.decode(errors="replace"))
    return found


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """The length-delimited fields of a message, until its end or until it is no protobuf; groups are looked into."""
    at, end = 0, len(message)
    while at < end:
        tag, at = _varint(message, at)
        wire = tag & 7
        if wire == _LENGTH_DELIMITED:
            size, at = _varint(message, at)
            if size > end - at:
                return
            yield (tag & 0xFFFFFFFF) >> 3, message[at : at + size]
            at += size
        elif wire == 0:
            at = _varint(message, at)[1]
        else:
            at += _FIXED.get(wire, 0)


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """A number of seven bits a byte, and where it ends."""
    value = shift = 0
    for byte in message[at : at + 10]:  # no number is longer
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
        shift += 7
    return value, at
