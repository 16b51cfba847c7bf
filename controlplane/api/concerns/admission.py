"""Refuses calls while this replica is overloaded."""

from controlplane.api.limits.admission import Admission
from controlplane.api.limits.precedence import shed_at
from controlplane.api.methods import Method
from controlplane.api.pipeline import Concern


def admission(decide: Admission) -> Concern:
    """Return the concern that asks `decide` about every call that may ever be refused.

    It belongs directly inside `status`: in front of everything that costs.
    """
    return Concern(name="admission", before=decide.admit, wanted=_may_be_shed)


def _may_be_shed(method: Method) -> bool:
    return shed_at(method) is not None
