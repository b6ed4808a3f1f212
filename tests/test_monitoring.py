"""The alert rules and the dashboard ask for what is measured, in PromQL that parses."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import click
import pytest

from platform_db import database
from platform_db.cli import main
from platform_db.cli.command import Command
from tests.test_packaging import ROOT

promql = pytest.importorskip("promql_parser", reason="promql-parser, of the extra dev, is not installed")
yaml = pytest.importorskip("yaml")
pool = pytest.importorskip("platform_db.metrics.pool", reason="the extra metrics is not installed")

RULES = ROOT / "deploy" / "prometheus" / "alerts.yaml"
DASHBOARD = ROOT / "deploy" / "grafana" / "platform-db.json"


@pytest.fixture(scope="module")
def measured() -> set[str]:
    """The names of all series."""
    from platform_db.metrics.database import LEFT_OUT, PREFIX
    from platform_db.metrics.sources import SOURCES

    names = {f"{PREFIX}{name}" for source in SOURCES for name in (*source.gauges, LEFT_OUT, "up")}
    engine = database.create_engine("postgresql://nowhere/none")
    for family in pool.PoolMetrics(engine).collect():
        names |= {sample.name for sample in family.samples}
    return names


def rules() -> Iterator[dict[str, Any]]:
    for group in yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]:
        yield from group["rules"]


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    return found


def expressions() -> list[str]:
    shown = [target["expr"] for panel in panels() for target in panel.get("targets", [])]
    return [rule["expr"] for rule in rules()] + shown


@pytest.mark.parametrize("expression", expressions())
def test_an_expression_asks_for_what_is_measured(expression: str, measured: set[str]) -> None:
    promql.parse(expression)
    asked = set(re.findall(r"\b(?:platform_db|kube)_\w+", expression))

    assert asked
    assert asked <= measured | {"kube_job_failed"}


def test_every_metric_is_asked_for(measured: set[str]) -> None:
    asked = {name for expression in expressions() for name in re.findall(r"\bplatform_db_\w+", expression)}

    assert measured - asked == set()


def test_a_rule_says_what_happened_and_how_bad_it_is() -> None:
    for rule in rules():
        assert re.fullmatch("PlatformDb[A-Za-z]+", rule["alert"])
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"]["summary"]


def test_the_page_says_what_to_do_for_each_alert() -> None:
    page = (ROOT / "docs" / "kubernetes.rst").read_text(encoding="utf-8")

    assert {rule["alert"] for rule in rules()} <= set(re.findall(r"``(PlatformDb\w+)``", page))


@pytest.mark.parametrize("alert", ["PlatformDbJobLate", "PlatformDbJobNeverRan"])
def test_a_cronjob_of_the_chart_that_does_not_run_is_noticed(alert: str) -> None:
    values = yaml.safe_load((ROOT / "deploy" / "helm" / "platform-db" / "values.yaml").read_text("utf-8"))
    expressions = [rule["expr"] for rule in rules() if rule["alert"] == alert]
    names = [name for expression in expressions for name in re.findall(r'job=~?"([^"]+)"', expression)]

    for job in values["cronJobs"].values():
        command = " ".join(job["args"][:2])
        is_there = (
            alert == "PlatformDbJobLate" or "workspaces" not in job
        )  # with which it may not be installed
        rules_of_it = [name for name in names if re.fullmatch(name, command)]
        assert len(rules_of_it) == (is_there and is_stored(*job["args"][:2])), command


def is_stored(group: str, name: str) -> bool:
    """Tell whether it is stored how this command ended."""
    context = click.Context(main)
    found = main.get_command(context, group)
    assert isinstance(found, click.Group)
    command = found.get_command(context, name)
    assert isinstance(command, Command)
    return command.is_job


def test_panels_do_not_overlap() -> None:
    places = [(x, y) for panel in panels() for x, y in cells(panel["gridPos"])]

    assert len(places) == len(set(places))
    assert len({panel["id"] for panel in panels()}) == len(panels())


def cells(place: dict[str, int]) -> Iterator[tuple[int, int]]:
    for x in range(place["x"], place["x"] + place["w"]):
        for y in range(place["y"], place["y"] + place["h"]):
            yield x, y
