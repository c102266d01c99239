"""The trials of a test, from its parameters."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.reliability.trials import Trials


@pytest.fixture
def trials(request: pytest.FixtureRequest) -> Iterator[Trials]:
    """See Trials.of. Every trial must have been looked at."""
    trials = Trials.with_seed(*request.param)
    yield trials
    assert trials.counts["trials"] == trials.count
