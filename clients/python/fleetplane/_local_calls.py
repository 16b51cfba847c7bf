"""Decisions in this process, as the client offers them."""

from typing import TYPE_CHECKING

from fleetplane._connected import Connected
from fleetplane._fail_modes import MAX_STALENESS, FailMode, FailModes, LocalDecisions

if TYPE_CHECKING:  # needs the extra `policies`; the session is made by the client
    from fleetplane._local_policies import LocalPolicies
    from fleetplane._session import FleetSession


class LocalPolicyCalls(Connected):
    """Decides without a call, on a copy of the policies. Needs `fleetplane-client[policies]`."""

    @property
    def session(self) -> "FleetSession":
        """What all of a client's agents share."""
        raise NotImplementedError

    def local_policies(
        self,
        *agent_ids: str,
        max_staleness: float = MAX_STALENESS,
        fail_mode: FailModes = FailMode.RAISE,
        record: bool = True,
    ) -> "LocalPolicies":
        """Return what decides for 1-1,000 agents in this process; enter it with `async with`.

        Args:
            *agent_ids: the agents.
            max_staleness: seconds for which a copy may decide after the daemon was last heard.
            fail_mode: what is answered after that: one mode for all actions, or modes by glob, of
                which the first that matches holds, such as `{"read.*": "allow", "**": "deny"}`.
            record: report the decisions to the daemon, for its log.

        Raises:
            ValueError: no agent or too many, a malformed glob, no such mode.
            ModuleNotFoundError: the extra `policies` is not installed.
            RuntimeError: the client is closed.
        """
        options = LocalDecisions(max_staleness=max_staleness, fail_mode=fail_mode, record=record)
        return self.session.local_policies(agent_ids, options)
