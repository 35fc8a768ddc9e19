"""What becomes of a turn's documents: shown as they are, read first, or kept by the session."""

from typing import Any

import pytest

from worker.memory.turn_documents import SHORT_CHARS, as_they_are, bank_name, kept_in, name_in, to_read

Json = dict[str, Any]
PNG = "data:image/png;base64,iVBORw0KGgo="
IMAGE = {"type": "image", "image": {"url": {"uri": PNG}}}
TEXT = {"type": "text", "text": "words"}


@pytest.mark.parametrize(
    ("document", "shown"),
    [
        ({"content": "words"}, "words"),
        ({"content": "words", "mime_type": "text/markdown; charset=utf-8"}, "words"),
        ({"content": "See https://example.com for more."}, "See https://example.com for more."),
        ({"content": TEXT}, [TEXT]),
        ({"content": [TEXT, IMAGE]}, [TEXT, IMAGE]),
        ({"content": IMAGE}, IMAGE),
        ({"content": {"uri": PNG}}, IMAGE),
        ({"content": PNG}, IMAGE),
        ({"content": {"uri": "https://e.com/x"}, "mime_type": "image/webp"},
         {"type": "image", "image": {"url": {"uri": "https://e.com/x"}}}),
    ],
)  # fmt: skip
def test_short_texts_and_images_are_shown_as_they_are(document: Json, shown: Any) -> None:
    assert as_they_are([document]) == [shown]
    assert to_read([document]) == []


@pytest.mark.parametrize(
    "document",
    [
        {"content": {"uri": "https://example.com/a.pdf"}},
        {"content": " https://example.com/a.pdf\n"},
        {"content": "data:text/html,<p>x"},
        {"content": "<p>x</p>", "mime_type": "text/html"},
        {"content": "a,b\n1,2", "mime_type": "text/csv"},
        {"content": "x" * (SHORT_CHARS + 1)},
        {"content": [TEXT], "mime_type": "application/json"},
        {"content": {"file_id": "file_1"}},
    ],
)
def test_everything_else_is_read(document: Json) -> None:
    assert as_they_are([document]) == []
    assert [given for _, given in to_read([document])] == [document]


def test_many_short_texts_are_long_together() -> None:
    half = {"content": "x" * (SHORT_CHARS // 2)}
    assert len(as_they_are([half, half])) == 2
    assert len(as_they_are([half, half, half])) == 2
    assert len(to_read([half, half, half])) == 1


def test_each_document_has_a_name_of_its_own() -> None:
    documents = [
        {"content": {"uri": "https://example.com/a/report.pdf?x=1"}},
        {"content": "https://example.com/b/report.pdf"},
        {"content": {"uri": "https://example.com/"}},
        {"content": {"uri": "data:text/plain,x"}, "document_id": "mine"},
        {"content": {"uri": "data:text/plain,x"}, "document_id": "mine"},
        {"content": {"uri": "https://[bad"}},
        {"content": {"file_id": "file_1"}},
    ]
    names = [name for name, _ in to_read(documents)]
    assert names == ["report.pdf", "report.pdf (2)", "document-3", "mine", "mine (2)", "document-6", "file_1"]


def test_what_a_session_keeps_are_the_last_documents_of_each_name() -> None:
    def turn(step_id: str, *names: str) -> Json:
        return {"steps": [{"step_type": "memory_retrieval", "step_id": step_id, "documents": list(names)}]}

    earlier = [turn("s1", "a", "b/c"), {"steps": [{"step_type": "inference", "step_id": "s2"}]}, turn("s3", "a")]
    kept = kept_in([*earlier, {"steps": [{"step_type": "memory_retrieval", "step_id": "s4"}]}])
    assert kept == {"a": bank_name("s3", "a"), "b/c": bank_name("s1", "b/c")}
    assert name_in(kept["b/c"]) == "b/c"
