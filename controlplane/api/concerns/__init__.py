"""concerns."""
