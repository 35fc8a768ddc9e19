"""What every place for files promises."""

import threading
from dataclasses import replace
from io import BytesIO
from typing import Any

import pytest
from logkit import SECOND, LogKit
from waiting import wait_for

from shared.errors import FilesFull, FileTooLarge, Unavailable
from shared.files import FileLimits, KeptFile, NewFile, RedisFiles
from shared.ids import new_file_id
from shared.redis_client import connect

LIMITS = FileLimits(file_bytes=1_000_000, tenant_bytes=2_000_000, ttl_s=3600)
TENANT = "acme"
HOUR = 3600 * SECOND


def files_of(kit: LogKit, *, later_us: int = 0, **limits: Any) -> RedisFiles:
    """A store of files whose clock stands at the kit's, or so much later."""
    now = kit.now + later_us
    return RedisFiles(client=kit.client, keys=kit.keys, limits=replace(LIMITS, **limits), now_us=now)  # type: ignore[arg-type]


@pytest.fixture
def files(kit: LogKit) -> RedisFiles:
    return files_of(kit)


def new(size: int, *, name: str = "a.txt", purpose: str = "assistants", file_id: str | None = None) -> NewFile:
    return NewFile(file_id=file_id or new_file_id(), filename=name, mime_type="text/plain", purpose=purpose, size=size)


def put(files: RedisFiles, content: bytes = b"hello", *, tenant: str = TENANT, **about: Any) -> KeptFile:
    return files.put(tenant, new(len(content), **about), BytesIO(content))


def ids(files: RedisFiles, *, tenant: str = TENANT, **query: Any) -> list[str]:
    found, _ = files.page(tenant, **{"after": None, "limit": 100, "newest_first": False, "purpose": None, **query})
    return [file.file_id for file in found]


def key_names(kit: LogKit) -> list[str]:
    return [key.decode() for key in kit.client.scan_iter(f"{kit.prefix}:*")]


def all_go_soon(kit: LogKit) -> bool:
    """Whether every key of the test expires within the time that a file may take to be written."""
    return all(0 < int(kit.client.pttl(key)) <= 120_000 for key in key_names(kit))  # type: ignore[arg-type]


def test_a_file_comes_back_byte_for_byte_however_many_pieces_it_has(files: RedisFiles) -> None:
    content = bytes(range(256)) * 3000  # three pieces

    kept = put(files, content, name="ä b.bin")

    assert b"".join(files.read(TENANT, kept)) == content
    assert files.get(TENANT, kept.file_id) == kept
    assert (kept.filename, kept.size, kept.expires_us - kept.created_us) == ("ä b.bin", len(content), HOUR)


def test_no_single_command_carries_more_than_a_piece(files: RedisFiles, kit: LogKit) -> None:
    kept = put(files, b"x" * 900_000)

    pieces = kit.client.hgetall(kit.keys.files(TENANT, ()).bytes + kept.file_id)

    assert max(len(piece) for piece in pieces.values()) == 256 * 1024


def test_a_file_of_a_tenant_is_not_another_tenants(files: RedisFiles) -> None:
    kept = put(files)

    assert files.get("other", kept.file_id) is None
    assert ids(files, tenant="other") == []
    assert not files.delete("other", kept.file_id)
    assert ids(files) == [kept.file_id]


def test_what_is_half_written_is_seen_nowhere(files: RedisFiles) -> None:
    half = new(500_000)
    assert files._begin(TENANT, half) is None
    files._write(TENANT, half, 0, b"x" * 256 * 1024)

    assert files.get(TENANT, half.file_id) is None
    assert ids(files) == []
    assert not files.delete(TENANT, half.file_id)


def test_what_its_writer_left_half_written_is_not_kept_for_ever_and_gives_its_room_back(
    files: RedisFiles, kit: LogKit
) -> None:
    half = new(900_000)
    files._begin(TENANT, half)
    files._write(TENANT, half, 0, b"x")

    assert all_go_soon(kit)
    with pytest.raises(FilesFull):
        files._begin(TENANT, new(1_200_000))
    assert files_of(kit, later_us=121 * SECOND)._begin(TENANT, new(1_200_000)) is None


def test_a_writer_that_took_too_long_is_told_and_nothing_is_seen(files: RedisFiles, kit: LogKit) -> None:
    slow = new(5)

    class Slow(BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            piece = super().read(size)
            if piece:
                files_of(kit, later_us=121 * SECOND)._begin(TENANT, new(1))  # sweeps
            return piece

    with pytest.raises(Unavailable, match="Send it again"):
        files.put(TENANT, slow, Slow(b"hello"))

    assert ids(files) == []


def test_an_expired_file_is_listed_no_more_and_gives_its_room_back(files: RedisFiles, kit: LogKit) -> None:
    put(files, b"x" * 900_000)
    put(files, b"x" * 900_000)
    with pytest.raises(FilesFull, match=r"DELETE /v1/files/\{id\}.*limits.files_mb_per_tenant"):
        put(files, b"x" * 900_000)

    later = files_of(kit, later_us=HOUR)

    assert ids(later) == []
    assert ids(later, purpose="assistants") == []
    put(later, b"x" * 900_000)


def test_of_an_expired_file_nothing_is_left_though_nobody_asks_for_it(kit: LogKit) -> None:
    files = files_of(kit, ttl_s=0.05)
    kept = put(files)

    wait_for(lambda: files.get(TENANT, kept.file_id) is None, "it has expired")
    wait_for(lambda: kit.keys.files(TENANT, ()).rows not in key_names(kit), "what is told of it has gone")
    # What it counted with, while it was written, goes with what a writer may leave.
    assert all_go_soon(kit)


def test_an_expired_file_is_gone_though_others_are_there(kit: LogKit) -> None:
    short, long = put(files_of(kit, ttl_s=0.05)), put(files_of(kit))

    wait_for(lambda: files_of(kit).get(TENANT, short.file_id) is None, "it has expired")

    assert files_of(kit).known(TENANT, [short.file_id, long.file_id]).keys() == {long.file_id}


def test_a_deleted_file_is_gone_and_gives_its_room_back(files: RedisFiles) -> None:
    kept = put(files, b"x" * 1_000_000)
    put(files, b"x" * 900_000)

    assert files.delete(TENANT, kept.file_id)

    assert not files.delete(TENANT, kept.file_id)
    assert files.get(TENANT, kept.file_id) is None
    assert list(files.read(TENANT, kept)) == []
    put(files, b"x" * 1_000_000)


def test_a_file_that_is_too_large_is_refused(files: RedisFiles) -> None:
    with pytest.raises(FileTooLarge, match=r"limits\.file_mb"):
        put(files, b"x" * 1_000_001)
    put(files, b"x" * 1_000_000)


def test_small_files_count_for_what_is_told_of_them(kit: LogKit) -> None:
    files = files_of(kit, tenant_bytes=10_000)
    put(files, b"a")
    put(files, b"b")
    with pytest.raises(FilesFull):
        put(files, b"c")


def test_many_writers_at_once_never_keep_more_than_may_be_kept(kit: LogKit, log_url: str) -> None:
    outcomes: list[str] = []

    def upload() -> None:
        with connect(log_url) as client:
            mine = RedisFiles(client=client, keys=kit.keys, limits=LIMITS, now_us=kit.now)  # type: ignore[arg-type]
            for _ in range(3):
                try:
                    put(mine, b"x" * 300_000)
                except FilesFull:
                    outcomes.append("full")
                else:
                    outcomes.append("kept")

    threads = [threading.Thread(target=upload) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert (outcomes.count("kept"), len(outcomes)) == (6, 18)
    assert len(ids(files_of(kit))) == 6


def test_an_id_that_comes_again_names_the_file_that_is_there(files: RedisFiles) -> None:
    kept = put(files, b"one", file_id="file_1")

    assert put(files, b"two", file_id="file_1", name="b.txt") == kept

    assert b"".join(files.read(TENANT, kept)) == b"one"
    assert ids(files) == ["file_1"]
    # Counted once: two of the largest still fit in.
    with pytest.raises(FilesFull):
        put(files, b"x" * 1_000_000)
        put(files, b"x" * 1_000_000)
    assert len(ids(files)) == 2


def test_two_writers_of_one_id_leave_one_file(files: RedisFiles) -> None:
    content, kept = b"x" * 300_000, list[KeptFile]()
    about = new(len(content), file_id="file_2")

    class Racing(BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            piece = super().read(size)
            if not kept:
                kept.append(files.put(TENANT, about, BytesIO(content)))
            return piece

    assert files.put(TENANT, about, Racing(content)) == kept[0]
    assert b"".join(files.read(TENANT, kept[0])) == content
    assert ids(files) == ["file_2"]


def test_who_begins_again_counts_once(kit: LogKit) -> None:
    files, about = files_of(kit, tenant_bytes=1_500_000), new(1_000_000)
    assert files._begin(TENANT, about) is None
    assert files._begin(TENANT, about) is None
    assert files._begin(TENANT, new(500_000)) is None
    with pytest.raises(FilesFull):
        files._begin(TENANT, new(1))


def test_a_late_writer_neither_changes_a_file_nor_shortens_its_life(files: RedisFiles, kit: LogKit) -> None:
    kept = put(files, b"one", file_id="file_1")

    files._write(TENANT, new(3, file_id="file_1"), 0, b"two")

    assert b"".join(files.read(TENANT, kept)) == b"one"
    left_ms = int(kit.client.pttl(kit.keys.files(TENANT, ()).bytes + "file_1"))  # type: ignore[arg-type]
    assert left_ms > 3_000_000


def test_files_are_listed_in_the_order_of_their_creation_page_by_page(files: RedisFiles) -> None:
    kept = [put(files, purpose=purpose) for purpose in ("assistants", "user_data") * 4]
    names = [file.file_id for file in kept]

    assert ids(files) == names
    assert ids(files, newest_first=True) == names[::-1]
    assert ids(files, purpose="user_data") == names[1::2]
    assert ids(files, purpose="assistants_output") == []
    first, more = files.page(TENANT, after=None, limit=3, newest_first=True, purpose=None)
    assert ([file.file_id for file in first], more) == (names[:4:-1], True)
    rest, more = files.page(TENANT, after=first[-1], limit=5, newest_first=True, purpose=None)
    assert ([file.file_id for file in rest], more) == (names[4::-1], False)


def test_a_page_may_be_larger_than_what_is_read_at_once(files: RedisFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.files._PAGE", 3)
    names = [put(files).file_id for _ in range(10)]

    assert ids(files) == names
    assert ids(files, limit=7) == names[:7]
    assert files.page(TENANT, after=None, limit=10, newest_first=False, purpose=None)[1] is False
    assert files.page(TENANT, after=None, limit=9, newest_first=False, purpose=None)[1] is True


def test_more_files_than_one_sweep_takes_expire_at_once(kit: LogKit) -> None:
    files = files_of(kit, tenant_bytes=1_100 * 4096)
    for _ in range(1_100):
        put(files, b"x")

    later = files_of(kit, later_us=HOUR, tenant_bytes=1_100 * 4096)

    assert ids(later) == []
    for _ in range(2):
        put(later, b"x")
    assert len(ids(later)) == 2
