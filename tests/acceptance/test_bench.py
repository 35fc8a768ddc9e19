"""The benchmark's own command: every row runs against a real stack. What it measures is no matter here."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.rows import ROWS

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.timeout(400)
def test_every_row_of_the_benchmark_can_be_measured(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bench", "--size", "smoke", "--peers", "", "--into", str(tmp_path)]

    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=350)

    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "figures.json").read_text())
    notes = [note for section in found["sections"] for note in section["notes"]]
    assert not [note for note in notes if "failed" in note or "could not" in note], notes
    assert "Not measured" not in [section["title"] for section in found["sections"]], notes
    values = [figure["values"] for section in found["sections"] for figure in section["figures"]]
    assert len(values) > 3 * len(ROWS)
    assert all(len(its["turnstone"]) >= 1 for its in values if "disk" not in its)
