"""Routes: which version of an agent a session goes to."""
