"""The arithmetic of the benchmark: what its figures are made of."""

from dataclasses import replace

import pytest

from bench.figures import OURS, Figure, Goal, Results
from bench.load.plan import Plan, ages_us, arrival_age_us, stamp
from bench.load.reply import Reader, Reply
from bench.load.runner import outcome_of
from bench.spying import table
from bench.stats import added_ms, cell, percentile

WHOLE = Reply(tokens=2, complete=True, first_token=1000)


def test_a_percentile_is_a_value_that_occurred() -> None:
    values = [float(value) for value in range(1, 101)]
    assert (percentile(values, 0.5), percentile(values, 0.99), percentile(values, 1)) == (50, 99, 100)
    assert percentile([7.0], 0.99) == 7
    with pytest.raises(ValueError, match="no values"):
        percentile([], 0.5)


def test_what_is_added_is_compared_with_the_direct_median() -> None:
    direct = [100, 200, 9000]
    assert added_ms([1200, 2200, 5200], direct, 0.5) == 2.0
    assert added_ms([1200, 2200, 5200], direct, 0.99) == 5.0


def test_a_cell_shows_the_median_and_the_spread() -> None:
    assert cell([3.0, 1.0, 2.0]) == "2.00 (1.00 to 3.00)"
    assert cell([1234.0]) == "1,234"


def test_a_goal_is_judged_by_the_median_of_ours_alone() -> None:
    figure = Figure(name="turns", unit="turns/s", goal=Goal(at_least=200))
    figure.add("afternoon", 1)
    assert figure.verdict() == ""
    for value in (100, 250, 300):
        figure.add(OURS, value)
    assert figure.verdict() == "yes"
    assert replace(figure, goal=Goal(at_most=125)).verdict() == "NO, 2.0x"


def test_a_plan_is_read_from_the_last_message() -> None:
    earlier, last = Plan(tokens=5), Plan(tokens=7, first_ms=1.5, token_ms=50, token_bytes=5000)
    assert Plan.last_in(f'"{earlier.prompt()}" "{last.prompt()}"'.encode()) == last
    with pytest.raises(ValueError, match="no plan"):
        Plan.last_in(b"hello")


def test_the_age_of_a_token_survives_the_wrap_of_its_stamp() -> None:
    now = (1 << 32) + 5
    frame = b"data: " + stamp(b"~", now - 10) + stamp(b"@", now - 30) + b"..." + stamp(b"~", now)
    assert ages_us(frame, now) == [10, 0]
    assert arrival_age_us(frame, now) == 30
    assert arrival_age_us(b"~00000000", now) is None


def test_a_reader_puts_frames_together_that_come_in_pieces() -> None:
    reply = Reply(started=1000)
    reader = Reader(reply, token_sign=b'"token"', end_sign=b"event: end")
    reader.feed(b'data: {"token": "' + stamp(b"~", 1500)[:4], 2000)
    assert reply.tokens == 0
    reader.feed(stamp(b"~", 1500)[4:] + b'"}\n\nevent: end\n', 2100)
    reader.feed(b"\n", 2200)
    assert (reply.tokens, reply.first_token, reply.ages, reply.complete, reply.end) == (1, 1100, [600], True, 1200)


def test_replies_are_counted_as_whole_wrong_or_late() -> None:
    plan = Plan(tokens=2)
    begun = [WHOLE, replace(WHOLE, tokens=1), Reply(tokens=1)]
    cut_short = outcome_of(begun, plan, 2.0, cut_short=True, wanted=4)
    assert (len(cut_short.replies), cut_short.errors, cut_short.unfinished) == (1, 1, 2)
    assert (cut_short.tokens, cut_short.tokens_per_s, cut_short.replies_per_s) == (4, 2.0, 0.5)
    ended = outcome_of(begun, plan, 2.0, cut_short=False, wanted=3)
    assert (ended.errors, ended.unfinished) == (2, 0)


def test_samples_are_added_up_by_function() -> None:
    lines = ["run (x/a/b.py:1);f (x/a/b.py:2) 3", "run (x/a/b.py:9);f (x/a/b.py:7);g (c.py:1) 1"]
    shown = table(lines, wanted=8)
    assert "4 samples on the CPU, of 8." in shown
    assert "| 75 % | f (a/b.py) | 100 % | run (a/b.py) |" in shown


def test_missed_goals_are_listed() -> None:
    results = Results(about={})
    section = results.section("one")
    section.figure("fast", "ms", Goal(at_most=5)).add(OURS, 4)
    section.figure("slow", "ms", Goal(at_most=5)).add(OURS, 10)
    assert [figure.name for figure in results.missed()] == ["slow"]
    assert "| slow, ms | <= 5.00 | NO, 2.0x | 10.0 |" in results.table()
