"""Metrics for Prometheus: of the database, and of a service's own pool. They take the extra ``metrics``."""
