"""What the tests of all strangers share."""

import pytest
from stranger import Store, Stranger


@pytest.fixture(scope="module")
def store(tracked: Stranger) -> Store:
    """Return the runs of the repository that the module tracks."""
    return Store(tracked.path)
