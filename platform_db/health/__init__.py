"""The health of the database: figures, checks that its rows agree with each other, and giving back space."""
