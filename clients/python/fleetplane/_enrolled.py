"""The identity of an agent: got with a join token, kept on disk, renewed while it is used."""

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from fleetplane._channel import ChannelConfig
from fleetplane._credentials import FilePath
from fleetplane._enrolment import Enroller, default_state_dir
from fleetplane._identity_store import IdentityStore
from fleetplane._renewal import Renewal

if TYPE_CHECKING:  # the connection imports nothing of this, its client does
    from fleetplane._connected import Connection


class EnrolledIdentity:
    """The identity of one agent: a certificate that looks after itself.

    The first client that uses it makes a key, enrols with the join token, and keeps key and
    certificate in the state directory, readable for its owner only; the next start finds them there
    and needs no join token. With another join token than the one before it enrols again: that may
    be for another namespace or control plane. While the client is open the certificate is replaced
    at half its life, and the connection with it, without a call or beat that fails. If that cannot
    be done until the certificate ends, the agent enrols again, as often as the join token allows.

    One certificate is one agent name, and one identity serves one client: agents of different names
    need an identity and a client each. Processes of one agent may share a state directory.

        identity = EnrolledIdentity(
            "summarizer", join_token=Path("join-token"), enroll_target="plane:50051", ca="ca.pem"
        )
        async with FleetClient("plane:50052", identity=identity) as client:
            ...

    Args:
        agent_name: name of the agent.
        join_token: the secret of a join token, or the file with it, read whenever it is needed.
            Empty: what the state directory has must do.
        enroll_target: address of the daemon's port for TLS (`--listen`), where agents enrol. The
            client connects to the port that demands certificates (`--listen-mtls`).
        ca: authorities that may vouch for the daemon when the agent enrols, in PEM, or the file
            with them. None: those of the system. Those that the daemon sends are trusted from then
            on.
        state_dir: where the identity is kept; one directory per control plane. None:
            `fleetplane` in $XDG_STATE_HOME, or in `~/.local/state`.

    Raises:
        ImportError: the extra is missing: `pip install fleetplane-client[identity]`.
    """

    def __init__(
        self,
        agent_name: str,
        *,
        join_token: str | os.PathLike[str] = "",
        enroll_target: str,
        ca: bytes | FilePath | None = None,
        state_dir: FilePath | None = None,
    ) -> None:
        directory = default_state_dir() if state_dir is None else Path(state_dir)
        self._agent_name = agent_name
        self._enroller = Enroller(
            agent_name,
            join_token=join_token if isinstance(join_token, str) else Path(join_token),
            target=enroll_target,
            ca=ca if isinstance(ca, bytes | None) else Path(ca),
            store=IdentityStore(directory, agent_name),
        )
        self._renewal: Renewal | None = None

    @property
    def agent_name(self) -> str:
        """Name of the agent."""
        return self._agent_name

    @property
    def namespace(self) -> str:
        """Tenant of the agent, as the join token says; empty before the first enrolment."""
        held = self._enroller.held
        return held.namespace if held is not None else ""

    @property
    def spiffe_id(self) -> str:
        """The identity in the certificate; empty before the first enrolment."""
        held = self._enroller.held
        return held.spiffe_id if held is not None else ""

    @property
    def expires_at(self) -> datetime | None:
        """When the present certificate ends; None before the first enrolment."""
        held = self._enroller.held
        return None if held is None else datetime.fromtimestamp(held.expires_at, UTC)

    @property
    def error(self) -> Exception | None:
        """Why the last attempt to replace the certificate failed; None since one worked."""
        return self._renewal.error if self._renewal is not None else None

    async def obtain(self, config: ChannelConfig) -> ChannelConfig:
        """Find the certificate on disk, or enrol; the client does this when it is entered.

        Raises:
            FleetError: the daemon refuses the join token, or is away.
            OSError: the state directory, the join token or the authorities cannot be used.
        """
        return await self._enroller.begin(config)

    async def look(self) -> ChannelConfig | None:
        """Have the certificate replaced now; the client does this when the daemon refuses it."""
        if self._renewal is not None:
            await self._renewal.hurry()
        return None  # the renewal has exchanged it already

    async def keep(self, connection: "Connection") -> None:
        """Replace the certificate whenever it is due; the client does this while it is open."""
        self._renewal = Renewal(self._enroller, connection)
        await self._renewal.run()
