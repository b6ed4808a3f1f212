"""Which tests do not run through a pooler, and why: all others do, with ``./run-tests.sh pooler``."""

from __future__ import annotations

SESSION = "it looks at what one connection of the server keeps, and a pooler gives each transaction another"
LISTENING = "a watcher that listens needs a connection around the pooler, as its documentation says"
CREATING = "creating a database needs a connection around the pooler, as migrations do"

SKIPPED = {
    "test_audit_names.py::test_verifying_leaves_the_session_as_it_was": SESSION,
    "test_events.py::test_a_watcher_that_listens_is_woken": LISTENING,
    "test_events.py::test_the_waker_hears_of_a_transaction_that_begins_while_it_reads": LISTENING,
    "test_pinned.py::test_pinning_sends_no_statement": SESSION,
    "test_pinned.py::test_a_login_that_may_not_is_told": CREATING,
}


def reason_to_skip(nodeid: str) -> str | None:
    """Return why a test, by pytest's name of it, does not run through a pooler."""
    name = nodeid.partition("[")[0].rpartition("/")[2]
    return SKIPPED.get(name)
