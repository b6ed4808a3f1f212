"""The one history of the schema. Start with :mod:`platform_db.schema`, which runs it."""
