"""What differs between two versions."""

from collections.abc import Iterator
from dataclasses import dataclass
from difflib import unified_diff
from typing import Any, Final

from controlplane.domain.prompts.content import leaves_of
from controlplane.domain.prompts.model import PromptContent, PromptType, PromptVersion

MAX_DIFF_CHARACTERS: Final = 512 * 1024
"""Characters of a text diff: what both contents may hold together."""

CUT: Final = "... (cut)\n"
"""Last line of a text diff that goes on."""

MAX_COMPARED_LINES: Final = 2_000
"""Lines of one side that are matched with care; above, the diff replaces all. Matching costs the
square of what repeats."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeafDifference:
    """One changed leaf of config or variables. None: absent (`null` counts as absent too)."""

    path: str
    before: Any = None
    after: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionDifference:
    """All that differs."""

    text: str
    """Unified diff; empty if the content is the same."""
    leaves: tuple[LeafDifference, ...]

    @property
    def same(self) -> bool:
        """Whether nothing differs."""
        return not self.text and not self.leaves


def difference(before: PromptVersion, after: PromptVersion) -> VersionDifference:
    """Return what differs between two versions of a prompt."""
    old, new = leaves_of(before.content), leaves_of(after.content)
    return VersionDifference(
        text=_text(before, after),
        leaves=tuple(
            LeafDifference(path=path, before=old.get(path), after=new.get(path))
            for path in sorted(old.keys() | new.keys())
            if old.get(path) != new.get(path)
        ),
    )


def _text(before: PromptVersion, after: PromptVersion) -> str:
    names = (f"{before.prompt}@{before.version}", f"{after.prompt}@{after.version}")
    old, new = list(_lines(before.content)), list(_lines(after.content))
    if old == new:
        return ""
    if max(len(old), len(new)) > MAX_COMPARED_LINES:
        hunk = f"@@ -1,{len(old)} +1,{len(new)} @@\n"
        heads = [f"--- {names[0]}\n", f"+++ {names[1]}\n", hunk]
        found: Iterator[str] = iter([*heads, *(f"-{x}" for x in old), *(f"+{x}" for x in new)])
    else:
        found = unified_diff(old, new, *names)
    kept: list[str] = []
    length = 0
    for line in found:
        length += len(line) + 1
        if length > MAX_DIFF_CHARACTERS:
            kept.append(CUT)
            break
        kept.append(line if line.endswith("\n") else line + "\n")
    return "".join(kept)


def _lines(content: PromptContent) -> Iterator[str]:
    """Yield the content as lines, messages of a chat under their roles."""
    for message in content.messages:
        if content.type is PromptType.CHAT:
            yield f"[{message.role}]\n"
        yield from (line + "\n" for line in message.content.split("\n"))
