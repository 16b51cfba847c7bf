"""Lets calls pass: the one place between the wire and the handlers that asks who may do what.

The pipeline asks for every unary request, once it is decoded, by the permission and the scope of
its row in `METHODS`. Handlers that the pipeline does not decode for - raw bytes, streams of
requests - call `enter_namespace` themselves, once per call, and `confine` if the call turns out to
be confined. A call that ends well without having passed is a defect, and is answered INTERNAL.
"""

from collections.abc import Callable
from typing import Any, Final, Protocol

from controlplane.api.confinement import CONFINED, NOT_FOR_AGENTS, Ownership
from controlplane.api.context import Call, current_call
from controlplane.api.limits.batches import entries_in
from controlplane.api.methods import Method, RateClass, Scope
from controlplane.domain.access.permissions import EVERYWHERE, Permission
from controlplane.domain.access.records import SYSTEM_NAMESPACE
from controlplane.domain.access.refusals import ForeignAgent, PermissionDenied
from controlplane.domain.errors import StoreUnavailable
from controlplane.domain.identity import AgentIdentity, Caller, namespace_of
from controlplane.services.access.authoriser import authorise_own
from controlplane.services.ports import Ledger
from controlplane.services.read_model import NamespaceView, ReadModel

Enter = Callable[[Call, Any], None]
"""Lets a call with a decoded request pass, or refuses it."""

BEAT_FIELD: Final = "beats"


class Authorises(Protocol):
    """Judges calls; `services.access.Authoriser` does."""

    def authorise(self, caller: Caller, permission: Permission, namespace: str) -> bool:
        """Let pass, and return whether the caller is confined to its own agent; or refuse."""


def require_admitted(call: Call) -> None:
    """Check that a call has passed before it is answered.

    Raises:
        NotAdmitted: nobody has let it in.
    """
    if not call.admitted:
        raise NotAdmitted(call.method.name)


class NotAdmitted(Exception):
    """A handler answered a call that was never let in: a defect, which the caller sees as such."""


def _nobody(_call: Call) -> None:
    """Be told that a call has entered a namespace, and do nothing."""


class Gate:
    """Asks who may do what, and keeps agents to themselves."""

    def __init__(
        self,
        authoriser: Authorises,
        read_model: ReadModel,
        ledger: Ledger,
        entered: Callable[[Call], None] = _nobody,
    ) -> None:
        """Let pass whom `authoriser` lets pass.

        Args:
            authoriser: Judges.
            read_model: What belongs to whom, as this replica knows it.
            ledger: Asked about what this replica has not heard of.
            entered: Told about each call that was let into a namespace, with `call.namespace` set.
                May refuse by raising.
        """
        self._authorise = authoriser.authorise
        self._read_model = read_model
        self._ownership = Ownership(read_model, ledger)
        self._entered = entered

    def entry(self, method: Method, *, streaming: bool) -> Enter:
        """Return what lets the calls of a method pass once their request is decoded.

        Args:
            method: The row; not one of those that need no permission.
            streaming: There is a stream of requests instead: nothing but the credential of the
                caller is known to be good when it begins.
        """
        if streaming:
            return self._open
        match method.scope:
            case Scope.NAMESPACE:
                is_batch = method.rate_class is RateClass.BATCH
                return self._enter_batch if is_batch else self._enter_named
            case Scope.ANY_NAMESPACE:
                return self._enter_any
            case Scope.NAMESPACE_OR_SYSTEM:
                return self._enter_audited
            case Scope.EVERYWHERE:
                return self._enter_everywhere
            case Scope.NONE:
                return self._identify

    def enter(self, call: Call, namespace: str) -> None:
        """Let a call into a namespace, or everywhere (`*`).

        Raises:
            DomainError: see `Authoriser.authorise`; PermissionDenied also for an agent that has
                nothing but its certificate, where that is not enough.
        """
        method = call.method
        call.asked = namespace
        if method.own:
            confined = authorise_own(self._authorise, call.caller, method.permission, namespace)
        else:
            confined = self._authorise(call.caller, method.permission, namespace)
        call.namespace = namespace
        if namespace != EVERYWHERE:
            self._entered(call)
        if not confined:
            call.admitted = True
            return
        call.confined = True
        if method.name not in CONFINED:
            why = NOT_FOR_AGENTS.get(method.name, "it is not about the agent")
            why = f"the certificate of an agent is not enough, {why}"
            raise PermissionDenied(call.caller.name, method.permission, namespace, why)

    async def confine(self, call: Call, message: Any) -> None:
        """Let a confined call pass that is about the agent itself.

        Raises:
            ForeignAgent: `message` names something that is not the agent's own.
            StoreUnavailable: the store has to be asked about it, and does not answer.
        """
        await self._ownership.require(_agent_of(call), CONFINED[call.method.name](message))
        call.admitted = True

    async def confine_beats(self, call: Call, view: NamespaceView, request: Any) -> None:
        """Check the beats of one message of a confined stream.

        Beats whose owner only the store knows, while it does not answer, are taken out of the
        message: they count as not sent, and the next ones are checked again.

        Raises:
            ForeignAgent: one of the instances is not the agent's own.
        """
        agent = _agent_of(call)
        ids = view.ids_of_name.get(agent.agent_name, ())
        unheard = False
        for beat in request.beats:
            live = view.instances.get(beat.instance_id)
            if live is None:
                unheard = True
            elif live.instance.agent_id not in ids:
                raise ForeignAgent(agent.agent_name, BEAT_FIELD)
        call.admitted = True
        if not unheard:
            return
        try:
            await self.confine(call, request)
        except StoreUnavailable:
            # What this replica knows may have grown in the meantime.
            ids = view.ids_of_name.get(agent.agent_name, ())
            lives = view.instances
            own = [
                beat
                for beat in request.beats
                if beat.instance_id in lives and lives[beat.instance_id].instance.agent_id in ids
            ]
            del request.beats[:]
            request.beats.extend(own)

    def _enter_named(self, call: Call, message: Any) -> None:
        self.enter(call, namespace_of(message.namespace))

    def _enter_batch(self, call: Call, message: Any) -> None:
        call.entries = entries_in(message)
        self._enter_named(call, message)

    def _enter_any(self, call: Call, message: Any) -> None:
        named = message.namespace
        self.enter(call, EVERYWHERE if named == EVERYWHERE else namespace_of(named))

    def _enter_audited(self, call: Call, message: Any) -> None:
        named = message.namespace
        self.enter(call, EVERYWHERE if named == SYSTEM_NAMESPACE else namespace_of(named))

    def _enter_everywhere(self, call: Call, _message: Any) -> None:
        self.enter(call, EVERYWHERE)

    def _open(self, call: Call, _messages: Any) -> None:
        self._authorise(call.caller, Permission.IDENTIFY, EVERYWHERE)

    def _identify(self, call: Call, _message: Any) -> None:
        self._authorise(call.caller, call.method.permission, EVERYWHERE)
        call.admitted = True


def enter_namespace(text: str) -> str:
    """Let the current call into the namespace that its request names; return that.

    To be called once per call by every handler of raw bytes or of a stream of requests, before
    anything is looked up. If the call is confined afterwards, `confine` comes next.

    Raises:
        InvalidArgument: the text names no namespace.
        DomainError: see `Gate.enter`.
    """
    namespace = namespace_of(text)
    enter_again(namespace)
    return namespace


def enter_again(namespace: str) -> None:
    """Let the current call into a namespace that an earlier call with the same request was in.

    Raises:
        DomainError: see `Gate.enter`.
    """
    call = current_call()
    if call.gate is not None:
        call.gate.enter(call, namespace)


async def confine(call: Call, message: Any) -> None:
    """Check that a request of a confined call is about the agent itself.

    Raises:
        DomainError: see `Gate.confine`.
    """
    if call.gate is not None:
        await call.gate.confine(call, message)


async def confine_beats(call: Call, view: NamespaceView, request: Any) -> None:
    """Check the beats of one message of a confined stream; may take some out of it.

    Raises:
        ForeignAgent: see `Gate.confine_beats`.
    """
    if call.gate is not None:
        await call.gate.confine_beats(call, view, request)


def nothing_asked(call: Call) -> None:
    """Note that a stream of requests ended before its first message: there was nothing to check."""
    call.admitted = True


def _agent_of(call: Call) -> AgentIdentity:
    agent = call.caller.agent
    if agent is None or agent.namespace != call.namespace:
        raise NotAdmitted(f"{call.method.name} is confined to nobody")
    return agent
