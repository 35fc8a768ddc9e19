"""Bounds the text that tools give to a model."""

ERROR_CHARS = 2_000


def cut(text: str, limit: int) -> str:
    """`text`, or its first `limit` bytes (UTF-8) and a clear mark."""
    # No character takes more than four bytes: most texts need not be encoded to know.
    if len(text) * 4 <= limit:
        return text
    raw = text.encode("utf-8", "replace")
    if len(raw) <= limit:
        return text
    return raw[:limit].decode("utf-8", "ignore") + cut_mark(limit)


def cut_mark(limit: int) -> str:
    """What stands where a text was cut after `limit` bytes."""
    return f"\n[cut: the tool's result is longer than {limit // 1024} KB]"


def shortened(text: str, chars: int = ERROR_CHARS) -> str:
    """`text`, or its first characters and an ellipsis."""
    return text if len(text) <= chars else text[:chars].rstrip() + "…"
