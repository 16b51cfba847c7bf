"""The JSON Schema that a namespace registered for its `extra` keys, as it is stored."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from controlplane.domain.configs.document import Json

EXTRA_SCHEMA_KEY = "extra"
"""Storage key of the one schema a namespace has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtraSchema:
    """What `extra` must look like. Immutable: a change is a new value."""

    document: Mapping[str, Json] = field(default_factory=dict)
    """JSON Schema, draft 2020-12. Empty: it was removed, everything is accepted; the record stays,
    so that its revision goes on counting."""
    revision: int = 0
    """Revision of the namespace at which it was committed; 0: not committed yet. The store
    assigns it."""
    author: str = ""
    """Who made this revision, as authenticated."""
    reason: str = ""
    """Why, in the author's words; may be empty."""
    updated_at_ms: int = 0
    """When, in milliseconds since the Unix epoch."""
