"""Prompts: written to the ledger, resolved and watched in memory, evaluated before labels move."""
