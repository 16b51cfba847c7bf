"""Follows what is dealt to an agent."""

from typing import Any

from fleetplane._connected import Connection
from fleetplane._watches import MAX_SILENCE, Watch
from fleetplane.v1 import experiment_service_pb2 as pb
from fleetplane.v1 import watch_pb2


class ExperimentWatch(Watch[pb.WatchExperimentsResponse, pb.DealtExperiments]):
    """All running experiments that are for an agent: as they are now, and after every change.

    Each event replaces the one before. Goes on after any interruption.
    """

    def __init__(
        self,
        connection: Connection,
        namespace: str,
        agent_name: str,
        *,
        max_silence: float = MAX_SILENCE,
    ) -> None:
        super().__init__(max_silence, connection.call)
        self._connection = connection
        self._request = pb.WatchExperimentsRequest(namespace=namespace, agent_name=agent_name)

    def _open(self) -> Any:
        stub, call = self._connection.experiments, self._connection.call
        return stub.WatchExperiments(self._request, metadata=call.metadata)

    def _receive(self, message: pb.WatchExperimentsResponse) -> watch_pb2.GoAway | None:
        match message.WhichOneof("event"):
            case "dealt":
                self._ready.clear()
                self._ready.append(message.dealt)
            case "go_away":
                return message.go_away
            case _:
                pass  # a bookmark
        return None

    def _deliver(self, event: pb.DealtExperiments) -> None:
        del event
