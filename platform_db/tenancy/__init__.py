"""Working for one tenant: inside a scope, a session sees that tenant's rows and no others.

Two things hold this, each without the other. In the database, every transaction of the scope runs as the role
``platform_tenant`` with the setting ``platform.user_id``, and row-level security compares the owner of each
row with it. In the ORM, every statement gets the owner's ``= …``, so that it has the prefix of an index and
goes to one shard. What a session has in its memory was read for one tenant, too, and is given to no other.

This is for a service's own mistakes: a forgotten WHERE, a wrong join, a bug in a query builder. It does not
hold against SQL that a tenant writes, which could set another role or another id.
"""

from platform_db.tenancy.scopes import in_tenant_scope
from platform_db.tenancy.sessions import tenant_scope, tenant_sessionmaker

__all__ = ["in_tenant_scope", "tenant_scope", "tenant_sessionmaker"]
