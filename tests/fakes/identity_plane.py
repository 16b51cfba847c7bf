"""The use cases about credentials over the memory store; what signs and verifies is a fake."""

import asyncio
from collections.abc import Sequence
from typing import Any

from controlplane.domain.access.records import SYSTEM_NAMESPACE, RoleBinding, binding_id_of
from controlplane.domain.identity import AgentIdentity, Caller, CallerKind
from controlplane.domain.namespaces import Namespace, NamespaceState
from controlplane.services.access.api_tokens import ApiTokens
from controlplane.services.access.authenticator import Authenticator
from controlplane.services.access.authoriser import Authoriser
from controlplane.services.access.bans import Bans
from controlplane.services.access.enrolment import Enrolment
from controlplane.services.access.join_tokens import JoinTokens
from controlplane.services.access.minting import Minted
from controlplane.services.access.token_uses import TokenUses
from controlplane.services.access.who_am_i import WhoAmI
from controlplane.services.ids import TimeSortedIds
from controlplane.services.ports import (
    AuditEntry,
    Collection,
    Committed,
    Delete,
    Ledger,
    Put,
    Record,
    Step,
    Transaction,
)
from tests.fakes.credentials import TRUST_DOMAIN, FakeAuthority, FakeReader, FakeVerifier
from tests.fakes.plane import Plane

TENANT = "team-a"
ADMIN = Caller(name="user:root", is_admin=True, kind=CallerKind.USER, subjects=("user:root",))
NOBODY = Caller(name="anonymous", kind=CallerKind.ANONYMOUS, address="ipv4:192.0.2.7:4711")

HOUR_MS = 3_600_000


class IdentityPlane(Plane):
    """A plane that authenticates. Its own methods follow; after a use case the test does."""

    def __init__(self, wrap: Any = None, *, authenticates: bool = True, **fields: Any) -> None:
        super().__init__(wrap)
        self.authority = FakeAuthority(self.clock)
        self.reader = FakeReader()
        self.verifier = FakeVerifier()
        self.ids = TimeSortedIds()
        self.admins = frozenset({"user:root"})
        self.authoriser = Authoriser(
            self.read_model, self.clock, authenticates=authenticates, admins=self.admins
        )
        rights = (self.ledger, self.read_model, self.ids, self.clock, self.authoriser)
        self.api_tokens = ApiTokens(*rights)
        self.join_tokens = JoinTokens(*rights)
        self.bans = Bans(self.ledger, self.read_model, self.clock, self.authoriser)
        self.enrolment = Enrolment(
            self.ledger, self.clock, self.authority, spread=fields.get("spread", lambda: 0.5)
        )
        self.who_am_i = WhoAmI(self.read_model, self.clock, authenticates=authenticates)
        self.token_uses = TokenUses(self.ledger, self.read_model, self.clock)
        self.authenticator = Authenticator(
            self.read_model,
            self.clock,
            verifier=self.verifier,
            reader=self.reader,
            trust_domain=TRUST_DOMAIN,
            agent_identity="spiffe://prod.example/ns/{namespace}/sa/{agent_name}",
            admins=self.admins,
            on_token_use=self.token_uses.note,
        )

    async def write(self, *steps: Step) -> None:
        """Write to the system namespace as somebody else would, and follow."""
        audit = AuditEntry(actor="test", method="Test", object="test")
        await self.ledger.commit(Transaction(namespace=SYSTEM_NAMESPACE, steps=steps, audit=audit))
        await self.catch_up()

    async def catch_up(self) -> None:
        """See what was committed about rights and credentials."""
        await self.follow(SYSTEM_NAMESPACE)

    async def add_namespace(
        self, name: str = TENANT, state: NamespaceState = NamespaceState.ACTIVE
    ) -> None:
        """Make a namespace, or bring it to a state."""
        await self.write(Put(Collection.NAMESPACES, name, Namespace(name=name, state=state)))

    async def bind(self, subject: str, role: str, namespace: str, **fields: Any) -> str:
        """Give a role; return the id of the binding."""
        binding_id = binding_id_of(subject, role, namespace)
        binding = RoleBinding(
            binding_id=binding_id, subject=subject, role=role, namespace=namespace, **fields
        )
        await self.write(Put(Collection.ROLE_BINDINGS, binding_id, binding))
        return binding_id

    async def unbind(self, binding_id: str, *, seen: bool = True) -> None:
        """Take a role away, which this replica sees or not."""
        audit = AuditEntry(actor="test", method="Test", object="test")
        steps = (Delete(Collection.ROLE_BINDINGS, binding_id),)
        await self.ledger.commit(Transaction(namespace=SYSTEM_NAMESPACE, steps=steps, audit=audit))
        if seen:
            await self.catch_up()

    async def api_token(
        self, namespace: str = TENANT, role: str = "operator", **fields: Any
    ) -> Minted[Any]:
        """Make an API token, and follow."""
        said: dict[str, Any] = {"name": "ci", "ttl_ms": HOUR_MS, "request": None, "caller": ADMIN}
        minted = await self.api_tokens.create(namespace, role=role, **(said | fields))
        await self.catch_up()
        return minted

    async def join_token(self, namespace: str = TENANT, **fields: Any) -> Minted[Any]:
        """Make a join token, and follow."""
        said: dict[str, Any] = {
            "agent_name_pattern": "*",
            "max_uses": 1,
            "ttl_ms": HOUR_MS,
            "description": "",
            "request": None,
            "caller": ADMIN,
        }
        minted = await self.join_tokens.create(namespace, **(said | fields))
        await self.catch_up()
        return minted

    async def audit(self) -> list[AuditEntry]:
        """Return everything that was audited about rights and credentials."""
        entries = await self.ledger.read_audit(SYSTEM_NAMESPACE, limit=10_000)
        return [entry for _, _, entry in entries]


def admin_of(namespace: str, name: str = "ann") -> Caller:
    """Return a user who may be bound as `user:<name>`."""
    subject = f"user:{name}"
    return Caller(
        name=subject,
        kind=CallerKind.USER,
        subjects=(subject,),
        credential=f"oidc:{namespace}:{name}",
    )


def agent_caller(name: str, namespace: str = TENANT, trust_domain: str = TRUST_DOMAIN) -> Caller:
    """Return an agent that shows a certificate of our own."""
    spiffe_id = f"spiffe://{trust_domain}/ns/{namespace}/agent/{name}"
    return Caller(
        name=spiffe_id,
        kind=CallerKind.AGENT,
        subjects=(spiffe_id,),
        agent=AgentIdentity(namespace=namespace, agent_name=name),
        credential=f"cert:{name}",
        expires_at_ms=2**53,
    )


class YieldingLedger:
    """A ledger whose every operation lets the others run first, as one behind a network does."""

    def __init__(self, inner: Ledger) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        operation = getattr(self._inner, name)

        async def run(*arguments: Any, **named: Any) -> Any:
            await asyncio.sleep(0)
            answer = await operation(*arguments, **named)
            await asyncio.sleep(0)
            return answer

        return run


class InterferingLedger:
    """A ledger at which something happens right before the next commits, once each."""

    def __init__(self, inner: Ledger) -> None:
        self._inner = inner
        self.before_commit: list[Any] = []
        """Coroutine functions, taken from the front."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def commit(self, transaction: Transaction) -> Committed:
        if self.before_commit:
            await self.before_commit.pop(0)()
        return await self._inner.commit(transaction)

    async def read(
        self, namespace: str, collection: Collection, keys: Sequence[str]
    ) -> list[Record | None]:
        return await self._inner.read(namespace, collection, keys)
