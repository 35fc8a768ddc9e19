"""Ends the stack when its supervisor is gone without having done so (SIGKILL, a crash).

Runs as a process of its own and reads the process groups to watch over from standard input, a pipe that only
the supervisor holds open: its end means that the supervisor has ended, however that came. Imports little, so
that it is there at once, and uses nothing that only one system has.
"""

import os
import signal
import sys
import time
from collections.abc import Iterable

GRACE_S = 3.0
POLL_S = 0.05


def main() -> None:
    """Watch until the pipe ends, then end what is left: the store last, the others need it to finish."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    groups = read_groups(sys.stdin)
    if groups:
        _say("the supervisor is gone; stopping what it left behind")
    end_groups([group for group, last in groups.items() if not last])
    end_groups([group for group, last in groups.items() if last])


def read_groups(lines: Iterable[str]) -> dict[int, bool]:
    """The groups still watched at the end of `lines`: `+ GROUP LAST` adds one, `- GROUP` takes it off.

    The value is True for a group that has to be ended after the others.
    """
    groups: dict[int, bool] = {}
    for line in lines:
        sign, group, *rest = line.split()
        if sign == "+":
            groups[int(group)] = rest == ["1"]
        else:
            groups.pop(int(group), None)
    return groups


def end_groups(groups: list[int], *, grace: float = GRACE_S) -> None:
    """Return when none of the groups has a process left: asked first, killed after `grace` seconds."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for group in groups:
            send(group, number)
        deadline = time.monotonic() + grace
        while any(is_running(group) for group in groups) and time.monotonic() < deadline:
            time.sleep(POLL_S)


def send(group: int, number: int) -> bool:
    """Send a signal to a process group; whether there was one to take it."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        # macOS answers EPERM where only zombies are left.
        return False
    return True


def is_running(group: int) -> bool:
    """Whether any process of the group still runs."""
    return send(group, 0) and (not os.path.exists("/proc/self/stat") or _runs_in_proc(group))


def _runs_in_proc(group: int) -> bool:
    """The same by Linux's /proc: in a container whose first process buries nobody, zombies stay, and still
    take signals."""
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                state, _, owner = file.read().rpartition(b")")[2].split()[:3]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(owner) == group and state not in (b"Z", b"X"):
            return True
    return False


def _say(text: str) -> None:
    try:
        sys.stderr.write(f"turnstone  | {text}\n")
        sys.stderr.flush()
    except OSError:
        return  # The terminal went with the supervisor.


if __name__ == "__main__":
    main()
