"""Working for one tenant: a session that sees that tenant's rows and no others, from beginning to end.

In the database, every transaction of the session runs as the tenants' role with the setting
``platform.user_id``, and row-level security compares the owner of each row with it. In the ORM, every
statement gets the owner's ``= …`` as well, so that it has the prefix of an index and goes to one shard.

This is for a service's own mistakes: a forgotten WHERE, a wrong join, a bug in a query builder. It does not
hold against SQL that a tenant writes, which could set another role or another id.
"""

from platform_db.tenancy.sessions import in_tenant_scope, tenant_of, tenant_scope, tenant_sessionmaker

__all__ = ["in_tenant_scope", "tenant_of", "tenant_scope", "tenant_sessionmaker"]
