"""Several instances of one model: who is asked, who waits, and what happens when one fails."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import gevent
import pytest
from gevent import GreenletExit
from gevent.event import Event as Signal

from shared.errors import ProviderError
from worker.balancer import Balancer
from worker.providers.inference import (
    ChatRequest,
    Delta,
    Finished,
    InferenceProvider,
    Model,
    StopReason,
    TextDelta,
)

DEADLINE_S = 10.0
MODELS = {"a": "m", "b": "m:latest"}


class Played(InferenceProvider):
    """An instance that answers with its own name when it is told to, fails as it is told to, and keeps a record."""

    provider_type = "test::played"

    def __init__(self, name: str) -> None:
        self.provider_id = name
        self.faults: list[ProviderError] = []
        self.broken: ProviderError | None = None
        self.breaks_off = False
        self.holds = False
        self.go = Signal()
        self.asked: list[str] = []
        self.retries: list[bool] = []
        self.open = 0

    def list_models(self) -> list[Model]:
        return []

    def register_model(self, model: Model) -> Model:
        return model

    def chat(self, request: ChatRequest) -> Iterator[Delta]:
        self.asked.append(request.model)
        self.retries.append(request.retry)
        self.open += 1
        try:
            if self.holds:
                self.go.wait()
            if self.faults:
                raise self.faults.pop(0)
            if self.broken is not None:
                raise self.broken
            yield TextDelta(self.provider_id)
            if self.breaks_off:
                raise self.fault("provider_interrupted", retryable=True)
            yield Finished(stop_reason=StopReason.END_OF_TURN)
        finally:
            self.open -= 1

    def close(self) -> None:
        pass

    def fault(
        self,
        code: str = "provider_unreachable",
        *,
        retryable: bool = False,
        status: int | None = None,
        retry_after: float | None = None,
    ) -> ProviderError:
        return ProviderError(
            f"Provider '{self.provider_id}' says {code}.",
            provider_id=self.provider_id,
            code=code,
            retryable=retryable,
            status=status,
            retry_after=retry_after,
        )

    def down(self) -> None:
        self.broken = self.fault(retryable=True)


@dataclass
class Bench:
    """Two instances, a clock that only pauses move, and the greenlets of a test."""

    a: Played = field(default_factory=lambda: Played("a"))
    b: Played = field(default_factory=lambda: Played("b"))
    now: float = 1000.0
    pauses: list[float] = field(default_factory=list)
    told: list[tuple[str, bool]] = field(default_factory=list)
    spawned: list[gevent.Greenlet] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.balancer = Balancer(providers={"a": self.a, "b": self.b}, clock=lambda: self.now, sleep=self._sleep)
        self.balancer.watch(lambda *news: self.told.append(news))

    def _sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds
        gevent.sleep(0)

    def stream(self, *names: str) -> Iterator[Delta]:
        def ask(provider: InferenceProvider, model: str, may_retry: bool) -> Iterator[Delta]:
            return provider.chat(ChatRequest(model=model, messages=[], retry=may_retry))

        return self.balancer.stream("m", {name: MODELS[name] for name in names or ("a", "b")}, ask)

    def text(self, *names: str) -> str:
        """Who answers a request."""
        return "".join(delta.text for delta in self.stream(*names) if isinstance(delta, TextDelta))

    def begin(self, *names: str) -> "gevent.Greenlet[str]":
        """A request of a greenlet of its own, as far as it comes by itself."""
        greenlet = gevent.spawn(self.text, *names)
        self.spawned.append(greenlet)
        settle()
        return greenlet

    def fault(self, *names: str) -> ProviderError:
        with pytest.raises(ProviderError) as caught:
            self.text(*names)
        return caught.value


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    gevent.killall(bench.spawned)
    assert (bench.a.open, bench.b.open) == (0, 0)


def settle() -> None:
    for _ in range(5):
        gevent.sleep(0)


def held(*instances: Played) -> None:
    for instance in instances:
        instance.holds = True


def answers(*greenlets: "gevent.Greenlet[str]") -> list[str]:
    return [greenlet.get(timeout=DEADLINE_S) for greenlet in greenlets]


# Who is asked


def test_requests_go_where_the_fewest_are_in_flight(bench: Bench) -> None:
    held(bench.a, bench.b)
    for _ in range(6):
        bench.begin()

    assert (bench.a.open, bench.b.open) == (3, 3)


def test_among_equals_they_take_turns(bench: Bench) -> None:
    assert [bench.text() for _ in range(4)] == ["a", "b", "a", "b"]


def test_each_instance_is_asked_under_its_own_name_of_the_model(bench: Bench) -> None:
    bench.text()
    bench.text()

    assert (bench.a.asked, bench.b.asked) == (["m"], ["m:latest"])


def test_one_that_did_not_list_its_models_is_passed_over_while_another_is_well(bench: Bench) -> None:
    bench.balancer.listed("a", answered=False)

    assert [bench.text() for _ in range(3)] == ["b", "b", "b"]
    assert bench.text("a") == "a"

    bench.balancer.listed("a", answered=True)
    assert "a" in [bench.text() for _ in range(2)]


def test_an_answer_in_one_piece_is_routed_as_well(bench: Bench) -> None:
    bench.a.down()

    def embed(provider: InferenceProvider, model: str, may_retry: bool) -> str:
        next(provider.chat(ChatRequest(model=model, messages=[])))
        return f"{provider.provider_id} {model} {may_retry}"

    assert bench.balancer.call("m", MODELS, embed) == "b m:latest False"


# Who waits


def test_a_full_instance_is_passed_over_for_another(bench: Bench) -> None:
    bench.a.max_concurrency = 1
    held(bench.a, bench.b)
    for _ in range(4):
        bench.begin()

    assert (bench.a.open, bench.b.open) == (1, 3)


def test_where_all_are_full_requests_wait_and_get_their_places_in_order(bench: Bench) -> None:
    bench.a.max_concurrency = bench.b.max_concurrency = 1
    held(bench.a, bench.b)
    begun = [bench.begin() for _ in range(5)]
    assert (bench.a.open, bench.b.open) == (1, 1)

    bench.a.holds = False
    bench.a.go.set()

    gevent.joinall([begun[0], *begun[2:]], timeout=DEADLINE_S)
    assert answers(begun[0], *begun[2:]) == ["a"] * 4
    assert not begun[1].ready()


def test_the_order_holds_for_each_instance_by_itself(bench: Bench) -> None:
    bench.a.max_concurrency = bench.b.max_concurrency = 1
    held(bench.a, bench.b)
    order: list[str] = []
    bench.begin("a"), bench.begin("b")
    for name, wanted in (("1", "a"), ("2", "b"), ("3", "b"), ("4", "a")):
        bench.begin(wanted).link(lambda _, name=name: order.append(name))

    bench.b.go.set()
    settle()
    bench.a.go.set()
    gevent.joinall(bench.spawned, timeout=DEADLINE_S)

    assert order == ["2", "3", "1", "4"]


def test_a_wait_for_a_place_is_bounded(bench: Bench) -> None:
    bench.a.max_concurrency, bench.a.place_timeout_s = 1, 0.01
    held(bench.a)
    bench.begin("a")
    waiting = bench.begin("a")
    bench.now += 1

    with pytest.raises(ProviderError) as caught:
        waiting.get(timeout=DEADLINE_S)

    assert (caught.value.code, caught.value.retryable, caught.value.provider_id) == ("provider_busy", True, "a")
    assert caught.value.message == (
        "Provider 'a' had no place free for 0.01 s (`place_timeout_s`): raise `max_concurrency`, add an instance, or "
        "run fewer turns at once."
    )


def test_an_interrupt_while_it_waits_for_a_place_leaves_the_order_to_the_others(bench: Bench) -> None:
    bench.a.max_concurrency = 1
    held(bench.a)
    first, gone, last = (bench.begin("a") for _ in range(3))

    gone.kill(GreenletExit)
    bench.a.go.set()

    assert answers(first, last) == ["a", "a"]
    assert len(bench.a.asked) == 2


def test_an_interrupt_between_a_place_and_its_use_gives_the_place_back(bench: Bench) -> None:
    bench.a.max_concurrency = 1
    held(bench.a)
    first, gone, last = (bench.begin("a") for _ in range(3))

    # In the greenlet of this test: the place is handed to `gone`, which has not run since.
    first.kill(GreenletExit, block=False)
    gone.kill(GreenletExit, block=False)
    first.join()
    bench.a.go.set()

    assert answers(last) == ["a"]
    assert len(bench.a.asked) == 2


def test_an_interrupt_while_it_waits_for_a_token_closes_the_connection(bench: Bench) -> None:
    bench.a.max_concurrency = 1
    held(bench.a)
    begun, waiting = bench.begin("a"), bench.begin("a")

    begun.kill(GreenletExit)
    bench.a.go.set()

    assert answers(waiting) == ["a"]
    assert bench.a.open == 0


def test_a_reply_that_is_closed_half_read_gives_its_place_back(bench: Bench) -> None:
    bench.a.max_concurrency = 1
    reply = bench.stream("a")
    next(reply)
    waiting = bench.begin("a")
    assert not waiting.ready()

    reply.close()  # type: ignore[attr-defined]

    assert answers(waiting) == ["a"]


# What happens when one fails

PASSING: list[Callable[[Played], ProviderError]] = [
    lambda one: one.fault("provider_unreachable", retryable=True),
    lambda one: one.fault("provider_timeout", retryable=True),
    lambda one: one.fault("provider_interrupted", retryable=True),
    lambda one: one.fault("provider_rate_limited", retryable=True, status=429, retry_after=30),
    lambda one: one.fault("provider_rate_limited", status=429),
    lambda one: one.fault("provider_error", retryable=True, status=500),
    lambda one: one.fault("provider_auth", status=401),
    lambda one: one.fault("provider_bad_response"),
]


@pytest.mark.parametrize("fault", PASSING)
def test_an_instances_fault_before_the_first_token_sends_the_request_to_the_next(
    bench: Bench, fault: Callable[[Played], ProviderError]
) -> None:
    bench.a.faults = [fault(bench.a)]

    assert bench.text() == "b"
    assert bench.pauses == []
    assert bench.balancer.fault("a") == bench.a.fault(fault(bench.a).code).message


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("model_not_found", None),
        ("model_not_found", 404),
        ("unsupported_parameter", None),
        ("provider_bad_request", 404),
        ("provider_bad_request", 308),
    ],
)
def test_what_an_instance_lacks_is_asked_of_the_next_and_held_against_nobody(
    bench: Bench, code: str, status: int | None
) -> None:
    bench.a.faults = [bench.a.fault(code, status=status)]

    assert bench.text() == "b"
    assert bench.balancer.fault("a") is None


def test_the_requests_own_fault_is_told_at_once(bench: Bench) -> None:
    bench.a.faults = [bench.a.fault("provider_bad_request", status=400)]

    assert bench.fault().message == "Provider 'a' says provider_bad_request."
    assert bench.b.asked == []
    assert bench.balancer.fault("a") is None


def test_after_the_first_token_no_other_is_asked(bench: Bench) -> None:
    bench.a.breaks_off = True
    reply = bench.stream()

    assert next(reply) == TextDelta("a")
    with pytest.raises(ProviderError) as caught:
        next(reply)

    assert caught.value.code == "provider_interrupted"
    assert bench.b.asked == []
    assert bench.balancer.fault("a") is not None


def test_only_a_single_instance_retries_by_itself(bench: Bench) -> None:
    bench.text("a")
    bench.text()
    bench.text()

    assert (bench.a.retries, bench.b.retries) == ([True, False], [False])


def test_when_all_have_failed_each_is_asked_again_after_its_own_pause(bench: Bench) -> None:
    bench.a.max_retries = bench.b.max_retries = 2
    bench.a.faults = [bench.a.fault("provider_rate_limited", retryable=True, status=429, retry_after=20)]
    bench.b.faults = [bench.b.fault(retryable=True)] * 3

    assert bench.text() == "a"
    assert (len(bench.a.asked), len(bench.b.asked)) == (2, 3)
    assert bench.pauses[:2] == sorted(bench.pauses[:2])
    assert sum(bench.pauses) == pytest.approx(20)


def test_when_every_instance_fails_the_error_says_what_each_one_said(bench: Bench) -> None:
    bench.a.broken = bench.a.fault("provider_auth", status=401)
    bench.b.broken = bench.b.fault(retryable=True)
    bench.b.max_retries = 2

    error = bench.fault()

    assert error.message == (
        "No provider of the model 'm' could answer. Provider 'a' says provider_auth. "
        "Provider 'b' says provider_unreachable."
    )
    assert (error.code, error.provider_id, error.retryable) == ("provider_error", "", True)
    assert (len(bench.a.asked), len(bench.b.asked)) == (1, 3)


def test_where_all_fail_alike_the_error_has_their_code(bench: Bench) -> None:
    bench.a.down()
    bench.b.down()

    assert bench.fault().code == "provider_unreachable"


def test_when_the_others_are_full_the_error_says_that_too(bench: Bench) -> None:
    bench.a.down()
    bench.b.max_concurrency, bench.b.place_timeout_s = 1, 0.01
    held(bench.b)
    bench.begin("b")
    waiting = bench.begin()
    bench.now += 1

    with pytest.raises(ProviderError) as caught:
        waiting.get(timeout=DEADLINE_S)

    assert "Provider 'a' says provider_unreachable. Provider 'b' had no place free" in caught.value.message


def test_one_that_failed_is_left_alone_for_a_while_and_then_tried_by_one_request(bench: Bench) -> None:
    bench.a.down()
    assert [bench.text() for _ in range(4)] == ["b"] * 4
    assert len(bench.a.asked) == 1

    bench.now += 6
    held(bench.a)
    trying = bench.begin()
    assert [bench.text() for _ in range(3)] == ["b"] * 3
    assert len(bench.a.asked) == 2

    bench.a.broken = None
    bench.a.go.set()
    assert answers(trying) == ["a"]
    assert {bench.text() for _ in range(2)} == {"a", "b"}
    assert bench.balancer.fault("a") is None


def test_each_try_that_fails_doubles_the_pause_and_requests_that_fail_together_do_not(bench: Bench) -> None:
    held(bench.a)
    together = [bench.begin("a") for _ in range(3)]
    bench.a.down()
    bench.a.go.set()
    gevent.joinall(together, timeout=DEADLINE_S)

    bench.now += 5.5
    assert bench.balancer.fault("a") is None
    bench.a.holds = False
    assert [bench.text() for _ in range(2)] == ["b", "b"]
    assert len(bench.a.asked) == 4

    bench.now += 5.5
    assert bench.balancer.fault("a") is not None
    bench.now += 5
    assert bench.balancer.fault("a") is None


def test_it_is_left_alone_for_as_long_as_it_asked_for(bench: Bench) -> None:
    bench.a.faults = [bench.a.fault("provider_rate_limited", status=429, retryable=True, retry_after=40)]
    bench.text()

    bench.now += 39
    assert [bench.text() for _ in range(3)] == ["b"] * 3
    bench.now += 2
    assert "a" in [bench.text() for _ in range(2)]


def test_a_try_that_is_interrupted_leaves_the_try_to_the_next(bench: Bench) -> None:
    bench.a.faults = [bench.a.fault(retryable=True)]
    bench.text()
    bench.now += 6
    held(bench.a)

    trying = [bench.begin() for _ in range(2)]
    assert bench.a.open == 1
    gevent.killall(trying, GreenletExit)
    bench.a.holds = False

    assert "a" in [bench.text() for _ in range(2)]


def test_where_all_are_set_aside_they_are_asked_all_the_same(bench: Bench) -> None:
    bench.a.faults = [bench.a.fault(retryable=True)]
    bench.b.faults = [bench.b.fault(retryable=True)]
    bench.fault()

    assert bench.text() == "a"


def test_those_who_wait_for_a_full_one_go_to_the_one_that_is_well_again(bench: Bench) -> None:
    bench.a.faults = [bench.a.fault(retryable=True, retry_after=0.02)]
    bench.b.max_concurrency = 1
    bench.text()
    held(bench.b)
    bench.begin("b")
    waiting = [bench.begin() for _ in range(3)]
    assert bench.a.asked == ["m"]

    bench.now += 6
    bench.balancer.listed("b", answered=False)
    bench.balancer.listed("b", answered=True)

    assert answers(*waiting) == ["a"] * 3


@pytest.mark.parametrize(("code", "is_gone"), [("provider_unreachable", True), ("provider_interrupted", False)])
def test_watchers_hear_when_one_is_set_aside_and_when_it_is_well_again(bench: Bench, code: str, is_gone: bool) -> None:
    bench.a.faults = [bench.a.fault(code, retryable=True)]
    bench.text()
    assert bench.told == [("a", is_gone)]

    bench.now += 6
    assert {bench.text() for _ in range(2)} == {"a", "b"}

    assert bench.told == [("a", is_gone), ("a", False)]
