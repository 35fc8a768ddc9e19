"""What the headers of a tool's answer say about its body."""

from email.message import Message

_TEXTS = frozenset(
    f"application/{name}"
    for name in ("json", "xml", "yaml", "x-yaml", "toml", "javascript", "x-ndjson", "jsonl", "x-www-form-urlencoded")
)


def is_text(headers: dict[str, str]) -> bool:
    """Whether the body is for a model to read. One that does not say what it is, is."""
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    return not kind or kind.startswith("text/") or kind.endswith(("+json", "+xml", "+yaml")) or kind in _TEXTS


def filename(headers: dict[str, str]) -> str:
    """As the server calls it, or nothing."""
    message = Message()
    message["content-disposition"] = headers.get("content-disposition", "")
    return message.get_filename() or ""
