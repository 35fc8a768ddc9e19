"""Single rooms as tests start them: each dies alone, and nothing is left of them."""

from pathlib import Path

import httpx
import psutil
import pytest
from rooms import DEADLINE_S, Rooms
from stack_process import is_alive
from waiting import wait_for

RULES = [{"match": "^tell$", "text": " ".join(f"word{n}" for n in range(40)), "token_ms": 50}]
CONFIG = {
    "providers": {
        "inference": [{"provider_id": "script", "provider_type": "inline::scripted", "config": {"rules": RULES}}]
    },
    "turns": {"lease_s": 2},
}


def submitted(url: str) -> str:
    """The URL of a turn that tells a story."""
    with httpx.Client(base_url=f"{url}/v1", timeout=DEADLINE_S) as http:
        agent = http.post("/agents", json={"agent_config": {"model": "scripted", "instructions": "Be brief."}}).json()
        path = f"/agents/{agent['agent_id']}/session"
        session = http.post(path, json={"session_name": "one"}).json()
        reply = http.post(
            f"{path}/{session['session_id']}/turn", json={"messages": [{"role": "user", "content": "tell"}]}
        )
        assert reply.status_code == 202, reply.text
        return f"{url}/v1{path}/{session['session_id']}/turn/{reply.json()['turn_id']}"


def test_a_turn_survives_the_death_of_its_worker_and_of_the_store_and_nothing_is_left_running(tmp_path: Path) -> None:
    with Rooms(tmp_path, CONFIG) as rooms:
        api, first = rooms.api(), rooms.worker()
        rooms.until_healthy()
        turn = submitted(api.url)
        wait_for(lambda: len(httpx.get(turn).json()["steps"]) > 0, "the turn runs", seconds=DEADLINE_S)
        heartbeat = first.heartbeat()

        first.kill()
        rooms.kill_store()
        rooms.start_store()
        second = rooms.worker()

        wait_for(lambda: httpx.get(turn).json()["completed_at"] is not None, "the turn ends", seconds=DEADLINE_S)
        ended = httpx.get(turn).json()
        assert heartbeat is not None
        wait_for(lambda: not is_alive(heartbeat), "a dead worker's heartbeat ends", seconds=DEADLINE_S)
        second.pause()
        paused = psutil.Process(second.pid)
        wait_for(lambda: paused.status() == psutil.STATUS_STOPPED, "a paused room stands still", seconds=DEADLINE_S)
        second.go_on()
        second.terminate()
        code = second.wait()
        processes = [psutil.Process(room.pid) for room in rooms.rooms if room.alive]

    assert (ended["status"], ended["attempts"]) == ("completed", 2)
    assert code == 0
    assert len(processes) == 2
    assert not any(is_alive(process) for process in processes)


def test_a_room_that_cannot_start_says_why(tmp_path: Path) -> None:
    with Rooms(tmp_path, {"turns": {"lease_s": "long"}}) as rooms:
        rooms.worker()

        with pytest.raises(RuntimeError, match="lease_s"):
            rooms.until_healthy()


def test_a_launcher_runs_in_the_worker_s_place_with_its_environment(tmp_path: Path) -> None:
    script = tmp_path / "launch.py"
    script.write_text("import os; print(os.environ['TURNSTONE_QUEUE'], os.environ['WHO'])")
    with Rooms(tmp_path, CONFIG) as rooms:
        room = rooms.calls_worker(launcher=("python3", str(script)), environ={"WHO": "me"})
        code = room.wait()

    assert (code, room.written().split()) == (0, ["calls", "me"])
