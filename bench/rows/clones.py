"""Finished turns made cheaply: a real one is copied inside the store, under new ids, in the product's own format.

What a copy holds still names the turn that it was copied from; every key and every index has it under its own id, so
that each operation finds as much as if the turns had been run.
"""

import time
from collections.abc import Iterator

import redis

from bench.systems.turnstone import KEY_PREFIX
from shared.ids import DEFAULT_TENANT, TurnRef, new_turn_id
from shared.log.keys import Keys

KEYS = Keys(KEY_PREFIX)
_PER_ROUND_TRIP = 200
_REWRITE_S = 120.0


def clone(store: "redis.Redis", path: str, count: int) -> None:
    """Add `count` copies of the finished turn at `path` (…/session/<session>/turn/<turn>) to its session."""
    parts = path.split("/")
    ref = TurnRef(DEFAULT_TENANT, parts[-3], parts[-1])
    keys = [key.decode() for key in store.scan_iter(match=f"*{ref.turn_id}*", count=10_000)]
    indexes = list(_indexes(store, ref))
    session = KEYS.session(ref.session).session
    first = int(store.hget(KEYS.turn(ref).turn, "ordinal") or 1)
    for start in range(0, count, _PER_ROUND_TRIP):
        pipeline = store.pipeline(transaction=False)
        for number in range(start + 1, min(start + _PER_ROUND_TRIP, count) + 1):
            turn_id = new_turn_id(ref.session_id)
            for key in keys:
                pipeline.copy(key, key.replace(ref.turn_id, turn_id))
            own = TurnRef(ref.tenant, ref.session_id, turn_id)
            pipeline.hset(KEYS.turn(own).turn, "ordinal", first + number)
            for index, member, score in indexes:
                pipeline.zadd(index, {member.replace(ref.turn_id, turn_id): score + number})
        pipeline.execute()
    store.hset(session, "turns", first + count)


def settle(store: "redis.Redis") -> None:
    """Have the store write its log anew now, and wait for it: it would do so by itself once its log has doubled, with a
    second process, in the middle of what is measured. Grown turn by turn, a store rarely comes to that."""
    if not int(store.info("persistence")["aof_enabled"]):
        return
    _until_written(store)  # it may have begun by itself
    store.bgrewriteaof()
    _until_written(store)


def _until_written(store: "redis.Redis") -> None:
    until = time.monotonic() + _REWRITE_S
    while time.monotonic() < until:
        state = store.info("persistence")
        if not (int(state["aof_rewrite_in_progress"]) or int(state["aof_rewrite_scheduled"])):
            return
        time.sleep(0.1)
    raise RuntimeError(f"the store has not written its log anew within {_REWRITE_S:.0f} s")


def _indexes(store: "redis.Redis", ref: TurnRef) -> Iterator[tuple[str, str, float]]:
    """The sorted sets that the turn stands in, as which member, with which score."""
    pattern = f"{KEY_PREFIX}:{{s{ref.shard:02d}}}*"
    for key in store.scan_iter(match=pattern, count=10_000, _type="zset"):
        for member in (ref.turn_id, ref.member):
            score = store.zscore(key, member)
            if score is not None:
                yield key.decode(), member, float(score)
