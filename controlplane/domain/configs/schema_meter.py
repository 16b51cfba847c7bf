"""How much work checking a value against a schema may be, and the counting of it.

References let a schema of a few lines ask for more work than any machine can do. So everything is
counted, and a check that costs too much is given up.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from jsonschema import ValidationError
from jsonschema.protocols import Validator

MAX_STEPS: Final = 50_000
"""Keywords and entries looked at in one check: some ten per setting of the largest layer that
people write; 0.1 s of CPU, up to half a second for hostile patterns."""

MAX_NESTING: Final = 100
"""Keywords within keywords: twice what a schema and a value of the greatest depth need, well
below the interpreter's own recursion limit (each takes up to five of its 1,000 frames)."""

Keyword = Callable[[Any, Any, Any, Any], Iterator[ValidationError]]
"""Of the validator, the value of the keyword, what is checked, and the schema around."""

_ITERATING: Final = frozenset(
    {"items", "contains", "propertyNames", "patternProperties", "additionalProperties"}
)
"""Keywords whose work grows with the value."""


class TooMuchWorkError(Exception):
    """A check was given up."""


class Meter:
    """Counts the work of one check at a time."""

    def __init__(self) -> None:
        self._left = MAX_STEPS
        self._nesting = 0

    def reset(self) -> None:
        """Begin the next check."""
        self._left = MAX_STEPS
        self._nesting = 0

    def spend(self, steps: int) -> None:
        """Count work. Raises TooMuchWorkError when there was too much."""
        self._left -= steps
        if self._left < 0:
            raise TooMuchWorkError

    def counted(self, name: str, keyword: Keyword) -> Keyword:
        """Return the keyword, charged for what it is about to look at."""

        def run(
            validator: Validator, value: Any, instance: Any, schema: Mapping[str, Any]
        ) -> Iterator[ValidationError]:
            steps = 1 + (len(value) if isinstance(value, dict | list) else 0)
            if name in _ITERATING and isinstance(instance, dict | list):
                steps += len(instance)
            self.spend(steps)
            if self._nesting >= MAX_NESTING:
                raise TooMuchWorkError
            self._nesting += 1
            try:
                yield from keyword(validator, value, instance, schema)
            finally:
                self._nesting -= 1

        return run
