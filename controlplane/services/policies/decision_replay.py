"""Judges recorded decisions again, on the facts and claims of then."""

from dataclasses import dataclass
from typing import Protocol

from controlplane.domain.decisions.masking import readers_of_masked
from controlplane.domain.decisions.records import DecisionRecord
from controlplane.domain.decisions.why_not import WhyNot, why_not
from controlplane.domain.policies import Decision, ExplainLevel, PolicySet, Request
from controlplane.services.policies.recorded_decisions import RecordedDecisions
from controlplane.services.policies.staging import rules_for
from controlplane.services.read_model import NamespaceView, ReadModel


class PolicyArchive(Protocol):
    """Knows the policies of earlier revisions."""

    async def rules_at(
        self, namespace: str, revision: int, candidate_id: str = ""
    ) -> PolicySet | None:
        """Return what decided at a revision; None if that is not known any more.

        `candidate_id` is that of the decision, if a staged candidate made it.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Explained:
    """A decision, judged again."""

    recorded: DecisionRecord
    replayed: Decision
    """With explanations of every enabled policy."""
    by_recorded_revision: bool
    """False: by the policies of today, because those of then are not known."""
    unreliable: tuple[str, ...]
    """Policies that read masked values."""
    why_not: WhyNot | None


class DecisionReplay:
    """Explains recorded decisions."""

    def __init__(
        self, recorded: RecordedDecisions, read_model: ReadModel, archive: PolicyArchive
    ) -> None:
        self._recorded = recorded
        self._read_model = read_model
        self._archive = archive

    async def explain(
        self, namespace: str, decision_id: str, *, why_not_policy_id: str = ""
    ) -> Explained:
        """Judge one decision again; say also why a policy did not decide it, if one is named.

        Raises:
            InvalidArgument: that is no decision_id.
            DecisionNotFound: it is not recorded, or not any more.
            StoreUnavailable: the store does not answer.
        """
        record = await self._recorded.get(namespace, decision_id)
        view = self._read_model.view(namespace)
        then = await self._rules_of(view, record)
        rules = view.policy_set if then is None else then
        request = request_of(record)
        decision = rules.evaluate(request, explain=ExplainLevel.FULL)
        reason = None
        if why_not_policy_id:
            reason = why_not(
                why_not_policy_id,
                rules.get(why_not_policy_id),
                rules.why_not(why_not_policy_id, request),
                decision,
            )
        return Explained(
            recorded=record,
            replayed=decision,
            by_recorded_revision=then is not None,
            unreliable=readers_of_masked(decision.explanation or (), record.masked_paths),
            why_not=reason,
        )

    async def _rules_of(self, view: NamespaceView, record: DecisionRecord) -> PolicySet | None:
        """Return the policies that made a decision; None if they are not known any more."""
        revision, candidate_id = record.decision.revision, record.decision.candidate_id
        for rules in (view.policy_set, rules_for(view, record.agent_id)):
            if rules.revision == revision and rules.candidate_id == candidate_id:
                return rules
        found = await self._archive.rules_at(view.name, revision, candidate_id)
        if found is None or record.policy_digest not in {"", found.digest}:
            return None
        return found


def request_of(record: DecisionRecord) -> Request:
    """Return what a recorded decision was about, to be judged again."""
    return Request(
        agent_id=record.agent_id,
        action=record.action,
        facts=record.facts,
        claims=record.claims,
        now_ms=record.at_ms,
        tool=record.tool,
    )
