"""Files of tenants: uploads, and what tools return besides text."""

import re
import time
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import IO, Any, cast

import orjson

from shared.errors import FilesFull, FileTooLarge, Unavailable
from shared.events import Json
from shared.log.keys import FileKeys, Keys
from shared.log.scripts import Scripts
from shared.redis_client import Store, translated
from shared.runconfig import Limits
from shared.types.files import PURPOSES

OCTETS = "application/octet-stream"
MOST_NAME_CHARS = 255

_PIECE = 256 * 1024
_WRITING_S = 120
"""For all pieces of a file. One whose writer is gone is over after that, and counts for so long."""
_COUNTED = 4096
"""Bytes that a file counts with at the least: what is told of it takes room too."""
_PAGE = 500
_MEGABYTE = 1_000_000
_SECOND_US = 1_000_000
_MIME_TYPE = re.compile(r"[\w!#$&^.+-]{1,100}/[\w!#$&^.+-]{1,100}(?: ?; ?charset=[\w.+-]{1,40})?", re.ASCII)
_ID = re.compile(r"file_[0-9a-z]{1,64}", re.ASCII)
_BIDI = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""They show a name in another order than it has: `exe.txt` for what ends with `txt.exe`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewFile:
    """A file to keep. `file_id` that comes again names the same file: what is kept under it is not written again."""

    file_id: str
    filename: str
    mime_type: str
    purpose: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptFile:
    """A file that is there whole. Times are in µs since 1970."""

    file_id: str
    filename: str
    mime_type: str
    purpose: str
    size: int
    created_us: int
    expires_us: int

    def as_json(self) -> Json:
        """As `shared.types.files.File`."""
        return {
            "id": self.file_id,
            "object": "file",
            "bytes": self.size,
            "created_at": self.created_us // _SECOND_US,
            "expires_at": self.expires_us // _SECOND_US,
            "filename": self.filename,
            "purpose": self.purpose,
            "mime_type": self.mime_type,
            "status": "processed",
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class FileLimits:
    """How large a file may be, how long it is kept, and how much a tenant may keep."""

    file_bytes: int
    tenant_bytes: int
    ttl_s: float

    @classmethod
    def of(cls, limits: Limits) -> "FileLimits":
        """As the run config says."""
        return cls(
            file_bytes=int(limits.file_mb * _MEGABYTE),
            tenant_bytes=int(limits.files_mb_per_tenant * _MEGABYTE),
            ttl_s=limits.file_ttl_s,
        )

    def refusal(self) -> FileTooLarge:
        """Of a file that is too large."""
        return FileTooLarge(
            f"The file is larger than {self.file_bytes} bytes. Send a smaller one, or raise limits.file_mb in the run"
            " config."
        )


class Files(ABC):
    """Keeps files of tenants. None is seen before it is whole, nor once it has expired; every method raises StoreError.

    What is written of a file that never becomes whole is gone after two minutes.
    """

    def __init__(self, *, limits: FileLimits) -> None:
        self.limits = limits

    def put(self, tenant: str, new: NewFile, body: IO[bytes]) -> KeptFile:
        """Keep `body`, of exactly `new.size` bytes. It is there, and stays, once this returns.

        Raises FileTooLarge, FilesFull, and Unavailable where writing it took too long.
        """
        if new.size > self.limits.file_bytes:
            raise self.limits.refusal()
        kept = self._begin(tenant, new)
        if kept is not None:
            return kept
        count = 0
        for count, piece in enumerate(pieces_of(body), start=1):
            self._write(tenant, new, count - 1, piece)
            time.sleep(0)  # under gevent: others have their turn
        kept = self._keep(tenant, new, count)
        if kept is None:
            raise Unavailable(
                f"The store took longer than {_WRITING_S} s to take the file. Send it again.", code="file_not_kept"
            )
        return kept

    def get(self, tenant: str, file_id: str) -> KeptFile | None:
        """What is told of a file; None where there is none."""
        return self.known(tenant, [file_id]).get(file_id)

    def read(self, tenant: str, file: KeptFile) -> Iterator[bytes]:
        """Its bytes in pieces; fewer than it has where it is deleted or expires meanwhile."""
        for number in range(-(-file.size // _PIECE)):
            piece = self._piece(tenant, file, number)
            if piece is None:
                return
            yield piece

    @abstractmethod
    def known(self, tenant: str, file_ids: Collection[str]) -> dict[str, KeptFile]:
        """Those of the ids that name a file of the tenant, with it."""

    @abstractmethod
    def page(
        self, tenant: str, *, after: KeptFile | None, limit: int, newest_first: bool, purpose: str | None
    ) -> tuple[list[KeptFile], bool]:
        """At most `limit` files in the order of their creation, and whether there are more behind them."""

    @abstractmethod
    def delete(self, tenant: str, file_id: str) -> bool:
        """Remove a file; False where there was none."""

    @abstractmethod
    def _begin(self, tenant: str, new: NewFile) -> KeptFile | None:
        """Count it, or return the file that is there already. Raises FilesFull."""

    @abstractmethod
    def _write(self, tenant: str, new: NewFile, number: int, piece: bytes) -> None:
        """Write a piece, which may be there already."""

    @abstractmethod
    def _keep(self, tenant: str, new: NewFile, pieces: int) -> KeptFile | None:
        """Make it visible; None where what was written is over."""

    @abstractmethod
    def _piece(self, tenant: str, file: KeptFile, number: int) -> bytes | None:
        """A piece of a file; None where it is gone."""


class RedisFiles(Files):
    """All keys of a tenant's files in one slot; a hash of pieces for each file, so that no command is large."""

    def __init__(self, *, client: Store, keys: Keys, limits: FileLimits, now_us: int | None = None) -> None:
        super().__init__(limits=limits)
        self._client = client
        self._keys = keys
        self._scripts = Scripts(client=client, now_us=now_us)

    def known(self, tenant: str, file_ids: Collection[str]) -> dict[str, KeptFile]:
        ids, keys = [one for one in file_ids if _ID.fullmatch(one)], self._of(tenant)
        if not ids:
            return {}
        # The row of an expired one may still be there; its bytes go by themselves, to the millisecond.
        commands = [("HMGET", keys.rows, *ids), *(("EXISTS", keys.bytes + one) for one in ids)]
        with translated():
            rows, *there = self._client.together(commands)
        return {one: _file(one, row) for one, row, is_there in zip(ids, rows, there, strict=True) if row and is_there}

    def page(
        self, tenant: str, *, after: KeptFile | None, limit: int, newest_first: bool, purpose: str | None
    ) -> tuple[list[KeptFile], bool]:
        index = 0 if purpose is None else 1 + PURPOSES.index(purpose)
        order, found = "desc" if newest_first else "asc", list[KeptFile]()
        last = "" if after is None else str(after.created_us)
        while len(found) <= limit:
            wanted = min(_PAGE, limit + 1 - len(found))
            rows = self._call("file_list", tenant, 4 + index, order, last, wanted)
            if rows is None:
                continue
            found += [_file(one.decode(), row) for one, row in zip(rows[::2], rows[1::2], strict=True)]
            if len(rows) < 2 * wanted:
                break
            last = str(found[-1].created_us)
        return found[:limit], len(found) > limit

    def delete(self, tenant: str, file_id: str) -> bool:
        return _ID.fullmatch(file_id) is not None and bool(self._call("file_drop", tenant, file_id, of=file_id))

    def _begin(self, tenant: str, new: NewFile) -> KeptFile | None:
        counted, most = max(new.size, _COUNTED), self.limits.tenant_bytes
        while True:
            outcome, *told = self._call("file_begin", tenant, new.file_id, counted, most, _WRITING_S * _SECOND_US)
            if outcome == b"FULL":
                raise _full(int(told[0]), most)
            if outcome != b"AGAIN":
                return _file(new.file_id, told[0]) if outcome == b"KEPT" else None

    def _write(self, tenant: str, new: NewFile, number: int, piece: bytes) -> None:
        keys = self._of(tenant)
        names = [keys.rows, keys.bytes + new.file_id]
        self._scripts.call("file_write", names, [new.file_id, number, piece, _WRITING_S * _SECOND_US])

    def _keep(self, tenant: str, new: NewFile, pieces: int) -> KeptFile | None:
        about = {"filename": new.filename, "mime_type": new.mime_type, "purpose": new.purpose, "size": new.size}
        told, ttl_us = orjson.dumps(about), int(self.limits.ttl_s * _SECOND_US)
        index = 5 + PURPOSES.index(new.purpose)
        row = self._call("file_keep", tenant, new.file_id, pieces, told, ttl_us, index, of=new.file_id)
        return None if row is None else _file(new.file_id, row)

    def _piece(self, tenant: str, file: KeptFile, number: int) -> bytes | None:
        with translated():
            return cast(bytes | None, self._client.hget(self._of(tenant).bytes + file.file_id, str(number)))

    def _of(self, tenant: str) -> FileKeys:
        return self._keys.files(tenant, PURPOSES)

    def _call(self, script: str, tenant: str, *args: str | bytes | int, of: str | None = None) -> Any:
        keys = self._of(tenant)
        names = [keys.expiry, keys.rows, keys.sizes, *keys.indexes, *([] if of is None else [keys.bytes + of])]
        return self._scripts.call(script, names, args)


def pieces_of(body: IO[bytes]) -> Iterator[bytes]:
    """A file in the pieces that it is kept in."""
    while piece := body.read(_PIECE):
        yield piece


def wrong_name(name: str) -> str | None:
    """What is wrong with a file's name; None where nothing is."""
    if not 1 <= len(name) <= MOST_NAME_CHARS:
        return f"a file's name has 1 to {MOST_NAME_CHARS} characters"
    if "/" in name or "\\" in name or name in (".", ".."):
        return "a file's name holds no path: leave out what stands before the last / or \\."
    if any(unicodedata.category(sign) in ("Cc", "Cs", "Zl", "Zp") or sign in _BIDI for sign in name):
        return "a file's name holds no control characters"
    return None


def plain_mime_type(text: str | None) -> str:
    """A mime type that can stand in a header, or the one that says nothing."""
    given = (text or "").strip()
    return given if _MIME_TYPE.fullmatch(given) else OCTETS


def joined(pieces: Iterable[bytes], size: int) -> bytes | None:
    """The whole of a file of so many bytes, or None where it went away while it was read."""
    whole = b"".join(pieces)
    return whole if len(whole) == size else None


def _file(file_id: str, row: bytes) -> KeptFile:
    created, expires, told = row.split(b" ", 2)
    return KeptFile(file_id=file_id, created_us=int(created), expires_us=int(expires), **orjson.loads(told))


def _full(kept: int, most: int) -> FilesFull:
    return FilesFull(
        f"Files of {kept} bytes are kept already, and {most} is the most. Delete some (DELETE /v1/files/{{id}}; GET"
        " /v1/files lists them), wait until they expire, or raise limits.files_mb_per_tenant in the run config."
    )
