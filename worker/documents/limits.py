"""How much a document may cost."""

from dataclasses import dataclass

MB = 1_048_576


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadingLimits:
    """Of reading a document into text. Sizes are in bytes, `timeout_s` counts from when a child takes it up.

    `max_unpacked_bytes` is for what a document has compressed in it, all together. `max_memory_bytes` is the address
    space of a child, the interpreter's own 100 MB included.
    """

    max_bytes: int = 50 * MB
    max_text_bytes: int = 20 * MB
    max_unpacked_bytes: int = 200 * MB
    max_memory_bytes: int = 1024 * MB
    timeout_s: float = 60.0
    children: int = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchLimits:
    """Of fetching a URL. `max_bytes` is the body's size, decompressed; `total_s` is for all redirects together."""

    max_bytes: int = 50 * MB
    connect_s: float = 5.0
    total_s: float = 30.0
    max_redirects: int = 5
