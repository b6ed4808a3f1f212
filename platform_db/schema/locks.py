"""What a statement of a migration does to the tables that are there: its locks, and its work under them.

It knows the forms that revisions use, and takes any other for the worst. A test runs every revision and
compares this, and what each revision says of its locks, with ``pg_locks``. The modes and what they conflict
with are in https://www.postgresql.org/docs/current/explicit-locking.html.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

Work = Literal["catalogue", "scan", "index", "rewrite", "write", "unknown"]
"""What takes time: nothing that grows, reading all rows, indexing them, writing them again, changing them."""

ACCESS_SHARE, ROW_SHARE, ROW_EXCLUSIVE = "ACCESS SHARE", "ROW SHARE", "ROW EXCLUSIVE"
SHARE_UPDATE_EXCLUSIVE, SHARE, SHARE_ROW_EXCLUSIVE = "SHARE UPDATE EXCLUSIVE", "SHARE", "SHARE ROW EXCLUSIVE"
EXCLUSIVE, ACCESS_EXCLUSIVE = "EXCLUSIVE", "ACCESS EXCLUSIVE"

MODES = (
    ACCESS_SHARE,
    ROW_SHARE,
    ROW_EXCLUSIVE,
    SHARE_UPDATE_EXCLUSIVE,
    SHARE,
    SHARE_ROW_EXCLUSIVE,
    EXCLUSIVE,
    ACCESS_EXCLUSIVE,
)
"""From the weakest to the strongest."""

CONFLICTS = {
    ROW_EXCLUSIVE: {SHARE, SHARE_ROW_EXCLUSIVE, EXCLUSIVE, ACCESS_EXCLUSIVE},
    SHARE_UPDATE_EXCLUSIVE: set(MODES[3:]),
    SHARE: {ROW_EXCLUSIVE, SHARE_UPDATE_EXCLUSIVE, *MODES[5:]},
    SHARE_ROW_EXCLUSIVE: set(MODES[2:]),
    EXCLUSIVE: set(MODES[1:]),
    ACCESS_EXCLUSIVE: set(MODES),
}

BLOCKS = {
    ROW_EXCLUSIVE: "changes of the same rows",
    SHARE_UPDATE_EXCLUSIVE: "neither readers nor writers",
    SHARE: "writers",
    SHARE_ROW_EXCLUSIVE: "writers",
    EXCLUSIVE: "writers",
    ACCESS_EXCLUSIVE: "readers and writers",
}
"""What waits for the lock."""


@dataclass(frozen=True)
class Effect:
    """What a statement does to one table.

    :param table: with its schema, such as ``platform.job``; an index's name stands for its table.
    :param lock: the mode.
    :param work: what takes time while it is held.
    :param waits_for: the sessions that hold what conflicts with this mode are waited for, with those that see
        an older state of the database; None where the lock alone is waited for.
    """

    table: str
    lock: str
    work: Work = "catalogue"
    waits_for: str | None = None


def effects_of(statement: str) -> list[Effect]:
    """Return what a statement does to tables, those that it creates included; nothing of other objects."""
    text = " ".join(_OPAQUE.sub(lambda found: " " if found[0].startswith("--") else "''", statement).split())
    for form, effects in _FORMS:
        if found := form.match(text):
            return list(effects(found, text))
    return [Effect(name, ACCESS_EXCLUSIVE, "unknown") for name in _NAME.findall(text)[:1] or ["?"]]


# Comments and literals, function bodies among them.
_OPAQUE = re.compile(r"--[^\n]*|\$(\w*)\$.*?\$\1\$|'(?:[^']|'')*'", re.DOTALL)
_TABLE = r"(?:platform|platform_partitions|redun)\.\w+"
_NAME = re.compile(rf"\b({_TABLE})")
_REFERENCES = re.compile(rf"\bREFERENCES ({_TABLE})")

# A default that differs from row to row, or a column that is computed, is written into every row.
_VOLATILE = re.compile(
    r"DEFAULT [^,]*(random|nextval|clock_timestamp|uuid)\w*\(|\bSTORED\b|\bIDENTITY\b|SERIAL\b"
)


def _referenced(text: str) -> Iterator[Effect]:
    for table in dict.fromkeys(_REFERENCES.findall(text)):
        yield Effect(table, SHARE_ROW_EXCLUSIVE)


def _create_table(found: re.Match[str], text: str) -> Iterator[Effect]:
    yield Effect(found[1], ACCESS_EXCLUSIVE)
    yield from _referenced(text)


def _create_index(found: re.Match[str], text: str) -> Iterator[Effect]:
    if found[1]:
        yield Effect(found[2], SHARE_UPDATE_EXCLUSIVE, "index", waits_for=SHARE)
    else:
        yield Effect(found[2], SHARE, "index")


def _drop_index(found: re.Match[str], text: str) -> Iterator[Effect]:
    if found[1]:
        yield Effect(found[2], SHARE_UPDATE_EXCLUSIVE, waits_for=ACCESS_EXCLUSIVE)
    else:
        yield Effect(found[2], ACCESS_EXCLUSIVE)


def _alter_table(found: re.Match[str], text: str) -> Iterator[Effect]:
    table = found[1]
    done = [_alter(action) for action in _split(found[2])]
    strongest = max((lock for lock, _ in done), key=MODES.index)
    heaviest = max((work for _, work in done), key=("catalogue", "scan", "index", "rewrite", "unknown").index)
    yield Effect(table, strongest, heaviest)
    yield from _referenced(text)


def _alter(action: str) -> tuple[str, Work]:
    """Return the lock and the work of one action of ALTER TABLE."""
    for form, lock, work in _ACTIONS:
        if re.match(form, action):
            return lock, work
    return ACCESS_EXCLUSIVE, "unknown"


def _split(actions: str) -> list[str]:
    """Return the actions between which a comma stands that is in no parentheses."""
    found, depth = [""], 0
    for character in actions:
        depth += (character == "(") - (character == ")")
        if character == "," and not depth:
            found.append("")
        else:
            found[-1] += character
    return [action.strip() for action in found]


def _rows(found: re.Match[str], text: str) -> Iterator[Effect]:
    yield Effect(found[1], ROW_EXCLUSIVE, "write")
    for table in dict.fromkeys(_NAME.findall(text[found.end() :])):
        if table != found[1] and f"{table}(" not in text:
            yield Effect(table, ACCESS_SHARE, "scan")


Reading = Callable[[re.Match[str], str], Iterable[Effect]]


def _on(lock: str) -> Reading:
    return lambda found, text: [Effect(name, lock) for name in _NAME.findall(found[1])]


def _form(pattern: str, effects: Reading) -> tuple[re.Pattern[str], Reading]:
    return re.compile(pattern.replace("NAME", rf"({_TABLE})")), effects


_ACTIONS: list[tuple[str, str, Work]] = [
    (r"VALIDATE CONSTRAINT", SHARE_UPDATE_EXCLUSIVE, "scan"),
    (r"(ALTER (COLUMN )?\w+ SET STATISTICS|(RE)?SET \()", SHARE_UPDATE_EXCLUSIVE, "catalogue"),
    (r"ADD (CONSTRAINT \w+ )?FOREIGN KEY.*NOT VALID", SHARE_ROW_EXCLUSIVE, "catalogue"),
    (r"ADD (CONSTRAINT \w+ )?FOREIGN KEY", SHARE_ROW_EXCLUSIVE, "scan"),
    (
        r"ADD (CONSTRAINT \w+ )?(CHECK.*NOT VALID|(UNIQUE|PRIMARY KEY) USING)",
        ACCESS_EXCLUSIVE,
        "catalogue",
    ),
    (r"ADD (CONSTRAINT \w+ )?CHECK", ACCESS_EXCLUSIVE, "scan"),
    (r"ADD (CONSTRAINT \w+ )?(UNIQUE|PRIMARY KEY|EXCLUDE)", ACCESS_EXCLUSIVE, "index"),
    (rf"ADD (COLUMN )?.*({_VOLATILE.pattern})", ACCESS_EXCLUSIVE, "rewrite"),
    (r"ADD (COLUMN )?.*\b(UNIQUE|PRIMARY KEY)\b", ACCESS_EXCLUSIVE, "index"),
    (r"ADD (COLUMN )?\w+ .*\bCHECK\b", ACCESS_EXCLUSIVE, "scan"),
    (r"ADD (COLUMN )?\w+ ", ACCESS_EXCLUSIVE, "catalogue"),
    (r"ALTER (COLUMN )?\w+ (SET DATA )?TYPE", ACCESS_EXCLUSIVE, "rewrite"),
    (r"ALTER (COLUMN )?\w+ SET NOT NULL", ACCESS_EXCLUSIVE, "scan"),
    (r"ALTER (COLUMN )?\w+ (SET (DEFAULT|STORAGE)|DROP)", ACCESS_EXCLUSIVE, "catalogue"),
    (
        r"(DROP|RENAME|SET SCHEMA|DETACH PARTITION|ENABLE|DISABLE|FORCE|NO FORCE|OWNER|INHERIT|NO INHERIT)\b",
        ACCESS_EXCLUSIVE,
        "catalogue",
    ),
]

_FORMS = [
    _form(r"CREATE TABLE (?:IF NOT EXISTS )?NAME \(", _create_table),
    _form(
        r"CREATE (?:UNIQUE )?INDEX (CONCURRENTLY )?(?:IF NOT EXISTS )?\w+ ON (?:ONLY )?NAME", _create_index
    ),
    _form(r"DROP INDEX (CONCURRENTLY )?(?:IF EXISTS )?NAME$", _drop_index),
    _form(r"ALTER TABLE (?:ONLY )?NAME (.*)", _alter_table),
    _form(r"ALTER INDEX NAME \w+ TO", lambda found, text: [Effect(found[1], SHARE_UPDATE_EXCLUSIVE)]),
    _form(r"CREATE (?:OR REPLACE )?(?:CONSTRAINT )?TRIGGER \w+ .*? ON (NAME)", _on(SHARE_ROW_EXCLUSIVE)),
    _form(r"(?:CREATE|ALTER|DROP) (?:POLICY|TRIGGER|RULE) .*? ON (NAME)", _on(ACCESS_EXCLUSIVE)),
    _form(r"LOCK TABLE (.*) IN ACCESS EXCLUSIVE MODE", _on(ACCESS_EXCLUSIVE)),
    _form(r"(?:DROP (?:TABLE|VIEW)|TRUNCATE) (.*)", _on(ACCESS_EXCLUSIVE)),
    _form(r"(?:CREATE (?:OR REPLACE )?|ALTER )VIEW (NAME)", _on(ACCESS_EXCLUSIVE)),
    _form(r"(?:ANALYZE|VACUUM|COMMENT ON TABLE) (.*)", _on(SHARE_UPDATE_EXCLUSIVE)),
    _form(r"(?:INSERT INTO|UPDATE|DELETE FROM) (?:ONLY )?NAME", _rows),
    _form(r"WITH .*?\bUPDATE (?:ONLY )?NAME", _rows),
    # They lock no table.
    _form(
        r"(?:CREATE|ALTER|DROP) (?:OR REPLACE )?(?:FUNCTION|PROCEDURE|TYPE|DOMAIN|SEQUENCE|SCHEMA)\b"
        r"|GRANT|REVOKE|COMMENT|DO ''|SET|SELECT set_config",
        lambda found, text: [],
    ),
]
