"""How much is measured. The loads of the goals are the same in every size of a run, where time allows; what differs
is how long and how often."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Counts, and times in seconds."""

    repeats: int = 3
    settle_s: float = 15.0
    """How long a system may take to come to rest before and after a load."""
    share_stack: bool = False
    """Whether rows use one stack together, to save its start: not in a run whose figures are kept."""
    share_always: bool = False
    """Also those that leave turns behind: for trying the rows out."""
    post: bool = True
    """Whether turns posted with `stream: true` are measured too, beside submitted ones."""
    warm: int = 64
    """Replies before anything is measured: the first ones of a process cost more."""
    alone: int = 100
    fifty: int = 150
    fifty_tokens: int = 40
    short: int = 512
    short_slow: int = 128
    long: int = 16
    stream_s: float = 15.0
    streams: int = 1000
    levels: tuple[int, ...] = (100, 200, 500, 1000)
    ramp_per_s: float = 200.0
    quiet_clients: int = 5000
    quiet_s: float = 20.0
    submit_s: float = 3.0
    session_turns: tuple[int, ...] = (1, 100, 1000)
    finished: int = 100_000
    samples: int = 20
    neighbours: int = 50
    neighbours_s: float = 5.0
    hang_up: int = 1000
    transcript: int = 1000
    stored: int = 10
    durabilities: tuple[str, ...] = ("none", "fsync")
    api_processes: tuple[int, ...] = (1, 2)
    shapes: tuple[tuple[int, int], ...] = ((1, 1), (2, 1), (2, 2))
    chunks: int = 100_000
    asked: int = 40
    """Turns that search a bank one at a time, in each mode."""
    documents: int = 10_000
    insert_repeats: int = 1
    insert_calm_s: float = 10.0


FULL = Sizes()
QUICK = Sizes(
    repeats=1,
    settle_s=5.0,
    share_stack=True,
    post=False,
    alone=40,
    fifty=50,
    short=192,
    short_slow=64,
    long=8,
    stream_s=5.0,
    levels=(100, 300),
    quiet_clients=1000,
    quiet_s=3.0,
    submit_s=1.0,
    session_turns=(1, 100),
    finished=5000,
    samples=8,
    neighbours_s=2.0,
    transcript=200,
    stored=3,
    shapes=((1, 1), (2, 1)),
    chunks=10_000,
    asked=20,
    documents=1000,
    insert_calm_s=3.0,
)
SMOKE = Sizes(
    repeats=1,
    settle_s=0.0,
    share_stack=True,
    share_always=True,
    durabilities=("none",),
    api_processes=(1,),
    warm=4,
    alone=2,
    fifty=4,
    fifty_tokens=4,
    short=4,
    short_slow=4,
    long=1,
    stream_s=0.4,
    streams=5,
    levels=(2,),
    quiet_clients=4,
    quiet_s=0.3,
    submit_s=0.2,
    session_turns=(1, 5),
    finished=20,
    samples=2,
    neighbours=3,
    neighbours_s=0.4,
    hang_up=5,
    transcript=5,
    stored=1,
    shapes=((1, 1),),
    chunks=200,
    asked=2,
    documents=40,
    insert_calm_s=0.3,
)
