"""What tests of the worker share: an index of a session, and searches of it."""

from __future__ import annotations

import pytest

from harness.environments.build import Environment
from harness.home import Home
from tests.support.real_environments import NEW
from tests.support.searching import Searching


@pytest.fixture(scope="session")
def searching(home: Home, environments: dict[str, Environment], tmp_path_factory: pytest.TempPathFactory) -> Searching:
    """An index that the newer of the two environments made."""
    return Searching(home, environments, tmp_path_factory.mktemp("searching"), NEW)
