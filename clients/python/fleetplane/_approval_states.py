"""Where approvals stand, and what people say about them."""

from fleetplane._enums import OpenEnum


class ApprovalState(OpenEnum):
    """Where an approval stands."""

    UNSPECIFIED = 0
    """Not a state; in a filter: any."""
    PENDING = 1
    """Waits for votes."""
    GRANTED = 2
    """May be used, once, for a while."""
    DENIED = 3
    """Somebody said no."""
    EXPIRED = 4
    """Nobody said enough in time, or the grant was not used in time."""
    CANCELLED = 5
    """Taken back before it was decided."""
    SUPERSEDED = 6
    """The policies ask for more than it says; another one takes its place."""
    REVOKED = 7
    """The grant was taken back."""
    CONSUMED = 8
    """The grant was used."""

    @property
    def ended(self) -> bool:
        """Whether it never changes again."""
        return self not in {self.UNSPECIFIED, self.PENDING, self.GRANTED}


class ApprovalVote(OpenEnum):
    """What somebody says about an approval."""

    UNSPECIFIED = 0
    """Refused."""
    GRANT = 1
    """Yes."""
    DENY = 2
    """No."""
    ADVISE = 3
    """An opinion for those who vote; recorded, never counted."""
