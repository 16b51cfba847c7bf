"""Keeps writes within the quotas of their namespace.

What is there is counted in this replica's copy, together with what this replica is writing at the
moment. So calls of one replica never pass a bound together; replicas hear of each other's writes
within milliseconds, and pass it at most by what they wrote in that time.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from controlplane.domain.access.refusals import QuotaExceeded
from controlplane.domain.configs import ConfigLayer, LayerKind
from controlplane.domain.namespace_rules import exceeds
from controlplane.domain.namespaces import Quota
from controlplane.services.namespaces.usage import COUNTED, ConfigBytes, layer_bytes
from controlplane.services.ports import Position
from controlplane.services.read_model import NamespaceView, ReadModel

IsThere = Callable[[NamespaceView], bool]
"""Whether what was claimed is in a copy, and therefore counted there."""


class QuotaKeeper:
    """Knows the bounds. Belongs to one event loop; without a bound it costs two look-ups."""

    def __init__(self, read_model: ReadModel | None, sizes: ConfigBytes | None = None) -> None:
        """Keep the quotas that `read_model` knows (None: there are none).

        `sizes` measures configuration; shared with `Usage`, each layer is measured once.
        """
        self._read_model = read_model
        self._sizes = sizes or ConfigBytes()
        self._under_way: dict[tuple[str, Quota], _UnderWay] = {}

    def bound(self, namespace: str, quota: Quota) -> int:
        """Return a bound; 0: none.

        Raises:
            NotReady: this replica has not loaded its first snapshot yet.
        """
        if self._read_model is None:
            return 0
        known = self._read_model.access.namespaces.get(namespace)
        return 0 if known is None else known.quotas.of(quota)

    def check(self, namespace: str, quota: Quota, present: int, adding: int) -> None:
        """Check that `adding` to what is `present` passes no bound; adding nothing never does.

        Raises:
            QuotaExceeded: it would.
        """
        bound = self.bound(namespace, quota)
        if exceeds(bound, present, adding):
            raise QuotaExceeded(namespace, quota.value, limit=bound)

    async def check_config(
        self, view: NamespaceView, current: ConfigLayer | None, fresh: ConfigLayer
    ) -> None:
        """Check that a layer may replace another one (None: there was none).

        The emergency layer counts, but is never refused: whoever has to stop something must be able
        to. Layers that are written at the same moment do not know of each other.

        Raises:
            QuotaExceeded: the configuration grows, and would be larger than `config_bytes`.
        """
        if fresh.scope.kind is LayerKind.EMERGENCY:
            return
        if not self.bound(view.name, Quota.CONFIG_BYTES):
            return
        growth = layer_bytes(fresh) - layer_bytes(current)
        if growth > 0:
            present = await self._sizes.of(view)
            self.check(view.name, Quota.CONFIG_BYTES, present, growth)

    @contextmanager
    def claims(self, namespace: str) -> "Iterator[Claims]":
        """Claim room for what is written within the context; it is given back at its end."""
        claims = Claims(self, namespace)
        try:
            yield claims
        finally:
            for under_way, key in claims.held:
                under_way.keys.pop(key, None)

    def room(self, namespace: str, quota: Quota) -> int | None:
        """Return how much may be added of what is counted; None: there is no bound."""
        bound = self.bound(namespace, quota)
        if not bound or self._read_model is None:
            return None
        view = self._read_model.view(namespace)
        taken = COUNTED[quota](view) + self.under_way(namespace, quota).unseen(view)
        return max(bound - taken, 0)

    def under_way(self, namespace: str, quota: Quota) -> "_UnderWay":
        """Return what this replica is writing now."""
        return self._under_way.setdefault((namespace, quota), _UnderWay())


class Claims:
    """What one call is about to write; made by `QuotaKeeper.claims`."""

    def __init__(self, keeper: QuotaKeeper, namespace: str) -> None:
        self._keeper = keeper
        self._namespace = namespace
        self.held: list[tuple[_UnderWay, str]] = []

    def take(self, quota: Quota, key: str, is_there: IsThere) -> None:
        """Claim room for one thing more.

        Args:
            quota: What it counts as.
            key: What it will be known by; claiming it twice is claiming it once.
            is_there: Whether a copy has it already, and counts it.

        Raises:
            QuotaExceeded: there is no room left.
        """
        room = self._keeper.room(self._namespace, quota)
        if room is None:
            return
        under_way = self._keeper.under_way(self._namespace, quota)
        if key in under_way.keys:
            return
        if room == 0:
            bound = self._keeper.bound(self._namespace, quota)
            raise QuotaExceeded(self._namespace, quota.value, limit=bound)
        under_way.keys[key] = is_there
        self.held.append((under_way, key))


class _UnderWay:
    """What is being written, by key. Once a copy has it, the copy counts it."""

    __slots__ = ("_position", "keys")

    def __init__(self) -> None:
        self.keys: dict[str, IsThere] = {}
        self._position: Position | None = None
        """Of the copy that was last looked at: what is there changes with it only."""

    def unseen(self, view: NamespaceView) -> int:
        """Return how many things a copy does not count yet; the others are forgotten."""
        if self.keys and view.position != self._position:
            self._position = view.position
            self.keys = {key: there for key, there in self.keys.items() if not there(view)}
        return len(self.keys)


NO_QUOTAS: Final = QuotaKeeper(None)
"""Where nothing is bounded."""
