"""Experiments: which unit sees what, what came of it, and what follows from that. Pure."""
