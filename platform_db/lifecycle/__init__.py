"""The life of a row: transitions of its status, restarts, phases of jobs, and their history."""

from platform_db.lifecycle.history import Entry, add_note, history, whole_history
from platform_db.lifecycle.importing import importing
from platform_db.lifecycle.phases import set_phase
from platform_db.lifecycle.restarts import MOST_RESTARTS, restart
from platform_db.lifecycle.transitions import (
    TransitionResult,
    override_guard,
    set_actor,
    transition,
    transition_many,
)

__all__ = [
    "MOST_RESTARTS",
    "Entry",
    "TransitionResult",
    "add_note",
    "history",
    "importing",
    "override_guard",
    "restart",
    "set_actor",
    "set_phase",
    "transition",
    "transition_many",
    "whole_history",
]
