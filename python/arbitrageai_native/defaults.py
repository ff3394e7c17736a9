"""The default values of the public API: each stands here once, and signatures refer to it. Times in seconds.

The computed defaults are elsewhere: `llm.settings.default_max_connections` (by the limit of descriptors), and
the number of worker threads (by the number of processors, in `src/bridge/runtime.rs`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

# Models and endpoints
CLOUD_MODEL: Final = "gpt-4o-mini"
LOCAL_MODEL: Final = "llama3.2"
DISTILLED_MODEL: Final = "distilled-llama3.2"
CLOUD_BASE_URL: Final = "https://api.openai.com/v1"
CLOUD_API_KEY: Final = "dummy-key-for-local"
LOCAL_BASE_URL: Final = "http://localhost:11434/v1"
LOCAL_API_KEY: Final = "not-needed"
USE_LOCAL_BY_DEFAULT: Final = False
MIN_CLOUD_REVENUE_CENTS: Final = 3000

# Calls of `LLMService`
TEMPERATURE: Final = 0.7
MAX_TOKENS: Final = 1000
STEALTH_RANGE: Final = (2.0, 5.0)
FALLBACK_TIMEOUTS: Final = (10.0, 20.0, 30.0)
FALLBACK_DELAYS: Final = (2.0, 5.0)
CONCURRENCY: Final = 16

# What `_native.CallOptions` is made of. A service and a client give all of it, with what they were given on
# top: no default of the native side reaches a call. (The retry rule's values are those of OpenAI's SDK.)
CALL_SETTINGS: Final[Mapping[str, Any]] = {
    "timeout": 30.0,
    "deadline": None,
    "connect_timeout": 5.0,
    "first_byte_timeout": None,
    "idle_timeout": None,
    "max_retries": 2,
    "retry_base": 0.5,
    "retry_cap": 8.0,
    "retry_jitter": 0.25,
    "retry_after_limit": 120.0,
    "idempotency_key": True,
    "max_body_bytes": 64 * 1024 * 1024,
    "http2": False,
    "ca_certs": None,
    "client_cert": None,
    "verify": True,
    "proxy": None,
    "unix_socket": None,
}

# What differs for `OpenAI` and `AsyncOpenAI`, as in OpenAI's SDK, whose requests have no idempotency key.
CLIENT_TIMEOUT: Final = 600.0
CLIENT_IDEMPOTENCY_KEY: Final = False

# Circuit breakers and health
FAILURE_THRESHOLD: Final = 3
RECOVERY_TIMEOUT: Final = 60
RESPONSE_TIMES_KEPT: Final = 100
HEALTH_CHECK_INTERVAL: Final = 30
HEALTH_CHECK_TIMEOUT: Final = 5
BACKOFF_INITIAL_MS: Final = 100
BACKOFF_MAX_MS: Final = 10_000
BACKOFF_BASE: Final = 2.0
BACKOFF_JITTER: Final = 0.1

# Locks
LOCK_TTL: Final = 300
LOCK_TIMEOUT: Final = 10.0
LOCK_HOLDER: Final = "default"
LOCK_ON_LOST: Final = "log"
MAX_HOLD_TTLS: Final = 10
"""How many times its `ttl` a lock is renewed at most."""
LOCK_LOSS_CHECK: Final = 1.0
LOCK_CONNECTIONS: Final = 5
LOCK_DATABASE_FILE: Final = "data/tasks.db"
"""Relative to the working directory; the native side has the same path in its own default URL."""
LOCK_DATABASE_URL: Final = f"sqlite:///{LOCK_DATABASE_FILE}"
REDIS_HOST: Final = "localhost"
REDIS_PORT: Final = "6379"
REDIS_DB: Final = "0"

# The monitor of event loops
STALL_THRESHOLD: Final = 0.1

# The command line
DEMO_SCANNERS: Final = 3
DEMO_STEALTH_RANGE: Final = (0.3, 0.9)
DEMO_LOCK_TTL: Final = 10.0
WATCH_SECONDS: Final = 1.0
