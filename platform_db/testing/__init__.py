"""What other projects' tests need: a server, a migrated template and a database for each test.

Put ``pytest_plugins = ["platform_db.testing.plugin"]`` into the ``conftest.py`` beside ``pyproject.toml``
(or into the one of the ``testpaths``), and ask for the fixtures of :mod:`platform_db.testing.plugin`.
"""
