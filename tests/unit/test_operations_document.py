"""What docs/operations.md tells operators to watch exists, and nothing that exists is left out."""

import re
from pathlib import Path
from typing import Any

import yaml
from prometheus_client import Metric

from api.metrics import ApiMetrics, StoreMetrics
from shared.log.census import Census
from worker.job_metrics import JobMetrics
from worker.metrics import WorkerMetrics

DOCUMENT = (Path(__file__).parents[2] / "docs/operations.md").read_text()


class Services:
    """A store that answers."""

    registry: Any = type("Registry", (), {"workers": lambda self, queue="turns": 1})()

    def census(self) -> Census:
        return Census()


def served() -> set[str]:
    """The names of all metrics, as Prometheus queries them."""
    worker = WorkerMetrics(queue="turns")
    JobMetrics(worker.registry)
    families: list[Metric] = [
        *worker.registry.collect(),
        *ApiMetrics().registry.collect(),
        *StoreMetrics(Services()).collect(),  # type: ignore[arg-type]
    ]
    own = [family for family in families if family.name.startswith("turnstone_")]
    return {f"{family.name}_total" if family.type == "counter" else family.name for family in own}


def test_the_metrics_that_the_document_names_are_those_that_are_served() -> None:
    documented = {name.removesuffix("_bucket") for name in re.findall(r"turnstone_\w+", DOCUMENT)}

    assert documented == served()


def test_the_documents_alerts_and_scrapes_are_yaml() -> None:
    blocks = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", DOCUMENT, re.DOTALL)]

    rules = next(block for block in blocks if "groups" in block)["groups"][0]["rules"]
    assert all(rule["alert"] and rule["expr"].count("(") == rule["expr"].count(")") for rule in rules)
    assert any("scrape_configs" in block for block in blocks)
