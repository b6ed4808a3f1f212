"""What every public function takes as its session, and what a job takes to make sessions."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

from sqlalchemy.orm import Session, scoped_session

AnySession = Session | scoped_session[Session]
"""A session, or a registry that gives the one of this thread."""

SessionFactory = Callable[[], Session]
"""Makes sessions: for work that must not hold one transaction open."""

P = ParamSpec("P")
R = TypeVar("R")


def takes_session(function: Callable[Concatenate[Session, P], R]) -> Callable[Concatenate[AnySession, P], R]:
    """Let a function whose first argument is a session take a :class:`scoped_session`, too."""

    @functools.wraps(function)
    def call(session: Any, /, *args: P.args, **options: P.kwargs) -> R:
        return function(session() if isinstance(session, scoped_session) else session, *args, **options)

    return call
