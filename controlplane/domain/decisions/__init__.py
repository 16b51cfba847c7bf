"""Recorded decisions: what a record says, what is masked in it, who is refused."""
