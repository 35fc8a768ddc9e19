"""Memory banks in PostgreSQL: several processes, a server that goes away, and what may be wrong with it."""

import importlib.util
import os
import random
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from gevent.lock import BoundedSemaphore
from postgreskit import PASSWORD, LocalPostgres, local_postgres, own_database, own_schema
from pydantic import SecretStr
from waiting import wait_for

from shared.errors import ConfigError, ProviderError
from shared.runconfig import ProviderInstance, Providers, RunConfig
from worker.providers import memory_pgvector_words as words
from worker.providers.instances import build_memory
from worker.providers.memory import Bank, BankKind, Chunk, Document, Search
from worker.providers.memory_pgvector import PgvectorMemory
from worker.providers.memory_pgvector_config import PgvectorConfig

BANK = Bank(
    identifier="b", resource_id="b", kind=BankKind.VECTOR, embedding_model="e", embedding_dimension=4
)  # fmt: skip
MADE = textwrap.dedent("""
    from gevent import monkey; monkey.patch_all()
    import sys
    from pydantic import SecretStr
    from worker.providers.memory import *
    from worker.providers.memory_pgvector import PgvectorMemory, PgvectorConfig

    url, schema, name, batches = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
    provider = PgvectorMemory(provider_id="it", config=PgvectorConfig(url=SecretStr(url), schema=schema))
    bank = Bank(identifier="b", resource_id="b", kind=BankKind.VECTOR, embedding_model="e", embedding_dimension=4)
    provider.register_memory_bank(bank)
""")
WRITER = MADE + textwrap.dedent("""
    writer = provider.begin(bank)
    for batch in range(batches):
        chunks = [Chunk(content=f"{name} words", token_count=2, embedding=[1, 0, 0, batch])] * 3
        own = [Document(document_id=f"{name}-{batch}-{n}", chunks=chunks) for n in range(20)]
        shared = [Document(document_id=f"shared-{n}", chunks=chunks[:1]) for n in range(batch % 5)]
        provider.put(bank, own + (shared if name.startswith("w") else shared[::-1]), writer=writer)
        print(batch, flush=True)
""")
WAITING = MADE + textwrap.dedent("""
    import gevent, time
    done = []
    slow = [gevent.spawn(lambda: provider._server.read(lambda session: session.rows("SELECT pg_sleep(2)")))
            for _ in range(2)]
    for one in slow:
        one.rawlink(lambda _: done.append("slow"))
    gevent.sleep(0)
    def quick():
        provider.search(bank, Search(text="words"))
        done.append("quick")
    gevent.joinall([gevent.spawn(quick) for _ in range(6)] + slow, raise_error=True)
    print(" ".join(done))
""")


def provider_on(url: str, schema: str = "turnstone", **config: Any) -> PgvectorMemory:
    return PgvectorMemory(provider_id="it", config=PgvectorConfig(url=SecretStr(url), schema=schema, **config))


def started(code: str, *arguments: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": os.getcwd()})


def put(provider: PgvectorMemory, documents: list[Document]) -> None:
    provider.put(BANK, documents, writer=provider.begin(BANK))


def document(name: str, *texts: str) -> Document:
    chunks = [Chunk(content=text, token_count=1, embedding=[1, 0, 0, 0]) for text in texts or ("words",)]
    return Document(document_id=name, chunks=chunks)


def refusal(url: str, **config: Any) -> ProviderError:
    """What a provider says when it is asked whether it can be used."""
    provider = provider_on(url, **config)
    with pytest.raises(ProviderError) as caught:
        provider.list_memory_banks()
    provider.close()
    assert caught.value.message.startswith("Provider 'it' ")
    assert PASSWORD not in caught.value.message and "127.0.0.1" not in caught.value.message
    assert caught.value.__cause__ is None
    return caught.value


@pytest.fixture
def schema(postgres_url: str) -> Iterator[str]:
    with own_schema(postgres_url) as name:
        yield name


@pytest.fixture
def provider(postgres_url: str, schema: str) -> Iterator[PgvectorMemory]:
    provider = provider_on(postgres_url, schema)
    provider.register_memory_bank(BANK)
    yield provider
    provider.close()


@pytest.fixture(scope="module")
def server() -> Iterator[LocalPostgres]:
    """One that a test may stop, and starts again."""
    with local_postgres() as server:
        yield server


@contextmanager
def registered(url: str) -> Iterator[PgvectorMemory]:
    with own_database(url) as own:
        provider = provider_on(own)
        provider.register_memory_bank(BANK)
        yield provider
        provider.close()


def test_two_processes_insert_into_one_bank_while_a_third_asks_it(
    postgres_url: str, schema: str, provider: PgvectorMemory
) -> None:
    writers = [started(WRITER, postgres_url, schema, name, "15") for name in ("w-one", "x-two")]
    asked = 0
    while any(process.poll() is None for process in writers):
        found = provider.search(BANK, Search(text="words", limit=4000))
        assert sum(not one.document_id.startswith("shared") for one in found) % 60 == 0, (
            "batches are whole or not there"
        )
        asked += 1

    assert [process.wait() for process in writers] == [0, 0] and asked
    found = provider.search(BANK, Search(text="words", limit=4000))
    assert len(found) == len({(one.document_id, one.position) for one in found}) == 2 * 15 * 60 + 4
    near = provider.search(BANK, Search(embedding=[1, 0, 0, 14], mode="vector", limit=120))
    assert {one.document_id.split("-")[2] for one in near if one.document_id[0] != "s"} == {"14"}
    for process in writers:
        assert process.stdout is not None
        process.stdout.close()


def test_a_process_killed_in_mid_insert_leaves_whole_batches_only(
    postgres_url: str, schema: str, provider: PgvectorMemory
) -> None:
    told = 0
    for turn in range(4):
        with started(WRITER, postgres_url, schema, f"w{turn}-", "1000") as process:
            assert process.stdout is not None
            for _ in range(turn + 2):
                process.stdout.readline()
                told += 1
            process.send_signal(signal.SIGKILL)

    found = provider.search(BANK, Search(text="words", limit=9000))
    near = provider.search(BANK, Search(embedding=[1, 0, 0, 0], mode="vector", limit=9000))
    own = [(one.document_id, one.position) for one in found if one.document_id[0] != "s"]
    assert len(near) == len(found) and len(own) == len(set(own))
    assert len(own) % 60 == 0 and len(own) >= 60 * told, "what was told to be stored is there"
    put(provider, [document("after")])  # nobody who was killed holds the bank


def test_many_processes_make_one_schema_at_once(postgres_url: str, schema: str) -> None:
    writers = [started(WRITER, postgres_url, schema, f"w{number}", "1") for number in range(4)]
    for process in writers:
        process.communicate()
    assert [process.returncode for process in writers] == [0] * 4


def test_a_slow_statement_holds_up_no_other_greenlet(postgres_url: str, schema: str) -> None:
    with started(WAITING, postgres_url, schema, "", "0") as process:
        told, _ = process.communicate()
    assert told.split() == ["quick"] * 6 + ["slow"] * 2


def test_who_is_killed_while_it_waits_leaves_the_provider_usable(
    provider: PgvectorMemory, postgres_url: str, schema: str
) -> None:
    code = MADE + textwrap.dedent("""
        import gevent
        waiting = [gevent.spawn(lambda: provider._server.read(lambda session: session.rows("SELECT pg_sleep(60)")))
                   for _ in range(5)]
        gevent.sleep(0.5)
        gevent.killall(waiting)
        print(len(provider.search(bank, Search(text="words"))), len(provider._server._idle))
    """)
    put(provider, [document("d")])
    with started(code, postgres_url, schema, "", "0") as process:
        told, _ = process.communicate()
    assert told.split() == ["1", "1"], "all five places are free again, and their connections closed"


def test_a_server_that_was_restarted_is_used_again_at_once(server: LocalPostgres) -> None:
    with registered(server.url()) as provider:
        put(provider, [document("before")])
        server.stop()
        with pytest.raises(ProviderError) as caught:
            provider.search(BANK, Search(text="words"))
        assert (caught.value.code, caught.value.retryable) == ("memory_unavailable", True)
        assert "refused or cut" in caught.value.message

        server.start()

        put(provider, [document("after")])
        assert {one.document_id for one in provider.search(BANK, Search(text="words"))} == {"before", "after"}


def test_connections_that_a_restart_has_broken_are_not_missed(server: LocalPostgres) -> None:
    with registered(server.url()) as provider:
        server.stop(kill=True)
        server.start()
        put(provider, [document("d")])
        assert len(provider.search(BANK, Search(text="words"))) == 1


def test_a_wrong_password_is_told_without_any(server: LocalPostgres) -> None:
    wrong = "wrong-secret"
    error = refusal(server.url(password=wrong))
    assert (error.code, error.retryable) == ("memory_access_refused", False)
    assert wrong not in error.message and "password" in error.message


def test_a_database_that_is_not_there_is_told(server: LocalPostgres) -> None:
    assert "no such database" in refusal(server.url("nowhere")).message


def test_a_server_without_connections_left_is_told(server: LocalPostgres) -> None:
    with own_database(server.url()) as url:
        taken = []
        with pytest.raises(psycopg.OperationalError):
            while True:
                taken.append(psycopg.connect(url))
        error = refusal(url)
        for connection in taken:
            connection.close()
    assert (error.code, error.retryable) == ("memory_unavailable", True)
    assert "max_connections" in error.message


def test_a_database_without_the_extension_says_what_to_run(server: LocalPostgres) -> None:
    with own_database(server.url()) as url, psycopg.connect(url, autocommit=True) as admin:
        admin.execute("DROP ROLE IF EXISTS plain")
        admin.execute("CREATE ROLE plain LOGIN PASSWORD 'plain-secret'")
        plain = url.replace(f"postgres:{PASSWORD}", "plain:plain-secret")

        missing = refusal(plain)
        admin.execute("CREATE EXTENSION vector")
        no_schema = refusal(plain)
        admin.execute("CREATE SCHEMA turnstone AUTHORIZATION plain")
        provider = provider_on(plain)
        provider.register_memory_bank(BANK)
        put(provider, [document("d")])
        provider.close()

    assert missing.code == "memory_extension_missing" and "CREATE EXTENSION vector" in missing.message
    assert no_schema.code == "memory_access_refused" and "CREATE" in no_schema.message


def test_an_extension_in_a_schema_of_its_own_is_found(server: LocalPostgres) -> None:
    with own_database(server.url()) as url:
        with psycopg.connect(url, autocommit=True) as admin:
            admin.execute('CREATE SCHEMA "Ext"; CREATE EXTENSION vector SCHEMA "Ext"')
        provider = provider_on(url, index="hnsw")
        provider.register_memory_bank(BANK)
        put(provider, [document("d")])
        assert len(provider.search(BANK, Search(embedding=[1, 0, 0, 0], mode="hybrid", text="words"))) == 1
        provider.close()


def test_a_schema_of_a_newer_release_is_left_alone(postgres_url: str, schema: str, provider: PgvectorMemory) -> None:
    with psycopg.connect(postgres_url, autocommit=True) as admin:
        admin.execute(f"UPDATE {schema}.versions SET version = 99")  # noqa: S608
    assert "Upgrade" in refusal(postgres_url, schema=schema).message


def test_what_others_hold_is_waited_for_only_so_long(postgres_url: str, schema: str, provider: PgvectorMemory) -> None:
    hurried = provider_on(postgres_url, schema, statement_timeout_s=0.2)
    with psycopg.connect(postgres_url) as other:
        other.execute(f"SELECT 1 FROM {schema}.banks FOR UPDATE")  # noqa: S608
        with pytest.raises(ProviderError) as caught:
            put(hurried, [document("d")])
        other.rollback()
    put(hurried, [document("d")])
    hurried.close()
    assert (caught.value.code, caught.value.retryable) == ("memory_timeout", True)


def test_a_place_among_the_connections_is_waited_for_only_so_long(
    provider: PgvectorMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = BoundedSemaphore(1)
    places.acquire()
    monkeypatch.setattr(provider._server, "_places", places)
    monkeypatch.setattr(
        provider._server, "_config", provider._server._config.model_copy(update={"statement_timeout_s": 0.1})
    )
    with pytest.raises(ProviderError) as caught:
        provider.list_memory_banks()
    assert (caught.value.code, caught.value.retryable) == ("memory_busy", True)


def test_what_postgresql_does_not_keep_is_replaced_or_told(provider: PgvectorMemory) -> None:
    chunk = Chunk(content="nul \0 byte", token_count=2, metadata={"a\0": ["\0", 1]}, embedding=[1, 0, 0, 0])
    put(provider, [Document(document_id="n\0", chunks=[chunk])])
    put(provider, [Document(document_id="n\0", chunks=[chunk])])
    found = provider.search(BANK, Search(text="byte", filters={"a\0": [["\0", 1]]}))
    assert [one.chunk.content for one in found] == ["nul \ufffd byte"]

    with pytest.raises(ProviderError) as caught:
        put(
            provider,
            [Document(document_id="d", chunks=[Chunk(content="x", token_count=1, embedding=[1e300, 0, 0, 0])])],
        )
    assert caught.value.code == "memory_refused"


def test_words_stay_exact_whatever_is_replaced_merged_and_deleted(
    provider: PgvectorMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against the same texts put at once into a bank without a history; with frequent words left for the end."""
    chance = random.Random(7)
    vocabulary = [f"w{number}" for number in range(40)]

    def some() -> list[str]:
        texts = (chance.choices(vocabulary, [1 / (n + 1) for n in range(40)], k=chance.randrange(1, 30)) for _ in "ab")
        return [" ".join(text) for text in texts]

    texts = {}
    for _ in range(90):
        names = [f"d{chance.randrange(60)}" for _ in range(chance.choice([1, 1, 1, 70]))]
        for name in names:
            texts[name] = some()
        put(provider, [document(name, *texts[name]) for name in dict.fromkeys(names)])
        gone = f"d{chance.randrange(60)}"
        if gone in texts and chance.random() < 0.2:
            del texts[gone]
            provider.delete(BANK, [gone])
    fresh = Bank(identifier="f", resource_id="f", kind=BankKind.KEYWORD)
    provider.register_memory_bank(fresh)
    provider.put(fresh, [document(name, *own) for name, own in texts.items()], writer=provider.begin(fresh))

    for query in ("w39 w0 w1", "w0", "w5 w6 w7", "w38 w37 w0 w2 w3", "w0 w1 w2"):
        expected = provider.search(fresh, Search(text=query, limit=500))
        assert expected
        for cheap in (1, 30, 20_000):
            monkeypatch.setattr(words, "_CHEAP", cheap)
            for limit in (3, 500):
                found = provider.search(BANK, Search(text=query, mode="keyword", limit=limit))
                scores = [one.score for one in found]
                assert scores == pytest.approx([one.score for one in expected[:limit]], rel=1e-9)


def test_an_index_finds_and_filters_are_exact_beside_it(postgres_url: str, schema: str) -> None:
    provider = provider_on(postgres_url, schema, index="hnsw", hnsw={"ef_search": 10})
    provider.register_memory_bank(BANK)
    chance = random.Random(3)

    def chunk(number: int) -> Chunk:
        vector = [chance.gauss(0, 1) for _ in range(4)]
        return Chunk(content="x", token_count=1, metadata={"n": number % 50}, embedding=vector)

    put(provider, [Document(document_id=f"{number}", chunks=[chunk(number)]) for number in range(2000)])
    with psycopg.connect(postgres_url, autocommit=True) as admin:
        admin.execute(f"ANALYZE {schema}.vectors_1")
    wanted = Search(embedding=[1, 0, 0, 0], mode="vector", limit=40)
    assert len(provider.search(BANK, wanted)) == 40, "more than ef_search"
    assert len(provider.search(BANK, Search(embedding=[1, 0, 0, 0], mode="vector", limit=50, filters={"n": 7}))) == 40
    provider.close()
    wait_for(lambda: scans(postgres_url, schema) == 1, "the server has told of one search by the index")


def scans(url: str, schema: str) -> int:
    look = "SELECT idx_scan FROM pg_stat_user_indexes WHERE schemaname = %s AND indexrelname = 'vectors_1_hnsw'"
    with psycopg.connect(url) as admin:
        row = admin.execute(look, (schema,)).fetchone()
    return int(row[0]) if row else 0


def test_a_missing_driver_is_named_with_its_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        "worker.providers.memory_pgvector_server.find_spec", lambda name: None if name == "psycopg" else real(name)
    )
    with pytest.raises(ConfigError, match=r"needs psycopg\..*pip install 'turnstone\[pgvector\]'"):
        provider_on("postgresql://h/d")


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"url": "http://secret-thing@h/d"}, "postgresql://"),
        ({"url": "postgresql://h/d?password=secret-thing"}, "before the @"),
        ({"url": "postgresql://h/d", "schema": "Bad Name"}, "lower case"),
        ({"url": "postgresql://h/d", "index": "ivf"}, "index"),
        ({}, "url"),
    ],
)
def test_a_wrong_config_is_told_by_its_key(config: dict[str, Any], told: str) -> None:
    instance = ProviderInstance(provider_id="it", provider_type="remote::pgvector", config=config)
    with pytest.raises(ConfigError) as caught:
        build_memory(RunConfig(providers=Providers(memory=(instance,))))
    assert told in str(caught.value) and "secret-thing" not in str(caught.value)


def test_greenlets_share_what_connections_there_are(postgres_url: str, schema: str) -> None:
    code = MADE + textwrap.dedent("""
        import gevent
        gevent.joinall([gevent.spawn(provider.search, bank, Search(text="x")) for _ in range(50)], raise_error=True)
        print(len(provider._server._idle))
    """)
    with started(code, postgres_url, schema, "", "0") as process:
        told, _ = process.communicate()
    assert told.strip() == "5"
