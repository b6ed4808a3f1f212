"""Which tests do not run through a pooler, and why: all others do, with ``./run-tests.sh pooler``."""

from __future__ import annotations

SESSION = "it looks at what one connection of the server keeps, and a pooler gives each transaction another"
LISTENING = "a watcher that listens needs a connection around the pooler, as its documentation says"
RETRYING = "a pooler that a database has refused keeps refusing for a second after the database is back"
CREATING = "creating a database needs a connection around the pooler, as migrations do"

_RECORDER = "test_provenance_recorder.py::test_"

SKIPPED = {
    "test_audit_names.py::test_verifying_leaves_the_session_as_it_was": SESSION,
    "test_events.py::test_a_watcher_that_listens_is_woken": LISTENING,
    "test_events.py::test_the_waker_hears_of_a_transaction_that_begins_while_it_reads": LISTENING,
    "test_pinned.py::test_pinning_sends_no_statement": SESSION,
    "test_pinned.py::test_a_login_that_may_not_is_told": CREATING,
    f"{_RECORDER}a_flush_says_that_the_server_does_not_answer_and_loses_nothing": RETRYING,
    f"{_RECORDER}what_a_read_only_server_refuses_is_written_later": SESSION,
    "test_tasks.py::test_an_id_beyond_a_clients_highest_is_not_looked_for": RETRYING,
    "test_tasks.py::test_an_old_record_is_read_while_the_server_does_not_answer": RETRYING,
    "test_tasks.py::test_batches_outlive_a_servers_restart": RETRYING,
}


def reason_to_skip(nodeid: str) -> str | None:
    """Return why a test, by pytest's name of it, does not run through a pooler."""
    name = nodeid.partition("[")[0].rpartition("/")[2]
    return SKIPPED.get(name)
