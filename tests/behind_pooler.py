"""Which tests do not run through a pooler, and why: all others do, with ``./run-tests.sh pooler``."""

from __future__ import annotations

SESSION = "it looks at what one connection of the server keeps, and a pooler gives each transaction another"
LISTENING = "a watcher that listens needs a connection around the pooler, as its documentation says"
RETRYING = "a pooler that a database has refused keeps refusing for a second after the database is back"
CREATING = "creating a database needs a connection around the pooler, as migrations do"

BECOMING = "a login without rights may not connect, and a test becomes one only on a connection of another's"
MIGRATING = "it migrates, which through a pooler is refused, as another test shows"
CUTTING = "it ends a process of the server, and behind a pooler that is the pooler's, not its client's"

_RECORDER = "test_provenance_recorder.py::test_"

SKIPPED = {
    **dict.fromkeys(
        (
            "test_audit_migration.py::test_a_row_that_commits_while_the_inbox_goes_is_kept",
            "test_audit_migration.py::test_a_service_writes_no_place_in_the_log",
            "test_audit_migration.py::test_rows_that_wait_are_sealed_after_it_and_numbered_before_it",
            "test_audit_migration.py::test_the_inbox_has_the_policies_that_a_platform_gave_the_log",
            "test_cli_alembic.py::test_downgrade_takes_a_number_of_steps",
            "test_cli_alembic.py::test_init_marks_a_schema_that_exists",
            "test_cli_alembic.py::test_stamp_stores_a_revision_without_running_it",
            "test_cli_errors.py::test_a_revision_that_there_is_not_is_one_line",
            "test_log_partitions.py::test_logs_that_are_there_stay_as_they_are",
            "test_log_partitions.py::test_rows_are_read_once_however_often_the_migration_finds_a_table_in_use",
            "test_migration_locks.py::test_a_dry_run_says_what_each_statement_would_do_and_who_is_in_its_way",
            "test_migration_phases.py::test_a_pre_revision_behind_a_post_one_waits_for_it",
            "test_migration_phases.py::test_both_releases_run_between_the_phases",
            "test_migration_phases.py::test_code_says_in_one_line_what_an_older_database_lacks",
            "test_migration_steps.py::test_an_index_that_is_there_is_not_made_again",
            "test_migration_steps.py::test_an_index_that_was_stopped_half_way_is_made_again",
            "test_migration_steps.py::test_each_row_is_changed_once_whatever_the_condition_is",
            "test_migration_steps.py::test_rows_are_changed_in_batches_and_a_second_run_does_the_rest",
            "test_migrations.py::test_a_database_that_was_taken_back_is_not_current",
            "test_migrations.py::test_a_newer_database_is_left_as_it_is",
            "test_migrations_under_fire.py::test_a_migration_leaves_its_connection_as_it_was",
            "test_migrations_under_fire.py::test_a_migration_that_never_gets_its_table_says_so_and_keeps_what_ran",
            "test_migrations_under_fire.py::test_a_migration_that_waits_for_a_table_lets_readers_pass",
            "test_migrations_under_fire.py::test_an_index_of_the_newest_revision_that_was_finished_is_kept",
            "test_provenance_schema.py::test_values_that_a_downgrade_drops_no_longer_count",
        ),
        MIGRATING,
    ),
    "test_database.py::test_a_connection_that_was_cut_is_replaced": CUTTING,
    "test_outages.py::test_a_process_that_the_server_no_longer_has_is_given_up": CUTTING,
    "test_provenance_processes.py::test_what_a_closed_recorder_could_not_write_is_written_at_exit": RETRYING,
    "test_audit_names.py::test_verifying_leaves_the_session_as_it_was": SESSION,
    "test_events.py::test_a_watcher_that_listens_is_woken": LISTENING,
    "test_events.py::test_the_waker_hears_of_a_transaction_that_begins_while_it_reads": LISTENING,
    "test_pinned.py::test_pinning_sends_no_statement": SESSION,
    "test_pinned.py::test_a_login_that_may_not_is_told": CREATING,
    f"{_RECORDER}a_flush_says_that_the_server_does_not_answer_and_loses_nothing": RETRYING,
    f"{_RECORDER}what_a_read_only_server_refuses_is_written_later": SESSION,
    "test_roles.py::test_a_login_without_the_roles_is_told_so": BECOMING,
    "test_tasks.py::test_an_id_beyond_a_clients_highest_is_not_looked_for": RETRYING,
    "test_tasks.py::test_an_old_record_is_read_while_the_server_does_not_answer": RETRYING,
    "test_tasks.py::test_batches_outlive_a_servers_restart": RETRYING,
}


def reason_to_skip(nodeid: str) -> str | None:
    """Return why a test, by pytest's name of it, does not run through a pooler."""
    name = nodeid.partition("[")[0].rpartition("/")[2]
    return SKIPPED.get(name)
