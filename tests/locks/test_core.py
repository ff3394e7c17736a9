"""The suite of the Rust core that every store must pass, on servers."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from testing_support.servers.postgres import PostgresServer
from testing_support.servers.redis import RedisServer


@pytest.mark.serial
@pytest.mark.timeout(1200)  # it may have to be compiled
def test_the_core_passes_its_suite_on_servers(
    postgres_server: PostgresServer, redis_server: RedisServer
) -> None:
    command = ["cargo", "test", "--quiet", "--locked", "--no-default-features", "--lib"]
    finished = subprocess.run(
        [*command, "--", "::postgres", "::redis", "--test-threads", "2"],
        cwd=Path(__file__).parents[2],
        env={
            **os.environ,
            "ARBITRAGEAI_TEST_POSTGRES_URL": postgres_server.url(),
            "ARBITRAGEAI_TEST_REDIS_URL": redis_server.url(),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout[-5000:] + finished.stderr[-5000:]
    used = "SELECT count(*) FROM pg_namespace WHERE nspname = 'tokens_grow'"
    assert postgres_server.execute(used) == "1", "the tests have not read the servers' addresses"
