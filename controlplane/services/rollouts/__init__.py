"""Rollouts: as operators see them, and as any replica carries them on."""
