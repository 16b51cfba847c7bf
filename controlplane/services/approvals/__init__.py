"""Approvals: opened by policies, decided by people, used once."""
