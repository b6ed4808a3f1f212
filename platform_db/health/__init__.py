"""How the database is: its figures, whether its rows agree with each other, and giving back space."""
