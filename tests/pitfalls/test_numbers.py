"""The pitfalls are numbered 1-33; each has a test here."""

import re
from pathlib import Path


def test_every_pitfall_has_a_test_of_its_number() -> None:
    named = [
        int(number)
        for path in Path(__file__).parent.glob("test_*.py")
        for number in re.findall(r"^(?:async )?def test_(\d\d)_", path.read_text(), re.MULTILINE)
    ]
    assert sorted(named) == list(range(1, 34))
