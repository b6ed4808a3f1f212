"""The fixtures of every test."""

pytest_plugins = ["platform_db.testing.plugin"]
