"""What is asked of memory, and what a model is shown of the answer."""

from typing import Any

import pytest

from worker.memory.context import context_of
from worker.memory.query import Query, default_text, prompt_for
from worker.memory.service import Asked, Hit, Memory
from worker.providers.memory import Bank, BankKind, Chunk, Found, Search

Json = dict[str, Any]


def found(document_id: str, text: str, score: float = 1.0, position: int = 0) -> Found:
    chunk = Chunk(content=text, token_count=len(text.split()), metadata={"source": document_id})
    return Found(document_id=document_id, position=position, chunk=chunk, score=score)


class Shelf:
    """A bank's provider that finds what it was given, and keeps what it was asked."""

    def __init__(self, kind: BankKind, *finds: Found) -> None:
        self.bank = Bank(identifier="b", resource_id="b", kind=kind)
        self.finds = list(finds)
        self.asked: list[Search] = []

    def search(self, bank: Bank, search: Search) -> list[Found]:
        self.asked.append(search)
        return self.finds[: search.limit]


def memory_of(**shelves: Shelf) -> Memory:
    return Memory(find=lambda tenant, name: (shelves[name], shelves[name].bank), embedder=None)  # type: ignore[arg-type, return-value]


def test_the_query_is_the_text_of_the_messages_by_default() -> None:
    messages = [
        {"role": "user", "content": "one"},
        {"role": "user", "content": [{"type": "text", "text": "two"}, {"type": "image", "image": {}}]},
    ]
    assert default_text(messages, {}) == "one two"
    assert default_text(messages, {"separator": " | "}) == "one | two"


@pytest.mark.parametrize("place", ["{messages}", "{{messages}}", "{{ messages }}"])
def test_a_template_has_the_messages_in_their_place(place: str) -> None:
    asked = prompt_for([{"role": "user", "content": "how {x}?"}], {"template": f"Find: {place} now"})
    assert asked == "Find: user: how {x}? now"


def test_a_template_without_a_place_has_the_messages_behind_it() -> None:
    assert prompt_for([{"role": "user", "content": "hi"}], {"template": "Find"}) == "Find\n\nuser: hi"


def test_in_a_keyvalue_bank_the_query_is_a_key_unless_keys_are_given() -> None:
    bank = Bank(identifier="b", resource_id="b", kind=BankKind.KEYVALUE)
    assert Query(text="k").search(bank, None).keys == ["k"]
    assert Query(text="k", keys=["a", "b"]).search(bank, None).keys == ["a", "b"]


def test_banks_that_are_searched_the_same_way_compare_by_score() -> None:
    memory = memory_of(
        a=Shelf(BankKind.KEYWORD, found("a1", "x", 3.0), found("a2", "x", 1.0)),
        b=Shelf(BankKind.KEYWORD, found("b1", "x", 2.0)),
    )
    hits = memory.search([Asked("a", Query(text="x")), Asked("b", Query(text="x"))], tenant="t")
    assert [hit.found.document_id for hit in hits] == ["a1", "b1", "a2"]


def test_banks_of_different_kinds_take_turns() -> None:
    memory = memory_of(
        a=Shelf(BankKind.KEYWORD, found("a1", "x", 9.0), found("a2", "x", 8.0)),
        b=Shelf(BankKind.KEYVALUE, found("b1", "x", 1.0)),
    )
    hits = memory.search([Asked("a", Query(text="x")), Asked("b", Query(text="x"))], tenant="t")
    assert [hit.found.document_id for hit in hits] == ["a1", "b1", "a2"]


def test_what_scores_too_low_is_left_out() -> None:
    memory = memory_of(a=Shelf(BankKind.KEYWORD, found("a1", "x", 3.0), found("a2", "x", 1.0)))
    hits = memory.search([Asked("a", Query(text="x", min_score=2.0))], tenant="t")
    assert [hit.found.document_id for hit in hits] == ["a1"]


def test_the_context_names_its_documents_and_keeps_to_its_size() -> None:
    hits = [Hit("bank", found(f"d{number}", "word " * 100, 1 / (number + 1))) for number in range(10)]

    context = context_of(hits, max_tokens=400)

    assert 1 <= len(context.citations) < 10
    assert all(f"[{one['document_id']}]" in context.text for one in context.citations)
    assert context.citations[0] == {
        "document_id": "d0",
        "bank_id": "bank",
        "position": 0,
        "score": 1.0,
        "metadata": {"source": "d0"},
    }


def test_of_a_chunk_that_is_too_long_by_itself_the_beginning_is_shown() -> None:
    context = context_of([Hit("bank", found("d", "word " * 1000))], max_tokens=100)
    assert context.citations and 0 < context.text.count("word") < 200


def test_nothing_found_is_no_context() -> None:
    assert context_of([], max_tokens=100).text == ""
