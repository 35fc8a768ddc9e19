"""What is measured, in the order of a run. Each row is bounded in time and load, and stops by itself."""

from collections.abc import Awaitable, Callable

from bench.context import Context
from bench.rows import (
    first_token,
    growth,
    insert,
    neighbours,
    quiet,
    rates,
    retrieval,
    shapes,
    store_bytes,
    streams,
    submits,
)

Row = Callable[[Context], Awaitable[None]]

ROWS: dict[str, Row] = {
    "alone": first_token.alone,
    "fifty": first_token.fifty,
    "short": rates.short,
    "long": rates.long,
    "shapes": shapes.measure,
    "streams": streams.measure,
    "quiet": quiet.measure,
    "submits": submits.measure,
    "session": growth.session,
    "history": growth.history,
    "bytes": store_bytes.measure,
    "neighbours": neighbours.measure,
    "retrieval": retrieval.measure,
    "insert": insert.measure,
}
