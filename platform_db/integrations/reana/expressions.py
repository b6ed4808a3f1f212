"""What the mapping's expressions share: times, JSON and paths, in the functions that any PostgreSQL has."""

from __future__ import annotations

from dataclasses import dataclass, field

# \\u0000, which jsonb has no place for, and halves of surrogate pairs; neither after an escaped backslash.
_HIGH = r"\\u[dD][89abAB][0-9a-fA-F]{2}"
_LOW = r"\\u[dD][c-fC-F][0-9a-fA-F]{2}"
_EVEN = r"(?<!\\)((?:\\\\)*)"
_UNSTORABLE = rf"{_EVEN}(?:\\u0000|{_HIGH}(?!{_LOW})|(?<!{_HIGH}){_LOW})"

# An object of JSON without others in it, as REANA writes a job's environment.
_STRING = r'"(?:[^"\\[:cntrl:]]|\\["\\/bfnrt]|\\u[0-9a-fA-F]{4})*"'
_SCALAR = rf"(?:{_STRING}|-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?|true|false|null)"
_PAIR = rf"\s*{_STRING}\s*:\s*{_SCALAR}\s*"
_FLAT_OBJECT = rf"^\s*\{{(?:{_PAIR}(?:,{_PAIR})*|\s*)\}}\s*$"


@dataclass(frozen=True)
class Mapping:
    """What the mapping of one source depends on.

    :param zone: the time zone of REANA's containers, by whose clock runs and jobs start and end.
    :param workspace_root: where the workspaces of runs without a path lie.
    :param emails: the addresses that were decided, by user.
    :param owners: the owners that were decided, by run; None leaves the run out.
    :param resources: the id of each of the source's resources here; it has no other.
    :param limits: the limit of a user without one, by resource here.
    """

    zone: str = "UTC"
    workspace_root: str = ""
    emails: dict[str, str] = field(default_factory=dict)
    owners: dict[str, str | None] = field(default_factory=dict)
    resources: dict[str, str] = field(default_factory=dict)
    limits: dict[str, int | None] = field(default_factory=dict)

    def time(self, expression: str) -> str:
        """Return a time that REANA took from a clock of its containers."""
        return f"({expression} AT TIME ZONE {literal(self.zone)})"


def utc(expression: str) -> str:
    """Return a time that REANA stored in UTC."""
    return f"({expression} AT TIME ZONE 'UTC')"


def literal(text: str) -> str:
    """Return a text as an SQL literal, wherever it comes from."""
    quoted = text.replace("'", "''").replace("\\", "\\\\").replace("%", "\\x25")
    return f"E'{quoted}'"


def by_key(values: dict[str, str], key: str) -> str:
    """Return the value of a key in a dictionary, NULL where it has none."""
    if not values:
        return "NULL::text"
    rows = ", ".join(f"({literal(k)}, {literal(v)})" for k, v in values.items())
    return f"(SELECT value FROM (VALUES {rows}) AS given (key, value) WHERE key = ({key})::text)"


def jsonb(column: str, otherwise: str = "NULL") -> str:
    """Return a column of JSON as jsonb, without what that has no place for; a JSON null is no value."""
    return f"coalesce(nullif({_storable(f'{column}::text')}, 'null'), {otherwise})"


def loses_characters(*columns: str) -> str:
    """Return the condition that :func:`jsonb` takes something out of one of the columns."""
    texts = [f"{column}::text" for column in columns]
    return " OR ".join(f"({_is_suspect(text)} AND {_clean(text)} <> {text})" for text in texts)


def _storable(text: str) -> str:
    return f"(CASE WHEN {_is_suspect(text)} THEN {_clean(text)} ELSE {text} END)::jsonb"


def _is_suspect(text: str) -> str:
    # Most texts have no escaped character at all, and are not searched further.
    found = f"position('\\u0000' IN {text}) > 0 OR position('\\ud' IN lower({text})) > 0"
    return f"(position('\\u' IN {text}) > 0 AND ({found}))"


def _clean(text: str) -> str:
    # Twice: of two that follow one another, the second begins where the first one's match ends.
    once = f"regexp_replace({text}, '{_UNSTORABLE}', '\\1', 'g')"
    return f"regexp_replace({once}, '{_UNSTORABLE}', '\\1', 'g')"


def text_of(column: str) -> str:
    """Return a text that is stored as JSON, without its quotes."""
    return f"({jsonb(column)} #>> '{{}}')"


def is_object(text: str) -> str:
    """Return the condition that a text is an object of JSON."""
    return f"({text} ~ '{_FLAT_OBJECT}')"


def parsed(column: str, text: str) -> str:
    """Return a column of JSON as jsonb; where it is a text that is an object of JSON, that object.

    :param text: the column's text, NULL where it has another type.
    """
    return f"CASE WHEN {is_object(text)} THEN {_storable(text)} ELSE {jsonb(column)} END"


def not_before(end: str, start: str) -> str:
    """Return an end that is not before the start."""
    return f"CASE WHEN {end} IS NOT NULL THEN greatest({end}, {start}) END"


def canonical(path: str) -> str:
    """Return an absolute path without ``//``, ``.`` and a last slash. Most are so already."""
    is_so = f"strpos({path}, '//') = 0 AND strpos({path}, '/.') = 0 AND right({path}, 1) <> '/'"
    made = f"rtrim(regexp_replace({path} || '/', '/(\\.?/)+', '/', 'g'), '/')"
    return f"CASE WHEN {is_so} THEN {path} ELSE coalesce(nullif({made}, ''), '/') END"
