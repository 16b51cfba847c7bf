"""Prompts as agents use them: a version, what was resolved, and texts with variables filled in."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

from fleetplane._enums import OpenEnum
from fleetplane._values import JsonValue, from_struct
from fleetplane.v1 import prompt_service_pb2 as pb
from fleetplane_prompts import Rendered, VariableSpec, VariableType, render, variable_names


class PromptReason(OpenEnum):
    """Why a version was chosen."""

    UNSPECIFIED = 0
    """It was not: it is a fallback, or asked for by label."""
    SESSION_PIN = 1
    """The session began with it."""
    EXPERIMENT = 2
    """An experiment gives it to this unit."""
    AGENT_LABEL = 3
    """The label of the agent is at it."""
    PRODUCTION = 4
    """`production` is at it."""


class GateVerdict(OpenEnum):
    """What a comparison of two evaluated versions says."""

    UNSPECIFIED = 0
    """Nothing that this SDK knows."""
    PASS = 1
    """Good enough, and enough evidence for it."""
    REGRESSION = 2
    """Worse."""
    INSUFFICIENT = 3
    """Not enough evidence to say."""


@dataclass(frozen=True, slots=True)
class PromptMessage:
    """One message of a chat."""

    role: str
    """`system`, `developer`, `user`, `assistant` or `tool`."""
    content: str
    """Text with variables as `{{name}}`, or with them filled in."""

    def to_message(self) -> pb.PromptMessage:
        """Return the message as it travels."""
        return pb.PromptMessage(role=self.role, content=self.content)


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptVersion:
    """One version of a prompt; it never changes."""

    prompt: str
    """Of which prompt."""
    version: int
    """1, 2, 3 ...; 0 for a fallback."""
    messages: tuple[PromptMessage, ...]
    """Of a text one, without a role."""
    variables: Mapping[str, VariableSpec] = field(default_factory=dict)
    """What its variables take, by name."""
    config: Mapping[str, JsonValue] = field(default_factory=dict)
    """What goes with it, such as model and temperature."""
    content_sha256: str = ""
    """Digest of all that."""
    parent: int = 0
    """Version that was the newest before."""
    restored_from: int = 0
    """Version that it restores; 0: none."""
    author: str = ""
    """Who wrote it."""
    reason: str = ""
    """Why."""
    revision: int = 0
    """Revision of the namespace that wrote it."""

    @property
    def is_text(self) -> bool:
        """Whether it is one text; else a chat."""
        return len(self.messages) == 1 and not self.messages[0].role

    @property
    def text(self) -> str:
        """The text of a prompt that is one; empty for a chat."""
        return self.messages[0].content if self.is_text else ""

    def render(self, variables: Mapping[str, JsonValue]) -> Rendered:
        """Fill in the variables, strictly; values are never expanded.

        Raises:
            VariableError: one is missing, unknown, of another type or too long; names it.
        """
        return render([(one.role, one.content) for one in self.messages], self.variables, variables)

    @classmethod
    def from_message(cls, message: pb.PromptVersion) -> "PromptVersion":
        """Read a version that travelled."""
        if message.messages:
            messages = tuple(PromptMessage(one.role, one.content) for one in message.messages)
        else:
            messages = (PromptMessage("", message.text),)
        return cls(
            prompt=message.prompt,
            version=message.version,
            messages=messages,
            variables=MappingProxyType({one.name: _spec(one) for one in message.variables}),
            config=MappingProxyType(from_struct(message.config)),
            content_sha256=message.content_sha256,
            parent=message.parent,
            restored_from=message.restored_from,
            author=message.author,
            reason=message.reason,
            revision=message.revision,
        )


_TYPES: Final = {
    pb.PROMPT_VARIABLE_TYPE_NUMBER: VariableType.NUMBER,
    pb.PROMPT_VARIABLE_TYPE_BOOLEAN: VariableType.BOOLEAN,
    pb.PROMPT_VARIABLE_TYPE_JSON: VariableType.JSON,
}


def _spec(variable: pb.PromptVariable) -> VariableSpec:
    return VariableSpec(
        type=_TYPES.get(variable.type, VariableType.STRING),
        required=not variable.optional,
        max_length=variable.max_length,
        description=variable.description,
    )


def variable_to_message(name: str, spec: VariableSpec) -> pb.PromptVariable:
    """Return what a variable takes as it travels."""
    return pb.PromptVariable(
        name=name,
        type=pb.PromptVariableType.Value(f"PROMPT_VARIABLE_TYPE_{spec.type.value}"),
        optional=not spec.required,
        max_length=spec.max_length,
        description=spec.description,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedPrompt:
    """What an agent uses: a version, and why this one. `mark_prompt_used` takes it."""

    version: PromptVersion
    """The version; of a fallback number 0."""
    reason: PromptReason = PromptReason.UNSPECIFIED
    """Why."""
    label: str = ""
    """Label it was reached by."""
    experiment: str = ""
    """Experiment that gave it; empty: none."""
    variant: str = ""
    """And its variant."""
    experiment_phase: int = 0
    """Phase of the experiment that gave it: of what a session keeps, the one that it kept it in."""
    pinned: bool = False
    """Whether the session keeps it."""
    is_fallback: bool = False
    """It is what the program itself declared, because there was nothing better."""
    session_id: str = ""
    """Session it was resolved for."""
    agent_id: str = ""
    """Agent it was resolved for."""

    @property
    def name(self) -> str:
        """Name of the prompt."""
        return self.version.prompt

    @property
    def content_sha256(self) -> str:
        """Digest of what is used."""
        return self.version.content_sha256

    @property
    def config(self) -> Mapping[str, JsonValue]:
        """What goes with it, such as model and temperature."""
        return self.version.config

    def render(self, **variables: JsonValue) -> str:
        """Return the text with its variables filled in, strictly.

        A fallback takes what the real prompt takes: variables that it does not name are left out.

        Raises:
            VariableError: a variable is missing, unknown, of another type or too long; names it.
            TypeError: it is a chat; use `render_messages`.
        """
        if not self.version.is_text:
            raise TypeError(f"prompt {self.name!r} is a chat: use render_messages")
        return self._rendered(variables).messages[0].content

    def render_messages(self, **variables: JsonValue) -> tuple[PromptMessage, ...]:
        """Return the messages with their variables filled in, strictly; of a text one.

        Raises:
            VariableError: as `render`.
        """
        rendered = self._rendered(variables).messages
        return tuple(PromptMessage(one.role, one.content) for one in rendered)

    def _rendered(self, variables: Mapping[str, JsonValue]) -> Rendered:
        if not self.is_fallback:
            return self.version.render(variables)
        known = variable_names(one.content for one in self.version.messages)
        specs = {name: VariableSpec(type=_type_of(variables.get(name))) for name in known}
        named = {name: value for name, value in variables.items() if name in known}
        messages = [(one.role, one.content) for one in self.version.messages]
        return render(messages, specs, named)

    @classmethod
    def from_message(
        cls, message: pb.ResolvePromptResponse, agent_id: str, session_id: str
    ) -> "ResolvedPrompt":
        """Read an answer that travelled."""
        return cls(
            version=PromptVersion.from_message(message.version),
            reason=PromptReason(message.reason),
            label=message.label,
            experiment=message.experiment,
            variant=message.variant,
            experiment_phase=message.experiment_phase,
            pinned=message.pinned,
            session_id=session_id,
            agent_id=agent_id,
        )


def _type_of(value: Any) -> VariableType:
    match value:
        case bool():
            return VariableType.BOOLEAN
        case int() | float():
            return VariableType.NUMBER
        case None | str():
            return VariableType.STRING
        case _:
            return VariableType.JSON


Fallback = str | Sequence[PromptMessage]
"""What a program uses when there is nothing better: a text, or messages."""


def fallback_prompt(name: str, fallback: Fallback) -> ResolvedPrompt:
    """Return a fallback as something that can be used."""
    if isinstance(fallback, str):
        messages: tuple[PromptMessage, ...] = (PromptMessage("", fallback),)
    else:
        messages = tuple(fallback)
    digest = hashlib.sha256()
    for one in messages:
        digest.update(f"{one.role}\x1f{one.content}\x1e".encode())
    version = PromptVersion(
        prompt=name,
        version=0,
        messages=messages,
        content_sha256=f"sha256:{digest.hexdigest()}",
    )
    return ResolvedPrompt(version=version, is_fallback=True)
