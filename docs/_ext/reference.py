"""What of the pages the code itself says: settings, exit codes, the models' columns, commands' examples."""

from __future__ import annotations

import inspect
from typing import Any, get_args

import click
import sqlalchemy as sa
from docutils import nodes
from pydantic.fields import FieldInfo
from sphinx.application import Sphinx
from sphinx.pycode import ModuleAnalyzer
from sphinx.util.docutils import SphinxDirective
from sqlalchemy.dialects import postgresql

from platform_db import errors
from platform_db.cli.command import Command
from platform_db.models import Base
from platform_db.settings.environment import PREFIX
from platform_db.settings.variables import Settings


class SettingsTable(SphinxDirective):
    """``.. settings-table::`` lists every setting with its default, its unit and its meaning."""

    def run(self) -> list[nodes.Node]:
        rows = [("Variable", "Default", "Meaning")]
        texts = ModuleAnalyzer.for_module(Settings.__module__).find_attr_docs()
        rows += [
            (f"``{PREFIX}{name.upper()}``", _default(field), " ".join(texts["Settings", name]).strip())
            for name, field in Settings.model_fields.items()
        ]
        return _parsed(self, list_table(rows, widths="40 15 45"))


class ExitCodes(SphinxDirective):
    """``.. exit-codes::`` lists the exit codes, as the module of the errors explains them."""

    def run(self) -> list[nodes.Node]:
        text = inspect.cleandoc(errors.__doc__ or "")
        return _parsed(self, text[text.index("=========") :].splitlines())


class ErrorTable(SphinxDirective):
    """``.. error-table::`` lists every error class with its codes, what it says and what to do."""

    def run(self) -> list[nodes.Node]:
        rows = [("Error", "Code", "Exit", "HTTP", "Message and hint")]
        for error in _classes(errors.PlatformDBError):
            message = (inspect.getdoc(error) or "").partition("\n")[0]
            hint = f" Hint: {error.hint}." if error.hint else ""
            codes = (f"``{error.code}``", str(error.exit_code), str(error.http_status))
            rows.append((f"``{error.__name__}``", *codes, message + hint))
        return _parsed(self, list_table(rows, widths="22 18 6 6 48"))


def list_table(rows: list[tuple[str, ...]], widths: str) -> list[str]:
    """Return the lines of a list table whose first row is its head."""
    lines = [".. list-table::", "   :header-rows: 1", f"   :widths: {widths}", ""]
    for first, *others in rows:
        lines += [f"   * - {first}", *(f"     - {cell}".rstrip() for cell in others)]
    return [*lines, ""]


def add_columns(app: Sphinx, what: str, name: str, documented: Any, options: Any, lines: list[str]) -> None:
    """Append the table of its columns to a model's text."""
    if what != "class" or not issubclass(documented, Base) or documented is Base:
        return
    table = documented.__table__
    rows = [("Column", "Type", "")]
    for column in table.columns:
        type_ = column.type.compile(dialect=postgresql.dialect()).removeprefix("platform.")
        rows.append((f"``{column.name}``", f"``{type_.lower()}``", _remarks(column)))
    lines += ["", f"Stored in ``{table.fullname}``.", "", *list_table(rows, widths="35 30 35")]


def skip_columns(app: Sphinx, what: str, name: str, member: Any, skip: bool, options: Any) -> bool | None:
    """Leave mapped attributes to the table of columns."""
    if isinstance(member, sa.orm.QueryableAttribute) or name in ("metadata", "registry"):
        return True
    return None


def show_example(app: Sphinx, context: click.Context, lines: list[str]) -> None:
    """Show the example of a command as a block of code."""
    if isinstance(context.command, Command):
        lines[:] = ["Example:", "", ".. code-block:: console", "", f"   $ {context.command.example}", ""]


def drop_unset_defaults(app: Sphinx, context: click.Context, lines: list[str]) -> None:
    """Leave out the default of an option that has none: click marks it with a sentinel."""
    lines[:] = [line for line in lines if ":default: ``Sentinel.UNSET``" not in line]


def _remarks(column: sa.Column[Any]) -> str:
    remarks = ["primary key"] if column.primary_key else []
    targets = (key.target_fullname.removeprefix("platform.") for key in column.foreign_keys)
    remarks += [f"refers to ``{target}``" for target in targets]
    if column.nullable:
        remarks.append("may be null")
    return "; ".join(sorted(remarks, key=len))


def _default(field: FieldInfo) -> str:
    value = field.default
    if value is None or value == ():
        return "unset"
    if isinstance(value, tuple):
        value = ",".join(value)
    if bool in (field.annotation, *get_args(field.annotation)):
        value = str(value).lower()
    return f"``{value}``"


def _classes(base: type[errors.PlatformDBError]) -> list[type[errors.PlatformDBError]]:
    return [base, *(deeper for child in base.__subclasses__() for deeper in _classes(child))]


def _parsed(directive: SphinxDirective, lines: list[str]) -> list[nodes.Node]:
    return directive.parse_text_to_nodes("\n".join(lines))


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directives, and what completes the reference of the models."""
    app.add_directive("settings-table", SettingsTable)
    app.add_directive("exit-codes", ExitCodes)
    app.add_directive("error-table", ErrorTable)
    app.connect("autodoc-process-docstring", add_columns)
    app.connect("autodoc-skip-member", skip_columns)
    app.connect("sphinx-click-process-epilog", show_example)
    app.connect("sphinx-click-process-options", drop_unset_defaults)
    return {"parallel_read_safe": True}
