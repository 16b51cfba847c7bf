"""CheckAccess says what a real call would be told, and why; about others only to those who may."""

import pytest

from controlplane.domain.access.permissions import EVERYWHERE, Permission, RoleName
from controlplane.domain.access.refusals import NamespaceNotFound, PermissionDenied
from controlplane.domain.access.spiffe import own_agent
from controlplane.domain.errors import InvalidArgument
from controlplane.domain.identity import LOCAL_ADMIN
from controlplane.domain.namespaces import NamespaceState
from controlplane.services.access.explain import MAX_SUBJECTS, AccessCheck, Needed
from tests.fakes.rights import TRUST_DOMAIN, Rights, agent, program, user

UPDATE = "fleetplane.v1.RegistryService/UpdateAgent"
BEAT = "fleetplane.v1.RegistryService/Heartbeat"
DRAIN = "fleetplane.v1.LifecycleService/Drain"
LIST = "fleetplane.v1.RegistryService/ListAgents"
MAKE = "fleetplane.v1.NamespaceService/CreateNamespace"
ENROLL = "fleetplane.v1.IdentityService/Enroll"
WHO_AM_I = "fleetplane.v1.IdentityService/WhoAmI"
METHODS = {
    UPDATE: Needed(permission=Permission.OPERATE),
    BEAT: Needed(permission=Permission.REPORT),
    DRAIN: Needed(permission=Permission.OPERATE, own=True),
    LIST: Needed(permission=Permission.READ, for_agents=False),
    MAKE: Needed(permission=Permission.ADMINISTER, everywhere=True),
    ENROLL: Needed(permission=Permission.PUBLIC),
    WHO_AM_I: Needed(permission=Permission.IDENTIFY),
}
ANN, AUDITOR, WRITER = user("ann", "ops"), user("hal"), agent("acme", "writer")


@pytest.fixture
async def rights():
    """Return a plane where Ann is viewer and her group operator, and Hal is auditor."""
    rights = Rights()
    await rights.namespace("acme")
    await rights.namespace("umbra")
    await rights.bind("user:ann", "viewer", "acme")
    await rights.bind("group:ops", "operator", "acme")
    await rights.bind("user:hal", "auditor", "acme")
    return rights


def check_over(rights):
    return AccessCheck(
        rights.read_model,
        rights.authoriser,
        methods=METHODS,
        agent_of=lambda subject: own_agent(subject, TRUST_DOMAIN),
    )


@pytest.fixture
def check(rights):
    return check_over(rights)


async def test_a_permitted_call_names_the_bindings_that_permit_it(check):
    answer = check.explain(ANN, UPDATE, "acme")
    assert answer.allowed
    assert answer.permission is Permission.OPERATE
    assert [binding.subject for binding in answer.grants] == ["group:ops"]
    assert answer.words.startswith("group:ops is operator in 'acme', by rb-")
    assert answer.sufficient_roles == (RoleName.OPERATOR, RoleName.ADMIN)


async def test_a_permission_can_be_asked_for_by_its_name(check):
    answer = check.explain(ANN, "read", "acme")
    assert answer.allowed
    assert {binding.subject for binding in answer.grants} == {"user:ann", "group:ops"}


async def test_the_name_of_an_rpc_may_begin_with_a_slash(check):
    assert check.explain(ANN, f"/{UPDATE}", "acme") == check.explain(ANN, UPDATE, "acme")


async def test_a_refused_call_is_explained_by_its_refusal(check):
    answer = check.explain(ANN, "approve", "acme")
    assert not answer.allowed
    assert answer.grants == ()
    assert answer.words == (
        "user:ann may not approve in namespace 'acme': it takes one of the roles approver, admin"
    )
    assert answer.sufficient_roles == (RoleName.APPROVER, RoleName.ADMIN)


async def test_what_the_caller_does_not_see_does_not_exist(check):
    unseen = check.explain(ANN, UPDATE, "umbra")
    missing = check.explain(ANN, UPDATE, "never-made")
    assert (unseen.allowed, missing.allowed) == (False, False)
    assert unseen.words.replace("umbra", "never-made") == missing.words
    assert missing.words == "no namespace 'never-made'"


async def test_what_is_needed_everywhere_is_asked_for_everywhere(rights, check):
    await rights.bind("user:ann", "admin", "acme")
    assert not check.explain(ANN, MAKE, "acme").allowed
    await rights.bind("user:ann", "admin", EVERYWHERE)
    answer = check.explain(ANN, MAKE, "acme")
    assert answer.allowed
    assert "is admin everywhere" in answer.words


@pytest.mark.parametrize("namespace", ["acme", "umbra", EVERYWHERE])
async def test_what_is_free_is_permitted_without_a_binding(check, namespace):
    public = check.explain(ANN, ENROLL, namespace)
    identified = check.explain(ANN, WHO_AM_I, namespace)
    assert (public.allowed, identified.allowed) == (True, True)
    assert (public.grants, identified.grants) == ((), ())
    assert public.words == "nobody needs a permission for this"
    assert identified.words == "every authenticated caller may do this"


async def test_an_agent_may_by_its_certificate_and_only_for_itself(check):
    own = check.explain(WRITER, BEAT, "acme")
    assert own.allowed
    assert own.words == "the certificate of agent 'writer' permits it, for that agent itself"
    assert check.explain(WRITER, BEAT, "acme", agent_name="writer").allowed
    foreign = check.explain(WRITER, BEAT, "acme", agent_name="reader")
    assert not foreign.allowed
    assert "may only speak for itself" in foreign.words


async def test_an_agent_may_not_by_its_certificate_what_is_not_about_itself(rights, check):
    refused = check.explain(WRITER, LIST, "acme")
    assert not refused.allowed
    assert "the certificate of an agent does not suffice" in refused.words
    await rights.bind(WRITER.name, "viewer", "acme")
    assert check.explain(WRITER, LIST, "acme").allowed


async def test_an_agent_may_do_to_itself_what_its_role_may_do_to_nobody(check):
    own = check.explain(WRITER, DRAIN, "acme")
    assert own.allowed
    assert own.permission is Permission.OPERATE
    assert not check.explain(WRITER, DRAIN, "acme", agent_name="reader").allowed
    assert not check.explain(WRITER, DRAIN, "umbra").allowed
    assert not check.explain(WRITER, UPDATE, "acme").allowed


async def test_an_agent_with_a_binding_acts_for_others_too(rights, check):
    await rights.bind(WRITER.name, "agent", "acme")
    assert check.explain(WRITER, BEAT, "acme", agent_name="reader").allowed


async def test_administrators_of_the_settings_are_explained_as_such():
    rights = Rights(admins=frozenset({"group:ops"}))
    answer = check_over(rights).explain(ANN, "administer", EVERYWHERE)
    assert answer.allowed
    assert answer.words == "the settings of the daemon make this caller an administrator"


async def test_a_namespace_that_is_being_removed_is_explained(rights, check):
    await rights.namespace("acme", NamespaceState.TERMINATING)
    answer = check.explain(ANN, UPDATE, "acme")
    assert not answer.allowed
    assert answer.words == "namespace 'acme' is being removed"


async def test_who_may_see_the_rights_may_ask_about_others(check):
    answer = check.explain(AUDITOR, UPDATE, "acme", subjects=["group:ops"])
    assert answer.allowed
    assert not check.explain(AUDITOR, UPDATE, "acme", subjects=["user:ann"]).allowed
    both = check.explain(AUDITOR, "read", "acme", subjects=["user:ann", "group:ops"])
    assert len(both.grants) == 2


async def test_others_do_not_learn_what_somebody_may_do(check):
    with pytest.raises(PermissionDenied):
        check.explain(ANN, UPDATE, "acme", subjects=["user:hal"])
    with pytest.raises(PermissionDenied):
        check.explain(ANN, UPDATE, "acme", subjects=["user:ann", "user:hal"])
    with pytest.raises(NamespaceNotFound):
        check.explain(AUDITOR, UPDATE, "umbra", subjects=["user:ann"])
    with pytest.raises(PermissionDenied):
        check.explain(AUDITOR, MAKE, "acme", subjects=["user:ann"])
    with pytest.raises(PermissionDenied):
        check.explain(AUDITOR, "read", EVERYWHERE, subjects=["user:ann"])


async def test_a_caller_may_ask_about_one_of_its_own_subjects(check):
    assert check.explain(ANN, "operate", "acme", subjects=["group:ops"]).allowed
    assert not check.explain(ANN, "operate", "acme", subjects=["user:ann"]).allowed


async def test_a_question_about_an_agent_knows_its_own_right_and_its_ban(rights, check):
    about = {"subjects": list(WRITER.subjects)}
    assert check.explain(AUDITOR, BEAT, "acme", **about).allowed
    assert not check.explain(AUDITOR, BEAT, "acme", **about, agent_name="reader").allowed
    await rights.ban("acme", "writer")
    banned = check.explain(AUDITOR, BEAT, "acme", **about)
    assert not banned.allowed
    assert banned.words == "agent 'writer' is banned in namespace 'acme'"


async def test_a_question_about_a_token_knows_whether_it_is_good(rights, check):
    token = await rights.token("at-1", "acme", expires_at_ms=rights.now_ms(60))
    await rights.bind("token:at-1", "operator", "acme")
    about = {"subjects": ["token:at-1"]}
    assert check.explain(AUDITOR, UPDATE, "acme", **about).allowed
    unknown = check.explain(AUDITOR, UPDATE, "acme", subjects=["token:at-0"])
    assert unknown.words == "no namespace 'acme'"  # as of a token of somebody else
    rights.clock.shift(60)
    assert check.explain(AUDITOR, UPDATE, "acme", **about).words == "the API token has expired"
    await rights.revoke(token)
    assert check.explain(AUDITOR, UPDATE, "acme", **about).words == "the API token was revoked"


async def test_the_answer_is_that_of_a_real_call(rights, check):
    await rights.token("at-1")
    await rights.bind("token:at-1", "orchestrator", "acme")
    callers = [ANN, AUDITOR, WRITER, program("at-1"), program("at-0"), user("bob")]
    for caller in callers:
        for permission in Permission:
            for namespace in ("acme", "umbra", "default", EVERYWHERE):
                objection = rights.authoriser.objection(caller, permission, namespace)
                answer = check.explain(caller, permission.value, namespace)
                assert answer.allowed == (objection is None)
                if objection is not None:
                    assert answer.words == objection.message


@pytest.mark.parametrize("action", ["", "fly", "Register", "fleetplane.v1.RegistryService/Fly"])
async def test_an_action_that_is_none_is_refused(check, action):
    with pytest.raises(InvalidArgument, match="action"):
        check.explain(ANN, action, "acme")


@pytest.mark.parametrize(
    ("subjects", "field"),
    [
        (["ann"], "subjects[0]"),
        (["user:ann", "user:"], "subjects[1]"),
        (["spiffe://fleetplane.local/ns/*"], "subjects[0]"),
        (["spiffe://fleetplane.local/ns/**"], "subjects[0]"),
        ([f"group:{n}" for n in range(MAX_SUBJECTS + 1)], "subjects"),
    ],
)
async def test_subjects_that_are_none_are_refused(check, subjects, field):
    with pytest.raises(InvalidArgument) as refused:
        check.explain(AUDITOR, "read", "acme", subjects=subjects)
    assert refused.value.violations[0].field == field


async def test_without_authentication_the_caller_may_do_everything():
    rights = Rights(authenticates=False)
    answer = check_over(rights).explain(LOCAL_ADMIN, UPDATE, "acme")
    assert answer.allowed
    assert "authenticates nobody" in answer.words
    await rights.namespace("acme", NamespaceState.TERMINATING)
    assert not check_over(rights).explain(LOCAL_ADMIN, UPDATE, "acme").allowed


async def test_without_authentication_others_are_judged_as_they_will_be():
    rights = Rights(authenticates=False)
    await rights.bind("group:ops", "operator", "default")
    check = check_over(rights)
    assert check.explain(LOCAL_ADMIN, UPDATE, "default", subjects=["group:ops"]).allowed
    refused = check.explain(LOCAL_ADMIN, UPDATE, "default", subjects=["user:bob"])
    assert not refused.allowed


@pytest.mark.parametrize("action", [UPDATE, WHO_AM_I, "identify"])
async def test_an_auditor_of_one_namespace_learns_nothing_about_credentials_of_another(
    rights, check, action
):
    await rights.ban("umbra", "spy")
    await rights.token("at-good", "umbra")
    await rights.revoke(await rights.token("at-bad", "umbra"))
    home = f"spiffe://{TRUST_DOMAIN}/ns/umbra/agent/"
    asked = [f"{home}spy", f"{home}writer", "token:at-good", "token:at-bad", "token:at-none"]
    answers = [check.explain(AUDITOR, action, "acme", subjects=[subject]) for subject in asked]
    assert {(one.allowed, one.words) for one in answers} == {(False, "no namespace 'acme'")}
    # Once one has a role here, whether it is good is the auditor's business.
    await rights.bind("token:at-bad", "viewer", "acme")
    answer = check.explain(AUDITOR, action, "acme", subjects=["token:at-bad"])
    assert "was revoked" in answer.words
