"""What an instance says about the configuration it was given.

*Attempted* and *running* are two numbers: an instance that refuses revision 9 and goes on with 7
has attempted 9 and runs 7.
"""

from dataclasses import dataclass, replace
from enum import StrEnum

MAX_ERROR_BYTES = 1024
"""UTF-8 bytes of an error kept per instance: the first lines name the cause."""


class AckStatus(StrEnum):
    """How the last attempt went."""

    UNSET = "UNSET"
    """Nothing reported; in a report: nothing new."""
    APPLYING = "APPLYING"
    """Received, not in force yet."""
    APPLIED = "APPLIED"
    """In force."""
    FAILED = "FAILED"
    """Refused or rolled back by the instance; it runs `running_revision`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigAck:
    """The state of one instance. Revisions are those of `EffectiveConfig.revision`; 0: none."""

    agent_id: str
    instance_id: str
    attempted_revision: int = 0
    """The newest revision the instance tried to apply."""
    running_revision: int = 0
    """The revision it runs now."""
    status: AckStatus = AckStatus.UNSET
    error: str = ""
    """Why it FAILED, at most 1 KiB; empty otherwise."""


def absorb(previous: ConfigAck | None, reported: ConfigAck) -> ConfigAck:
    """Return what is known of the instance after a report; `previous` itself if nothing is new.

    - UNSET says nothing. So does an attempt older than the known one, and APPLYING after the same
      attempt was APPLIED or FAILED: both are reports overtaken on the way.
    - FAILED may follow APPLIED (it broke later), APPLIED may follow FAILED (it tried again).
    - APPLIED without running what was attempted counts as APPLYING: no false success.
    - Errors belong to FAILED, and are cut to 1 KiB.

    The caller passes None for `previous` when the process is a new one (another generation): a
    restarted instance may well begin with an older revision. Raises ValueError when the two are of
    different instances.
    """
    known = _consistent(reported)
    if previous is None:
        return known
    if (previous.agent_id, previous.instance_id) != (known.agent_id, known.instance_id):
        raise ValueError(f"{known.instance_id} cannot answer for {previous.instance_id}")
    if known.status is AckStatus.UNSET or known.attempted_revision < previous.attempted_revision:
        return previous
    settled = previous.status in {AckStatus.APPLIED, AckStatus.FAILED}
    same_attempt = known.attempted_revision == previous.attempted_revision
    if settled and same_attempt and known.status is AckStatus.APPLYING:
        return previous
    return previous if known == previous else known


def _consistent(reported: ConfigAck) -> ConfigAck:
    """Return the report without contradictions in itself."""
    status = reported.status
    if status is AckStatus.APPLIED and reported.running_revision != reported.attempted_revision:
        status = AckStatus.APPLYING
    error = ""
    if status is AckStatus.FAILED:
        cut = reported.error.encode(errors="replace")[:MAX_ERROR_BYTES]
        error = cut.decode(errors="ignore")
    return replace(reported, status=status, error=error)
