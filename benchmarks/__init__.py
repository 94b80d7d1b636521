"""Benchmarks: each is one command, `python -m benchmarks.<name>`, that prints one table."""
