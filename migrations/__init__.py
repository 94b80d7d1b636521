"""The schema's history. Each numbered file is frozen once it is released, and imports nothing of presgen."""
