"""The life of a change: the transitions from each state."""

from __future__ import annotations

import pytest

from actionengine.changes.states import ACCEPTS_OPS, ACCEPTS_TARGETS, STATUSES, TRANSITIONS, can_transition

ALLOWED = {
    ("Draft", "Implementing"),
    ("Draft", "Validating"),
    ("Draft", "Merged"),
    ("Implementing", "WorkspaceRunning"),
    ("Implementing", "Validating"),
    ("Implementing", "Draft"),
    ("WorkspaceRunning", "Validating"),
    ("WorkspaceRunning", "Implementing"),
    ("Validating", "Ready"),
    ("Validating", "ValidationFailed"),
    ("ValidationFailed", "Implementing"),
    ("ValidationFailed", "Validating"),
    ("Ready", "Merged"),
    ("Ready", "ValidationFailed"),
}


@pytest.mark.parametrize("require_review", [False, True])
@pytest.mark.parametrize("to", STATUSES)
@pytest.mark.parametrize("status", STATUSES)
def test_a_change_goes_where_the_table_lets_it(status: str, to: str, require_review: bool) -> None:
    skips_review = (status, to) == ("Draft", "Merged") and require_review
    assert can_transition(status, to, require_review) is ((status, to) in ALLOWED and not skips_review)


def test_there_are_seven_states_and_each_is_in_the_table() -> None:
    assert len(STATUSES) == 7
    assert set(TRANSITIONS) == set(STATUSES)


def test_a_merged_change_stays_as_it_is() -> None:
    assert not TRANSITIONS["Merged"]
    assert "Merged" not in ACCEPTS_OPS | ACCEPTS_TARGETS


def test_targets_are_taken_in_draft_only() -> None:
    assert set(ACCEPTS_TARGETS) == {"Draft"}


def test_ops_are_accepted_before_and_after_a_failed_validation() -> None:
    assert set(ACCEPTS_OPS) == {"Draft", "Implementing", "WorkspaceRunning", "ValidationFailed"}
