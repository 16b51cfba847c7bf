"""What a replica's copy says about prompts: look-ups that refuse in the words of the domain."""

from bisect import bisect_right
from collections.abc import Mapping
from typing import Final
from weakref import WeakKeyDictionary

from controlplane.domain.prompts.evaluations import Evaluation
from controlplane.domain.prompts.model import LATEST, Prompt, PromptPin, PromptVersion, version_key
from controlplane.domain.prompts.refusals import (
    LabelNotFound,
    PromptNotFound,
    PromptVersionNotFound,
)
from controlplane.services.read_model import NamespaceView
from controlplane.services.transaction import Collection

VERSION_OVERHEAD_BYTES: Final = 1024
"""What a version counts besides its content: names, config, history."""


def prompts_of(view: NamespaceView) -> Mapping[str, Prompt]:
    """Return all prompts of a namespace by name."""
    return view.governance.table(Collection.PROMPTS)


def pins_of(view: NamespaceView) -> Mapping[str, PromptPin]:
    """Return what sessions keep, by `model.pin_key`."""
    return view.governance.table(Collection.PROMPT_PINS)


def find_prompt(view: NamespaceView, name: str) -> Prompt:
    """Return a prompt.

    Raises:
        PromptNotFound: there is none.
    """
    prompt = prompts_of(view).get(name)
    if prompt is None:
        raise PromptNotFound(name)
    return prompt


def find_version(view: NamespaceView, name: str, version: int) -> PromptVersion:
    """Return a version.

    Raises:
        PromptVersionNotFound: there is none.
    """
    found: PromptVersion | None = view.governance.table(Collection.PROMPT_VERSIONS).get(
        version_key(name, version)
    )
    if found is None:
        raise PromptVersionNotFound(name, version)
    return found


def chosen_version(view: NamespaceView, name: str, version: int, label: str) -> PromptVersion:
    """Return a version by its number, or by a label where that is 0.

    Raises:
        PromptNotFound: there is no such prompt.
        PromptVersionNotFound: it has no such version.
        LabelNotFound: it has no such label.
    """
    prompt = find_prompt(view, name)
    if version:
        return find_version(view, name, version)
    known = prompt.label(label or LATEST)
    if known is None:
        raise LabelNotFound(name, label)
    return find_version(view, name, known.version)


def page_of_names(
    view: NamespaceView, prefix: str, after: str, limit: int
) -> tuple[list[Prompt], int, str]:
    """Return prompts behind a name, how many there are in all, and the cursor of what follows."""
    known = prompts_of(view)
    names = sorted(name for name in known if name.startswith(prefix))
    start = bisect_right(names, after) if after else 0
    chosen = names[start : start + limit]
    more = start + limit < len(names)
    return [known[name] for name in chosen], len(names), chosen[-1] if more else ""


def evaluations_of(view: NamespaceView, prompt: str) -> list[Evaluation]:
    """Return the evaluations of a prompt, newest first."""
    table: Mapping[str, Evaluation] = view.governance.table(Collection.EVALUATIONS)
    found = [one for one in table.values() if one.prompt == prompt]
    return sorted(found, key=lambda one: one.revision, reverse=True)


class PromptBytes:
    """Counts what versions take, anew only when there are others."""

    def __init__(self) -> None:
        self._known: WeakKeyDictionary[NamespaceView, tuple[int, int]] = WeakKeyDictionary()

    def of(self, view: NamespaceView) -> int:
        """Return the bytes of all versions of a namespace, their overhead included."""
        at = view.governance.version(Collection.PROMPT_VERSIONS)
        known = self._known.get(view)
        if known is not None and known[0] == at:
            return known[1]
        versions: Mapping[str, PromptVersion] = view.governance.table(Collection.PROMPT_VERSIONS)
        total = sum(one.size_bytes + VERSION_OVERHEAD_BYTES for one in versions.values())
        self._known[view] = (at, total)
        return total
