"""The database on several machines: Citus keeps each tenant's rows on one of them."""

from platform_db.cluster.distributing import distribute
from platform_db.cluster.status import ClusterStatus, TableState, read_status

__all__ = ["ClusterStatus", "TableState", "distribute", "read_status"]
