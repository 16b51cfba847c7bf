"""Rights, credentials and namespaces over the memory store, made and followed in one step."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from controlplane.domain.access.records import (
    SYSTEM_NAMESPACE,
    ApiToken,
    Ban,
    RoleBinding,
    ban_key,
    binding_id_of,
)
from controlplane.domain.identity import AgentIdentity, Caller, CallerKind
from controlplane.domain.namespaces import Namespace, NamespaceState
from controlplane.services.access.authoriser import Authoriser
from controlplane.services.ports import (
    AuditEntry,
    Collection,
    Committed,
    Delete,
    Ledger,
    Put,
    Step,
    Transaction,
)
from tests.fakes.plane import Plane

DAY_MS = 86_400_000
TRUST_DOMAIN = "fleetplane.local"


def user(name: str, *groups: str, **fields: Any) -> Caller:
    """Return a person with a token of an identity provider."""
    subjects = (f"user:{name}", *(f"group:{group}" for group in groups))
    return Caller(
        name=f"user:{name}",
        kind=CallerKind.USER,
        subjects=subjects,
        credential=f"oidc:{' '.join(subjects)}",
        **fields,
    )


def agent(namespace: str, name: str, **fields: Any) -> Caller:
    """Return an agent with a certificate of ours."""
    spiffe_id = f"spiffe://{TRUST_DOMAIN}/ns/{namespace}/agent/{name}"
    return Caller(
        name=spiffe_id,
        kind=CallerKind.AGENT,
        subjects=(spiffe_id,),
        agent=AgentIdentity(namespace=namespace, agent_name=name),
        credential=f"cert:{namespace}/{name}",
        **fields,
    )


def program(token_id: str, **fields: Any) -> Caller:
    """Return a program with an API token."""
    return Caller(
        name=f"token:{token_id}",
        kind=CallerKind.API_TOKEN,
        subjects=(f"token:{token_id}",),
        token_id=token_id,
        credential=f"token:{token_id}",
        **fields,
    )


class Rights:
    """A plane that authenticates; `authoriser` judges by what was written and followed."""

    def __init__(
        self,
        *,
        authenticates: bool = True,
        admins: frozenset[str] = frozenset(),
        wrap: Callable[[Ledger], Any] | None = None,
    ) -> None:
        self.plane = Plane(wrap)
        self.clock = self.plane.clock
        self.ledger = self.plane.ledger
        self.read_model = self.plane.read_model
        self.authoriser = Authoriser(
            self.read_model, self.clock, authenticates=authenticates, admins=admins
        )

    def now_ms(self, seconds: float = 0.0) -> int:
        """Return a moment from now."""
        return self.clock.store_ms() + round(seconds * 1000)

    async def follow(self) -> None:
        """Let the replica know what was written."""
        await self.plane.follow(SYSTEM_NAMESPACE)

    async def write(self, *steps: Step) -> None:
        """Write behind the back of this replica: it does not know until it follows."""
        await self.ledger.commit(
            Transaction(
                namespace=SYSTEM_NAMESPACE,
                steps=steps,
                audit=AuditEntry(actor="test", method="Test", object="test"),
            )
        )

    async def namespace(
        self, name: str, state: NamespaceState = NamespaceState.ACTIVE
    ) -> Namespace:
        """Make a namespace, or bring it to a state."""
        made = Namespace(name=name, state=state)
        await self.write(Put(Collection.NAMESPACES, name, made))
        await self.follow()
        return made

    async def bind(
        self, subject: str, role: str, namespace: str, *, expires_at_ms: int = 0
    ) -> RoleBinding:
        """Bind a subject to a role."""
        binding = RoleBinding(
            binding_id=binding_id_of(subject, role, namespace),
            subject=subject,
            role=role,
            namespace=namespace,
            expires_at_ms=expires_at_ms,
        )
        await self.write(Put(Collection.ROLE_BINDINGS, binding.binding_id, binding))
        await self.follow()
        return self.read_model.access.bindings[binding.binding_id]

    async def unbind(self, binding: RoleBinding) -> None:
        """Take a binding away."""
        await self.write(Delete(Collection.ROLE_BINDINGS, binding.binding_id))
        await self.follow()

    async def token(
        self, token_id: str, namespace: str = "*", *, expires_at_ms: int = 0
    ) -> ApiToken:
        """Make an API token."""
        token = ApiToken(
            token_id=token_id,
            namespace=namespace,
            name=token_id,
            digest="0" * 64,
            expires_at_ms=expires_at_ms,
        )
        await self.write(Put(Collection.API_TOKENS, token_id, token))
        await self.follow()
        return token

    async def revoke(self, token: ApiToken) -> None:
        """Revoke an API token."""
        revoked = replace(token, revoked=True)
        await self.write(Put(Collection.API_TOKENS, token.token_id, revoked))
        await self.follow()

    async def ban(self, namespace: str, agent_name: str) -> None:
        """Ban an agent name."""
        ban = Ban(namespace=namespace, agent_name=agent_name)
        await self.write(Put(Collection.BANS, ban_key(namespace, agent_name), ban))
        await self.follow()


class MeddledLedger:
    """A ledger that lets somebody else do something just before the next commit."""

    def __init__(self, inner: Ledger) -> None:
        self._inner = inner
        self.before_commit: Callable[[], Awaitable[None]] | None = None

    async def commit(self, transaction: Transaction) -> Committed:
        meddle, self.before_commit = self.before_commit, None
        if meddle is not None:
            await meddle()
        return await self._inner.commit(transaction)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)
