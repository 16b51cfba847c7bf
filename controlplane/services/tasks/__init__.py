"""Tasks: submitted, assigned, leased, delivered, recovered."""
