"""Rows in the binary format of PostgreSQL's COPY (its documentation, "Binary Format"; `recv` functions of the types).

Written here because a driver would convert each number by itself: a put of 500 chunks has some 200,000 of them.
"""

import struct
import sys
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import orjson

_HEADER = b"PGCOPY\n\xff\r\n\0" + struct.pack(">ii", 0, 0)
_END = struct.pack(">h", -1)
_NULL = struct.pack(">i", -1)
_PIECE = 1 << 17
_INT4, _INT8 = 23, 20
"""The object identifiers of the types of an array's elements (pg_type.dat)."""

Field = bytes | None


def copied(rows: Iterable[Sequence[Field]]) -> list[bytes]:
    """Rows of encoded fields, as COPY reads them, in pieces of some 100 KB."""
    return list(_pieces(rows))


def _pieces(rows: Iterable[Sequence[Field]]) -> Iterator[bytes]:
    piece = bytearray(_HEADER)
    for row in rows:
        piece += struct.pack(">h", len(row))
        for field in row:
            piece += _NULL if field is None else struct.pack(">i", len(field)) + field
        if len(piece) > _PIECE:
            yield bytes(piece)
            piece.clear()
    yield bytes(piece + _END)


def integer(value: int) -> bytes:
    return struct.pack(">i", value)


def bigint(value: int) -> bytes:
    return struct.pack(">q", value)


def double(value: float) -> bytes:
    return struct.pack(">d", value)


def text(value: str) -> bytes:
    """PostgreSQL keeps no NUL, and UTF-8 has no lone surrogates: the replacement character stands for them."""
    return clean(value).encode()


def jsonb(value: Any) -> bytes:
    return b"\x01" + json_text(value).encode()


def integers(values: Sequence[int]) -> bytes:
    return _array(_INT4, "ii", 4, values)


def bigints(values: Sequence[int]) -> bytes:
    return _array(_INT8, "iq", 8, values)


def vector(values: Sequence[float]) -> bytes:
    numbers = array("f", values)
    if sys.byteorder == "little":
        numbers.byteswap()  # to the order of networks
    return struct.pack(">HH", len(values), 0) + numbers.tobytes()


def clean(value: str) -> str:
    """A text that PostgreSQL keeps."""
    return value.replace("\0", "\ufffd").encode(errors="replace").decode()


def json_text(value: Any) -> str:
    """JSON that PostgreSQL keeps."""
    written = orjson.dumps(value)
    if b"\\u0000" in written:
        written = orjson.dumps(_without_nul(value))
    return written.decode()


def _without_nul(value: Any) -> Any:
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, dict):
        return {clean(key): _without_nul(item) for key, item in value.items()}
    return [_without_nul(item) for item in value] if isinstance(value, list | tuple) else value


def _array(oid: int, each: str, size: int, values: Sequence[int]) -> bytes:
    if not values:
        return struct.pack(">iii", 0, 0, oid)
    numbers = [number for value in values for number in (size, value)]
    return struct.pack(f">iiiii{each * len(values)}", 1, 0, oid, len(values), 1, *numbers)
