"""What a unit sees of a subject, from this replica's copy: nobody is asked, nothing written."""

from controlplane.domain.experiments.dealing import Assignment, deal
from controlplane.domain.experiments.model import Experiment, SubjectKind, subject_key
from controlplane.services.read_model import NamespaceView
from controlplane.services.transaction import Collection


def running_on(view: NamespaceView, subject: tuple[str, str]) -> Experiment | None:
    """Return the experiment that runs on `("prompt", name)` or `("config", path)`.

    Raises:
        ValueError: the first is neither.
    """
    kind, name = subject
    holders = view.governance.table(Collection.ACTIVE_EXPERIMENTS)
    key = holders.get(subject_key(SubjectKind(kind.upper()), name)) if holders else None
    return None if key is None else known(view, key)


def known(view: NamespaceView, key: str) -> Experiment | None:
    """Return an experiment as this replica knows it."""
    found: Experiment | None = view.governance.table(Collection.EXPERIMENTS).get(key)
    return found


def assign(
    view: NamespaceView, subject: tuple[str, str], *, agent_name: str, unit: str
) -> Assignment | None:
    """Return what a unit sees of a subject, and why; None: no experiment runs on it.

    If `variant` of the answer is None, go on as if there were no experiment. Record an exposure
    when it is used, and only if `in_experiment`.

    Args:
        view: What this replica knows.
        subject: `("prompt", name)` or `("config", path)`.
        agent_name: Who asks.
        unit: The session; empty: the control variant, reason NO_UNIT.
    """
    experiment = running_on(view, subject)
    return None if experiment is None else deal(experiment, agent_name=agent_name, unit=unit)
