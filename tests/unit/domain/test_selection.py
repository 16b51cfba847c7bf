"""Conditions, version ranges, and the reason why an agent does not fit."""

import pytest

from controlplane.domain.agents import AgentStatus
from controlplane.domain.errors import InvalidArgument
from controlplane.domain.selection import AgentFilter, RejectionReason, VersionRange, text_problem
from tests.fakes.registered import an_agent

RICH = an_agent(
    "agt-1",
    name="researcher",
    version="2.1.0",
    owner="team-a",
    model="claude",
    capabilities=("search", "cite"),
    tools=("web",),
    tags={"env": "prod"},
)


def test_an_empty_filter_matches_every_agent():
    assert AgentFilter().matches(RICH)


@pytest.mark.parametrize(
    ("wanted", "reason", "detail"),
    [
        (
            AgentFilter(capabilities=("cite", "translate")),
            RejectionReason.CAPABILITY,
            'lacks capability "translate"',
        ),
        (AgentFilter(tags={"zone": "a"}), RejectionReason.TAG, 'lacks tag "zone"'),
        (
            AgentFilter(tags={"env": "test"}),
            RejectionReason.TAG,
            'tag "env" is "prod", not "test"',
        ),
        (
            AgentFilter(statuses=frozenset({AgentStatus.INACTIVE, AgentStatus.DEGRADED})),
            RejectionReason.STATUS,
            "is ACTIVE, not DEGRADED or INACTIVE",
        ),
        (AgentFilter(name="writer"), RejectionReason.NAME, 'is named "researcher", not "writer"'),
        (
            AgentFilter(version_range="<2.0.0"),
            RejectionReason.VERSION,
            "version 2.1.0 is not <2.0.0",
        ),
        (AgentFilter(owner="team-b"), RejectionReason.OWNER, 'belongs to "team-a", not "team-b"'),
        (AgentFilter(model="gpt"), RejectionReason.MODEL, 'was built for "claude", not "gpt"'),
        (AgentFilter(tool="mail"), RejectionReason.TOOL, 'may not call tool "mail"'),
    ],
)
def test_a_mismatch_names_the_condition(wanted, reason, detail):
    assert wanted.first_mismatch(RICH) == (reason, detail)
    assert not wanted.matches(RICH)


def test_the_first_mismatch_is_in_the_order_of_the_reasons():
    wanted = AgentFilter(tool="mail", name="writer", capabilities=("translate",))

    reasons = [reason for reason, _ in wanted.mismatches(RICH)]

    assert reasons == [RejectionReason.CAPABILITY, RejectionReason.NAME, RejectionReason.TOOL]


def test_all_conditions_that_hold_make_a_match():
    wanted = AgentFilter(
        capabilities=("cite", "search"),
        tags={"env": "prod"},
        statuses=frozenset({AgentStatus.ACTIVE}),
        name="researcher",
        version_range=">=2.0.0, <3.0.0",
        owner="team-a",
        model="claude",
        tool="web",
    )

    assert wanted.matches(RICH)


@pytest.mark.parametrize(
    ("text", "version", "inside"),
    [
        (">=1.2.0,<2.0.0", "1.2.0", True),
        (">=1.2.0,<2.0.0", "2.0.0", False),
        (" >= 1.2.0 , < 2.0.0 ", "1.9.9", True),
        ("==1.2.3", "1.2.3", True),
        ("!=1.2.3", "1.2.3", False),
        ("!=1.2.3", "1.2.4", True),
        (">1.2.3", "1.2.3", False),
        ("<=1.2.3", "1.2.3", True),
        ("<1.10.0", "1.9.0", True),
        ("==1.0.0", "1.0.0+build.7", True),
        (">=1.0.0", "2.0.0-rc.1", False),
        ("<2.0.0", "2.0.0-rc.1", False),
        ("!=1.0.0", "2.0.0-rc.1", False),
        (">=2.0.0-rc.1", "2.0.0-rc.2", True),
        (">=2.0.0-rc.1", "2.0.0-alpha", False),
        (">=2.0.0-rc.1", "2.1.0-rc.1", False),
        (">=2.0.0-rc.1", "2.1.0", True),
        ("==2.0.0-rc.1", "2.0.0-rc.1", True),
        (">=1.0.0", "not a version", False),
    ],
)
def test_a_version_range_follows_semver_and_keeps_pre_releases_out(text, version, inside):
    assert VersionRange.parse(text).contains(version) is inside


@pytest.mark.parametrize(
    "text",
    ["1.2.0", "~1.2.0", ">=1.2", ">=", ",", ">=1.0.0,", "=1.0.0", ",".join([">=1.0.0"] * 17)],
)
def test_a_malformed_version_range_is_refused(text):
    with pytest.raises(ValueError, match=r".+"):
        VersionRange.parse(text)


def test_every_wrong_field_of_a_filter_is_named():
    wanted = AgentFilter(
        capabilities=("fine", "", "x" * 257),
        tags={"": "v", "k": "ü" * 129},
        name="n" * 257,
        version_range="latest",
        tool="\ud800",
    )

    with pytest.raises(InvalidArgument) as refusal:
        wanted.validate()

    assert [violation.field for violation in refusal.value.violations] == [
        "filter.capabilities[1]",
        "filter.capabilities[2]",
        "filter.tags[]",
        "filter.tags[k]",
        "filter.name",
        "filter.tool",
        "filter.version_range",
    ]


def test_more_conditions_than_an_agent_can_meet_are_refused():
    wanted = AgentFilter(
        capabilities=tuple(str(n) for n in range(65)), tags={str(n): "" for n in range(65)}
    )

    fields = [violation.field for violation in wanted.violations("f")]

    assert fields == ["f.capabilities", "f.tags"]


def test_a_valid_filter_passes_validation():
    AgentFilter(capabilities=("a" * 256,), version_range=">=1.0.0").validate()


def test_equal_filters_have_equal_keys_whatever_the_order_of_their_tags():
    one = AgentFilter(tags={"a": "1", "b": "2"})
    other = AgentFilter(tags={"b": "2", "a": "1"})

    assert one.key == other.key
    assert one.key != AgentFilter(tags={"a": "1"}).key


@pytest.mark.parametrize(
    ("text", "required", "fine"),
    [("", False, True), ("", True, False), ("ü", True, True), ("üü", True, False)],
)
def test_texts_are_measured_in_bytes(text, required, fine):
    assert (text_problem(text, 3, required=required) is None) is fine
