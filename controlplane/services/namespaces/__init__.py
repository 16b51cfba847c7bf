"""Tenants: their objects, what they use, their quotas, and how they end."""
