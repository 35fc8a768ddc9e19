"""Files over the API: upload, list, get, download, delete, and what is refused."""

from collections.abc import Iterator
from io import BytesIO
from typing import Any

import pytest
from apikit import REGISTRY, Api, assert_problem
from callskit import with_keys
from werkzeug.test import TestResponse

from shared.errors import StoreError
from shared.files import KeptFile
from shared.ids import TurnRef
from shared.registry import RegisteredMemoryBank
from shared.runconfig import FrontConfig, Limits

PREFIXES = ["/v1", "/v1/openai/v1"]
BANK = RegisteredMemoryBank(
    identifier="b",
    provider_id="it",
    resource_id="b",
    kind="keyword",
    chunk_size_in_tokens=512,
    overlap_size_in_tokens=64,
)

HALF = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nhel'


@pytest.fixture
def small(redis_url: str, key_prefix: str) -> Iterator[Api]:
    """The API with bounds that a test reaches: 0.2 MB a file, 0.5 MB a tenant."""
    api = Api.on(redis_url, key_prefix, FrontConfig(limits=Limits(file_mb=0.2, files_mb_per_tenant=0.5)))
    yield api
    api.services.tails.close()


def upload(
    api: Api,
    content: bytes = b"hello",
    *,
    name: str = "notes.txt",
    mime_type: str = "text/plain",
    prefix: str = "/v1",
    headers: dict[str, str] | None = None,
    **fields: Any,
) -> TestResponse:
    """The answer to an upload."""
    form = {"purpose": "assistants", "file": (BytesIO(content), name, mime_type), **fields}
    form = {field: value for field, value in form.items() if value is not None}
    return api.client.post(f"{prefix}/files", data=form, headers=headers, content_type="multipart/form-data")


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_file_is_uploaded_got_listed_downloaded_and_deleted(api: Api, prefix: str) -> None:
    made = upload(api, b"caf\xc3\xa9 \x00\xff", name="my café.txt", prefix=prefix)
    assert made.status_code == 200, made.text
    file = made.json
    assert file["id"].startswith("file_")
    assert (file["object"], file["bytes"], file["filename"], file["purpose"]) == (
        "file",
        8,
        "my café.txt",
        "assistants",
    )
    assert file["expires_at"] - file["created_at"] == 7 * 86_400

    assert api.client.get(f"{prefix}/files/{file['id']}").json == file
    listed = api.client.get(f"{prefix}/files").json
    assert listed == {
        "object": "list",
        "data": [file],
        "first_id": file["id"],
        "last_id": file["id"],
        "has_more": False,
    }
    assert api.client.get(f"{prefix}/files/{file['id']}/content").data == b"caf\xc3\xa9 \x00\xff"
    gone = api.client.delete(f"{prefix}/files/{file['id']}")
    assert gone.json == {"id": file["id"], "object": "file", "deleted": True}
    for path in ("", "/content"):
        problem = assert_problem(api.client.get(f"{prefix}/files/{file['id']}{path}"), 404, "not_found")
        assert "GET /v1/files lists" in problem["detail"]
    assert_problem(api.client.delete(f"{prefix}/files/{file['id']}"), 404, "not_found")


def test_no_browser_runs_what_is_downloaded(api: Api) -> None:
    page = upload(api, b"<script>alert(1)</script>", name='a";x=".html', mime_type="text/html").json

    answer = api.client.get(f"/v1/files/{page['id']}/content")

    assert answer.headers["Content-Type"] == "text/html"
    assert answer.headers["Content-Disposition"].startswith("attachment; filename=")
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Content-Security-Policy"] == "default-src 'none'; sandbox"
    assert answer.headers["Content-Length"] == "25"


@pytest.mark.parametrize("mime_type", ["", "nonsense", "text/html, x", "text/pläin"])
def test_a_type_that_is_none_says_nothing(api: Api, mime_type: str) -> None:
    file = upload(api, mime_type=mime_type).json
    assert file["mime_type"] == "application/octet-stream"
    assert api.client.get(f"/v1/files/{file['id']}/content").headers["Content-Type"] == "application/octet-stream"


@pytest.mark.parametrize(
    ("wrong", "param", "words"),
    [
        ({"file": None}, "file", "is required"),
        ({"file": "a text"}, "file", "has to be a file"),
        ({"purpose": None}, "purpose", "is required"),
        ({"purpose": "fine-tune"}, "purpose", "'assistants' or 'user_data'"),
        ({"purpose": "assistants_output"}, "purpose", "'assistants' or 'user_data'"),
        ({"content": b""}, "file", "is empty"),
        ({"name": "../etc/passwd"}, "file", "holds no path"),
        ({"name": "C:\\\\boot.ini"}, "file", "holds no path"),
        ({"name": ".."}, "file", "holds no path"),
        ({"name": "a\x07b"}, "file", "control characters"),
        ({"name": "txt.\u202eexe"}, "file", "control characters"),
        ({"name": "x" * 256}, "file", "1 to 255 characters"),
    ],
)
def test_what_is_wrong_with_an_upload_is_named(api: Api, wrong: dict[str, Any], param: str, words: str) -> None:
    problem = assert_problem(upload(api, **wrong), 422, "invalid_fields")
    assert problem["error"]["param"] == param
    assert words in problem["detail"]
    assert api.client.get("/v1/files").json["data"] == []


def test_two_files_in_one_request_are_refused(api: Api) -> None:
    two = [(BytesIO(b"a"), "a.txt"), (BytesIO(b"b"), "b.txt")]
    answer = api.client.post("/v1/files", data={"purpose": "assistants", "file": two})
    assert "one file in each request" in assert_problem(answer, 422, "invalid_fields")["detail"]


def test_a_form_of_many_fields_is_refused_as_such(api: Api) -> None:
    problem = assert_problem(upload(api, **{f"field{number}": "x" for number in range(40)}), 400, "malformed_body")
    assert "more fields" in problem["detail"]


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        (b"{}", "application/json", 415),
        (b"file=x&purpose=assistants", "application/x-www-form-urlencoded", 415),
        (b"nothing of a form", "multipart/form-data; boundary=x", 400),
        (HALF, "multipart/form-data; boundary=x", 400),
        (b"x", "multipart/form-data", 400),
    ],
)
def test_what_is_no_form_is_refused(api: Api, body: bytes, content_type: str, status: int) -> None:
    assert_problem(api.client.post("/v1/files", data=body, content_type=content_type), status)


def test_a_file_over_the_bound_is_refused_and_says_which(small: Api) -> None:
    for size in (200_001, 400_000):
        problem = assert_problem(upload(small, b"x" * size), 413, "file_too_large")
        assert problem["error"]["param"] == "file"
        assert "200000 bytes" in problem["detail"] and "limits.file_mb" in problem["detail"]
    assert upload(small, b"x" * 200_000).status_code == 200


def test_of_a_body_that_says_it_is_too_large_nothing_is_read_as_a_form(
    small: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Any] = []
    monkeypatch.setattr("werkzeug.formparser.MultiPartParser.parse", lambda *given: read.append(given))

    assert_problem(upload(small, b"x" * 400_000), 413, "file_too_large")

    assert read == []


def test_a_tenant_that_keeps_as_much_as_it_may_is_told_what_to_do(small: Api) -> None:
    kept = [upload(small, b"x" * 200_000).json["id"] for _ in range(2)]

    refused = upload(small, b"x" * 200_000)

    problem = assert_problem(refused, 507, "files_full")
    assert "DELETE /v1/files/{id}" in problem["detail"] and "limits.files_mb_per_tenant" in problem["detail"]
    assert refused.headers["x-should-retry"] == "false"
    small.client.delete(f"/v1/files/{kept[0]}")
    assert upload(small, b"x" * 200_000).status_code == 200


def test_the_same_key_and_file_are_one_file_whatever_stands_between_its_parts(api: Api) -> None:
    key = {"Idempotency-Key": "k1"}
    first, again = upload(api, b"one", headers=key), upload(api, b"one", headers=key)

    assert again.json == first.json
    assert again.headers["Idempotent-Replayed"] == "true"
    assert_problem(upload(api, b"two", headers=key), 422, "idempotency_key_reused")
    assert_problem(upload(api, b"one", name="b.txt", headers=key), 422, "idempotency_key_reused")
    assert len(api.client.get("/v1/files").json["data"]) == 1
    assert upload(api, b"one", headers={"Idempotency-Key": "k2"}).json["id"] != first.json["id"]


def test_a_repetition_finds_the_file_of_a_request_of_which_only_that_came_through(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise StoreError("the process died behind the writing")

    with monkeypatch.context() as patched:
        patched.setattr(api.services.idempotency, "_keep", broken)
        assert_problem(upload(api, headers={"Idempotency-Key": "k"}), 503)
    (kept,) = api.client.get("/v1/files").json["data"]
    api.services.idempotency._client.delete(api.services.idempotency._keys.idempotency("default", "files", "k"))

    assert upload(api, headers={"Idempotency-Key": "k"}).json == kept
    assert api.client.get("/v1/files").json["data"] == [kept]


def test_pages_follow_each_other(api: Api) -> None:
    made = [upload(api, purpose=purpose).json["id"] for purpose in ("assistants", "user_data", "assistants")]

    def page(**query: Any) -> tuple[list[str], bool]:
        found = api.client.get("/v1/files", query_string=query).json
        ids = [file["id"] for file in found["data"]]
        assert (found["first_id"], found["last_id"]) == ((ids[0], ids[-1]) if ids else ("", ""))
        return ids, found["has_more"]

    assert page() == (made[::-1], False)
    assert page(order="asc", limit=2) == (made[:2], True)
    assert page(order="asc", limit=2, after=made[1]) == (made[2:], False)
    assert page(limit=1, after=made[1]) == ([made[0]], False)
    assert page(purpose="user_data") == ([made[1]], False)
    assert page(purpose="assistants_output") == ([], False)


@pytest.mark.parametrize(
    ("query", "status", "param"),
    [
        ({"after": "file_gone"}, 400, "after"),
        ({"after": "ü/../"}, 400, "after"),
        ({"limit": 0}, 422, "limit"),
        ({"limit": 10_001}, 422, "limit"),
        ({"order": "up"}, 422, "order"),
        ({"purpose": "batch"}, 422, "purpose"),
    ],
)
def test_what_is_wrong_with_a_list_is_named(api: Api, query: dict[str, Any], status: int, param: str) -> None:
    answer = api.client.get("/v1/files", query_string=query)
    assert assert_problem(answer, status)["error"]["param"] == param


def test_a_tenants_files_are_its_own(redis_url: str, key_prefix: str) -> None:
    api = Api.on(redis_url, key_prefix, with_keys(ours="us", theirs="them"))
    mine, other = {"Authorization": "Bearer ours"}, {"Authorization": "Bearer theirs"}
    file = upload(api, headers=mine).json

    for path in (f"/v1/files/{file['id']}", f"/v1/files/{file['id']}/content"):
        assert_problem(api.client.get(path, headers=other), 404, "not_found")
        assert api.client.get(path, headers=mine).status_code == 200
    assert api.client.get("/v1/files", headers=other).json["data"] == []
    assert_problem(api.client.delete(f"/v1/files/{file['id']}", headers=other), 404)
    assert_problem(api.client.get(f"/v1/files/{file['id']}"), 401)
    api.services.tails.close()


def test_a_download_whose_file_goes_meanwhile_is_broken_off(api: Api) -> None:
    file = upload(api, b"x" * 400_000).json
    answer = api.client.get(f"/v1/files/{file['id']}/content", buffered=False)
    pieces = answer.iter_encoded()
    next(pieces)
    api.client.delete(f"/v1/files/{file['id']}")

    with pytest.raises(Exception, match="There is no file"):
        list(pieces)


def insert(api: Api, *contents: Any, path: str = "/v1/memory/insert", **headers: str) -> TestResponse:
    documents = [{"document_id": f"d{at}", "content": content} for at, content in enumerate(contents)]
    bank = "bank_id" if path.endswith("memory/insert") else "vector_db_id"
    return api.post(path, {bank: "b", "documents": documents}, **headers)


@pytest.fixture
def banked(api: Api) -> Api:
    REGISTRY_WITH_BANK = REGISTRY.__class__(
        models=REGISTRY.models,
        shields=REGISTRY.shields,
        toolgroups=REGISTRY.toolgroups,
        providers=REGISTRY.providers,
        memory_banks=[BANK],
    )
    api.services.registry.publish(REGISTRY_WITH_BANK)
    return api


def test_a_document_may_be_a_file_that_is_there(banked: Api) -> None:
    file = upload(banked).json

    answer = insert(banked, "a text", {"file_id": file["id"]})

    assert answer.status_code == 202, answer.text
    ref = TurnRef("default", "", answer.json["job_id"])
    row = banked.services.reader.row(ref)
    assert row is not None


@pytest.mark.parametrize("path", ["/v1/memory/insert", "/v1/tool-runtime/rag-tool/insert"])
def test_a_document_whose_file_is_not_there_is_refused_and_named(banked: Api, path: str) -> None:
    file = upload(banked).json

    problem = assert_problem(insert(banked, {"file_id": file["id"]}, {"file_id": "file_0"}, path=path), 400)

    assert problem["error"]["code"] == "file_not_found"
    assert problem["error"]["param"] == "documents.1.content.file_id"
    assert "'file_0'" in problem["detail"]


def test_an_id_that_can_be_none_is_refused_by_its_field(banked: Api) -> None:
    problem = assert_problem(insert(banked, {"file_id": "../x"}), 422, "invalid_fields")
    assert problem["error"]["param"] == "documents.0.content.file_id"


def test_a_repeated_insert_finds_its_job_though_the_file_has_gone(banked: Api) -> None:
    file = upload(banked).json
    first = insert(banked, {"file_id": file["id"]}, Idempotency_Key="k")
    banked.client.delete(f"/v1/files/{file['id']}")

    again = insert(banked, {"file_id": file["id"]}, Idempotency_Key="k")

    assert (again.status_code, again.json["job_id"]) == (202, first.json["job_id"])


def test_a_store_that_is_away_is_told_as_such(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: Any, **__: Any) -> KeptFile:
        raise StoreError("away")

    monkeypatch.setattr(api.services.files, "put", away)
    assert_problem(upload(api), 503, "store_unavailable")
