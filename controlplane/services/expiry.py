"""What silence does: instances whose deadline passed become SILENT, then LOST, then are forgotten.

Every replica sweeps; there is no leader and no lock. A sweep asks the store whose deadline passed
on the store's clock, and each change holds only if that is still so when it is written.
"""

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from controlplane.domain.agents import InstanceState
from controlplane.domain.errors import StoreUnavailable
from controlplane.domain.liveness import LivenessSettings, after_silence, next_state
from controlplane.domain.mass_expiry import ZONE_TAG, Allowance, MassExpiry, MassState
from controlplane.services.families import (
    PLANE,
    Family,
    Move,
    caught_up,
    families_called,
)
from controlplane.services.live_instances import LiveInstance
from controlplane.services.ports import (
    ABSENT,
    AuditEntry,
    BeatLog,
    ClearDeadline,
    Clock,
    Collection,
    Committed,
    ConditionFailed,
    Ledger,
    Require,
    RequireExpired,
    Transaction,
)
from controlplane.services.read_model import NamespaceView, ReadModel

SWEEP_LIMIT: Final = 1_000
"""Instances expired in one sweep: a second's worth, a few milliseconds of the event loop."""

MAX_LOOK: Final = 20_000
"""Due instances looked at in one sweep when some of them are held back: beyond, the others wait."""

MAX_ROUNDS: Final = 3
"""Rounds of decide-commit in one sweep; what is contested longer is left to the next."""

CENSUS_SECONDS: Final = 1.0
"""Least time between two counts of the silent in a namespace."""

CENSUS_PER_SECOND: Final = 20_000
"""Instances counted per second on average: about 1 % of a core."""

CENSUS_CHUNK: Final = 5_000
"""Instances counted without a pause: about 2 ms of the event loop."""

_METHOD: Final = "Sweep"

_STATE_EVENTS: Final[Mapping[InstanceState | None, str]] = {
    InstanceState.STARTING: "",
    InstanceState.SILENT: "instance.silent",
    InstanceState.LOST: "instance.lost",
    None: "instance.forgotten",
}

_log = logging.getLogger("fleetplane.liveness")


@dataclass(frozen=True, slots=True, kw_only=True)
class Swept:
    """What one sweep of a namespace did."""

    due: int = 0
    """Instances whose deadline had passed (as far as it looked)."""
    moved: int = 0
    """Instances that changed."""
    held: int = 0
    """Instances held back because too many are silent."""
    state: MassState = MassState.CALM
    """Of the namespace as a whole."""


@dataclass(slots=True)
class _Watched:
    """A namespace (zone "") or one of its zones."""

    mass: MassExpiry
    allowance: Allowance = field(default_factory=Allowance)
    total: int = 0


@dataclass(slots=True)
class _Namespace:
    zones: dict[str, _Watched] = field(default_factory=dict)
    census_due_at: float = 0.0
    held: int = 0


class Expiry:
    """Sweeps namespaces."""

    def __init__(
        self,
        ledger: Ledger,
        beat_log: BeatLog,
        read_model: ReadModel,
        settings: LivenessSettings,
        clock: Clock,
    ) -> None:
        self._ledger = ledger
        self._beat_log = beat_log
        self._read_model = read_model
        self._settings = settings
        self._clock = clock
        self._namespaces: dict[str, _Namespace] = {}
        self.moved = 0
        """Instances expired by this replica since its start."""
        self.alarms = 0
        """How often expiry came to a stop since the start of this replica."""

    def is_holding_back(self, namespace: str) -> bool:
        """Return whether so many of a namespace are silent that expiry slows down or stands."""
        known = self._namespaces.get(namespace)
        whole = known.zones.get("") if known is not None else None
        return whole is not None and whole.mass.state is not MassState.CALM

    def mass_states(self) -> dict[tuple[str, str], MassState]:
        """Return (namespace, zone) -> state of all that are not CALM; zone "" is the whole."""
        return {
            (name, zone): watched.mass.state
            for name, known in self._namespaces.items()
            for zone, watched in known.zones.items()
            if watched.mass.state is not MassState.CALM
        }

    async def sweep(self, namespace: str) -> Swept:
        """Expire who is due, as far as rates allow. Idempotent: any replica may do it at any time.

        Raises:
            StoreUnavailable: the store did not answer; nothing is lost.
            NotReady: this replica has nothing loaded.
        """
        known = self._namespaces.setdefault(namespace, _Namespace())
        settings = self._settings
        store_ms, _, due = await self._beat_log.due(
            namespace,
            limit=min(SWEEP_LIMIT + known.held, MAX_LOOK),
            freeze_gap_ms=settings.freeze_gap_ms,
            grace_ms=settings.grace_ms,
        )
        view = self._read_model.view(namespace)
        alert = any(w.mass.state is not MassState.CALM for w in known.zones.values())
        if not due and not alert:
            known.held = 0
            return Swept()
        await self._take_census(view, known, due, store_ms)
        chosen = self._choose(view, known, due)
        known.held = len(due) - len(chosen)
        moved = await self._expire(view, chosen, store_ms) if chosen else 0
        self.moved += moved
        state = known.zones[""].mass.state
        return Swept(due=len(due), moved=moved, held=known.held, state=state)

    async def _take_census(
        self, view: NamespaceView, known: _Namespace, due: Sequence[str], store_ms: int
    ) -> None:
        """Count the silent, in the namespace and in each zone, if it is time to."""
        now = self._clock.monotonic()
        if now < known.census_due_at:
            return
        counts = await self._count(view, frozenset(due), store_ms)
        for zone in counts.keys() | known.zones.keys():
            watched = known.zones.get(zone)
            if watched is None:
                watched = known.zones[zone] = _Watched(MassExpiry(self._settings))
            silent, watched.total = counts.get(zone, (0, 0))
            before = watched.mass.state
            after = watched.mass.observe(silent=silent, total=watched.total, now=now)
            if after is not before:
                self._report(view.name, zone, before, after, silent, watched.total)
            if not watched.total and after is MassState.CALM and zone:
                del known.zones[zone]
        pause = len(view.instances) / CENSUS_PER_SECOND
        known.census_due_at = now + max(CENSUS_SECONDS, pause)

    async def _count(
        self, view: NamespaceView, due: frozenset[str], store_ms: int
    ) -> dict[str, tuple[int, int]]:
        """Return zone -> (silent, all) of the instances that have been fresh lately."""
        everybody = list(view.instances.values())
        zones: dict[str, list[int]] = {"": [0, 0]}
        for start in range(0, len(everybody), CENSUS_CHUNK):
            if start:
                await asyncio.sleep(0)
            self._count_some(view, everybody[start : start + CENSUS_CHUNK], due, store_ms, zones)
        return {zone: (silent, total) for zone, (silent, total) in zones.items()}

    def _count_some(
        self,
        view: NamespaceView,
        instances: Iterable[LiveInstance],
        due: frozenset[str],
        store_ms: int,
        zones: dict[str, list[int]],
    ) -> None:
        settings, agents, whole = self._settings, view.agents, zones[""]
        usual = settings.suspect_after(settings.degraded_after_ms)
        for live in instances:
            instance = live.instance
            state = instance.state
            owner = agents.get(instance.agent_id)
            if state is InstanceState.STARTING or state is InstanceState.LOST or owner is None:
                continue
            spec = owner.agent.spec
            own = spec.degraded_after_ms
            after = usual if own is None else settings.suspect_after(own)
            silent = (
                state is InstanceState.SILENT
                or (live.last_beat_ms > 0 and store_ms - live.last_beat_ms > after)
                or instance.instance_id in due
            )
            whole[0] += silent
            whole[1] += 1
            zone = spec.tags.get(ZONE_TAG)
            if zone:
                counts = zones.setdefault(zone, [0, 0])
                counts[0] += silent
                counts[1] += 1

    def _report(
        self,
        namespace: str,
        zone: str,
        before: MassState,
        after: MassState,
        silent: int,
        total: int,
    ) -> None:
        """Log a change of state once; count the alarm."""
        level = logging.INFO if after is MassState.CALM else logging.WARNING
        if after is MassState.STOPPED:
            self.alarms += 1
            level = logging.ERROR
        fields = {"namespace": namespace, "zone": zone, "silent": silent, "instances": total}
        states = {"before": str(before), "after": str(after)}
        _log.log(level, "mass silence changed the rate of expiry", extra=fields | states)

    def _choose(self, view: NamespaceView, known: _Namespace, due: Sequence[str]) -> list[str]:
        """Return those that may expire now, oldest first."""
        now = self._clock.monotonic()
        left: dict[str, int] = {}
        for zone, watched in known.zones.items():
            rate = watched.mass.rate(watched.total)
            left[zone] = watched.allowance.refill(rate=rate, now=now)
        chosen: list[str] = []
        for instance_id in due:
            zones = {"", _zone_of(view, instance_id)} & left.keys()
            if len(chosen) == SWEEP_LIMIT:
                break
            if all(left[zone] > 0 for zone in zones):
                chosen.append(instance_id)
                for zone in zones:
                    left[zone] -= 1
                    known.zones[zone].allowance.take(1)
        return chosen

    async def _expire(self, view: NamespaceView, due: Iterable[str], store_ms: int) -> int:
        """Commit what silence does to these instances; return how many changed."""
        contested, orphans = _by_agent(view, due)
        if orphans:
            for agent_id, names in (await self._find_orphans(view, orphans)).items():
                contested[agent_id] = names | contested.get(agent_id, set())
        moved = 0
        for attempt in range(MAX_ROUNDS):
            families = await families_called(
                self._ledger, self._read_model, view.name, contested, stored=attempt > 0
            )
            done, contested = await self._round(view.name, contested, families, store_ms)
            moved += done
            if not contested:
                break
        return moved

    async def _round(
        self,
        namespace: str,
        due: Mapping[str, set[str]],
        families: Mapping[str, Family],
        store_ms: int,
    ) -> tuple[int, dict[str, set[str]]]:
        """Try once; return how many instances changed, and what was contested."""
        planned: list[tuple[Move, Transaction]] = []
        for agent_id, names in due.items():
            family = families.get(agent_id)  # None: left to the next sweep, or to others.
            move = self._plan(family, names, store_ms) if family is not None else None
            if move is None or move.is_empty:
                continue
            steps = move.steps(self._settings, expired=True, store_ms=store_ms)
            event = _STATE_EVENTS[min(move.instances.values(), key=_severity)]
            audit = move.audit(_METHOD, event=event)
            transaction = Transaction(namespace=namespace, steps=steps, audit=audit)
            planned.append((move, transaction))
        if not planned:
            return 0, {}
        moved = 0
        contested: dict[str, set[str]] = {}
        results = await self._ledger.commit_many([transaction for _, transaction in planned])
        for (move, transaction), result in zip(planned, results, strict=True):
            if isinstance(result, Committed):
                moved += len(move.instances)
            elif names := _contested(move, transaction, result):
                contested[move.agent.agent_id] = names
        return moved, contested

    def _plan(self, family: Family, names: Iterable[str], store_ms: int) -> Move:
        """Decide where the due instances of one agent go."""
        settings, spec = self._settings, family.agent.spec
        moves: dict[str, InstanceState | None] = {}
        for name in sorted(names):
            instance = family.instances.get(name)
            if instance is None:
                continue
            silence = settings.silence_at_deadline(instance.state, spec)
            if instance.state is InstanceState.STARTING:
                silence = store_ms - instance.registered_at_ms
            moves[name] = next_state(instance, spec, settings, silence_ms=silence)
        agent = after_silence(family.agent, family.states_after(moves)) if moves else family.agent
        return Move(family=family, instances=moves, agent=agent)

    async def _find_orphans(self, view: NamespaceView, names: Sequence[str]) -> dict[str, set[str]]:
        """Hear of instances that the copy in memory lacks; clear the deadlines of nobody.

        Returns agent_id -> instances that exist.
        """
        records = await self._ledger.read(view.name, Collection.INSTANCES, names)
        found: dict[str, set[str]] = {}
        newest = 0
        nobody: list[Transaction] = []
        for name, record in zip(names, records, strict=True):
            if record is not None:
                found.setdefault(record.value.agent_id, set()).add(name)
                newest = max(newest, record.revision)
                continue
            steps = (
                RequireExpired(name),
                Require(Collection.INSTANCES, name, ABSENT),
                ClearDeadline(name),
            )
            audit = AuditEntry(actor=PLANE, method=_METHOD, object=f"instances/{name}")
            nobody.append(Transaction(namespace=view.name, steps=steps, audit=audit))
        if nobody:
            await self._ledger.commit_many(nobody)
        await caught_up(self._read_model, view.name, newest)
        return found


def _contested(move: Move, transaction: Transaction, failure: Exception) -> set[str]:
    """Return the instances to decide on again after a transaction failed."""
    match failure:
        case ConditionFailed(step=failed):
            names = set(move.instances)
            step = transaction.steps[failed]
            if isinstance(step, RequireExpired):
                names.discard(step.instance_id)  # It has beaten, or somebody was faster.
            return names
        case StoreUnavailable():
            return set()  # Due again in the next sweep.
        case _:
            raise failure


def _zone_of(view: NamespaceView, instance_id: str) -> str:
    live = view.instances.get(instance_id)
    owner = view.agents.get(live.instance.agent_id) if live is not None else None
    return owner.agent.spec.tags.get(ZONE_TAG, "") if owner is not None else ""


def _severity(state: InstanceState | None) -> int:
    """Order the outcomes of a sweep, the most severe first: it names the audit entry."""
    order = (InstanceState.LOST, InstanceState.SILENT, None, InstanceState.STARTING)
    return order.index(state)


def _by_agent(view: NamespaceView, due: Iterable[str]) -> tuple[dict[str, set[str]], list[str]]:
    """Return agent_id -> due instances, and those that are not known here."""
    grouped: dict[str, set[str]] = {}
    orphans: list[str] = []
    for instance_id in due:
        live = view.instances.get(instance_id)
        if live is None:
            orphans.append(instance_id)
        else:
            grouped.setdefault(live.instance.agent_id, set()).add(instance_id)
    return grouped, orphans
