"""The condition that a namespace is not on its way out."""

from controlplane.domain.access.permissions import EVERYWHERE
from controlplane.domain.access.records import SYSTEM_NAMESPACE
from controlplane.domain.access.refusals import NamespaceTerminating
from controlplane.domain.namespaces import NamespaceState
from controlplane.services.ports import ABSENT, Collection, Expect, Ledger, Require


async def open_namespace(ledger: Ledger, namespace: str) -> tuple[Require, ...]:
    """Return the condition that a namespace stays as it is, while it gets a credential.

    Otherwise the credential would be left behind, and be good in the next namespace of that name.
    Nothing for `*`. A namespace that is no object yet must not become one meanwhile.

    Raises:
        NamespaceTerminating: it is being removed.
        StoreUnavailable: the store is away.
    """
    if namespace == EVERYWHERE:
        return ()
    (record,) = await ledger.read(SYSTEM_NAMESPACE, Collection.NAMESPACES, (namespace,))
    if record is None:
        return (Require(Collection.NAMESPACES, namespace, ABSENT),)
    if record.value.state is NamespaceState.TERMINATING:
        raise NamespaceTerminating(namespace)
    return (Require(Collection.NAMESPACES, namespace, Expect(revision=record.revision)),)
