-- What one server answers at once, and a node of a cluster by asking where it is. Where tables are distributed these
-- functions are others: those of cluster.sql, in the folder above, which distributing makes.

-- Each node has a copy of user_, and a trigger of its rows fires on all of them. What it writes elsewhere it writes on
-- the coordinator alone.
CREATE FUNCTION platform.is_coordinator() RETURNS boolean LANGUAGE sql STABLE RETURN true;

-- The number of an entry of a history or a log: readers go by numbers, which no clock turns back.
CREATE FUNCTION platform.next_number(sequence text) RETURNS bigint LANGUAGE sql RETURN nextval(sequence::regclass);

-- The last number of an entry of a history, by whatever transaction.
CREATE FUNCTION platform.last_number() RETURNS bigint LANGUAGE sql
    RETURN coalesce(pg_sequence_last_value('platform.history_number'::text::regclass), 0);

-- Entries with numbers below this are committed, or will never be. NULL: readers find what commits late by its
-- transaction.
CREATE FUNCTION platform.settled_number() RETURNS bigint LANGUAGE sql RETURN NULL::bigint;

-- What tells this transaction from every other one.
CREATE FUNCTION platform.transaction_mark() RETURNS text LANGUAGE sql STABLE
    RETURN pg_current_xact_id_if_assigned()::text;
