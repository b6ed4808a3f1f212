"""A PostgreSQL server in a container, for test runs on machines where Docker answers."""

from __future__ import annotations

import contextlib
import secrets
import warnings

from platform_db.embedded.cluster import NOT_DURABLE

IMAGE = "postgres:17"
PING_TIMEOUT = 3  # seconds


def start(max_connections: int) -> dict[str, str] | None:
    """Start a server and return its ``uri`` and the container's ``id``; ``None`` where Docker is silent."""
    try:
        import docker  # type: ignore[import-untyped]
        from testcontainers.community.postgres import PostgresContainer
        from testcontainers.core.config import testcontainers_config
    except ImportError:
        return None
    try:
        docker.from_env(timeout=PING_TIMEOUT).ping()
    except (OSError, docker.errors.DockerException):
        return None
    settings = {**NOT_DURABLE, "max_connections": max_connections}
    options = " ".join(f"-c {name}={value}" for name, value in settings.items())
    container = PostgresContainer(
        IMAGE, username="postgres", password=secrets.token_hex(), dbname="postgres", driver="psycopg2"
    ).with_command(f"postgres {options}")
    # The reaper would remove the container with the process that started it, while others still use it.
    reaper_disabled, testcontainers_config.ryuk_disabled = testcontainers_config.ryuk_disabled, True
    try:
        container.start()
    except (OSError, docker.errors.DockerException) as error:
        warnings.warn(f"Docker answers, but {IMAGE} does not start there: {error}", stacklevel=2)
        if container.get_wrapped_container() is not None:
            container.stop()
        return None
    finally:
        testcontainers_config.ryuk_disabled = reaper_disabled
    return {"uri": container.get_connection_url(), "id": container.get_wrapped_container().id}


def remove(container_id: str) -> None:
    """Remove a container that :func:`start` made, with its data."""
    import docker

    with contextlib.suppress(docker.errors.NotFound):
        docker.from_env().containers.get(container_id).remove(force=True, v=True)
