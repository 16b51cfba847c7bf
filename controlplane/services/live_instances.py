"""Agents and instances as a replica holds them: the record, and what beats said since."""

from controlplane.domain.agents import Agent, Instance, InstanceState


class LiveInstance:
    """One instance with what its beats said. Mutable: beats are too many to copy a record each."""

    __slots__ = (
        "completed",
        "config_attempted",
        "config_error",
        "config_running",
        "config_status",
        "deadline_group_ms",
        "error_rate",
        "failed",
        "held",
        "in_flight",
        "instance",
        "last_beat_ms",
        "latency_ms",
        "outcome_mark",
        "outcome_mark_before",
        "outside",
        "progress_since",
        "progress_token",
        "seq",
        "stalled",
    )

    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        self.in_flight = 0
        self.held = 0
        """Tasks of the plane whose lease it holds: exact, by commits."""
        self.outside = 0
        """Work that the plane did not assign: `in_flight` of the last beat beyond what was held."""
        self.completed = 0
        self.failed = 0
        self.latency_ms = 0.0
        self.error_rate = 0.0
        self.outcome_mark = (0, 0, 0.0)
        """(completed, failed, monotonic time) where the current half of the error window began."""
        self.outcome_mark_before = (0, 0, 0.0)
        """The same of the half before: the error rate is measured from here."""
        self.seq = 0
        self.last_beat_ms = 0
        self.progress_token = ""
        self.progress_since = 0.0
        self.stalled = False
        self.deadline_group_ms = 0
        """Silence that this instance is granted; beats with the same grant share a store call."""
        self.config_attempted = 0
        self.config_running = 0
        self.config_status = 0
        self.config_error = ""

    @property
    def load(self) -> int:
        """Return how many slots are taken: by leases, and by work that the plane did not assign."""
        return self.held + self.outside

    def begin_generation(self, instance: Instance) -> None:
        """Take over a new process under the same instance_id: nothing it said before holds.

        Leases of the process before stay counted until they are taken back.
        """
        held = self.held
        self.__init__(instance)  # type: ignore[misc]  # a full reset is the meaning
        self.held = held


class AgentEntry:
    """One agent with its instances."""

    __slots__ = ("agent", "instances")

    def __init__(self, agent: Agent) -> None:
        self.agent = agent
        self.instances: dict[str, LiveInstance] = {}

    @property
    def last_beat_ms(self) -> int:
        """Time of the newest beat of any instance on the store's clock; 0 if there was none."""
        return max((live.last_beat_ms for live in self.instances.values()), default=0)

    def fresh_instances(self) -> list[LiveInstance]:
        """Return the instances that beat in time."""
        return [
            live for live in self.instances.values() if live.instance.state is InstanceState.FRESH
        ]


def carry_over(known: LiveInstance, live: LiveInstance) -> None:
    """Let a freshly loaded instance go on from what the one before heard in its beats."""
    instance = live.instance
    held = live.held  # counted from the leases that were loaded with it
    for slot in LiveInstance.__slots__:
        setattr(live, slot, getattr(known, slot))
    live.instance = instance
    live.held = held
