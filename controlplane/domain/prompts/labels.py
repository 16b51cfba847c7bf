"""How labels move: pure steps from one state of a prompt to the next."""

from dataclasses import replace
from typing import Final

from controlplane.domain.errors import InvalidArgument, LimitExceeded, RevisionConflict
from controlplane.domain.prompts.content import check_label
from controlplane.domain.prompts.model import (
    LATEST,
    PRODUCTION,
    Label,
    LabelGate,
    LabelMove,
    Prompt,
)
from controlplane.domain.prompts.refusals import LabelNotFound, PromptVersionNotFound

MAX_LABELS: Final = 50
"""Labels of a prompt: environments and trials, not versions."""

MAX_AGENT_LABELS: Final = 1_000
"""Agents of a prompt that have a label of their own."""

MAX_CRITICAL_ITEMS: Final = 1_000
"""Items that a gate calls critical."""

MAX_CRITICAL_BYTES: Final = 256 * 1024
"""Bytes of the critical items of all gates of a prompt: every change of the prompt writes them
anew, and every replica holds them."""

MAX_SCORER_BYTES: Final = 256
"""Bytes of the name or version of a scorer or model."""


def movable(label: str, field: str = "label") -> str:
    """Return the name of a label that may be moved; empty means `production`.

    Raises:
        InvalidArgument: it is `latest`, or malformed.
    """
    name = check_label(label or PRODUCTION, field)
    if name == LATEST:
        raise InvalidArgument.of(field, f"{LATEST!r} is always the newest version; name another")
    return name


def check_label_revision(prompt: Prompt, label: str, expected: int | None) -> None:
    """Check that a label is where the caller has seen it; `expected` 0: it must not exist.

    Raises:
        RevisionConflict: it is not.
    """
    known = prompt.label(label)
    current = known.revision if known is not None else 0
    if expected is not None and expected != current:
        raise RevisionConflict(
            f"label {label!r} of prompt {prompt.name!r}", expected=expected, current=current
        )


def moved(prompt: Prompt, label: str, version: int, *, by: str, reason: str) -> Prompt:
    """Return the prompt with a label at a version.

    Raises:
        PromptVersionNotFound: there is no such version.
        LimitExceeded: it would be the 51st label.
    """
    if not 1 <= version <= prompt.latest_version:
        raise PromptVersionNotFound(prompt.name, version)
    if label not in prompt.labels and len(prompt.labels) >= MAX_LABELS:
        raise LimitExceeded("labels of a prompt", limit=MAX_LABELS)
    before = prompt.settled()
    fresh = Label(version=version, moved_by=by, reason=reason)
    return replace(before, labels={**before.labels, label: fresh})


def removed(prompt: Prompt, label: str) -> Prompt:
    """Return the prompt without a label; its gate remembers where it was.

    Raises:
        LabelNotFound: there is no such label.
    """
    before = prompt.settled()
    known = before.labels.get(label)
    if known is None:
        raise LabelNotFound(prompt.name, label)
    gates = dict(before.gates)
    if label in gates:
        gates[label] = replace(gates[label], baseline_version=known.version)
    labels = {name: one for name, one in before.labels.items() if name != label}
    return replace(before, labels=labels, gates=gates)


def baseline_of(prompt: Prompt, label: str) -> int:
    """Return the version that a gate compares with; 0: the label never was anywhere."""
    known = prompt.label(label)
    if known is not None:
        return known.version
    gate = prompt.gates.get(label)
    return gate.baseline_version if gate is not None else 0


def move_entry(
    before: Prompt,
    label: str,
    to_version: int,
    *,
    by: str,
    reason: str,
    verdict: str = "",
    override_reason: str = "",
) -> LabelMove:
    """Return what the history of labels says of a move; `to_version` 0: a removal."""
    known = before.label(label)
    return LabelMove(
        label=label,
        from_version=known.version if known is not None else 0,
        to_version=to_version,
        moved_by=by,
        reason=reason,
        verdict=verdict,
        override_reason=override_reason,
    )


def with_agent_label(prompt: Prompt, agent_name: str, label: str) -> Prompt:
    """Return the prompt with the label of an agent; empty: it has none of its own.

    Raises:
        LimitExceeded: it would be the 1,001st.
    """
    before = prompt.settled()
    labels = {name: one for name, one in before.agent_labels.items() if name != agent_name}
    if label:
        if len(labels) >= MAX_AGENT_LABELS:
            raise LimitExceeded("agents with a label of their own", limit=MAX_AGENT_LABELS)
        labels[agent_name] = label
    return replace(before, agent_labels=labels)


def with_gate(prompt: Prompt, label: str, gate: LabelGate | None) -> Prompt:
    """Return the prompt with the gate of a label; None: without.

    Raises:
        LimitExceeded: it would be the 51st gate, or the critical items of all of them are too much.
    """
    before = prompt.settled()
    gates = {name: one for name, one in before.gates.items() if name != label}
    if gate is not None:
        known = prompt.gates.get(label)
        gates[label] = replace(gate, baseline_version=known.baseline_version if known else 0)
        if len(gates) > MAX_LABELS:
            raise LimitExceeded("gates of a prompt", limit=MAX_LABELS)
        named = (item for one in gates.values() for item in one.critical_items)
        if sum(len(item.encode()) for item in named) > MAX_CRITICAL_BYTES:
            what = "bytes of the critical items of a prompt"
            raise LimitExceeded(what, limit=MAX_CRITICAL_BYTES)
    return replace(before, gates=gates)
