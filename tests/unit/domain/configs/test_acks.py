import pytest

from controlplane.domain.configs import AckStatus, ConfigAck, absorb


def ack(
    attempted: int, running: int, status: AckStatus, error: str = "", instance: str = "i-1"
) -> ConfigAck:
    return ConfigAck(
        agent_id="a-1",
        instance_id=instance,
        attempted_revision=attempted,
        running_revision=running,
        status=status,
        error=error,
    )


RUNS_7 = ack(7, 7, AckStatus.APPLIED)
REFUSED_9 = ack(9, 7, AckStatus.FAILED, "no such model")


@pytest.mark.parametrize(
    ("previous", "reported", "known"),
    [
        (None, RUNS_7, RUNS_7),
        (RUNS_7, ack(9, 7, AckStatus.APPLYING), ack(9, 7, AckStatus.APPLYING)),
        (RUNS_7, REFUSED_9, REFUSED_9),
        (RUNS_7, ack(0, 0, AckStatus.UNSET), RUNS_7),
        (REFUSED_9, RUNS_7, REFUSED_9),
        (REFUSED_9, ack(9, 7, AckStatus.APPLYING), REFUSED_9),
        (REFUSED_9, ack(9, 9, AckStatus.APPLIED), ack(9, 9, AckStatus.APPLIED)),
        (ack(9, 9, AckStatus.APPLIED), REFUSED_9, REFUSED_9),
        (RUNS_7, ack(7, 7, AckStatus.APPLYING), RUNS_7),
    ],
)
def test_what_is_known_after_a_report(previous, reported, known):
    assert absorb(previous, reported) == known


def test_a_report_without_news_returns_the_same_object():
    assert absorb(RUNS_7, ack(7, 7, AckStatus.APPLIED)) is RUNS_7


def test_success_is_not_believed_while_another_revision_runs():
    known = absorb(None, ack(9, 7, AckStatus.APPLIED))
    assert known.status is AckStatus.APPLYING


def test_an_error_is_cut_to_a_kibibyte_of_whole_characters():
    known = absorb(None, ack(1, 0, AckStatus.FAILED, "x" + "é" * 600))
    assert len(known.error.encode()) == 1023
    assert absorb(None, ack(1, 1, AckStatus.APPLIED, "left over")).error == ""


def test_one_instance_cannot_answer_for_another():
    with pytest.raises(ValueError, match="i-2"):
        absorb(RUNS_7, ack(8, 8, AckStatus.APPLIED, instance="i-2"))
