"""What the environment says about the connection of a client."""

from collections.abc import Mapping
from pathlib import Path
from typing import TypedDict

from fleetplane._channel import DEFAULT_TARGET
from fleetplane._enrolled import EnrolledIdentity


class ClientArguments(TypedDict):
    """Arguments of `FleetClient`."""

    target: str
    namespace: str
    token: str | Path
    ca: Path | None
    cert: Path | None
    key: Path | None
    identity: EnrolledIdentity | None


def read_environment(environ: Mapping[str, str], agent_name: str) -> ClientArguments:
    """Return the arguments that the FLEETPLANE_ variables stand for; an empty one is not there.

    Args:
        environ: the variables.
        agent_name: who enrols; empty: nobody does.

    Raises:
        ValueError: variables contradict each other, or a join token is there without a name.
    """

    def text(name: str) -> str:
        return environ.get(f"FLEETPLANE_{name}", "").strip()

    def path(name: str) -> Path | None:
        return Path(text(name)) if text(name) else None

    if text("TOKEN") and text("TOKEN_FILE"):
        raise ValueError("set FLEETPLANE_TOKEN or FLEETPLANE_TOKEN_FILE, not both")
    if text("JOIN_TOKEN") and text("JOIN_TOKEN_FILE"):
        raise ValueError("set FLEETPLANE_JOIN_TOKEN or FLEETPLANE_JOIN_TOKEN_FILE, not both")
    join_token = text("JOIN_TOKEN") or path("JOIN_TOKEN_FILE") or ""
    if join_token and not agent_name:
        raise ValueError("FLEETPLANE_JOIN_TOKEN is for agents: pass agent_name=...")
    target = text("ADDRESS") or DEFAULT_TARGET
    ca = path("CA")
    identity = None
    if agent_name and (join_token or text("STATE_DIR")):
        identity = EnrolledIdentity(
            agent_name,
            join_token=join_token,
            enroll_target=text("ENROLL_ADDRESS") or target,
            ca=ca,
            state_dir=path("STATE_DIR"),
        )
    return ClientArguments(
        target=target,
        namespace=text("NAMESPACE"),
        token=text("TOKEN") or path("TOKEN_FILE") or "",
        ca=None if identity is not None else ca,
        cert=path("CERT"),
        key=path("KEY"),
        identity=identity,
    )
