"""The image and the compose file, as far as they can be tried without a container engine: against the specification's
schema, and with each service's command and environment as processes of this machine."""

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml
from stack import START_S, TURNSTONE, is_healthy
from stack_process import free_port
from waiting import wait_for

from shared.cli.binaries import find_binary
from shared.cli.guard import Guard
from shared.cli.store import connect

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "docker-compose.yml"
KEY = "a-key-of-this-test"
PROVIDER_KEY = "sk-a-providers-key"

_REFERENCE = re.compile(r"\$\{(\w+)(?:(:-|:\?)([^}]*))?\}")
_SECONDS = re.compile(r"(\d+)s")


class Unset(Exception):
    """A variable that has to be set is not."""


def interpolated(data: Any, environ: dict[str, str]) -> Any:
    """`data` with `${NAME}`, `${NAME:-default}` and `${NAME:?message}` filled in as compose does."""
    if isinstance(data, dict):
        return {name: interpolated(value, environ) for name, value in data.items()}
    if isinstance(data, list):
        return [interpolated(value, environ) for value in data]
    if not isinstance(data, str):
        return data

    def value(found: re.Match[str]) -> str:
        name, sign, rest = found.groups()
        given = environ.get(name, "")
        if not given and sign == ":?":
            raise Unset(f"{name}: {rest}")
        return given or rest or ""

    return _REFERENCE.sub(value, data)


def services(environ: dict[str, str]) -> dict[str, Any]:
    """The services, for somebody with `environ`. Variables without a value are taken from there, or left out."""
    found: dict[str, Any] = interpolated(yaml.safe_load(COMPOSE.read_text()), environ)["services"]
    for service in found.values():
        given = {name: environ.get(name) if value is None else value for name, value in environment(service).items()}
        service["environment"] = {name: str(value) for name, value in given.items() if value is not None}
    return found


def environment(service: dict[str, Any]) -> dict[str, Any]:
    given: dict[str, Any] = service.get("environment", {})
    return given


def seconds(text: str) -> int:
    match = _SECONDS.fullmatch(text)
    assert match is not None, text
    return int(match[1])


class Host:
    """What stands in for the network and the mounts: another store port, another API port, the file itself."""

    def __init__(self, folder: Path) -> None:
        self.store_port, self.api_port = free_port(), free_port()
        self.store_url = f"redis://127.0.0.1:{self.store_port}/0"
        self.folder = folder

    def environ(self, service: dict[str, Any]) -> dict[str, str]:
        """The whole environment of a room's process, PATH aside."""
        config = ROOT / service["volumes"][0]["source"]
        assert service["environment"]["TURNSTONE_CONFIG"] == service["volumes"][0]["target"]
        changed = {
            "TURNSTONE_REDIS_URL": service["environment"]["TURNSTONE_REDIS_URL"].replace(
                "valkey:6379", f"127.0.0.1:{self.store_port}"
            ),
            "TURNSTONE_CONFIG": str(config.resolve()),
            "TURNSTONE_HOST": "127.0.0.1",
            "TURNSTONE_PORT": str(self.api_port),
        }
        # The mark by which CI finds what tests left running.
        mark = {name: value for name, value in os.environ.items() if name == "TURNSTONE_CI_RUN"}
        return {**service["environment"], **changed, **mark, "PATH": os.environ["PATH"]}

    def store_command(self, service: dict[str, Any]) -> list[str]:
        command = [str(find_binary().path), *service["command"][1:]]
        command[command.index("/data")] = str(self.folder)
        return [*command, "--port", str(self.store_port), "--bind", "127.0.0.1"]

    def url(self) -> str:
        return f"http://127.0.0.1:{self.api_port}"

    def store_answers(self) -> bool:
        with connect(self.store_url) as client:
            try:
                return bool(client.ping())
            except redis.RedisError:
                return False


@contextmanager
def process(command: list[str], environ: dict[str, str], *, folder: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A service's process; it ends with the block, and with this test run however that ends."""
    guard = Guard(on_exit=lambda _: None)
    with (folder / f"{Path(command[0]).name}-{len(os.listdir(folder))}.log").open("wb") as log:
        running = subprocess.Popen(
            command, env=environ, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, process_group=0
        )
        guard.add(running.pid, last=False)
        try:
            yield running
        finally:
            if running.poll() is None:
                os.killpg(running.pid, signal.SIGKILL)
            running.wait()
            guard.remove(running.pid)
            guard.close()


def test_the_compose_file_follows_the_specifications_schema() -> None:
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(COMPOSE)]

    done = subprocess.run(check, capture_output=True, text=True, timeout=60)

    assert done.returncode == 0, done.stdout + done.stderr


def test_the_schema_finds_a_key_that_compose_does_not_know(tmp_path: Path) -> None:
    wrong = tmp_path / "docker-compose.yml"
    wrong.write_text(COMPOSE.read_text().replace("stop_grace_period:", "stop_grace_periods:"))
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(wrong)]

    done = subprocess.run(check, capture_output=True, text=True, timeout=60)

    assert done.returncode == 1
    assert "stop_grace_periods" in done.stdout


def test_the_services_run_a_turn_and_stop_within_their_grace(tmp_path: Path) -> None:
    found, host = services({"TURNSTONE_API_KEY": KEY}), Host(tmp_path)
    with ExitStack() as stack:

        def start(command: list[str], environ: dict[str, str]) -> "subprocess.Popen[bytes]":
            return stack.enter_context(process(command, environ, folder=tmp_path))

        store = start(host.store_command(found["valkey"]), {"LC_ALL": "C", "PATH": os.environ["PATH"]})
        wait_for(host.store_answers, "the store answers")
        rooms = {
            name: start([TURNSTONE, *service["command"]], host.environ(service))
            for name, service in found.items()
            if name != "valkey"
        }
        wait_for(
            lambda: is_healthy(host.url()) or any(room.poll() is not None for room in rooms.values()),
            "the API is healthy",
            seconds=START_S,
        )
        assert is_healthy(host.url()), "\n".join(log.read_text() for log in tmp_path.glob("*.log"))

        asked, unknown = ask(host, {"TURNSTONE_API_KEY": KEY}), ask(host, {})
        healthy = subprocess.run(
            [part.replace(":8321", f":{host.api_port}") for part in found["api"]["healthcheck"]["test"][1:]],
            env={"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
            timeout=30,
        )
        codes = {name: stopped(room, found[name]) for name, room in reversed(rooms.items())}
        codes["valkey"] = stopped(store, found["valkey"])

    assert (asked.returncode, asked.stdout) == (0, "Hello from compose\n"), asked.stderr
    assert (unknown.returncode, unknown.stdout) == (1, "")
    assert unknown.stderr.endswith("Set TURNSTONE_API_KEY to one of the server's api_keys.\n")
    assert healthy.returncode == 0
    assert codes == dict.fromkeys(found, 0)


def ask(host: Host, environ: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    """Somebody's question to the services."""
    return subprocess.run(
        [TURNSTONE, "ask", "Hello from compose"],
        env={"PATH": os.environ["PATH"], "TURNSTONE_URL": host.url(), **environ},
        capture_output=True,
        text=True,
        timeout=60,
    )


def stopped(running: "subprocess.Popen[bytes]", service: dict[str, Any]) -> int:
    """The exit code of a service's process that was asked to stop as an engine asks it."""
    running.send_signal(signal.SIGTERM)
    return running.wait(seconds(service["stop_grace_period"]))


def test_a_key_for_the_clients_has_to_be_set() -> None:
    with pytest.raises(Unset, match="TURNSTONE_API_KEY: set it to a long random text"):
        services({})


def test_keys_of_providers_reach_the_workers_and_not_the_api() -> None:
    found = services({"TURNSTONE_API_KEY": KEY, "OPENAI_API_KEY": PROVIDER_KEY})

    assert found["worker"]["environment"]["OPENAI_API_KEY"] == PROVIDER_KEY
    assert found["calls"]["environment"] == {**found["worker"]["environment"], "TURNSTONE_QUEUE": "calls"}
    assert PROVIDER_KEY not in str(found["api"])
    assert "env_file" not in found["api"]
    assert "GROQ_API_KEY" not in found["worker"]["environment"], "a key that is not set is no empty one"


def test_only_the_api_is_published_and_on_loopback_unless_asked_otherwise() -> None:
    published = {name: service.get("ports", []) for name, service in services({"TURNSTONE_API_KEY": KEY}).items()}

    assert {name for name, ports in published.items() if ports} == {"api"}
    assert published["api"] == ["127.0.0.1:8321:8321"]


def test_workers_can_be_scaled_for_nothing_of_theirs_is_there_once_only() -> None:
    worker = services({"TURNSTONE_API_KEY": KEY})["worker"]

    assert {"container_name", "hostname", "ports"} & set(worker) == set()


def test_the_store_evicts_nothing_and_keeps_what_it_has_acknowledged() -> None:
    command = services({"TURNSTONE_API_KEY": KEY})["valkey"]["command"]
    options = dict(zip(command[1::2], command[2::2], strict=True))

    assert options["--maxmemory-policy"] == "noeviction"
    assert (options["--appendonly"], options["--appendfsync"]) == ("yes", "everysec")


def test_every_variable_that_the_compose_file_reads_is_explained_at_its_top() -> None:
    text = COMPOSE.read_text()
    head = text.partition("\nname:")[0].replace(", _", ", TURNSTONE_")
    read = {match[1] for match in _REFERENCE.finditer(text)}

    assert {name for name in read if name not in head} == set()


def dockerfile() -> list[list[str]]:
    """The instructions of the Dockerfile, as words."""
    text = re.sub(r"\\\n", " ", (ROOT / "Dockerfile").read_text())
    return [shlex.split(line, comments=True) for line in text.splitlines() if line and not line.startswith("#")]


def test_what_the_image_copies_is_there_and_is_sent_to_the_build() -> None:
    sources = [
        name
        for instruction, *words in dockerfile()
        if instruction == "COPY" and not words[0].startswith("--from")
        for name in words[:-1]
    ]
    sent = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]

    assert sources and [name for name in sources if not (ROOT / name).exists()] == []
    assert sorted(sources) == sorted(sent)


def test_the_image_runs_without_root_and_holds_nothing_for_developing_it() -> None:
    instructions = dockerfile()
    last_stage = instructions[max(n for n, words in enumerate(instructions) if words[0] == "FROM") :]
    user = [words[1] for words in last_stage if words[0] == "USER"]

    assert len(user) == 1 and not user[0].startswith(("0", "root"))
    assert [words for words in last_stage if words[0] == "RUN"] == []
    assert not any(fnmatch(word, "*--group*") or "embedded" in word for words in instructions for word in words)
    assert ["ENTRYPOINT", "[turnstone]"] in last_stage
