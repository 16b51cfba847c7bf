"""Prompts, their versions and labels, and what sessions keep. Values only."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Final

from fleetplane_prompts import VariableSpec

PRODUCTION: Final = "production"
"""Label that everybody gets who has no other."""

LATEST: Final = "latest"
"""Label of the newest version; it is not stored, and nobody moves it."""

_SEPARATOR: Final = "\x1f"
"""Between the parts of a key; no name holds it, and a session may hold anything else."""


class PromptType(StrEnum):
    """How content is made."""

    TEXT = "TEXT"
    """One text."""
    CHAT = "CHAT"
    """Messages with roles."""


class PromptReason(StrEnum):
    """Why a version was chosen."""

    SESSION_PIN = "SESSION_PIN"
    EXPERIMENT = "EXPERIMENT"
    AGENT_LABEL = "AGENT_LABEL"
    PRODUCTION = "PRODUCTION"


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptMessage:
    """One message; of a prompt that is one text the only one, without a role."""

    role: str = ""
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptContent:
    """What a version says: everything that its digest covers.

    Attributes:
        type: Text or chat.
        messages: One without a role for a text.
        variables: What its variables take, by name, all of them.
        config: What goes with it, as JSON.
    """

    type: PromptType
    messages: tuple[PromptMessage, ...]
    variables: Mapping[str, VariableSpec] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The text of a prompt that is one; empty for a chat."""
        return self.messages[0].content if self.type is PromptType.TEXT else ""

    @property
    def templates(self) -> tuple[tuple[str, str], ...]:
        """Role and template of every message."""
        return tuple((message.role, message.content) for message in self.messages)


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptVersion:
    """One version; once written it never changes.

    Attributes:
        prompt: Of which prompt.
        version: 1, 2, 3 ...
        content: What it says.
        content_sha256: Digest of `content`, see `content.digest_of`.
        size_bytes: Bytes of its messages.
        parent: Version that was the newest before; 0 for the first.
        restored_from: Version that it restores; 0: none.
        author: Who wrote it.
        reason: Why.
    """

    prompt: str
    version: int
    content: PromptContent
    content_sha256: str
    size_bytes: int
    parent: int = 0
    restored_from: int = 0
    author: str = ""
    reason: str = ""
    created_at_ms: int = 0
    revision: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """Where a label is.

    A label is written before the revision of that commit is known: `revision` and `moved_at_ms` 0
    mean those of the record that it is in, and are filled in when that is written next.
    """

    version: int
    moved_by: str = ""
    reason: str = ""
    revision: int = 0
    moved_at_ms: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelGate:
    """What has to hold before a label moves; see the contract for the bounds.

    Attributes:
        dataset_sha256: Evaluations have to be of this data set.
        scorer: And of this scorer.
        scorer_version: At this version; empty: any, the same on both sides.
        min_items: Fewest items.
        max_drop: Loss of the mean score that is accepted.
        pass_score: Score from which a trial has passed, where nobody says.
        max_cost_growth: Growth of costs that is accepted; 0.2 is 20 %.
        max_latency_growth: The same for the 95th percentile of latency.
        critical_items: Items that must not go from pass to fail, besides those that say so.
        set_by: Who set it.
        reason: Why.
        baseline_version: Where the label was when it was removed; 0: it was not.
    """

    dataset_sha256: str = ""
    scorer: str = ""
    scorer_version: str = ""
    min_items: int = 50
    max_drop: float = 0.02
    pass_score: float = 0.5
    max_cost_growth: float = 0.2
    max_latency_growth: float = 0.2
    critical_items: tuple[str, ...] = ()
    set_by: str = ""
    reason: str = ""
    baseline_version: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A prompt: all that moves. One record, so that one condition guards all of it.

    Attributes:
        name: Its name.
        latest_version: Its newest version.
        latest_sha256: Digest of that.
        labels: Where labels are, without `latest`.
        agent_labels: Agent name -> label that it gets instead of `production`.
        gates: Label -> its gate.
        created_by: Who made it.
    """

    name: str
    latest_version: int
    latest_sha256: str
    labels: Mapping[str, Label] = field(default_factory=dict)
    agent_labels: Mapping[str, str] = field(default_factory=dict)
    gates: Mapping[str, LabelGate] = field(default_factory=dict)
    created_by: str = ""
    created_at_ms: int = 0
    updated_at_ms: int = 0
    revision: int = 0

    def label(self, name: str) -> Label | None:
        """Return where a label is, complete; None: there is none. `latest` always is."""
        if name == LATEST:
            return Label(version=self.latest_version)
        known = self.labels.get(name)
        return None if known is None else self._complete(known)

    def all_labels(self) -> dict[str, Label]:
        """Return all labels, complete, `latest` among them, by name."""
        names = sorted((*self.labels, LATEST))
        return {name: label for name in names if (label := self.label(name)) is not None}

    def settled(self) -> "Prompt":
        """Return the prompt with every label complete: what a change has to begin with."""
        return replace(self, labels={k: self._complete(v) for k, v in self.labels.items()})

    def _complete(self, label: Label) -> Label:
        if label.revision:
            return label
        return replace(label, revision=self.revision, moved_at_ms=self.updated_at_ms)


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelMove:
    """One entry of the history of labels. `to_version` 0: removed."""

    label: str
    from_version: int
    to_version: int
    moved_by: str
    reason: str
    verdict: str = ""
    override_reason: str = ""
    updated_at_ms: int = 0
    revision: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptPin:
    """What a session began with. Written once; only `used_at_ms` moves on.

    Attributes:
        prompt: Which prompt.
        agent_name: Which agent; empty: none.
        session_id: Which session.
        version: The version that it keeps.
        label: Label it was reached by.
        experiment: Experiment that gave it; empty: none.
        variant: And its variant.
        phase: Phase of the experiment then; 0: none, or written before phases were kept.
        reason: Why it was chosen at first.
        resolved_revision: Revision of the prompt then.
        used_at_ms: When it was last asked for, to about a tenth of its life.
    """

    prompt: str
    agent_name: str
    session_id: str
    version: int
    label: str = ""
    experiment: str = ""
    variant: str = ""
    reason: PromptReason = PromptReason.PRODUCTION
    resolved_revision: int = 0
    used_at_ms: int = 0
    revision: int = 0
    phase: int = 0


def version_key(prompt: str, version: int) -> str:
    """Return the key of a version."""
    return f"{prompt}{_SEPARATOR}{version}"


def pin_key(prompt: str, agent_name: str, session_id: str) -> str:
    """Return the key of what an agent keeps in a session.

    The agent belongs to it: agents of one session may have different labels, and none may decide
    for another one.
    """
    return f"{prompt}{_SEPARATOR}{agent_name}{_SEPARATOR}{session_id}"


def labels_history(prompt: str) -> str:
    """Return the name of the history of labels in the ledger."""
    return f"promptlabels/{prompt}"
