"""Documents that are files which were uploaded: read by content, name and type, of one's own tenant alone."""

from collections.abc import Iterator
from io import BytesIO
from typing import Any

import pytest
from documentkit import pdf_of, shown
from logkit import opened

from shared.errors import StoreError
from shared.files import FileLimits, KeptFile, NewFile, RedisFiles
from shared.ids import new_file_id
from worker.documents.errors import UnreadableDocument
from worker.documents.reader import DocumentReader
from worker.memory.contents import Contents

TENANT = "acme"


@pytest.fixture
def files(redis_url: str, key_prefix: str) -> Iterator[RedisFiles]:
    with opened(redis_url, key_prefix) as kit:
        limits = FileLimits(file_bytes=10_000_000, tenant_bytes=10_000_000, ttl_s=60)
        yield RedisFiles(client=kit.client, keys=kit.keys, limits=limits)  # type: ignore[arg-type]


@pytest.fixture
def contents(files: RedisFiles) -> Iterator[Contents]:
    contents = Contents(reader=DocumentReader(), files=files)
    yield contents
    contents.close()


def put(files: RedisFiles, body: bytes, name: str, mime_type: str = "application/octet-stream") -> str:
    new = NewFile(file_id=new_file_id(), filename=name, mime_type=mime_type, purpose="assistants", size=len(body))
    return files.put(TENANT, new, BytesIO(body)).file_id


@pytest.mark.parametrize(
    ("body", "name", "mime_type", "text"),
    [
        (b"plain words", "a.txt", "text/plain", "plain words"),
        (b"# Title\n", "a.md", "application/octet-stream", "# Title"),
        (b"<p>one</p><script>no</script>", "a.html", "application/octet-stream", "one"),
        (b"<html><body><p>one</p></body></html>", "unknown", "application/octet-stream", "one"),
        ("grün".encode("latin-1"), "a.txt", "text/plain; charset=latin-1", "grün"),
        (pdf_of(shown("one page")), "a.pdf", "application/octet-stream", "one page"),
        (b"x" * 600_000, "long.txt", "text/plain", "x" * 600_000),
    ],
)
def test_a_file_is_read_by_its_type_its_name_and_its_content(
    files: RedisFiles, contents: Contents, body: bytes, name: str, mime_type: str, text: str
) -> None:
    file_id = put(files, body, name, mime_type)
    assert contents({"file_id": file_id}, None, tenant=TENANT).strip() == text


def test_what_the_document_says_of_its_type_comes_first_unless_it_says_plain_text(
    files: RedisFiles, contents: Contents
) -> None:
    text, page = put(files, b"<p>one</p>", "a.txt", "text/plain"), put(files, b"<p>two</p>", "b.html")
    assert contents({"file_id": text}, "text/html", tenant=TENANT).strip() == "one"
    assert contents({"file_id": page}, "text/plain", tenant=TENANT).strip() == "two"


@pytest.mark.parametrize("tenant", ["other", "default"])
def test_a_file_of_another_tenant_is_none(files: RedisFiles, contents: Contents, tenant: str) -> None:
    file_id = put(files, b"secret", "a.txt")
    assert code_of(contents, {"file_id": file_id}, tenant=tenant) == "file_not_found"


def test_a_file_that_has_gone_is_said(files: RedisFiles, contents: Contents) -> None:
    file_id = put(files, b"words", "a.txt")
    files.delete(TENANT, file_id)
    assert code_of(contents, {"file_id": file_id}) == "file_not_found"
    assert code_of(contents, {"file_id": "file_0"}) == "file_not_found"


def test_a_file_that_goes_while_it_is_read_is_said(
    files: RedisFiles, contents: Contents, monkeypatch: pytest.MonkeyPatch
) -> None:
    file_id = put(files, b"x" * 600_000, "a.txt", "text/plain")
    plain = files._piece

    def piece(tenant: str, file: KeptFile, number: int) -> bytes | None:
        if number == 1:
            files.delete(TENANT, file_id)
        return plain(tenant, file, number)

    monkeypatch.setattr(files, "_piece", piece)
    assert code_of(contents, {"file_id": file_id}) == "file_not_found"


def test_a_store_that_is_away_is_waited_for(
    files: RedisFiles, contents: Contents, monkeypatch: pytest.MonkeyPatch
) -> None:
    file_id, plain, tries = put(files, b"words", "a.txt", "text/plain"), files.get, list[int]()

    def get(*given: Any) -> KeptFile | None:
        tries.append(1)
        if len(tries) == 1:
            raise StoreError("away")
        return plain(*given)

    monkeypatch.setattr(files, "get", get)
    assert contents({"file_id": file_id}, None, tenant=TENANT) == "words"


@pytest.mark.parametrize(
    ("body", "code"), [(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "unsupported_type"), (b" \n", "empty_document")]
)
def test_what_cannot_be_read_is_said(files: RedisFiles, contents: Contents, body: bytes, code: str) -> None:
    assert code_of(contents, {"file_id": put(files, body, "what")}) == code


def code_of(contents: Contents, content: Any, *, tenant: str = TENANT) -> str:
    with pytest.raises(UnreadableDocument) as caught:
        contents(content, None, tenant=tenant)
    return caught.value.code
