"""Decisions as bytes.

Policies give few different answers to many questions, and the engine hands out equal answers as one
object. Its message is therefore serialised once; an answer is those bytes and its own id. Messages
inside others are a tag, their length and their bytes, and fields may come in any order.
"""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final

from controlplane.api.convert.approvals import STATES
from controlplane.api.convert.policies import decision_to_proto
from controlplane.api.status import entry_error_of
from controlplane.api.wire import length_delimited, tag_and_length
from controlplane.domain.approvals.model import Approval
from controlplane.domain.errors import DomainError
from controlplane.domain.policies import Decision
from controlplane.services.policies.decisions import Answered
from fleetplane.v1 import policy_service_pb2 as pb

KEPT_DECISIONS: Final = 4096
"""Different answers whose bytes are kept, some 200 bytes each; beyond, keeping starts anew."""

_RESPONSE_DECISION: Final = pb.EvaluatePolicyResponse.DECISION_FIELD_NUMBER
_RESULT_DECISION: Final = pb.EvaluationResult.DECISION_FIELD_NUMBER
_BATCH_RESULTS: Final = pb.BatchEvaluatePolicyResponse.RESULTS_FIELD_NUMBER
_DECISION_ID: Final = pb.PolicyDecision.DECISION_ID_FIELD_NUMBER
_NO_APPROVALS: Final[Mapping[int, Approval]] = MappingProxyType({})
_ID_BYTES: Final = len("dec-") + 12 + 1 + 8 + 1 + 8
"""Length of an id until its process has decided four thousand million times."""


class DecisionBytes:
    """Renders the replies of EvaluatePolicy and BatchEvaluatePolicy."""

    def __init__(self) -> None:
        self._kept: dict[int, tuple[Decision, bytes]] = {}
        """`id` of a decision -> the decision, which keeps that id taken, and its bytes."""
        self._heads: dict[int, tuple[Decision, bytes]] = {}
        """The same of a result in a batch: all of it but an id of the usual length, its end."""

    def response(self, answer: Answered, approval: Approval | None = None) -> bytes:
        """Return a serialised `EvaluatePolicyResponse`; `approval` stands for what was asked."""
        about = b"" if approval is None else _about(approval)
        return length_delimited(_RESPONSE_DECISION, self._decision(answer) + about)

    def batch(
        self,
        revision: int,
        answers: Iterable[Answered | DomainError],
        approvals: Mapping[int, Approval] = _NO_APPROVALS,
    ) -> bytes:
        """Return a serialised `BatchEvaluatePolicyResponse`; `approvals` by place in `answers`."""
        heads, usual = self._heads, _ID_BYTES
        parts: list[bytes] = []
        for place, answer in enumerate(answers):
            if isinstance(answer, DomainError):
                refused = pb.EvaluationResult(error=entry_error_of(answer)).SerializeToString()
                parts.append(length_delimited(_BATCH_RESULTS, refused))
                continue
            decision, decision_id = answer.decision, answer.decision_id
            if len(decision_id) != usual or (approvals and place in approvals):
                parts.append(self._result(answer, approvals.get(place)))
                continue
            kept = heads.get(id(decision))
            head = self._head(decision) if kept is None else kept[1]
            parts += head, decision_id.encode()
        parts.append(pb.BatchEvaluatePolicyResponse(policy_revision=revision).SerializeToString())
        return b"".join(parts)

    def _result(self, answer: Answered, approval: Approval | None) -> bytes:
        about = b"" if approval is None else _about(approval)
        content = length_delimited(_RESULT_DECISION, self._decision(answer) + about)
        return length_delimited(_BATCH_RESULTS, content)

    def _head(self, decision: Decision) -> bytes:
        """Return a result in a batch without the id of usual length that is its end."""
        shared = self._shared(decision) + tag_and_length(_DECISION_ID, _ID_BYTES)
        size = len(shared) + _ID_BYTES
        about = tag_and_length(_RESULT_DECISION, size)
        head = tag_and_length(_BATCH_RESULTS, len(about) + size) + about + shared
        if decision.explanation is None:
            if len(self._heads) >= KEPT_DECISIONS:
                self._heads.clear()
            self._heads[id(decision)] = decision, head
        return head

    def _decision(self, answer: Answered) -> bytes:
        own = length_delimited(_DECISION_ID, answer.decision_id.encode())
        return self._shared(answer.decision) + own

    def _shared(self, decision: Decision) -> bytes:
        kept = self._kept.get(id(decision))
        if kept is not None:
            return kept[1]
        shared = decision_to_proto(decision).SerializeToString()
        if decision.explanation is None:  # explained answers are made anew each time
            if len(self._kept) >= KEPT_DECISIONS:
                self._kept.clear()
            self._kept[id(decision)] = decision, shared
        return shared


def _about(approval: Approval) -> bytes:
    """Return the fields of a `PolicyDecision` about the approval that stands for the action."""
    return pb.PolicyDecision(
        approval_id=approval.approval_id, approval_state=STATES.to_wire(approval.state)
    ).SerializeToString()
