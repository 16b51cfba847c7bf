"""The rows of what governs agents."""

from typing import Final

from tests.e2e.audited_rows import Row, Step

ROWS: Final[tuple[Row | Step, ...]] = ()
