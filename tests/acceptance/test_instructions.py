"""What the hot path costs in instructions: a change that makes a part of it a tenth dearer is seen here."""

import pytest

from bench.instructions import __main__ as instructions


@pytest.mark.parametrize("part", instructions.PARTS)
def test_no_part_of_the_hot_path_has_become_dearer(part: str) -> None:
    if instructions.missing():
        pytest.skip(instructions.missing())
    if part not in instructions.recorded():
        pytest.skip(f"never recorded for this interpreter: {instructions.interpreter()} (make instructions RECORD=1)")

    found = instructions.look(part)

    assert not found.has_risen, str(found)


def test_a_part_that_costs_a_tenth_more_fails() -> None:
    finding = instructions.Finding

    assert not finding(part="fold", now=1099, recorded=1000).has_risen
    assert finding(part="fold", now=1101, recorded=1000).has_risen
    assert not finding(part="fold", now=1101, recorded=None).has_risen
