"""Experiments: planned, dealt, recorded, judged."""
