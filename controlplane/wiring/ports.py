"""What a replica stands on, opened by `app`."""

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from controlplane.domain.audit.chain import NO_KEYS, Keys
from controlplane.services.access.ports import (
    CertificateAuthority,
    CertificateReader,
    TokenVerifier,
)
from controlplane.services.approvals.notices import Webhook
from controlplane.services.audit.ports import AuditLog
from controlplane.services.policies.decision_log_port import DecisionLog
from controlplane.services.ports import BeatLog, ChangeFeed, IdSource, Ledger
from controlplane.services.store_clock import LearningClock

Loop = Callable[[], Coroutine[Any, Any, None]]
"""Something that runs as long as the replica does."""

OnTransition = Callable[[str, str], None]
"""Called with rollout id and point, directly before and after each commit of a rollout."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """What a replica stands on."""

    ledger: Ledger
    feed: ChangeFeed
    beat_log: BeatLog
    audit_log: AuditLog
    decision_log: DecisionLog
    clock: LearningClock
    ids: IdSource
    verifier: TokenVerifier | None = None
    """Of tokens of an identity provider; None: there is none."""
    reader: CertificateReader | None = None
    """Of client certificates; None: no port demands them."""
    authority: CertificateAuthority | None = None
    """Signs the certificates of agents; None: nobody does."""
    webhook: Webhook | None = None
    """Is told of approvals; None: nobody is."""
    audit_keys: Keys = NO_KEYS
    """What the audit is sealed with."""
