"""Prompts: immutable versions, labels that move over them, and what decides whether they may."""
