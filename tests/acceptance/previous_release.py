"""The code of the release before this one, as a tree of its own."""

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent


def checkout(folder: Path) -> Path:
    """The previous release's tree in `folder`. Skips the test where this copy of the code has no history."""
    commit = previous_release()
    folder.mkdir()
    archive = subprocess.run(["git", "archive", commit], cwd=ROOT, capture_output=True, check=True)
    subprocess.run(["tar", "-x"], cwd=folder, input=archive.stdout, check=True)
    return folder


def previous_release() -> str:
    """Its commit: the newest tag, else the one whose logs were recorded, else the last one of the version before."""
    if not _git("rev-parse", "--verify", "--quiet", "HEAD"):
        pytest.skip("this copy of the code has no history, so no previous release")
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    for commit in (_tagged(version), _recorded(version), _before_it_was_raised(version)):
        if commit and _git("rev-parse", "--verify", "--quiet", f"{commit}^{{commit}}"):
            return commit
    pytest.skip(f"the history is shallow: it does not go back beyond version {version}")


def assert_is_used(tree: Path) -> None:
    """Processes started in the tree run its code, and not that of the installed one."""
    code = "import shared, worker, api; print(shared.__file__, worker.__file__, api.__file__)"
    command = [sys.executable, "-c", code]
    environ = {**os.environ, "PYTHONPATH": str(tree)}
    told = subprocess.run(command, cwd=tree, env=environ, capture_output=True, text=True, check=True).stdout
    assert all(Path(file).is_relative_to(tree) for file in told.split()), told


def _tagged(version: str) -> str:
    tags = _git("tag", "--merged", "HEAD", "--sort=-v:refname", "--list", "v[0-9]*").split()
    return next((tag for tag in tags if tag.removeprefix("v") != version), "")


def _recorded(version: str) -> str:
    files = (ROOT / "tests" / "data" / "logs").glob("*.json")
    records = [json.loads(file.read_text()) for file in files if file.stem != version]
    newest = max(records, key=lambda record: _numbers(record["version"]), default=None)
    if newest is None or not _git("merge-base", "--is-ancestor", newest["commit"], "HEAD", said="yes"):
        return ""
    return str(newest["commit"])


def _before_it_was_raised(version: str) -> str:
    raised = _git("log", f'-Sversion = "{version}"', "--format=%H", "--", "pyproject.toml").split()
    return f"{raised[-1]}~1" if raised else ""


def _numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".")]


def _git(*arguments: str, said: str = "") -> str:
    """What git says, or `said` where it succeeds without a word; nothing where it fails."""
    result = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
    return "" if result.returncode else result.stdout.strip() or said
