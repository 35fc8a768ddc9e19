"""What a finished turn takes in the store, before and after its events have expired."""

from bench.context import Context
from bench.figures import OURS, Goal
from bench.load.plan import Plan
from bench.systems.turnstone import Turnstone

TITLE = "Store memory per finished turn of 500 tokens"
SHARE, FIXED = 1.5, 2048


async def measure(context: Context) -> None:
    """Tokens that come together become one event, so both extremes: all at once, and each by itself."""
    section = context.results.section(TITLE)
    with context.stack() as stack:
        ours = Turnstone(stack)
        for words, gap_ms in (("all at once", 0.0), ("5 ms apart", 5.0)):
            plan = Plan(tokens=500, token_ms=gap_ms)
            goal = Goal(at_most=SHARE * plan.text_bytes + FIXED)
            for _ in range(context.sizes.stored):
                turn = await ours.submit(await ours.new_session(), plan)
                await ours.turn(turn, wait_s=30)
                events = await _events(ours, turn)
                before, after = _sizes(ours, turn.rpartition("/")[2])
                section.figure(f"{words}, events", "").add(OURS, events)
                section.figure(f"{words}, with its events", "bytes").add(OURS, before)
                section.figure(f"{words}, after they expired", "bytes", goal).add(OURS, after)
    section.note(f"Their text is {plan.text_bytes:,} bytes; the goal is {SHARE} times that and 2 KB.")
    section.note("MEMORY USAGE of the turn's keys; its entries in indexes, some 100 bytes each, are not in it.")
    context.say("store memory per turn")


async def _events(ours: Turnstone, turn: str) -> int:
    count = 0

    def seen(data: bytes, at: int) -> None:
        nonlocal count
        count += data.count(b"\nevent: ") + data.startswith(b"event: ")

    await ours.client.send("GET", f"{turn}/events", on_body=seen, accept="text/event-stream")
    return count


def _sizes(ours: Turnstone, turn_id: str) -> tuple[int, int]:
    """Bytes of all keys of a turn, and of those that stay when its events' time to live has passed."""
    with ours.stack.store() as store:
        keys = list(store.scan_iter(match=f"*{turn_id}*", count=10_000))
        sizes = {key: int(store.memory_usage(key, samples=0) or 0) for key in keys}
        lasting = [key for key in keys if store.ttl(key) < 0]
    return sum(sizes.values()), sum(sizes[key] for key in lasting)
