"""Approvals: people decide what policies leave to them."""
