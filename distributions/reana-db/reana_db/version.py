"""The version: that of the reana-db whose names and habits this has, and a mark of its own."""

__version__ = "0.95.0a8+platform"
