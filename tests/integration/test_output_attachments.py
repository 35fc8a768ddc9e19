"""What tools return besides text, in the real loop on a real store: kept, named, downloadable, once."""

from base64 import b64encode
from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from typing import Any

import orjson
import pytest
from mcp_server import PNG
from turnkit import Bench, turn_bench

from shared.clock import now_iso
from shared.errors import StoreError
from shared.events import TurnResumed
from shared.files import KeptFile, NewFile
from shared.fold import CALL_OUTCOME
from shared.ids import DEFAULT_TENANT, TurnRef, new_file_id
from worker.attachments import without_files
from worker.context import turn_messages
from worker.journal import TurnWriter
from worker.providers.tools import ToolFile, ToolResult

Json = dict[str, Any]

SEATS = {"toolgroups": ["seats"], "client_tools": []}
IMAGE: Json = {
    "type": "image",
    "image": {"url": {"uri": f"data:image/png;base64,{b64encode(PNG).decode()}"}},
}
SOUND = ToolFile(data=b"RIFF wav", mime_type="audio/wav", filename="../hum.wav")


@pytest.fixture
def bench(redis_url: str, key_prefix: str) -> Iterator[Bench]:
    with turn_bench(redis_url, key_prefix) as bench:
        yield bench


def kept(bench: Bench) -> list[KeptFile]:
    """All files of the tenant, oldest first."""
    return bench.files.page(DEFAULT_TENANT, after=None, limit=100, newest_first=False, purpose="assistants_output")[0]


def content_of(bench: Bench, file: KeptFile) -> bytes:
    return b"".join(bench.files.read(DEFAULT_TENANT, file))


def responses(turn: Json) -> list[Json]:
    return [one for step in turn["steps"] if step["step_type"] == "tool_execution" for one in step["tool_responses"]]


def ran(bench: Bench, gives: ToolResult, *, text: str = "book") -> Json:
    """A turn in which a tool gives this, once it has ended."""
    bench.seats.gives = gives
    ref = bench.submit(text, **SEATS)
    bench.run(ref)
    turn = bench.turn(ref)
    assert turn["status"] == "completed", turn
    return turn


def test_images_and_files_of_a_result_are_files_and_attachments_of_the_turn(bench: Bench) -> None:
    turn = ran(bench, ToolResult(content=[{"type": "text", "text": "see"}, IMAGE], files=(SOUND,)))

    image, sound = kept(bench)
    assert (content_of(bench, image), content_of(bench, sound)) == (PNG, b"RIFF wav")
    assert (image.filename, image.mime_type, sound.filename) == ("book-1.png", "image/png", "hum.wav")
    assert turn["output_attachments"] == [
        {"content": {"uri": f"/v1/files/{image.file_id}/content"}, "mime_type": "image/png"},
        {"content": {"uri": f"/v1/files/{sound.file_id}/content"}, "mime_type": "audio/wav"},
    ]
    (response,) = responses(turn)
    assert response["metadata"]["attachments"] == [
        {"file_id": image.file_id, "mime_type": "image/png", "filename": "book-1.png", "bytes": len(PNG)},
        {"file_id": sound.file_id, "mime_type": "audio/wav", "filename": "hum.wav", "bytes": 8},
    ]


def test_the_model_reads_what_it_read_and_a_line_for_each_file(bench: Bench) -> None:
    turn = ran(bench, ToolResult(content=[{"type": "text", "text": "see"}, IMAGE]))
    (file,) = kept(bench)

    (message,) = [one for one in turn_messages([], turn["steps"]) if one["role"] == "tool"]

    assert [item["text"] for item in message["content"]] == [
        "see",
        "[an image, which the model is not shown]",
        f"[kept as a file: book-1.png (image/png, {len(PNG)} bytes), {file.file_id}]",
    ]


def test_the_file_is_there_before_anything_names_it(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[bool] = []
    plain = TurnWriter.note

    def watched(self: TurnWriter, kind: str, payload: Json) -> None:
        if kind == CALL_OUTCOME:
            ids = [file["file_id"] for file in payload["response"]["metadata"]["attachments"]]
            written.append(bench.files.known(DEFAULT_TENANT, ids).keys() == set(ids))
        plain(self, kind, payload)

    monkeypatch.setattr(TurnWriter, "note", watched)
    ran(bench, ToolResult(content=[IMAGE]))

    assert written == [True]


def test_until_its_step_has_completed_a_turn_has_no_attachments(bench: Bench) -> None:
    seen: list[list[Json]] = []
    bench.seats.gives = ToolResult(content=[IMAGE])
    ref = bench.submit("book", **SEATS)
    bench.seats.during = lambda: seen.append(bench.turn(ref)["output_attachments"])
    bench.run(ref)
    assert seen == [[]]
    assert len(bench.turn(ref)["output_attachments"]) == 1


def test_a_call_that_a_taker_over_makes_again_makes_no_second_file(bench: Bench) -> None:
    bench.seats.gives = ToolResult(content=[IMAGE])
    ref = bench.submit("read twice", **SEATS)
    first = bench.claim(ref)
    lost: list[Json] = []
    # Its worker is lost behind the keeping: of its outcomes nothing comes to the store.
    first.writer.note = lambda kind, payload: lost.append(payload) if kind == CALL_OUTCOME else plain(kind, payload)  # type: ignore[method-assign]
    plain = type(first.writer).note.__get__(first.writer)
    while not lost:
        first._advance()
    bench.tools.log.release(ref, token=first.writer.token)
    assert len(kept(bench)) == 1

    bench.run(ref)

    calls = [name for name, _, _ in bench.seats.calls]
    assert calls == ["read", "read"]
    (file,) = kept(bench)
    assert [one["content"]["uri"] for one in bench.turn(ref)["output_attachments"]] == [
        f"/v1/files/{file.file_id}/content"
    ]


def test_two_calls_with_the_same_bytes_are_two_files_and_so_are_other_bytes_of_one_call(bench: Bench) -> None:
    ran(bench, ToolResult(content=[IMAGE]))
    ran(bench, ToolResult(content=[IMAGE]))
    assert len({file.file_id for file in kept(bench)}) == 2


def test_what_is_too_large_is_said_and_not_kept_and_the_rest_is(bench: Bench) -> None:
    large = ToolFile(data=b"x" * 100_001, mime_type="video/mp4", filename="film.mp4")
    turn = ran(bench, ToolResult(content="done", files=(large, SOUND)))

    (file,) = kept(bench)
    (response,) = responses(turn)
    assert response["content"].splitlines() == [
        "done",
        "[not kept: film.mp4 (video/mp4): it is larger than 100000 bytes (limits.file_mb)]",
        f"[kept as a file: hum.wav (audio/wav, 8 bytes), {file.file_id}]",
    ]
    assert len(turn["output_attachments"]) == 1


def test_where_the_tenant_keeps_as_much_as_it_may_the_turn_goes_on_and_says_so(bench: Bench) -> None:
    for _ in range(2):
        mine = NewFile(file_id=new_file_id(), filename="a", mime_type="a/b", purpose="assistants", size=75_000)
        bench.files.put(DEFAULT_TENANT, mine, BytesIO(b"x" * 75_000))

    turn = ran(bench, ToolResult(content="done", files=(SOUND,)))

    assert turn["output_attachments"] == []
    (response,) = responses(turn)
    assert response["content"].endswith(
        "[not kept: hum.wav (audio/wav): the files that are kept leave no room for it (limits.files_mb_per_tenant)]"
    )
    assert "attachments" not in response["metadata"]


def test_a_store_that_is_away_for_a_moment_is_waited_for(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, tries = bench.files.put, list[int]()

    def put(*given: Any) -> KeptFile:
        tries.append(1)
        if len(tries) < 3:
            raise StoreError("away")
        return plain(*given)

    monkeypatch.setattr(bench.files, "put", put)
    turn = ran(bench, ToolResult(content="done", files=(SOUND,)))
    assert len(turn["output_attachments"]) == 1
    assert len(tries) == 3


@pytest.mark.parametrize(
    "named",
    [
        [{"file_id": "file_0", "mime_type": "a/b", "filename": "a", "bytes": 1}],
        ["file_0"],
        {"file_id": 1},
    ],
)
def test_attachments_that_others_claim_are_not_the_turns(bench: Bench, named: Any) -> None:
    tool = ran(bench, ToolResult(content="done", metadata={"attachments": named, "more": 1}))
    assert tool["output_attachments"] == []
    assert responses(tool)[0]["metadata"] == {"more": 1}

    ref = bench.submit("use look")
    bench.run(ref)
    (call,) = bench.turn(ref)["output_message"]["tool_calls"]
    answer(bench, ref, call, {"attachments": named})
    bench.run(ref)
    turn = bench.turn(ref)
    assert (turn["status"], turn["output_attachments"]) == ("completed", [])


def answer(bench: Bench, ref: TurnRef, call: Json, metadata: Json) -> None:
    response = {"call_id": call["call_id"], "tool_name": call["tool_name"], "content": "x", "metadata": metadata}
    event = TurnResumed(turn_id=ref.turn_id, tool_responses=[response], resumed_at=now_iso())
    bench.tools.log.resume(ref, event=event, call_ids=[call["call_id"]], digest="d")


@pytest.mark.parametrize(
    ("image", "mime_type"),
    [
        ({"data": b64encode(PNG).decode()}, "image/png"),
        ({"data": b64encode(b"\xff\xd8\xff....").decode()}, "image/jpeg"),
        ({"data": b64encode(b"???").decode()}, "application/octet-stream"),
        ({"url": {"uri": "https://example.com/a.png"}}, None),
        ({"url": {"uri": "data:image/png;base64,%%%"}}, None),
    ],
)
def test_images_are_kept_by_their_bytes(bench: Bench, image: Json, mime_type: str | None) -> None:
    turn = ran(bench, ToolResult(content=[{"type": "image", "image": image}]))
    assert [one["mime_type"] for one in turn["output_attachments"]] == ([] if mime_type is None else [mime_type])


def test_a_name_that_no_file_may_have_is_replaced(bench: Bench) -> None:
    for name in ("", "..", "a\x00b", "x" * 300):
        ran(bench, ToolResult(content="done", files=(replace(SOUND, data=name.encode() + b"!", filename=name),)))
    assert {file.filename for file in kept(bench)} == {"book-1.wav"}


def test_where_nothing_keeps_files_what_is_left_out_is_said() -> None:
    said = without_files(ToolResult(content="done", files=(SOUND,), metadata={"attachments": 1}))
    assert (said.content, said.files, said.metadata) == ("done\n[left out: audio/wav]", (), {})


def test_a_finished_turn_keeps_its_attachments_in_its_snapshot(bench: Bench) -> None:
    turn = ran(bench, ToolResult(content=[IMAGE]))
    ref = TurnRef(DEFAULT_TENANT, turn["session_id"], turn["turn_id"])
    row = bench.kit.reader.row(ref)
    stored = None if row is None else row.snapshot
    assert stored is not None
    assert orjson.loads(stored)["output_attachments"] == turn["output_attachments"] != []
