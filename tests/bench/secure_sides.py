"""The same daemon in plain text, behind TLS with tokens, and behind mTLS, each with its floor."""

from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Final

import grpc

from fleetplane.v1 import policy_service_pb2
from tests.bench.driving import Load, in_turns
from tests.bench.fleet import Member, living_fleet
from tests.bench.plan import Plan
from tests.bench.results import Row, Series, Verdict, judged
from tests.bench.servers import CALM, Server, daemon, floor
from tests.bench.ways import SECURE, UNLIMITED, Administrator, Identity, way_in
from tests.bench.wire import Metadata, unary
from tests.bench.workloads.decisions import POLICY, policy_conditions
from tests.bench.workloads.discovery import spec_with_matches

PLAIN: Final = "plain text"
TOKEN: Final = "token over TLS"  # noqa: S105 - a heading
CERTIFICATE: Final = "certificate over mTLS"
OWN: Final = "an agent's own certificate"

KEPT: Final = 0.90
"""Share of the floor, as a share of what it is in plain text, that has to be left."""

NAMESPACE: Final = "default"
POLICIES: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """A daemon and its floor, reached in the same way."""

    how: str
    daemon: Server
    floor: Server
    members: list[Member] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Turns:
    """What one way of calling came to."""

    how: str
    daemon: Series
    floor: Series

    @property
    def rate_shares(self) -> list[float]:
        """Rate as a share of the floor's, by round."""
        pairs = zip(self.daemon.windows, self.floor.windows, strict=True)
        return [ours.rate / theirs.rate for ours, theirs in pairs]

    @property
    def cpu_share(self) -> float:
        """CPU per call of the floor as a share of the daemon's: 1 is as cheap as the floor.

        Of each the lower quartile of the rounds, which other processes hardly change.
        """
        return self.floor.quiet_us / max(self.daemon.quiet_us, 1e-3)


class SecureSides:
    """A daemon in plain text and one with security, with a fleet each, and a floor for both."""

    def __init__(self, stack: AsyncExitStack, size: int) -> None:
        """Be opened next; everything ends when `stack` is left."""
        self._stack = stack
        self._size = size
        self._secure: Server
        self._floor: Server
        self.administrator: Administrator
        self.plain: Side
        self.token: Side
        self.certificate: Side

    async def open(self) -> None:
        """Start the servers and bring the fleets to life."""
        settings = {**CALM, **UNLIMITED}
        enter = self._stack.enter_async_context
        plain = await enter(daemon(settings))
        self._secure = await enter(daemon({**settings, **SECURE}))
        self.administrator = Administrator(self._secure)
        self._floor = await enter(floor(self.administrator.ca_dir))
        # A quota that is computed and never reached.
        await self.administrator.quotas(NAMESPACE, calls_per_second=1_000_000)
        gateway = await self.administrator.identity(NAMESPACE, "gateway", "agent", "operator")
        token = await self.administrator.token(NAMESPACE, "operator", "agent")
        self.plain = Side(how=PLAIN, daemon=plain, floor=self._floor)
        self.token = await self._behind_tls(token)
        self.certificate = await self.behind_mtls(CERTIFICATE, gateway)
        for side in (self.plain, self.certificate):
            fleet = await living_fleet(
                side.daemon.channel, self._size, spec_with_matches(self._size)
            )
            side.members.extend(fleet)
            await _make_policies(side.daemon)
        self.token.members.extend(self.certificate.members)

    async def behind_mtls(self, how: str, identity: Identity) -> Side:
        """Return the side of somebody with a certificate; without members."""
        return Side(
            how=how,
            daemon=await self._way(self._secure, "listen_mtls", identity.credentials),
            floor=await self._way(self._floor, "listen_mtls", identity.credentials),
        )

    async def _behind_tls(self, token: Metadata) -> Side:
        trust = self._secure.credentials
        return Side(
            how=TOKEN,
            daemon=await self._way(self._secure, "listen", trust, token),
            floor=await self._way(self._floor, "listen_tls", trust, token),
        )

    async def _way(
        self,
        server: Server,
        port: str,
        credentials: grpc.ChannelCredentials | None,
        metadata: Metadata = (),
    ) -> Server:
        way = way_in(server, server.announced[port], credentials, metadata)
        return await self._stack.enter_async_context(way)


async def turns_of(plan: Plan, loads: Sequence[tuple[Side, Load, Load]]) -> list[Turns]:
    """Let daemon and floor of every side take turns, side after side, round after round."""
    series = await in_turns(
        plan.rounds, plan.seconds, *(load for _, *both in loads for load in both)
    )
    pairs = zip(series[::2], series[1::2], strict=True)
    return [Turns(side.how, *pair) for (side, *_), pair in zip(loads, pairs, strict=True)]


def secure_rows(
    workload: int, what: str, turns: Sequence[Turns], *, kept: bool = True
) -> list[Row]:
    """Return a row for each way of calling; the first one is plain text, the others are held to it.

    The verdict is by CPU per call, which other processes hardly change. With `kept` False there is
    none: there is another target.
    """
    plain = turns[0]
    rows = [_row(workload, what, plain)]
    for way in turns[1:]:
        pairs = zip(way.rate_shares, plain.rate_shares, strict=True)
        rate_kept = median(ours / theirs for ours, theirs in pairs)
        cpu_kept = way.cpu_share / plain.cpu_share
        row = _row(workload, what, way)
        rows.append(
            replace(
                row,
                measured=f"{row.measured}; kept: CPU {cpu_kept:.0%}, rate {rate_kept:.0%}",
                target=f">= {KEPT:.0%} kept" if kept else "",
                verdict=judged(cpu_kept >= KEPT) if kept else Verdict.INFO,
                details=row.details | {"cpu_kept": cpu_kept, "rate_kept": rate_kept},
            )
        )
    return rows


def _row(workload: int, what: str, way: Turns) -> Row:
    share = median(way.rate_shares)
    return Row(
        workload=workload,
        what=f"{what}, {way.how}",
        measured=f"of the floor ({way.floor.quiet_us:.1f} us): CPU {way.cpu_share:.0%},"
        f" rate {share:.0%}",
        rate=way.daemon.rate,
        server_us=way.daemon.quiet_us,
        store_us=way.daemon.store_us,
        details={
            "cpu_share": way.cpu_share,
            "rate_share": share,
            "rate_shares": way.rate_shares,
            "floor_rate": way.floor.rate,
            "floor_server_us": way.floor.quiet_us,
        },
    )


async def _make_policies(server: Server) -> None:
    create = unary(server.channel, f"{POLICY}CreatePolicy")
    for number in range(POLICIES):
        policy = policy_service_pb2.Policy(
            policy_id=f"p-{number}",
            action=policy_service_pb2.POLICY_ACTION_DENY,
            priority=number,
        )
        policy.conditions.update(policy_conditions(number))
        await create(policy_service_pb2.CreatePolicyRequest(policy=policy).SerializeToString())
