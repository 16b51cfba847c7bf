"""The client of all services of one control plane."""

import asyncio
import logging
import os
from types import TracebackType
from typing import Final, Self

from fleetplane._access import AccessCalls
from fleetplane._approvals import ApprovalCalls
from fleetplane._audit import AuditCalls
from fleetplane._channel import DEFAULT_TARGET, ChannelConfig
from fleetplane._configs import ConfigCalls
from fleetplane._connected import Connected, Connection
from fleetplane._credentials import CredentialSource, FilePath, choose_credentials
from fleetplane._decisions import DecisionCalls
from fleetplane._enrolled import EnrolledIdentity
from fleetplane._environment import read_environment
from fleetplane._experiments import ExperimentCalls
from fleetplane._identity import IdentityCalls
from fleetplane._lifecycle import LifecycleCalls
from fleetplane._local_calls import LocalPolicyCalls
from fleetplane._namespaces import NamespaceCalls
from fleetplane._policies import PolicyCalls
from fleetplane._policy_sets import PolicySetCalls
from fleetplane._policy_settings import PolicySettingsCalls
from fleetplane._prompt_evaluations import PromptEvaluationCalls
from fleetplane._prompt_labels import PromptLabelCalls
from fleetplane._prompts import PromptCalls
from fleetplane._registry import RegistryCalls
from fleetplane._rollouts import RolloutCalls
from fleetplane._routes import RouteCalls
from fleetplane._session import FleetSession
from fleetplane._standing_grants import StandingGrantCalls
from fleetplane._tasks import TaskCalls

_log: Final = logging.getLogger("fleetplane")

_KEEP_AGAIN: Final = 5.0
"""Seconds after which credentials are looked after again, when a defect has stopped that."""


class FleetClient(
    RegistryCalls,
    ConfigCalls,
    PolicyCalls,
    PolicySetCalls,
    PolicySettingsCalls,
    LocalPolicyCalls,
    DecisionCalls,
    LifecycleCalls,
    TaskCalls,
    RouteCalls,
    RolloutCalls,
    PromptCalls,
    PromptLabelCalls,
    PromptEvaluationCalls,
    ExperimentCalls,
    ApprovalCalls,
    StandingGrantCalls,
    IdentityCalls,
    AccessCalls,
    NamespaceCalls,
    AuditCalls,
):
    """Every call of the control plane, typed, with deadlines, retries and typed errors.

    Use it as an asynchronous context manager; it belongs to the event loop that enters it. One
    client per process is enough: calls share its connection, concurrent policy questions share
    messages, and all agents made with it share one heartbeat stream.

        async with FleetClient("127.0.0.1:50051") as client:
            best = await client.find_best_agent(capabilities=["translate"])

        async with FleetClient("plane:50051", ca="ca.pem", token=Path("/run/token")) as client:
            print(await client.who_am_i())

    Files of credentials are read again when they change: calls and streams in flight go on, all
    others use the new ones.

    Args:
        target: address of the daemon: `host:port`, `dns:///name:port` or `unix:/path`.
        namespace: tenant of every call. Empty: that of the identity, or `default`.
        token: bearer token, or the file with it.
        ca: authorities that may vouch for the daemon, in PEM, or the file with them.
        cert: file with the certificate chain of this client in PEM, for daemons that demand one.
        key: file with its key in PEM.
        identity: what gets and renews the certificate of an agent, instead of `cert` and `key`.
        channel_config: deadlines, retries, keepalive, and what else is about security.

    Raises:
        ValueError: credentials contradict each other: half a certificate, or two ways to say who
            this is.
    """

    def __init__(
        self,
        target: str = DEFAULT_TARGET,
        *,
        namespace: str = "",
        token: str | os.PathLike[str] = "",
        ca: bytes | FilePath | None = None,
        cert: FilePath | None = None,
        key: FilePath | None = None,
        identity: EnrolledIdentity | None = None,
        channel_config: ChannelConfig | None = None,
    ) -> None:
        config = channel_config or ChannelConfig()
        Connected.__init__(self, target, namespace, config)
        self._identity = identity
        self._source: CredentialSource | None = choose_credentials(
            config, identity, token=token, ca=ca, cert=cert, key=key
        )
        self._keeper: asyncio.Task[None] | None = None
        self._batchers = {}
        self._session: FleetSession | None = None

    @classmethod
    def from_environment(
        cls, *, agent_name: str = "", channel_config: ChannelConfig | None = None
    ) -> Self:
        """Return a client as the environment describes it, to be entered with `async with`.

        FLEETPLANE_ADDRESS: address of the daemon. FLEETPLANE_NAMESPACE: tenant. FLEETPLANE_TOKEN
        or FLEETPLANE_TOKEN_FILE: bearer token. FLEETPLANE_CA, FLEETPLANE_CERT, FLEETPLANE_KEY:
        files in PEM. For agents that enrol: FLEETPLANE_JOIN_TOKEN, the secret, or
        FLEETPLANE_JOIN_TOKEN_FILE, the file with it; FLEETPLANE_ENROLL_ADDRESS, the port for TLS,
        by default FLEETPLANE_ADDRESS; FLEETPLANE_STATE_DIR, where the identity is kept.

        Args:
            agent_name: name of the agent that enrols, with FLEETPLANE_JOIN_TOKEN or an identity
                that is in FLEETPLANE_STATE_DIR already.
            channel_config: deadlines, retries, keepalive, and what else is about security.

        Raises:
            ValueError: variables contradict each other, or a join token is there without a name.
        """
        return cls(**read_environment(os.environ, agent_name), channel_config=channel_config)

    async def __aenter__(self) -> Self:
        """Open the channel; it connects at its first call. An identity enrols first, if it must.

        Raises:
            RuntimeError: it is open already.
            ValueError: a token would travel in plain text to another machine, or a file of
                credentials holds none.
            OSError: a file of credentials cannot be read.
            FleetError: the daemon refuses the join token, or is away.
        """
        if self._connection is not None:
            raise RuntimeError("the client is open already")
        source = self._source
        if source is None:
            self._connection = Connection(self._target, self._channel_config)
            return self
        config = await source.obtain(self._channel_config)
        self._connection = Connection(self._target, config, source.look)
        if self._identity is not None:
            self._namespace = self._namespace or self._identity.namespace
        self._keeper = asyncio.get_running_loop().create_task(
            _keep(source, self._connection), name="fleetplane-credentials"
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    @property
    def session(self) -> FleetSession:
        """What the agents of this client share: one heartbeat stream, one configuration watch."""
        if self._session is None:
            self._session = FleetSession(self, self.connection)
        return self._session

    async def aclose(self) -> None:
        """Stop the session, give up calls in flight, close the channel; idempotent."""
        session, self._session = self._session, None
        keeper, self._keeper = self._keeper, None
        try:
            if keeper is not None:
                keeper.cancel()
                await asyncio.gather(keeper, return_exceptions=True)
            if session is not None:
                await session.aclose()
            await self._close_batchers()
        finally:
            connection, self._connection = self._connection, None
            if connection is not None:
                await connection.channel.close(None)


async def _keep(source: CredentialSource, connection: Connection) -> None:
    """Look after the credentials of a connection, whatever happens."""
    while True:
        try:
            await source.keep(connection)
        except Exception:  # noqa: BLE001  # a defect of ours must not let credentials run out
            _log.exception("the credentials were not looked after for a moment")
        else:
            return
        await asyncio.sleep(_KEEP_AGAIN)
