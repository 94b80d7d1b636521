"""Small scripts that use presgen, and the studio that they share."""
