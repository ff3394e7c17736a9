"""The live page in a real Chromium: what it shows, how soon, and that it asks nobody but its server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI

from arbitrageai_native import BidLockManager, LoopMonitor, llm_health_check
from arbitrageai_native.integrations.fastapi import router
from testing_support.servers.chromium import Chromium
from testing_support.servers.uvicorn import serving

# It asks every second; a busy machine may need longer for the rest.
SOON = 10.0
HOSTILE = ("<script>alert(1)</script>", "\"><img src=x onerror='alert(2)'>", "</td><b>someone</b>")


class Page:
    """The page as the test's coroutine looks at it: the browser is waited for in a thread."""

    def __init__(self, browser: Chromium) -> None:
        self.browser = browser
        # The server ends before the browser does, which may just be asking.
        self.expected_complaints = ["Failed to load resource: net::ERR_"]

    async def open(self, url: str) -> None:
        await asyncio.to_thread(self.browser.open, url)
        await self.shows("#connection", "live")

    async def evaluate(self, expression: str) -> Any:
        return await asyncio.to_thread(self.browser.evaluate, expression)

    async def wait_for(self, expression: str) -> Any:
        return await asyncio.to_thread(self.browser.wait_for, expression, SOON)

    async def shows(self, selector: str, text: str) -> None:
        await self.wait_for(f"document.querySelector({selector!r})?.innerText.includes({text!r})")

    async def no_longer_shows(self, selector: str, text: str) -> None:
        await self.wait_for(f"!document.querySelector({selector!r})?.innerText.includes({text!r})")

    async def text(self) -> str:
        return await asyncio.to_thread(self.browser.text)


@pytest.fixture(scope="module")
def browser() -> Iterator[Chromium]:
    """Starts once; every test has a page of its own."""
    with Chromium() as browser:
        yield browser


@pytest.fixture
def page(browser: Chromium) -> Iterator[Page]:
    """A new page, which in the end has asked one server alone, and complained of nothing."""
    browser.new_page()
    page = Page(browser)
    yield page
    requested = [request["request"]["url"] for request in browser.reported("Network.requestWillBeSent")]
    own = browser.evaluate("location.origin")
    assert own.startswith("http://127.0.0.1:")
    assert f"{own}/native/data" in requested
    assert [url for url in requested if not url.startswith((f"{own}/native", "data:"))] == []
    loaded = browser.evaluate("performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert set(loaded) <= {f"{own}/native/data", "data:,"}
    assert complaints(page) == []


def complaints(page: Page) -> list[dict[str, Any]]:
    """Whatever stands in the page's console, but for what the test expects there."""
    kinds = ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown")
    found = [event for kind in kinds for event in page.browser.reported(kind)]
    return [event for event in found if not any(text in str(event) for text in page.expected_complaints)]


@pytest.fixture(autouse=True)
def no_breakers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llm_health_check, "_global_health_checker", None)


def application(**arguments: Any) -> FastAPI:
    app = FastAPI()
    app.include_router(router(**arguments))
    return app


async def test_a_lock_appears_with_its_waiter_and_goes_when_it_is_released(
    page: Page, sqlite_url: str
) -> None:
    async with (
        BidLockManager(60, sqlite_url) as manager,
        serving(application(locks=manager)) as url,
    ):
        await page.open(f"{url}/native")
        assert "No lock is held." in await page.text()
        async with manager.with_lock("upwork", "job-17", holder_id="scanner-1"):
            await page.shows("table.held", "bid:lock:upwork:job-17")
            await page.shows("table.held", "scanner-1")
            await page.shows("#held", "1")
            waiter = asyncio.create_task(manager.acquire_lock("upwork", "job-17", 30, "scanner-2"))
            await page.shows("table.waiting", "scanner-2")
            await page.shows("#waiting", "1")
        assert await waiter
        await page.no_longer_shows("table.waiting", "scanner-2")
        await page.shows("table.held", "scanner-2")
        assert "in 5" in await page.evaluate(
            "document.querySelector('table.held tbody tr').cells[3].innerText"
        )
        assert await manager.release_lock("upwork", "job-17", "scanner-2")
        await page.shows("#managers", "No lock is held.")
        assert "job-17" not in await page.text()


async def test_hostile_names_are_shown_as_text(page: Page, sqlite_url: str) -> None:
    async with (
        BidLockManager(60, sqlite_url) as manager,
        serving(application(locks={HOSTILE[0]: manager})) as url,
        manager.with_lock(HOSTILE[0], HOSTILE[1], holder_id=HOSTILE[2]),
    ):
        await page.open(f"{url}/native")
        await page.shows("table.held", HOSTILE[2])
        shown = await page.text()
        assert f"bid:lock:{HOSTILE[0]}:{HOSTILE[1]}" in shown
        assert shown.count(HOSTILE[0]) == 2
        assert await page.evaluate("document.querySelectorAll('main :is(script, img, b)').length") == 0


async def test_a_script_that_is_not_the_pages_own_does_not_run(page: Page) -> None:
    page.expected_complaints.append("Content Security Policy")
    async with serving(application()) as url:
        await page.open(f"{url}/native")
        refused = await page.evaluate(
            """new Promise((resolve) => {
                const tell = (event) => resolve(event.effectiveDirective);
                document.addEventListener("securitypolicyviolation", tell);
                const script = document.createElement("script");
                script.textContent = "window.ran = true";
                document.body.append(script);
            })"""
        )
        assert refused == "script-src-elem"
        assert await page.evaluate("window.ran === undefined")


async def test_an_open_breaker_is_shown_until_it_is_closed(page: Page) -> None:
    checker = llm_health_check.get_health_checker()
    endpoint = "http://user:secret-word@127.0.0.1:11434/v1"
    async with serving(application()) as url:
        await page.open(f"{url}/native")
        assert "No endpoint has a breaker." in await page.text()
        checker.register_endpoint(endpoint, failure_threshold=2)
        await page.shows("#circuits", "closed")
        checker.record_failure(endpoint)
        checker.record_failure(endpoint)
        await page.shows("#circuits td.bad", "open, a probe in")
        assert "http://127.0.0.1:11434/v1" in await page.text()
        assert "secret-word" not in await page.text()
        checker.get_health_status(endpoint).state = llm_health_check.CircuitState.HALF_OPEN
        checker.record_success(endpoint)
        await page.shows("#circuits td.good", "closed")


async def test_the_chart_moves_and_a_stall_stands_out(page: Page) -> None:
    bars = "Array.from(document.querySelectorAll('#bars rect'))"
    stall = f"{bars}.findIndex((bar) => bar.matches('.stall'))"
    # A busy machine holds the loop up, too, but not for so long.
    async with serving(application(monitor=LoopMonitor(threshold=0.6))) as url:
        await page.open(f"{url}/native")
        assert await page.evaluate(stall) == -1
        time.sleep(0.8)  # noqa: ASYNC251 - this is what is to be shown
        await page.wait_for(f"{stall} >= 0")
        place = await page.evaluate(stall)
        heights = await page.evaluate(f"{bars}.map((bar) => Number(bar.getAttribute('height')))")
        assert max(heights) == heights[place] > 75
        await page.shows("#stalls", "1")
        await page.shows("#stall", "operations/test_live_page.py:")
        await page.wait_for(f"{stall} < {place}")
        label = await page.evaluate("document.querySelector('#bars').getAttribute('aria-label')")
        assert label.startswith("Lag of the event loop in the last two minutes: at most ")


async def test_it_asks_only_while_it_is_looked_at(page: Page) -> None:
    def asked() -> int:
        page.browser.evaluate("0")  # what has been reported is read with an answer
        return sum(
            request["request"]["url"].endswith("/data")
            for request in page.browser.reported("Network.requestWillBeSent")
        )

    look = """
        Object.defineProperty(document, "hidden", {configurable: true, get: () => HIDDEN});
        document.dispatchEvent(new Event("visibilitychange"));
    """
    away, back = look.replace("HIDDEN", "true"), look.replace("HIDDEN", "false")
    away_while_it_asks = f"""new Promise((resolve) => {{
        const ask = window.fetch;
        window.fetch = (...request) => {{ window.fetch = ask; {away} resolve(); return ask(...request); }};
    }})"""
    async with serving(application()) as url:
        await page.open(f"{url}/native")
        for leave in (away, away_while_it_asks):
            await page.evaluate(leave)
            await asyncio.sleep(0.2)
            before = await asyncio.to_thread(asked)
            await asyncio.sleep(2)
            assert await asyncio.to_thread(asked) == before
            await page.evaluate(back)
            await asyncio.sleep(2.5)
            assert before + 2 <= await asyncio.to_thread(asked) <= before + 4


async def test_on_a_phone_nothing_is_cut_off_and_tables_stay_tables(page: Page, sqlite_url: str) -> None:
    async with (
        BidLockManager(60, sqlite_url) as manager,
        serving(application(locks=manager)) as url,
        manager.with_lock("upwork", "x" * 300, holder_id="y" * 300),
    ):
        await asyncio.to_thread(page.browser.resize, 360, 740)
        await page.open(f"{url}/native")
        await page.shows("table.held", "y" * 300)
        assert await page.evaluate("document.documentElement.scrollWidth") == 360
        tree = (await asyncio.to_thread(page.browser.call, "Accessibility.getFullAXTree"))["nodes"]
        found = {
            (node["role"]["value"], node["name"]["value"])
            for node in tree
            if not node["ignored"] and "name" in node
        }
        assert {("status", ""), ("heading", "Event loop"), ("table", "Locks held: locks")} <= found
        assert ("columnheader", "key") in found
        assert ("cell", f"bid:lock:upwork:{'x' * 300}") in found
        assert any(role == "image" and name.startswith("Lag of the event loop") for role, name in found)


async def test_a_server_that_is_gone_is_told_of_and_found_again(page: Page, unused_tcp_port: int) -> None:
    application_ = application(monitor=LoopMonitor())
    async with serving(application_, port=unused_tcp_port) as url:
        await page.open(f"{url}/native")
    await page.shows("#connection", "the server does not answer")
    async with serving(application_, port=unused_tcp_port):
        await page.shows("#connection", "live")
