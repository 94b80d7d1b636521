"""What is opt-in: features that a database gets installed, and ways out to other systems."""
