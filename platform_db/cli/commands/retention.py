"""``platform-db retention``: applying the retention rules of workspaces."""

from __future__ import annotations

import click

from platform_db.cli.command import group
from platform_db.cli.database import session_factory
from platform_db.cli.options import json_option
from platform_db.cli.show import show_rows

retention = group("retention")


@retention.command(example="retention apply --dry-run", is_job=True)
@click.option("--dry-run", is_flag=True, help="Only list the rules that are due.")
@json_option
def apply(dry_run: bool, as_json: bool) -> None:
    """Remove the files that due rules name from their workspaces."""
    from platform_db.cli.progress import show_progress
    from platform_db.retention.workspaces import apply_retention_rules

    with show_progress("rules", quiet=as_json) as progress:
        report = apply_retention_rules(session_factory(), dry_run=dry_run, progress=progress)
    rows = (
        {
            "rule": str(rule.rule_id),
            "workflow": str(rule.workflow_id),
            "pattern": rule.pattern,
            "files": rule.removal.files,
            "bytes": rule.removal.bytes,
            "stopped": rule.removal.stopped,
            "problem": rule.problem,
        }
        for rule in report.rules
    )
    show_rows(rows, as_json)
    report.raise_for_problems()
