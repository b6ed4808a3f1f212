"""Digests of rows, by a key: equal ones on both sides tell that nothing is to be done."""

from __future__ import annotations


def digests(key: str, rows: str, line: str) -> str:
    """Return the query of each key with the number and the digest of its rows, whatever their order.

    :param key: the expression of the key.
    :param rows: what follows FROM.
    :param line: the expressions of the columns, with commas.
    """
    return f"""
        SELECT key::text, count(*) AS rows, md5(string_agg(line, '' ORDER BY line COLLATE "C")) AS digest
        FROM (SELECT {key} AS key, md5(ROW({line})::text) AS line FROM {rows}) AS lines
        GROUP BY key
    """
