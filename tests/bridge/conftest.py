"""Every test of the bridge counts what it has begun itself."""

import pytest

from testing_support.bridge import count_from_here


@pytest.fixture(autouse=True)
def own_counts() -> None:
    count_from_here()
