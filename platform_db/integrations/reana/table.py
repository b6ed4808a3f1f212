"""How the rows of one table follow from REANA's, as data, and the statements that follow from it.

The statements make the rows on the source's side. So what is moved, what is compared and what is reported are
one mapping, and a source that is on another server needs nothing but SELECT.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from platform_db.transfer.digests import digests


@dataclass(frozen=True)
class Page:
    """Keys from the first one on, up to the one that is not in it; None is to the end."""

    start: str
    until: str | None

    def condition(self, *keys: str) -> str:
        """Return the condition that a key is on the page."""
        return " AND ".join(
            f"{key} >= '{self.start}'" + (f" AND {key} < '{self.until}'" if self.until else "")
            for key in keys
        )


FIRST_KEY = "00000000-0000-0000-0000-000000000000"


@dataclass(frozen=True)
class Table:
    """A table of the target, and what makes its rows.

    :param name: the table's name in the schema ``platform``.
    :param rows: what follows FROM at the source.
    :param columns: the expression of each column, of the column's own type (an enumeration is text).
    :param keys: the expressions of the key at the source that decides which page a row is on, in each of the
        tables that ``rows`` joins.
    :param target: what follows FROM at the target: the rows as ``row``, their key as ``root.id_``.
    :param id_: the expression by which the report names a row.
    :param refused: which rows cannot be mapped, and why.
    :param left_out: which rows are not moved because nothing is lost with them, and why.
    :param changed: which rows are not moved as they were, and what is changed.
    :param compared: the expression that is compared in place of a column, of a long one for instance.
    :param order: the order in which rows are stored, where the database numbers them.
    :param kept: rows that others refer to are updated; those of other tables are replaced.
    :param parked: the unique column that rows may have exchanged; theirs give way before they are updated.
    :param owned: tables whose rows go before their owner does.
    """

    name: str
    rows: str
    columns: Mapping[str, str]
    keys: tuple[str, ...]
    target: str
    id_: str
    refused: Mapping[str, str] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    changed: Mapping[str, str] = field(default_factory=dict)
    compared: Mapping[str, str] = field(default_factory=dict)
    order: str = ""
    kept: bool = False
    parked: str = ""
    owned: tuple[str, ...] = ()

    def mapped(self, columns: str, condition: str = "true") -> str:
        """Return the query of the rows that can be mapped."""
        # In a CASE: of conditions the planner would believe that hardly a row meets them all.
        excluded = " OR ".join(f"({reason})" for reason in (*self.refused, *self.left_out)) or "false"
        is_mapped = f"CASE WHEN {excluded} THEN false ELSE true END"
        return f"SELECT {columns} FROM {self.rows} WHERE {condition} AND {is_mapped}"

    def source_digests(self, page: Page) -> str:
        """Return the query of each key on a page with the number and the digest of its mapped rows."""
        named = ", ".join(f"{expression} AS {column}" for column, expression in self.columns.items())
        mapped = self.mapped(f"{self.keys[0]} AS key, {named}", page.condition(*self.keys))
        return digests("key", f"({mapped}) AS row", self._line())

    def target_digests(self, page: Page) -> str:
        """Return the same query of the rows that the target has."""
        return digests("root.id_", f"{self.target} WHERE {page.condition('root.id_')}", self._line())

    def copied(self) -> str:
        """Return the query of the mapped rows of keys that are still to be given."""
        condition = " AND ".join(f"{key} = ANY(%(keys)s::uuid[])" for key in self.keys)
        order = f" ORDER BY {self.order}" if self.order else ""
        return self.mapped(", ".join(self.columns.values()), condition) + order

    def deleted(self) -> str:
        """Return the statement that deletes the target's rows of keys that are still to be given."""
        return f"""
            DELETE FROM platform.{self.name} WHERE ctid = ANY(ARRAY(
                SELECT row.place FROM {self.target} WHERE root.id_ = ANY(%(keys)s::uuid[])))
        """

    def notes(self) -> str:
        """Return the query of what the report says of rows: their id, the outcome and the reasons."""
        outcomes = {"refused": self.refused, "left out": self.left_out, "transformed": self.changed}
        found = {
            outcome: "concat_ws('; ', "
            + ", ".join(f"CASE WHEN {c} THEN '{r}' END" for c, r in reasons.items())
            + ")"
            for outcome, reasons in outcomes.items()
            if reasons
        }
        if not found:
            return ""
        noted = ", ".join(f'{reasons} AS "{outcome}"' for outcome, reasons in found.items())
        named = " ".join(f"""WHEN "{outcome}" <> '' THEN '{outcome}'""" for outcome in found)
        reason = ", ".join(f"""nullif("{outcome}", '')""" for outcome in found)
        return f"""
            SELECT id, CASE {named} END AS outcome, coalesce({reason}) AS reason
            FROM (SELECT ({self.id_})::text AS id, {noted} FROM {self.rows} OFFSET 0) AS row
            WHERE coalesce({reason}) IS NOT NULL
        """

    def _line(self) -> str:
        return ", ".join(self.compared.get(column, f"row.{column}") for column in self.columns)


def own(table: str, condition: str = "true") -> str:
    """Return the target of a table whose ids are the keys."""
    return f"""(SELECT own.ctid AS place, own.* FROM platform.{table} AS own WHERE {condition}) AS row
        CROSS JOIN LATERAL (SELECT row.id_) AS root"""


def of(root: str, table: str, column: str, condition: str = "true") -> str:
    """Return the target of a table whose keys are the ids of the rows that its column refers to.

    OFFSET 0 makes the planner use the index of each owner's rows, whatever it knows of the table by then.
    """
    return f"""platform.{root} AS root CROSS JOIN LATERAL (
        SELECT ctid AS place, * FROM platform.{table} AS own
        WHERE own.owner_id = root.owner_id AND own.{column} = root.id_ AND {condition} OFFSET 0) AS row"""
