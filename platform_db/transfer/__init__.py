"""Moving rows between databases: a copy of this one, and what imports of other systems share."""
