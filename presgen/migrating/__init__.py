"""What a migration rests on: its turn, its connection, and what can be said of it before it runs."""
