"""Labels: moved, removed, given to agents, put under gates. Every move is kept."""

from dataclasses import dataclass
from typing import Final

from controlplane.domain.errors import RevisionConflict
from controlplane.domain.identity import Caller
from controlplane.domain.prompts.comparison import Comparison, Verdict, unevaluated
from controlplane.domain.prompts.evaluations import check_gate
from controlplane.domain.prompts.labels import (
    baseline_of,
    check_label_revision,
    move_entry,
    moved,
    removed,
    with_agent_label,
    with_gate,
)
from controlplane.domain.prompts.model import (
    Label,
    LabelGate,
    LabelMove,
    Prompt,
    labels_history,
)
from controlplane.domain.prompts.refusals import (
    GateBlocked,
    LabelNotFound,
    NotComparable,
    PromptNotFound,
)
from controlplane.services.ports import Append, Committed, Ledger, RequestKey
from controlplane.services.prompts.catalogue import evaluations_of, find_prompt
from controlplane.services.prompts.changes import Change, Order, PromptChanges
from controlplane.services.prompts.evaluations import Evaluations, like, newest_of
from controlplane.services.read_model import ReadModel

MOVES_KEPT: Final = 10_000
"""Moves kept per prompt: one every hour for a year."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """Which label shall go where, and why. `expected_revision` None: not checked."""

    prompt: str
    label: str
    version: int
    reason: str
    expected_revision: int | None = None
    override_reason: str = ""
    min_revision: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """Where a label is now, and what its gate said (None: it has none)."""

    name: str
    label: Label
    previous_version: int
    changed: bool
    comparison: Comparison | None = None
    overridden: bool = False


class PromptLabels:
    """Keeps the labels of prompts."""

    def __init__(self, ledger: Ledger, read_model: ReadModel, evaluations: Evaluations) -> None:
        self._ledger = ledger
        self._read_model = read_model
        self._evaluations = evaluations
        self._changes = PromptChanges(ledger)

    async def move(
        self, namespace: str, move: Move, *, request: RequestKey | None, caller: Caller
    ) -> Moved:
        """Move a label to a version, or make it.

        The gate judges against the version that the label is at when it is moved: the commit fails,
        and everything is looked at anew, if that has changed.

        Raises:
            PromptNotFound: there is no such prompt.
            PromptVersionNotFound: it has no such version.
            RevisionConflict: the label is not at the expected revision.
            GateBlocked: its gate does not pass, and it is not overridden.
            LimitExceeded: the prompt has too many labels.
            StoreUnavailable: too many callers change it at once.
        """
        order = Order(
            namespace=namespace,
            prompt=move.prompt,
            method="MoveLabel",
            caller=caller,
            reason=move.reason,
            request=request,
        )

        async def decide(current: Prompt | None) -> Change[Moved] | Moved:
            prompt = _existing(current, move.prompt)
            check_label_revision(prompt, move.label, move.expected_revision)
            after = moved(prompt, move.label, move.version, by=caller.name, reason=move.reason)
            known = prompt.label(move.label)
            if known is not None and known.version == move.version:
                return Moved(
                    name=move.label,
                    label=known,
                    previous_version=known.version,
                    changed=False,
                )
            comparison = await self._gate(namespace, prompt, move)
            return _move_change(prompt, after, move, comparison, caller)

        async def replayed(prompt: Prompt, _: Committed) -> Moved:
            known = prompt.label(move.label)
            if known is None:
                raise LabelNotFound(move.prompt, move.label)
            return Moved(name=move.label, label=known, previous_version=0, changed=True)

        return await self._changes.apply(order, decide, replayed)

    async def _gate(self, namespace: str, prompt: Prompt, move: Move) -> Comparison | None:
        """Return what the gate of the label says; None: it has none.

        Raises:
            GateBlocked: it does not pass, and there is no reason to override it.
        """
        rules = prompt.gates.get(move.label)
        if rules is None:
            return None
        comparison = await self._judge(namespace, prompt, move, rules)
        if comparison.verdict is not Verdict.PASS and not move.override_reason:
            why = "; ".join(comparison.reasons)
            raise GateBlocked(prompt.name, move.label, comparison.verdict.value, why)
        return comparison

    async def _judge(
        self, namespace: str, prompt: Prompt, move: Move, rules: LabelGate
    ) -> Comparison:
        before = baseline_of(prompt, move.label)
        view = await self._read_model.at_least(namespace, move.min_revision)
        found = evaluations_of(view, prompt.name)
        candidate = newest_of(found, move.version, rules)
        if candidate is None:
            what = f"version {move.version} was not evaluated as the gate asks for"
            return unevaluated(move.version, before, rules, what)
        if not before:
            return await self._evaluations.compared(namespace, candidate, None, rules)
        baseline = newest_of(found, before, like(candidate))
        if baseline is None:
            what = f"version {before}, where the label is, was not evaluated as the gate asks for"
            return unevaluated(move.version, before, rules, what)
        try:
            return await self._evaluations.compared(namespace, candidate, baseline, rules)
        except NotComparable as refusal:
            return unevaluated(move.version, before, rules, refusal.message)

    async def remove(
        self,
        namespace: str,
        name: str,
        label: str,
        *,
        expected_revision: int | None,
        reason: str,
        request: RequestKey | None,
        caller: Caller,
    ) -> int:
        """Remove a label; return the revision of the removal.

        Raises:
            PromptNotFound: there is no such prompt.
            LabelNotFound: it has no such label.
            RevisionConflict: the label is not at the expected revision.
            StoreUnavailable: too many callers change it at once.
        """
        order = Order(
            namespace=namespace,
            prompt=name,
            method="RemoveLabel",
            caller=caller,
            reason=reason,
            request=request,
        )

        async def decide(current: Prompt | None) -> Change[int] | int:
            prompt = _existing(current, name)
            check_label_revision(prompt, label, expected_revision)
            entry = move_entry(prompt, label, 0, by=caller.name, reason=reason)
            return Change(
                prompt=removed(prompt, label),
                event="prompt.label_removed",
                steps=(Append(labels_history(name), entry, keep=MOVES_KEPT),),
                details={"label": label, "from_version": str(entry.from_version)},
                answer=lambda _, committed: committed.revision,
            )

        async def replayed(_: Prompt, before: Committed) -> int:
            return before.revision

        return await self._changes.apply(order, decide, replayed)

    async def history(
        self, namespace: str, name: str, *, label: str, before: int | None, limit: int
    ) -> tuple[list[LabelMove], int]:
        """Return moves below a revision, newest first, and where the next page begins (0: nowhere).

        Of `limit` moves that are looked at, those of other labels are left out.

        Raises:
            PromptNotFound: there is no such prompt.
            StoreUnavailable: the store does not answer.
        """
        find_prompt(self._read_model.view(namespace), name)
        records = await self._ledger.read_history(
            namespace, labels_history(name), before=before, limit=limit + 1
        )
        moves: list[LabelMove] = [record.value for record in records[:limit]]
        more = moves[-1].revision if len(records) > limit else 0
        return [one for one in moves if label in {"", one.label}], more

    async def set_agent_label(
        self,
        namespace: str,
        name: str,
        agent_name: str,
        label: str,
        *,
        reason: str,
        request: RequestKey | None,
        caller: Caller,
    ) -> Prompt:
        """Give an agent name a label; empty: take it away.

        Raises:
            PromptNotFound: there is no such prompt.
            LimitExceeded: too many agents have one.
            StoreUnavailable: too many callers change it at once.
        """
        order = Order(
            namespace=namespace,
            prompt=name,
            method="SetAgentLabel" if label else "UnsetAgentLabel",
            caller=caller,
            reason=reason,
            request=request,
        )

        async def decide(current: Prompt | None) -> Change[Prompt] | Prompt:
            prompt = _existing(current, name)
            if prompt.agent_labels.get(agent_name, "") == label:
                return prompt
            return Change(
                prompt=with_agent_label(prompt, agent_name, label),
                event="prompt.agent_label_set" if label else "prompt.agent_label_unset",
                details={"agent_name": agent_name, "label": label},
                answer=_as_written,
            )

        return await self._changes.apply(order, decide, _as_it_is)

    async def set_gate(
        self,
        namespace: str,
        name: str,
        label: str,
        gate: LabelGate | None,
        *,
        expected_revision: int | None,
        reason: str,
        request: RequestKey | None,
        caller: Caller,
    ) -> Prompt:
        """Put a label under a gate; None: take the gate away.

        Raises:
            InvalidArgument: the gate is malformed.
            PromptNotFound: there is no such prompt.
            RevisionConflict: the prompt is not at the expected revision.
            StoreUnavailable: too many callers change it at once.
        """
        if gate is not None:
            check_gate(gate)
        order = Order(
            namespace=namespace,
            prompt=name,
            method="SetLabelGate",
            caller=caller,
            reason=reason,
            request=request,
        )

        async def decide(current: Prompt | None) -> Change[Prompt] | Prompt:
            prompt = _existing(current, name)
            if expected_revision is not None and expected_revision != prompt.revision:
                what = f"prompt {name!r}"
                raise RevisionConflict(what, expected=expected_revision, current=prompt.revision)
            if gate is None and label not in prompt.gates:
                return prompt
            return Change(
                prompt=with_gate(prompt, label, gate),
                event="prompt.gate_removed" if gate is None else "prompt.gate_set",
                details={
                    "label": label,
                    "dataset_sha256": gate.dataset_sha256 if gate is not None else "",
                },
                answer=_as_written,
            )

        return await self._changes.apply(order, decide, _as_it_is)


def _existing(prompt: Prompt | None, name: str) -> Prompt:
    if prompt is None:
        raise PromptNotFound(name)
    return prompt


def _as_written(prompt: Prompt, _: Committed) -> Prompt:
    return prompt


async def _as_it_is(prompt: Prompt, _: Committed) -> Prompt:
    return prompt


def _move_change(
    before: Prompt, after: Prompt, move: Move, comparison: Comparison | None, caller: Caller
) -> Change[Moved]:
    passed = comparison is None or comparison.verdict is Verdict.PASS
    verdict = comparison.verdict.value if comparison is not None else ""
    override = "" if passed else move.override_reason
    entry = move_entry(
        before,
        move.label,
        move.version,
        by=caller.name,
        reason=move.reason,
        verdict=verdict,
        override_reason=override,
    )
    details = {
        "label": move.label,
        "from_version": str(entry.from_version),
        "to_version": str(move.version),
    }
    if comparison is not None:
        details["verdict"] = verdict
        details["candidate_evaluation"] = comparison.candidate_id
        details["baseline_evaluation"] = comparison.baseline_id
    if override:
        details["override_reason"] = override

    def answer(prompt: Prompt, _: Committed) -> Moved:
        return Moved(
            name=move.label,
            label=prompt.all_labels()[move.label],
            previous_version=entry.from_version,
            changed=True,
            comparison=comparison,
            overridden=bool(override),
        )

    return Change(
        prompt=after,
        event="prompt.gate_overridden" if override else "prompt.label_moved",
        steps=(Append(labels_history(before.name), entry, keep=MOVES_KEPT),),
        details=details,
        answer=answer,
    )
