"""What the decision points of one client share: watches of the policies, and the reports.

Needs the extra `policies`.
"""

from collections.abc import Sequence
from typing import Any

from fleetplane._config import Position
from fleetplane._connected import Connection
from fleetplane._decision_reports import DecisionRecorder
from fleetplane._decision_sink import DaemonSink
from fleetplane._fail_modes import LocalDecisions
from fleetplane._local_policies import LocalPolicies
from fleetplane._policy_feed import PolicyFeed
from fleetplane.v1 import policy_service_pb2 as pb


class LocalSide:
    """One watch for every 1,000 agents, and one recorder.

    Args:
        connection: the open channel.
        namespace: tenant.
    """

    def __init__(self, connection: Connection, namespace: str) -> None:
        self._connection = connection
        self._namespace = namespace
        self._feeds: list[PolicyFeed] = []
        self._recorder: DecisionRecorder | None = None

    def decision_point(self, agent_ids: Sequence[str], options: LocalDecisions) -> LocalPolicies:
        """Return what decides for some agents.

        Raises:
            ValueError: no agent or too many, or malformed options.
        """
        feed = next((one for one in self._feeds if one.room >= len(agent_ids)), None)
        if feed is None:
            feed = PolicyFeed(self._open, caller=self._connection.call)
            self._feeds.append(feed)
        if options.record and self._recorder is None:
            self._recorder = DecisionRecorder(DaemonSink(self._connection, self._namespace))
        return LocalPolicies(
            feed,
            self._recorder if options.record else None,
            agent_ids,
            max_staleness=options.max_staleness,
            fail_mode=options.fail_mode,
        )

    async def aclose(self) -> None:
        """End the watches, report what is left; idempotent."""
        feeds, self._feeds = self._feeds, []
        recorder, self._recorder = self._recorder, None
        for feed in feeds:
            await feed.aclose()
        if recorder is not None:
            await recorder.aclose()

    def _open(self, agents: list[pb.WatchedPolicyAgent], held: Position) -> Any:
        request = pb.WatchPoliciesRequest(
            namespace=self._namespace, agents=agents, held=held.to_message()
        )
        connection = self._connection
        return connection.policies.WatchPolicies(request, metadata=connection.call.metadata)
