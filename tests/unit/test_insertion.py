"""Insert jobs as the log takes them."""

from typing import Any

from shared.insert_jobs import Insertion


def documents_of(*given: tuple[str, str]) -> list[dict[str, Any]]:
    return [{"document_id": name, "content": content} for name, content in given]


def test_of_documents_with_one_id_the_last_one_is_taken() -> None:
    sent = documents_of(("a", "old"), ("b", "b"), ("a", "new"))
    job = Insertion(bank_id="bank", documents=sent, digest="d").config()["insert"]
    assert job["documents"] == documents_of(("a", "new"), ("b", "b"))


def test_with_a_key_a_job_has_the_same_ids_whoever_asks_and_other_keys_have_others() -> None:
    def ref(key: str | None, digest: str = "d") -> Any:
        return Insertion(bank_id="b", documents=[], digest=digest, idempotency_key=key).ref("default")

    assert ref("k") == ref("k")
    assert len({ref("k"), ref("l"), ref("k", "e"), ref(None), ref(None)}) == 5
