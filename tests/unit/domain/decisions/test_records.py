import pytest

from controlplane.domain.decisions.records import DecisionName, parse_decision_id
from controlplane.services.policies.decisions import DecisionIds


def test_an_id_says_when_and_by_whom():
    ids = DecisionIds()

    assert parse_decision_id(ids.new(1_767_225_600_000)) == DecisionName(
        1_767_225_600_000, ids.source
    )


def test_ids_sort_as_they_were_made():
    ids = DecisionIds()
    made = [ids.new(1_000 + n // 3) for n in range(400)]

    assert made == sorted(made)
    assert len(set(made)) == len(made)


def test_two_processes_never_make_the_same():
    assert len({DecisionIds().source for _ in range(100)}) == 100


@pytest.mark.parametrize(
    "text",
    [
        "",
        "dec",
        "dec-1",
        "agt-019b76da8800-0011aabb-00000001",
        "dec-019b76da880-0011aabb-00000001",
        "dec-019b76da8800-0011aab-00000001",
        "dec-019b76da8800-0011aabb-",
        "dec-019b76da8800-0011aabb-" + "1" * 17,
        "dec-019b76da880g-0011aabb-00000001",
        "dec-019b76da8800-0011AABB-00000001",
        "dec-019b76da8800-0011aabb-00000001-1",
        "dec-+19b76da8800-0011aabb-00000001",
    ],
)
def test_anything_else_is_no_id(text):
    assert parse_decision_id(text) is None
