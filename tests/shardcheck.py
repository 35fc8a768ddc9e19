"""What a shard's indexes and counts have to be, said by the turns in it. Read from the raw keys, as in `logkit`."""

from collections import Counter
from typing import TYPE_CHECKING, cast

from shared.ids import TurnRef

if TYPE_CHECKING:
    from logkit import LogKit

Rows = dict[TurnRef, dict[str, str]]
ENDED = {"completed", "failed", "canceled"}


def check_shard(kit: "LogKit", shard: int) -> None:
    """Fail where an index or a count of the shard is not what the turns of the kit's sessions there make it."""
    rows = _rows(kit, shard)
    _check_limits(kit, shard, rows)
    _check_lists(kit, shard, rows)
    counted = [row["counted"] for row in rows.values() if "counted" in row]
    expected = Counter(counted) + Counter({"total": len(counted)})
    assert counts(kit, shard) == expected, f"shard {shard} counts other turns than {counted}"
    for ref, row in rows.items():
        waits = row["status"] == "queued" and row["attempts"] == "0"
        assert waits or "counted" not in row, f"{ref} is counted among those that wait: {row}"


def counts(kit: "LogKit", shard: int) -> Counter[str]:
    """How many turns wait, as the shard counts them."""
    raw = cast(dict[bytes, bytes], kit.client.hgetall(kit.keys.shard(shard).queued))
    return Counter({name.decode(): int(value) for name, value in raw.items()})


def _rows(kit: "LogKit", shard: int) -> Rows:
    rows: Rows = {}
    for session in kit.seen:
        if session.shard == shard:
            for raw in cast(list[bytes], kit.client.zrange(kit.keys.session(session).turns, 0, -1)):
                ref = TurnRef(session.tenant, session.session_id, raw.decode())
                rows[ref] = kit.hash(ref)
    return rows


def _check_limits(kit: "LogKit", shard: int, rows: Rows) -> None:
    expected = {ref.member: limit for ref, row in rows.items() if (limit := _limit(row)) is not None}
    assert kit.index(shard, "limits") == expected


def _limit(row: dict[str, str]) -> int | None:
    """The next limit of a turn: while nobody has taken it up the sooner of its two."""
    if row["status"] in ENDED:
        return None
    names = ["end_by", "start_by"] if row["attempts"] == "0" else ["end_by"]
    return min((int(row[name]) for name in names if name in row), default=None)


def _check_lists(kit: "LogKit", shard: int, rows: Rows) -> None:
    status = {ref.member: row["status"] for ref, row in rows.items()}
    expected = {
        "all": set(status),
        "active": {member for member, one in status.items() if one not in ENDED},
        "failed": {member for member, one in status.items() if one == "failed"},
    }
    tenants = {session.tenant for session in kit.seen}
    for name, members in expected.items():
        found: set[str] = set()
        for tenant in tenants:
            key = getattr(kit.keys.index(shard, tenant), name)
            found |= {raw.decode() for raw in cast(list[bytes], kit.client.zrange(key, 0, -1))}
        assert found == members, f"the index of {name} turns"
