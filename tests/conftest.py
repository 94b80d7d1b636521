"""The fixtures, one concern a file."""

pytest_plugins = ["fixtures.servers", "fixtures.databases", "fixtures.rows"]
