"""What the reconciler saw of the world when it asked the machine. Values only."""

from dataclasses import dataclass
from enum import StrEnum

from controlplane.domain.agents import AgentStatus
from controlplane.domain.drains import DrainPhase
from controlplane.domain.rollouts.model import NO_COUNTS, BeatMark, Counts


class Approval(StrEnum):
    """What configuration and policies say about activating the new version."""

    UNKNOWN = "UNKNOWN"
    """Nobody asked, because nothing depends on it yet."""
    GRANTED = "GRANTED"
    WANTED = "WANTED"
    """A policy wants an operator to confirm it."""
    REFUSED = "REFUSED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """One of the two versions."""

    status: AgentStatus
    stopped: bool = False
    """An operator stopped or retired it; a version that fell silent is not stopped."""
    draining: bool = False
    fresh: int = 0
    """Instances that beat in time."""
    silent: int = 0
    """Instances that are SILENT or LOST."""
    slots: int = 0
    """Tasks that the fresh instances may hold at the same time."""

    @property
    def is_live(self) -> bool:
        """Whether it takes, or finishes, work."""
        return self.status is AgentStatus.ACTIVE or self.status is AgentStatus.DEGRADED

    @property
    def may_come_back(self) -> bool:
        """Whether it does no work now, and nobody has decided that it shall not."""
        return not self.is_live and not self.stopped


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """Everything a decision depends on, besides the record and the time."""

    canary: Version | None
    """The new version; None: it is not registered."""
    stable: Version | None
    """The old version."""
    canary_counts: Counts = NO_COUNTS
    """Outcomes since the step was entered, as they are now."""
    stable_counts: Counts = NO_COUNTS
    marks: tuple[BeatMark, ...] = ()
    """The marks that these counts stand on, brought up to date."""
    marks_at_entry: tuple[BeatMark, ...] = ()
    """The marks of a step that would be entered now."""
    traffic: bool = False
    """The new version has or had work in this step."""
    baseline: Counts = NO_COUNTS
    """The newest outcomes of the old version."""
    demand: int = 0
    """Slots that the work of the agent name takes now, waiting tasks included."""
    approval: Approval = Approval.UNKNOWN
    approval_detail: str = ""
    emergency: bool = False
    """An emergency stop since the rollout began is about the new version."""
    approval_parked: bool = False
    """The activation waits for its confirmation already."""
    drain: DrainPhase | None = None
    """Of the version that goes; None: none was started, or it was forgotten."""
    pinned_work: bool = False
    """Sessions that are pinned to the version that goes have tasks that have not ended."""
    mass_silence: bool = False
    """Most of the fleet is silent: nobody is judged by silence or by missing work."""
