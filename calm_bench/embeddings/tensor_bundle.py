"""Tensors of a TensorFlow checkpoint, read without TensorFlow.

A checkpoint is two files. The index is a table of LevelDB: its footer says where the block lies
that lists the blocks; a block holds entries in the order of their keys, each key without what it
shares with the one before. A key is a tensor's name, and its value a protocol buffer: type, shape,
place and length in the data file, where numbers lie as they are in memory. Formats by LevelDB's
doc/table_format.md and TensorFlow's tensor_bundle.proto.

Nothing is verified here: whoever reads a checkpoint knows the hashes of its files.
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_FOOTER = 48
_FLOAT = 1  # TensorFlow's number for float32
_TYPE, _SHAPE, _OFFSET, _SIZE = 1, 2, 4, 5  # fields of an entry
_DIMENSION, _LENGTH = 2, 1  # fields of a shape, and of a dimension


def read_floats(index: Path, data: Path) -> dict[str, NDArray[np.float32]]:
    """The float32 tensors of a checkpoint by name."""
    table, numbers = index.read_bytes(), data.read_bytes()
    at = len(table) - _FOOTER
    for _ in range(2):  # the place of the block of statistics
        _, at = _varint(table, at)
    found = {}
    for _, handle in _entries(table, *_handle(table, at)):
        for name, value in _entries(table, *_handle(handle, 0)):
            fields = dict(_fields(value))
            if name and fields.get(_TYPE) == _FLOAT:
                start, size = fields.get(_OFFSET, 0), fields[_SIZE]
                flat = np.frombuffer(numbers[start : start + size], np.float32)
                found[name.decode()] = flat.reshape(_shape(fields.get(_SHAPE, b"")))
    return found


def _shape(message: bytes) -> list[int]:
    parts = [value for field, value in _fields(message) if field == _DIMENSION]
    return [dict(_fields(part)).get(_LENGTH, 0) for part in parts]


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number in groups of seven bits, the last one without the eighth, and where it ends."""
    value = shift = 0
    while True:
        byte = data[at]
        at, value, shift = at + 1, value | (byte & 127) << shift, shift + 7
        if byte < 128:
            return value, at


def _handle(data: bytes, at: int) -> tuple[int, int]:
    start, at = _varint(data, at)
    return start, _varint(data, at)[0]


def _entries(table: bytes, start: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    block, key, at = table[start : start + size], b"", 0
    (n_restarts,) = struct.unpack("<I", block[-4:])
    end = len(block) - 4 * (n_restarts + 1)
    while at < end:
        shared, at = _varint(block, at)
        own, at = _varint(block, at)
        length, at = _varint(block, at)
        key = key[:shared] + block[at : at + own]
        yield key, block[at + own : at + own + length]
        at += own + length


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """Numbers and values of a protocol buffer's fields: of varints, strings and 32-bit words."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        if tag & 7 == 0:
            number, at = _varint(message, at)
            yield tag >> 3, number
            continue
        length = 4
        if tag & 7 == 2:
            length, at = _varint(message, at)
        yield tag >> 3, message[at : at + length]
        at += length
