"""Writes what follows from the chart: the manifests in ``kubernetes/``, and the table of its README.

It takes the packages of the extra ``dev``, no cluster and no network: ``python deploy/render.py``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from helm_python import Chart, values_from_yaml

DEPLOY = Path(__file__).parent
CHART = DEPLOY / "helm" / "platform-db"
TABLE = "| Value | Default | Meaning |\n| --- | --- | --- |\n"
HEADER = "# Rendered from the chart with values.yaml by deploy/render.py; change those and run it again.\n"


def rendered() -> dict[Path, str]:
    """Return each file that follows from the chart, with its text."""
    kubernetes = DEPLOY / "kubernetes"
    with Chart.load(CHART) as chart:
        values = values_from_yaml((kubernetes / "values.yaml").read_text(encoding="utf-8"))
        templates = chart.render(values, name="platform-db", namespace="platform")
        table = "".join(rows(chart.schema or {}, chart.schema or {}, chart.values))
    manifests = {Path(name).name: text.strip() for name, text in templates.items() if name.endswith(".yaml")}
    manifests = {name: text for name, text in sorted(manifests.items()) if text}
    manifests["kustomization.yaml"] = "resources:\n" + "\n".join(f"  - {name}" for name in manifests)
    readme = CHART / "README.md"
    prose = readme.read_text(encoding="utf-8").partition(TABLE)[0]
    return {
        **{kubernetes / name: f"{HEADER}{text}\n" for name, text in manifests.items()},
        readme: prose + TABLE + table,
    }


def rows(schema: dict[str, Any], part: dict[str, Any], default: Any, path: str = "") -> Iterator[str]:
    """Yield a line of the table for each value."""
    for name, found in part["properties"].items():
        value = default.get(name) if isinstance(default, dict) else None
        if "properties" in found and "description" not in found:
            yield from rows(schema, found, value, f"{path}{name}.")
        elif "description" in found:
            shown = "see `values.yaml`" if name == "cronJobs" else f"`{json.dumps(value)}`"
            yield f"| `{path}{name}` | {shown} | {found['description']} |\n"


if __name__ == "__main__":
    for file, text in rendered().items():
        file.write_text(text, encoding="utf-8")
