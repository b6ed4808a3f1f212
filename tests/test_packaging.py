"""``setup.py`` names what the package imports, and nothing else."""

from __future__ import annotations

import ast
import re
import runpy
import sys
from collections.abc import Iterable, Mapping
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "platform_db"


@pytest.fixture
def setup_arguments(monkeypatch: pytest.MonkeyPatch) -> Mapping[str, Any]:
    given: dict[str, Any] = {}
    monkeypatch.setattr("setuptools.setup", given.update)
    monkeypatch.chdir(ROOT)
    runpy.run_path(str(ROOT / "setup.py"))
    return given


def test_the_package_requires_what_it_imports(setup_arguments: Mapping[str, Any]) -> None:
    apart = {PACKAGE / "testing", PACKAGE / "integrations", PACKAGE / "metrics"}
    files = [path for path in PACKAGE.rglob("*.py") if not apart & set(path.parents)]

    assert imported(files) == names(setup_arguments["install_requires"])


def test_the_test_fixtures_require_what_they_import(setup_arguments: Mapping[str, Any]) -> None:
    available = names(setup_arguments["install_requires"]) | names(setup_arguments["extras_require"]["tests"])

    assert imported((PACKAGE / "testing").rglob("*.py")) <= available


WITH_EXTRA = [
    PACKAGE / "metrics",
    *(path.parent for path in sorted((PACKAGE / "integrations").glob("*/__init__.py"))),
]


@pytest.mark.parametrize("folder", WITH_EXTRA, ids=lambda folder: folder.name)
def test_what_needs_more_has_an_extra_with_what_it_imports(
    folder: Path, setup_arguments: Mapping[str, Any]
) -> None:
    extra = setup_arguments["extras_require"].get(folder.name, [])

    needed = imported(folder.rglob("*.py"))

    assert needed <= names(setup_arguments["install_requires"]) | names(extra)
    assert names(extra) <= needed


def names(requirements: Iterable[str]) -> set[str]:
    return {normalised(re.split(r"[^\w.-]", requirement)[0]) for requirement in requirements}


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def imported(files: Iterable[Path]) -> set[str]:
    """Return the distributions that these files import, wherever in a file the import stands."""
    owners = packages_distributions()
    modules = {module for path in files for module in imported_modules(path)}
    ours = {*sys.stdlib_module_names, PACKAGE.name}
    # What is not installed is taken for the distribution of its name.
    return {normalised(owners.get(module, [module])[0]) for module in modules - ours}


def imported_modules(path: Path) -> Iterable[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]
