"""The rules of docs/store-security.md, read from the page, and users that have them."""

import itertools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tests.fakes.valkey import ValkeyServer

PAGE: Final = Path(__file__).resolve().parents[2] / "docs" / "store-security.md"
SECRET: Final = "pass-WORD-4711"  # noqa: S105 - of servers that live for a test
USER: Final = "fleetplane"

_BLOCK: Final = re.compile(r'```text title="([^"]+)"\nACL SETUSER (.+)\n```')
_ROW: Final = re.compile(r"^\| `([A-Z ]+)` \| .+ \| (.+) \|$", re.MULTILINE)


def rules() -> Mapping[str, str]:
    """The rules of the page, by their titles' first words."""
    found = {m[1].split()[0].lower(): m[2] for m in _BLOCK.finditer(PAGE.read_text())}
    assert set(found) == {"standalone", "cluster", "the"}, found
    return found


def without() -> Mapping[str, str]:
    """What the page says about the lack of each command, such as {"xinfo|stream": "ends"}."""
    return {m[1].lower().replace(" ", "|"): m[2] for m in _ROW.finditer(PAGE.read_text())}


def commands(rule: str) -> list[str]:
    return [word[1:] for word in rule.split() if word.startswith("+")]


RULE: Final = rules()["standalone"]
CLUSTER_RULE: Final = rules()["cluster"]

_numbers: Final = itertools.count()


def fresh(name: str) -> str:
    return f"{name}-{next(_numbers)}"


def rule_for(user: str, rule: str = RULE, *, lacking: str = "") -> str:
    """Return the command that gives the rule to a user, less one command."""
    words = [word for word in rule.split() if word != f"+{lacking}"]
    assert lacking == "" or len(words) == len(rule.split()) - 1
    said = " ".join(words).replace(USER, user, 1).replace(">PASSWORD", f">{SECRET}")
    return f"ACL SETUSER {said}"


def url_for(server: ValkeyServer, user: str = USER) -> str:
    return server.url.replace("//", f"//{user}:{SECRET}@", 1)


async def give(server: ValkeyServer, command: str) -> None:
    assert await server.command(command) == "+OK\r\n"
