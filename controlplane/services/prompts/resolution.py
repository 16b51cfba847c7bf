"""Which version an agent has to use, and why; and prompts with their variables filled in.

The order: what the session began with, the variant of an experiment, the label of the agent,
`production`. `choose` is all of it but the first, from memory; sessions are looked after by `pins`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from controlplane.domain.errors import AgentNotFound, FieldViolation, InvalidArgument
from controlplane.domain.identity import Caller
from controlplane.domain.prompts.model import (
    PRODUCTION,
    Prompt,
    PromptPin,
    PromptReason,
    PromptVersion,
)
from controlplane.domain.prompts.refusals import LabelNotFound
from controlplane.services.prompts.catalogue import chosen_version, find_prompt, find_version
from controlplane.services.prompts.pins import PromptPins
from controlplane.services.prompts.ports import PromptExperiments, PromptUse
from controlplane.services.read_model import NamespaceView, ReadModel
from fleetplane_prompts import Rendered, VariableError, render

MAX_SESSION_BYTES: Final = 256
"""Bytes of a session's id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """The answer, see the contract of ResolvePrompt."""

    version: PromptVersion
    reason: PromptReason
    revision: int
    label: str = ""
    experiment: str = ""
    variant: str = ""
    phase: int = 0
    pinned: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """Who asks for which prompt. Empty: for no agent, in no session."""

    prompt: str
    agent_id: str = ""
    session_id: str = ""
    pin: bool = True
    min_revision: int = 0


class PromptResolution:
    """Answers which version to use."""

    def __init__(
        self, read_model: ReadModel, pins: PromptPins, experiments: PromptExperiments
    ) -> None:
        self._read_model = read_model
        self._pins = pins
        self._experiments = experiments

    async def resolve(self, namespace: str, question: Question, caller: Caller) -> Resolved:
        """Return the version to use. With a session, what is answered first is kept for it.

        Raises:
            InvalidArgument: the session's id is too long.
            PromptNotFound: there is no such prompt.
            AgentNotFound: there is no such agent.
            LabelNotFound: no label applies.
            StoreUnavailable: the session's pin cannot be written.
            NotReady: `min_revision` was not reached in time, or nothing is loaded yet.
        """
        check_session(question.session_id)
        view = await self._read_model.at_least(namespace, question.min_revision)
        prompt = find_prompt(view, question.prompt)
        agent_name = agent_name_of(view, question.agent_id)
        session_id = question.session_id
        if not (session_id and question.pin):
            return self.choose(view, prompt, agent_name, session_id)
        pin = self._pins.find(view, prompt.name, agent_name, session_id)
        if pin is not None:
            await self._pins.renew(namespace, pin, caller)
            return _kept(view, pin)
        chosen = self.choose(view, prompt, agent_name, session_id)
        fresh = PromptPin(
            prompt=prompt.name,
            agent_name=agent_name,
            session_id=session_id,
            version=chosen.version.version,
            label=chosen.label,
            experiment=chosen.experiment,
            variant=chosen.variant,
            phase=chosen.phase,
            reason=chosen.reason,
            resolved_revision=chosen.revision,
        )
        kept = await self._pins.keep(view, fresh, caller)
        if kept is None:
            return chosen
        if kept.version == chosen.version.version:
            return _kept(view, kept, chosen.version, reason=kept.reason)
        # Another replica has answered first, from a state that this one may not have seen yet.
        view = await self._read_model.at_least(namespace, kept.revision)
        return _kept(view, kept)

    def choose(
        self, view: NamespaceView, prompt: Prompt, agent_name: str, session_id: str
    ) -> Resolved:
        """Return what somebody gets who has nothing pinned.

        Raises:
            LabelNotFound: neither the agent's label nor `production` is anywhere.
        """
        dealt = self._experiments.assign(view, prompt.name, agent_name=agent_name, unit=session_id)
        if dealt is not None and 1 <= dealt.version <= prompt.latest_version:
            return Resolved(
                version=find_version(view, prompt.name, dealt.version),
                reason=PromptReason.EXPERIMENT,
                revision=prompt.revision,
                experiment=dealt.experiment,
                variant=dealt.variant,
                phase=dealt.phase,
            )
        own = prompt.agent_labels.get(agent_name, "") if agent_name else ""
        for name, reason in (
            (own, PromptReason.AGENT_LABEL),
            (PRODUCTION, PromptReason.PRODUCTION),
        ):
            label = prompt.labels.get(name) if name else None
            if label is not None:
                return Resolved(
                    version=find_version(view, prompt.name, label.version),
                    reason=reason,
                    revision=prompt.revision,
                    label=name,
                )
        raise LabelNotFound(prompt.name, own or PRODUCTION)

    def render(
        self,
        namespace: str,
        prompt: str,
        *,
        version: int,
        label: str,
        values: Mapping[str, Any],
    ) -> tuple[PromptVersion, Rendered]:
        """Fill in the variables of a version (0: of a label).

        Raises:
            PromptNotFound: there is no such prompt.
            PromptVersionNotFound: it has no such version.
            LabelNotFound: it has no such label.
            InvalidArgument: a variable is missing, unknown, of another type or too long.
            NotReady: nothing is loaded yet.
        """
        view = self._read_model.view(namespace)
        found = chosen_version(view, prompt, version, label or PRODUCTION)
        try:
            rendered = render(found.content.templates, found.content.variables, values)
        except VariableError as error:
            wrong = FieldViolation(f"variables.{error.name}", error.why)
            raise InvalidArgument(wrong) from None
        return found, rendered

    async def mark_used(
        self, namespace: str, use: PromptUse, *, agent_id: str, is_fallback: bool
    ) -> bool:
        """Say that a prompt is used; return whether an experiment has recorded it.

        Raises:
            InvalidArgument: the version has another digest, or a fallback names a version.
            PromptNotFound: there is no such prompt.
            PromptVersionNotFound: it has no such version.
            AgentNotFound: there is no such agent.
            StoreUnavailable: it cannot be recorded now.
        """
        check_session(use.session_id)
        view = self._read_model.view(namespace)
        find_prompt(view, use.prompt)
        if is_fallback:
            if use.version:
                raise InvalidArgument.of("version", "must be 0: a fallback is no version")
        elif find_version(view, use.prompt, use.version).content_sha256 != use.content_sha256:
            raise InvalidArgument.of("content_sha256", "is not the digest of that version")
        if not use.experiment:
            return False
        named = replace(use, agent_name=agent_name_of(view, agent_id))
        return await self._experiments.exposed(namespace, named)


def agent_name_of(view: NamespaceView, agent_id: str) -> str:
    """Return the name of an agent; empty for nobody.

    Raises:
        AgentNotFound: there is no such agent.
    """
    if not agent_id:
        return ""
    entry = view.agents.get(agent_id)
    if entry is None:
        raise AgentNotFound(agent_id)
    return entry.agent.spec.name


def check_session(session_id: str) -> None:
    """Check the id of a session.

    Raises:
        InvalidArgument: it is longer than 256 bytes, or holds characters that do not print.
    """
    if len(session_id.encode()) > MAX_SESSION_BYTES:
        raise InvalidArgument.of("session_id", f"is longer than {MAX_SESSION_BYTES} bytes")
    if session_id and not session_id.isprintable():
        raise InvalidArgument.of("session_id", "holds characters that do not print")


def _kept(
    view: NamespaceView,
    pin: PromptPin,
    version: PromptVersion | None = None,
    *,
    reason: PromptReason = PromptReason.SESSION_PIN,
) -> Resolved:
    return Resolved(
        version=version or find_version(view, pin.prompt, pin.version),
        reason=reason,
        revision=pin.resolved_revision,
        label=pin.label,
        experiment=pin.experiment,
        variant=pin.variant,
        phase=pin.phase,
        pinned=True,
    )
