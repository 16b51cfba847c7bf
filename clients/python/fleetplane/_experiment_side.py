"""Experiments in the process of an agent: dealt without a call, recorded in the background."""

import asyncio
import logging
from collections import OrderedDict
from types import TracebackType
from typing import Final, Self

from fleetplane._calls import MAX_BACKOFF, MIN_BACKOFF, Backoff
from fleetplane._connected import Connection
from fleetplane._dealing import NOT_RUNNING, Dealer, DealtVariant
from fleetplane._exceptions import FleetError, Unavailable
from fleetplane._experiment_watch import ExperimentWatch
from fleetplane._reports import Reports
from fleetplane._values import JsonValue
from fleetplane.v1 import experiment_service_pb2 as pb

_log: Final = logging.getLogger("fleetplane")

FLUSH_SECONDS: Final = 0.2
"""How long a report waits for others to travel with."""

REMEMBERED: Final = 10_000
"""Exposures that are known to have been sent, the newest: they are not sent again."""

_FIRST_SECONDS: Final = 10.0
"""Longest wait for the first news of what is dealt."""


class LocalExperiments:
    """What is dealt to an agent, followed; deals variants, and records what is used and what comes.

    Reports wait in memory, at most 10,000 of them, and are sent in batches; the oldest make room.
    Leaving the block sends what is left. Belongs to one event loop.

    Args:
        connection: to the daemon.
        namespace: tenant.
        agent_name: who deals; empty: nobody in particular.
    """

    def __init__(self, connection: Connection, namespace: str, agent_name: str) -> None:
        self._agent_name = agent_name
        self._watch = ExperimentWatch(connection, namespace, agent_name)
        self._reports = Reports(connection, namespace, agent_name)
        self._dealers: dict[tuple[str, str], Dealer] = {}
        self._sent: OrderedDict[tuple[str, int, str, str, str], None] = OrderedDict()
        self._lost = 0
        """Reports that were lost when `_sent` was last right."""
        self._known = asyncio.Event()
        self._waiting = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._failure: FleetError | None = None

    async def __aenter__(self) -> Self:
        """Begin to follow; return once it is known what is dealt.

        Raises:
            Unavailable: nobody says so within 10 s.
            FleetError: the daemon refuses to say.
        """
        loop = asyncio.get_running_loop()
        self._tasks = [
            loop.create_task(self._follow(), name="fleetplane-experiments"),
            loop.create_task(self._send(), name="fleetplane-experiment-reports"),
        ]
        try:
            async with asyncio.timeout(_FIRST_SECONDS):
                await self._known.wait()
        except TimeoutError:
            await self.aclose()
            raise Unavailable("nobody says which experiments run") from None
        except asyncio.CancelledError:
            await self.aclose()
            raise
        if self._failure is not None:
            await self.aclose()
            raise self._failure
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            await self.flush()
        except FleetError:
            _log.warning("%d reports of experiments were not sent", self._reports.waiting)
        finally:
            await self.aclose()

    @property
    def dropped(self) -> int:
        """Reports that were lost: refused, or pushed out by newer ones."""
        return self._reports.dropped

    def assign(self, *, prompt: str = "", config_path: str = "", unit: str) -> DealtVariant:
        """Return what a session sees of a subject; nothing is sent.

        Args:
            prompt: a prompt, by name.
            config_path: or a path of the configuration.
            unit: the session; empty: the control variant.
        """
        subject = ("prompt", prompt) if prompt else ("config_path", config_path)
        dealer = self._dealers.get(subject)
        return NOT_RUNNING if dealer is None else dealer.deal(unit)

    def config_value(self, path: str, configured: JsonValue, *, unit: str) -> JsonValue:
        """Return the value of a path for a session, and record that it is used.

        Args:
            path: such as `temperature`.
            configured: the value by the configuration of the agent, for whom no experiment is.
            unit: the session.
        """
        dealt = self.assign(config_path=path, unit=unit)
        if not dealt.variant:
            return configured
        self.expose(dealt)
        return dealt.config_value

    def expose(self, dealt: DealtVariant, *, digest: str = "") -> None:
        """Record that a variant is used now; what is no part of an experiment is not recorded.

        Args:
            dealt: what was assigned.
            digest: of what is served; required for prompts. Empty: that of the value that was
                dealt.

        Raises:
            ValueError: the digest of a prompt is missing: only who sends it knows what it sends.
        """
        if not dealt.in_experiment:
            return
        if dealt.prompt_version and not digest:
            raise ValueError("the digest of what is sent is required")
        served = digest or dealt.digest
        seen = dealt.experiment, dealt.phase, dealt.unit, dealt.variant, served
        if self.dropped != self._lost:
            # Nobody knows which: sent again, those that came count once, and the others at last.
            self._lost = self.dropped
            self._sent.clear()
        if seen in self._sent:
            self._sent.move_to_end(seen)
            return
        self._sent[seen] = None
        if len(self._sent) > REMEMBERED:
            self._sent.popitem(last=False)
        exposure = pb.Exposure(
            unit=dealt.unit, variant=dealt.variant, digest=served, phase=dealt.phase
        )
        self._reports.add(dealt.experiment, exposure)
        self._waiting.set()

    def outcome(
        self, dealt: DealtVariant, metric: str, value: float, *, replace: bool = False
    ) -> None:
        """Record what came of a unit, in one metric; once per unit unless `replace`."""
        if not dealt.in_experiment:
            return
        outcome = pb.Outcome(
            unit=dealt.unit,
            metric=metric,
            value=float(value),
            phase=dealt.phase,
            replace=replace,
        )
        self._reports.add(dealt.experiment, outcome)
        self._waiting.set()

    async def flush(self) -> None:
        """Send what waits.

        Raises:
            FleetError: nobody takes it; it goes on waiting.
        """
        await self._reports.send()

    async def aclose(self) -> None:
        """Stop following and sending; what still waits is lost. Idempotent."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._watch.aclose()

    async def _follow(self) -> None:
        try:
            async for news in self._watch:
                self._dealers = {
                    _subject_of(one): Dealer(one, self._agent_name) for one in news.experiments
                }
                self._known.set()
        except FleetError as refusal:
            self._failure = refusal
            self._dealers = {}
            self._known.set()
            _log.warning("experiments are no longer followed: %s", refusal)

    async def _send(self) -> None:
        backoff = Backoff(MIN_BACKOFF, MAX_BACKOFF)
        while True:
            await self._waiting.wait()
            await asyncio.sleep(FLUSH_SECONDS)
            self._waiting.clear()
            try:
                await self._reports.send()
            except FleetError as refusal:
                self._waiting.set()
                await asyncio.sleep(backoff.next(refusal.retry_after))
            else:
                backoff.reset(after=FLUSH_SECONDS)


def _subject_of(dealt: pb.DealtExperiment) -> tuple[str, str]:
    kind = dealt.subject.WhichOneof("subject") or ""
    return kind, dealt.subject.prompt or dealt.subject.config_path
