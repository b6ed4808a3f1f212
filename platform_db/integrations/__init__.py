"""Adapters to other programs: they translate, and no rule lives here."""
