"""The data layer that any multi-tenant workflow platform can stand on."""
