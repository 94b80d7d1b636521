"""A chaos run with a history checker: `python -m chaos`, with this package's folder on the path."""
