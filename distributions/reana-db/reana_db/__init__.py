"""reana-db's names on platform-db: REANA's services import it as they are, and platform-db keeps the data."""

from reana_db.version import __version__

__all__ = ("__version__",)
