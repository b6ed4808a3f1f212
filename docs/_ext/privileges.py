"""A Sphinx directive that lists the table of privileges, as the code has it."""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from reference import list_table
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from platform_db.tenancy.privileges import OTHERS, Role, privileges, role_name, sees_every_tenant


class RolesTable(SphinxDirective):
    """``.. roles-table::`` lists the roles and what each is for."""

    def run(self) -> list[nodes.Node]:
        rows = [("Role", "Purpose"), *((f"``{role_name(role)}``", role.value) for role in Role)]
        return self.parse_text_to_nodes("\n".join(list_table(rows, widths="25 75")))


class PrivilegesTable(SphinxDirective):
    """``.. privileges-table::`` lists what each role may do with each table, and with what is not a table."""

    def run(self) -> list[nodes.Node]:
        lines = "\n".join(list_table(privilege_rows(), widths="28 18 18 18 18"))
        return self.parse_text_to_nodes(re.sub(r"\((\w+)\)", r"(``\1``)", lines))  # id_ alone would be a link


def privilege_rows() -> list[tuple[str, ...]]:
    """Return the rows of the page's table, the first of which is its head."""
    everyone = sees_every_tenant()
    rows: list[tuple[str, ...]] = [("On", *map(role_name, Role))]
    named = {f"``{table}``{' *' if table in everyone else ''}": by for table, by in privileges().items()}
    for name, by_role in {**OTHERS, **named}.items():
        rows.append((name, *(", ".join(by_role.get(role, ())).lower() or "none" for role in Role)))
    return rows


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directives."""
    app.add_directive("roles-table", RolesTable)
    app.add_directive("privileges-table", PrivilegesTable)
    return {"parallel_read_safe": True}
