"""What the engine says about input it cannot take."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One wrong field: a dotted path as the caller wrote it, and what is wrong with it."""

    field: str
    description: str


class MalformedInput(ValueError):
    """A policy, a set of policies, an attribute or claims that the engine refuses.

    `violations` are all that is wrong, at least one.
    """

    def __init__(self, *violations: FieldViolation) -> None:
        if not violations:
            raise ValueError("MalformedInput needs at least one violation")
        super().__init__("; ".join(f"{v.field}: {v.description}" for v in violations))
        self.violations: tuple[FieldViolation, ...] = violations

    @classmethod
    def of(cls, field: str, description: str) -> "MalformedInput":
        """Return the refusal of a single field."""
        return cls(FieldViolation(field, description))
