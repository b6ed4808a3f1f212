"""What imports of other systems share: one at a time, a snapshot of the source, and a report of its rows."""
