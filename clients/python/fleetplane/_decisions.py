"""Recorded decisions as the client offers them: found, read, explained again."""

from collections.abc import AsyncIterator, Collection
from datetime import datetime
from typing import TypedDict, Unpack

from fleetplane._connected import Connected
from fleetplane._enums import PolicyAction
from fleetplane._values import to_timestamp
from fleetplane.v1 import decision_service_pb2 as pb
from fleetplane.v1 import policy_service_pb2 as policy_pb


class DecisionFilter(TypedDict, total=False):
    """What one looks for among recorded decisions; all that is given must hold.

    since: made at that moment or later. until: made before it. agent_id, agent_name: of whom.
    action: a glob, such as `db:*`. tool, session_id: exactly. effects: one of these answers.
    policy_id: in which this policy decided, lost, was observed or could not be determined.
    """

    since: datetime | None
    until: datetime | None
    agent_id: str
    agent_name: str
    action: str
    tool: str
    session_id: str
    effects: Collection[PolicyAction]
    policy_id: str


class DecisionCalls(Connected):
    """The log of decisions.

    Every method takes `timeout`, its deadline in seconds over all attempts (None: the channel's
    default), and raises `FleetError` when it is refused or nobody answers.
    """

    async def get_decision(
        self, decision_id: str, *, timeout: float | None = None
    ) -> pb.RecordedDecision:
        """Return one recorded decision.

        Raises:
            NotFound: it is not recorded, or not any more (DECISION_NOT_FOUND).
        """
        connection = self.connection
        request = pb.GetDecisionRequest(namespace=self.namespace, decision_id=decision_id)
        response = await connection.call(connection.decisions.GetDecision, request, timeout)
        return response.decision

    async def query_decisions_page(
        self,
        *,
        page_size: int = 0,
        page_token: str = "",
        timeout: float | None = None,
        **wanted: Unpack[DecisionFilter],
    ) -> pb.QueryDecisionsResponse:
        """Return one page of the log, newest first; see `DecisionFilter` for what can be wanted.

        It may hold fewer than `page_size` entries (at most 1,000; 0: 100), even none, and still
        have a next one. Gaps, where decisions were not recorded, are among the entries.

        Raises:
            ValueError: a moment has no time zone.
        """
        connection = self.connection
        since, until = wanted.get("since"), wanted.get("until")
        request = pb.QueryDecisionsRequest(
            namespace=self.namespace,
            to=None if until is None else to_timestamp(until),
            agent_id=wanted.get("agent_id", ""),
            agent_name=wanted.get("agent_name", ""),
            action=wanted.get("action", ""),
            tool=wanted.get("tool", ""),
            session_id=wanted.get("session_id", ""),
            effects=[policy_pb.PolicyAction.ValueType(one) for one in wanted.get("effects", ())],
            policy_id=wanted.get("policy_id", ""),
            page_size=page_size,
            page_token=page_token,
        )
        if since is not None:
            getattr(request, "from").CopyFrom(to_timestamp(since))  # a word of Python
        return await connection.call(connection.decisions.QueryDecisions, request, timeout)

    async def query_decisions(
        self,
        *,
        page_size: int = 0,
        timeout: float | None = None,
        **wanted: Unpack[DecisionFilter],
    ) -> AsyncIterator[pb.DecisionEntry]:
        """Iterate over the log page by page; `timeout` is that of each page."""
        token = ""
        while True:
            page = await self.query_decisions_page(
                page_size=page_size, page_token=token, timeout=timeout, **wanted
            )
            for entry in page.entries:
                yield entry
            token = page.next_page_token
            if not token:
                return

    async def explain_decision(
        self, decision_id: str, *, why_not: str = "", timeout: float | None = None
    ) -> pb.ExplainDecisionResponse:
        """Judge a recorded decision again, on the facts and claims of then.

        Args:
            decision_id: which one.
            why_not: id of a policy; the answer also says why that one did not decide.
            timeout: see the class.

        Raises:
            NotFound: it is not recorded, or not any more (DECISION_NOT_FOUND).
        """
        connection = self.connection
        request = pb.ExplainDecisionRequest(
            namespace=self.namespace, decision_id=decision_id, why_not_policy_id=why_not
        )
        return await connection.call(connection.decisions.ExplainDecision, request, timeout)
