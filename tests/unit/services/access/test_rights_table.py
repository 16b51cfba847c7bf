"""Every role, every permission, everywhere: one table says what the answer is.

It is written out, not computed, so that a change of a role shows here as a change of lines.
"""

import pytest

from controlplane.domain.access.permissions import EVERYWHERE, Permission, RoleName
from controlplane.domain.errors import DomainError
from tests.fakes.rights import Rights, agent, user

TABLE = """
# held in                 acme    acme    *       acme    *
# called in               acme    umbra   acme    *       *
viewer        public      yes     yes     yes     yes     yes
viewer        identify    yes     yes     yes     yes     yes
viewer        diagnose    no      hidden  no      no      no
viewer        read        yes     hidden  yes     no      yes
viewer        report      no      hidden  no      no      no
viewer        submit      no      hidden  no      no      no
viewer        operate     no      hidden  no      no      no
viewer        approve     no      hidden  no      no      no
viewer        audit       no      hidden  no      no      no
viewer        administer  no      hidden  no      no      no

agent         public      yes     yes     yes     yes     yes
agent         identify    yes     yes     yes     yes     yes
agent         diagnose    no      hidden  no      no      no
agent         read        yes     hidden  yes     no      yes
agent         report      yes     hidden  yes     no      yes
agent         submit      no      hidden  no      no      no
agent         operate     no      hidden  no      no      no
agent         approve     no      hidden  no      no      no
agent         audit       no      hidden  no      no      no
agent         administer  no      hidden  no      no      no

orchestrator  public      yes     yes     yes     yes     yes
orchestrator  identify    yes     yes     yes     yes     yes
orchestrator  diagnose    no      hidden  no      no      no
orchestrator  read        yes     hidden  yes     no      yes
orchestrator  report      no      hidden  no      no      no
orchestrator  submit      yes     hidden  yes     no      yes
orchestrator  operate     no      hidden  no      no      no
orchestrator  approve     no      hidden  no      no      no
orchestrator  audit       no      hidden  no      no      no
orchestrator  administer  no      hidden  no      no      no

operator      public      yes     yes     yes     yes     yes
operator      identify    yes     yes     yes     yes     yes
operator      diagnose    no      hidden  no      no      no
operator      read        yes     hidden  yes     no      yes
operator      report      no      hidden  no      no      no
operator      submit      yes     hidden  yes     no      yes
operator      operate     yes     hidden  yes     no      yes
operator      approve     no      hidden  no      no      no
operator      audit       no      hidden  no      no      no
operator      administer  no      hidden  no      no      no

approver      public      yes     yes     yes     yes     yes
approver      identify    yes     yes     yes     yes     yes
approver      diagnose    no      hidden  no      no      no
approver      read        yes     hidden  yes     no      yes
approver      report      no      hidden  no      no      no
approver      submit      no      hidden  no      no      no
approver      operate     no      hidden  no      no      no
approver      approve     yes     hidden  yes     no      yes
approver      audit       no      hidden  no      no      no
approver      administer  no      hidden  no      no      no

auditor       public      yes     yes     yes     yes     yes
auditor       identify    yes     yes     yes     yes     yes
auditor       diagnose    yes     hidden  yes     no      yes
auditor       read        yes     hidden  yes     no      yes
auditor       report      no      hidden  no      no      no
auditor       submit      no      hidden  no      no      no
auditor       operate     no      hidden  no      no      no
auditor       approve     no      hidden  no      no      no
auditor       audit       yes     hidden  yes     no      yes
auditor       administer  no      hidden  no      no      no

admin         public      yes     yes     yes     yes     yes
admin         identify    yes     yes     yes     yes     yes
admin         diagnose    yes     hidden  yes     no      yes
admin         read        yes     hidden  yes     no      yes
admin         report      yes     hidden  yes     no      yes
admin         submit      yes     hidden  yes     no      yes
admin         operate     yes     hidden  yes     no      yes
admin         approve     yes     hidden  yes     no      yes
admin         audit       yes     hidden  yes     no      yes
admin         administer  yes     hidden  yes     no      yes

certificate   public      yes     yes     -       yes     -
certificate   identify    yes     yes     -       yes     -
certificate   diagnose    no      hidden  -       no      -
certificate   read        own     hidden  -       no      -
certificate   report      own     hidden  -       no      -
certificate   submit      no      hidden  -       no      -
certificate   operate     no      hidden  -       no      -
certificate   approve     no      hidden  -       no      -
certificate   audit       no      hidden  -       no      -
certificate   administer  no      hidden  -       no      -

nothing       public      yes     yes     -       yes     -
nothing       identify    yes     yes     -       yes     -
nothing       diagnose    hidden  hidden  -       no      -
nothing       read        hidden  hidden  -       no      -
nothing       report      hidden  hidden  -       no      -
nothing       submit      hidden  hidden  -       no      -
nothing       operate     hidden  hidden  -       no      -
nothing       approve     hidden  hidden  -       no      -
nothing       audit       hidden  hidden  -       no      -
nothing       administer  hidden  hidden  -       no      -
"""
"""Verdicts: `yes`, `own` (as itself only), `no` (PERMISSION_DENIED), `hidden`
(NAMESPACE_NOT_FOUND); `-`: it cannot be held there. `certificate` is that of an agent in acme,
without any binding."""

QUESTIONS = (
    ("acme", "acme"),
    ("acme", "umbra"),
    (EVERYWHERE, "acme"),
    ("acme", EVERYWHERE),
    (EVERYWHERE, EVERYWHERE),
)
"""(where the role is held, where the call is made), column by column"""

CELLS = [
    (role, Permission(permission), held, asked, expected)
    for line in TABLE.splitlines()
    if line and not line.startswith("#")
    for role, permission, *verdicts in [line.split()]
    for (held, asked), expected in zip(QUESTIONS, verdicts, strict=True)
    if expected != "-"
]


@pytest.fixture(scope="module")
async def rights():
    """Return a plane where `user:<role>@<place>` has that role in that place."""
    rights = Rights()
    for name in ("acme", "umbra"):
        await rights.namespace(name)
    for role in RoleName:
        for place in ("acme", EVERYWHERE):
            await rights.bind(f"user:{role}@{place}", role.value, place)
    return rights


def test_the_table_has_a_line_for_every_role_and_permission():
    lines = {(role, permission) for role, permission, *_ in CELLS}
    holders = [*(role.value for role in RoleName), "certificate", "nothing"]
    assert lines == {(holder, permission) for holder in holders for permission in Permission}
    assert len(CELLS) == len(RoleName) * len(Permission) * 5 + 2 * len(Permission) * 3


@pytest.mark.parametrize(("role", "permission", "held", "asked", "expected"), CELLS)
async def test_a_role_permits_what_the_table_says(rights, role, permission, held, asked, expected):
    caller = user(f"{role}@{held}")
    if role == "certificate":
        caller = agent("acme", "writer")
    try:
        verdict = "own" if rights.authoriser.authorise(caller, permission, asked) else "yes"
    except DomainError as refusal:
        verdict = {"PERMISSION_DENIED": "no", "NAMESPACE_NOT_FOUND": "hidden"}[refusal.reason]
    assert verdict == expected
