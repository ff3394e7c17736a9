"""A migration locks the table for seconds. `benchmarks/lock_migration.py` is the long form."""

from __future__ import annotations

import pytest

from testing_support.lock_migration import migrate

CONNECTIONS = 3
SHORT_TTL = 3.0


@pytest.mark.serial
async def test_locks_outlast_a_migration_or_are_reported_lost(postgres_url: str) -> None:
    found = await migrate(
        postgres_url,
        SHORT_TTL + 1,
        managers=2,
        max_connections=CONNECTIONS,
        long_ttl=60,
        short_ttl=SHORT_TTL,
    )
    assert 0 < found.most_backends <= CONNECTIONS
    assert found.lost_long == 0
    assert len(found.losses) == 2
    for late in found.losses:
        # A holder stops believing at the expiry or by a margin before; the rest is a busy machine's.
        assert -0.5 < late < 2, found.losses
    assert found.resumed < 4  # 2 s, and the delay of a busy machine
