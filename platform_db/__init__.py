"""The data layer that any multi-tenant workflow platform can stand on.

The names that everybody needs are offered here, and imported when they are first asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from platform_db.lifecycle import override_guard, transition, transition_many
    from platform_db.logs import append_log
    from platform_db.schema import init_db
    from platform_db.sessions import get_engine, run_transaction, session_scope, thread_session
    from platform_db.workflows import get_workflow, update_workflow_status

    __version__: str

_MODULES = {
    "append_log": "logs",
    "get_engine": "sessions",
    "get_workflow": "workflows",
    "init_db": "schema",
    "override_guard": "lifecycle",
    "run_transaction": "sessions",
    "session_scope": "sessions",
    "thread_session": "sessions",
    "transition": "lifecycle",
    "transition_many": "lifecycle",
    "update_workflow_status": "workflows",
}

__all__ = [
    "__version__",
    "append_log",
    "get_engine",
    "get_workflow",
    "init_db",
    "override_guard",
    "run_transaction",
    "session_scope",
    "thread_session",
    "transition",
    "transition_many",
    "update_workflow_status",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        value: Any = version("platform-db")
    elif name in _MODULES:
        value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
