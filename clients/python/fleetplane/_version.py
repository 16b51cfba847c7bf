"""Version of the SDK; it moves with the daemon."""

__version__ = "0.1.0"
