"""What `audit` knows of services and sessions that come from elsewhere: imports, constructors, factories."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import pytest

from arbitrageai_native.audit import Finding, audit
from tests.operations.test_audit import found_in


def places(found: list[Finding]) -> list[tuple[str, str, int]]:
    """The file's name, the coroutine, and the line of each finding."""
    return [(Path(finding.file).name, finding.function, finding.line) for finding in found]


def functions(found: list[Finding]) -> list[str]:
    return [finding.function for finding in found]


# --- imports ---


IMPORTS = {
    "from the folder above": "from ..llm_service import LLMService\nservice = LLMService()",
    "two folders above": "from ...llm_service import LLMService as S\nservice = S()",
    "a module": "from .. import llm_service as svc\nservice = svc.LLMService()",
    "of the package itself": "from . import llm_service\nservice = llm_service.LLMService.with_local()",
    "by the full name": "import src.llm_service\nservice = src.llm_service.LLMService()",
    "in a try": "try:\n    from ..llm_service import LLMService\nexcept ImportError:\n    pass\n"
    "service = LLMService()",
}


@pytest.mark.parametrize("with_init", [True, False], ids=["package", "namespace"])
@pytest.mark.parametrize("form", IMPORTS)
def test_a_service_is_known_however_it_is_imported(
    tmp_path: Path, form: str, with_init: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = f"{IMPORTS[form]}\nasync def ask():\n    service.complete('x')\n"
    files = {"src__shop__scanner": text, "src__shop__deep__empty": ""}
    if with_init:
        files |= {"src__INIT": "", "src__shop__INIT": ""}
    (found,) = found_in(tmp_path, **files)
    assert found.call == "service.complete"
    # Wherever the command is started, and however much of the tree it is given.
    for folder, name in (("src/shop", "scanner.py"), ("src", "shop"), ("src/shop/deep", "../scanner.py")):
        monkeypatch.chdir(tmp_path / folder)
        assert functions(audit([Path(name)]).findings) == ["ask"]


def test_helpers_behind_relative_imports_are_followed(tmp_path: Path) -> None:
    helper = "import time\ndef pause(): time.sleep(1)\n"
    found = found_in(
        tmp_path,
        app__tools__clock=helper,
        app__tools__INIT="from .clock import pause as rest",
        app__jobs__one="from ..tools import rest\nasync def one(): rest()",
        app__jobs__two="from ..tools import clock\nasync def two(): clock.pause()",
        app__jobs__three="from .. import tools\nasync def three(): tools.rest()",
        app__jobs__four="import app.tools.clock\nasync def four(): app.tools.clock.pause()",
        # The helper was moved out of the folder, and the import was not.
        app__jobs__deep__five="from .tools import clock\nasync def five(): clock.pause()",
    )
    assert sorted(functions(found)) == ["five", "four", "one", "three", "two"]


def test_a_module_of_the_standard_library_is_not_one_of_the_tree(tmp_path: Path) -> None:
    blocking = "import time\ndef dumps(x): time.sleep(1)\n"
    assert found_in(tmp_path, json=blocking, app="import json\nasync def f(): json.dumps(1)") == []


def test_the_sources_of_the_originals_count_as_this_package(tmp_path: Path) -> None:
    own = """
        class LLMService:
            def complete(self, prompt): return self.client.chat.completions.create(prompt)
    """
    asynchronous = own.replace("def complete", "async def complete")
    scanner = "from .llm_service import LLMService\nasync def ask(): LLMService().complete('x')"
    (found,) = found_in(tmp_path, src__llm_service=own, src__scanner=scanner)
    assert "complete_async" in found.instead
    (tmp_path / "src" / "llm_service.py").write_text(dedent(asynchronous))
    assert audit([tmp_path]).findings == []


# --- services that are handed on ---

SERVICES = """
    from dataclasses import dataclass, field
    from functools import cached_property
    from typing import Any, Optional
    from ..llm_service import LLMService

    shared = LLMService()

    class Planner:
        def __init__(self, llm):
            self.llm = llm

        def plan(self, text):
            return self.llm.complete(text)

    @dataclass
    class Settings:
        name: str
        llm: Any
        local: LLMService = field(default_factory=LLMService.with_local)
        other: "LLMService | None" = None

    def get_service():
        global _service
        if _service is None:
            _service = LLMService()
        return _service

    _service = None
"""
HANDED_ON = {
    "an attribute": """
        class Scanner:
            def __init__(self):
                self.llm = None
                if True:
                    self.llm = LLMService.with_local(model="m")
            async def run(self):
                self.llm.complete("x")
    """,
    "an annotated parameter": """
        async def run(llm: Optional[LLMService] = None):
            llm.complete("x")
    """,
    "a default argument": """
        async def run(llm=shared):
            llm.complete("x")
    """,
    "a parameter, by the calls": """
        async def run(llm):
            llm.complete("x")
        async def start():
            await run(LLMService())
    """,
    "one of two": """
        class Scanner:
            def __init__(self, llm: LLMService | None = None):
                self.llm = llm or LLMService()
            async def run(self):
                self.llm.complete("x")
    """,
    "an attribute of an attribute": """
        class Scanner:
            def __init__(self):
                self.planner = Planner(LLMService())
            async def run(self):
                self.planner.llm.complete("x")
    """,
    "behind a method of an attribute": """
        class Scanner:
            def __init__(self, llm=None):
                self.planner = Planner(llm=shared)
            async def run(self):
                return self.planner.plan("x")
    """,
    "a dataclass": """
        async def run(settings: Settings):
            settings.local.complete("x")
    """,
    "a dataclass, by its string": """
        async def run(settings: Settings):
            settings.other.complete("x")
    """,
    "a dataclass, by the calls": """
        made = Settings("a", LLMService())
        async def run():
            made.llm.complete("x")
    """,
    "a factory": """
        async def run():
            get_service().complete("x")
    """,
    "a singleton": """
        async def run():
            _service.complete("x")
    """,
    "a property": """
        class Scanner:
            @property
            def llm(self):
                return shared
            async def run(self):
                self.llm.complete("x")
    """,
    "a cached property": """
        class Scanner:
            @cached_property
            def llm(self) -> "LLMService":
                return make()
            async def run(self):
                self.llm.complete("x")
    """,
    "a property that asks": """
        class Scanner:
            @property
            def answer(self):
                return shared.complete("x")
            async def run(self):
                return self.answer
    """,
    "a keyword with a default": """
        async def run(**keywords):
            llm = keywords.get("llm", LLMService())
            llm.complete("x")
    """,
    "a base class": """
        class Base:
            def __init__(self, llm):
                self.llm = llm
        class Scanner(Base):
            def __init__(self):
                super().__init__(LLMService())
            async def run(self):
                self.llm.complete("x")
    """,
    "a subclass of the service": """
        class Counting(LLMService):
            pass
        async def run():
            Counting().complete("x")
    """,
    "what a subclass sets": """
        class Base:
            async def run(self):
                self.llm.complete("x")
        class Scanner(Base):
            llm = LLMService()
    """,
    "async with": """
        class Scanner:
            def __init__(self): self.llm = shared
            async def __aenter__(self): return self
            def ask(self): self.llm.complete("x")
        async def run():
            async with Scanner() as scanner:
                scanner.ask()
    """,
    "a constructor in async with": """
        class Scanner:
            def __init__(self): self.first = shared.complete("x")
            async def __aenter__(self): return self
        async def run():
            async with Scanner():
                pass
    """,
    "an awaited constructor": """
        class Scanner:
            def __init__(self): self.first = shared.complete("x")
            def __await__(self): return iter(())
        async def run():
            await Scanner()
    """,
    "an awaited factory": """
        async def made(): return LLMService()
        async def run():
            service = await made()
            service.complete("x")
    """,
    "three functions below": """
        def a(text): return Planner(shared).plan(text)
        def b(text): return a(text)
        async def run():
            return b("x")
    """,
    "a helper that returns a coroutine": """
        async def later(): pass
        def ask():
            shared.complete("x")
            return later()
        async def run():
            await ask()
    """,
    "a generator that is run through": """
        def pieces():
            yield from shared.complete_streaming("x")
        async def run():
            for piece in pieces():
                print(piece)
    """,
}


@pytest.mark.parametrize("form", HANDED_ON)
def test_a_service_is_known_wherever_it_is_handed_to(tmp_path: Path, form: str) -> None:
    # The names that begin with an underscore are not imported like this.
    text = "from .services import *\n" + dedent(HANDED_ON[form])
    if form == "a singleton":
        text = dedent(SERVICES) + dedent(HANDED_ON[form])
    found = found_in(tmp_path, src__shop__services=SERVICES, src__shop__scanner=text)
    (found,) = [finding for finding in found if finding.file.endswith("scanner.py")]
    assert found.function.rpartition(".")[2] == "run"
    assert "complete" in found.call


HARMLESS = {
    "a thread": """
        async def run():
            await asyncio.to_thread(shared.complete, "x")
            await asyncio.to_thread(lambda: shared.complete("x"))
            await asyncio.to_thread(Planner(shared).plan, "x")
    """,
    "an executor": """
        async def run():
            def ask():
                return shared.complete("x")
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(None, ask)
            await loop.run_in_executor(None, functools.partial(shared.complete, "x"))
    """,
    "a nested function that no coroutine calls": """
        async def run():
            def ask():
                return shared.complete("x")
            return ask
    """,
    "the asynchronous method": """
        async def run():
            await shared.complete_async("x")
            async for piece in shared.complete_streaming_async("x"):
                print(piece)
            print(shared.get_model(), shared.is_local())
    """,
    "a generator that nobody runs": """
        def pieces():
            yield shared.complete("x")
        async def run():
            return pieces()
    """,
    "an object that is awaited": """
        async def run(llm=shared):
            await llm.complete("x")
            async for piece in llm.complete_streaming("x"):
                print(piece)
    """,
    "a decorator that moves it to a thread": """
        @in_thread
        def ask():
            return shared.complete("x")
        async def run():
            await ask()
    """,
    "a synchronous twin of what is awaited": """
        class Client:
            def ask(self): return shared.complete("x")
        class AsyncClient(Client):
            pass
        async def run(client):
            await client.ask()
        async def start():
            await run(Client())
    """,
    "a synchronous endpoint": """
        @app.get("/")
        def ask():
            return shared.complete("x")
    """,
    "another class with the method": """
        class Form:
            def complete(self, text): return text
        async def run(form=Form()):
            form.complete("x")
    """,
    "a function that others hand over": """
        def call(function):
            return function()
        def blocking():
            call(lambda: shared.complete("x"))
            return call(ask)
        def ask():
            return shared.complete("x")
        def quick():
            return 1
        async def run():
            call(quick)
    """,
}


@pytest.mark.parametrize("form", HARMLESS)
def test_what_does_not_block_the_loop_is_not_reported(tmp_path: Path, form: str) -> None:
    header = "import asyncio, functools\nfrom .services import Planner, shared\n"
    text = header + dedent(HARMLESS[form])
    assert found_in(tmp_path, src__shop__services=SERVICES, src__shop__scanner=text) == []


# --- sessions ---

DATABASE = """
    from contextlib import contextmanager
    from sqlalchemy import create_engine
    from sqlalchemy.ext.asyncio import async_sessionmaker
    from sqlalchemy.orm import Session, sessionmaker

    engine = create_engine("sqlite://")
    SessionLocal = sessionmaker(bind=engine)
    AsyncSessionLocal = async_sessionmaker()

    def get_db() -> Session:
        db = SessionLocal()
        try:
            yield db
        finally:
            db.close()

    async def get_async_db():
        async with AsyncSessionLocal() as db:
            yield db

    @contextmanager
    def session_scope():
        with SessionLocal() as db:
            yield db
            db.commit()
"""
SESSIONS = {
    "made": ("db = SessionLocal()\n    db.commit()", ["db.commit"]),
    "queried": ("db = SessionLocal()\n    db.query(1).filter(2).all()", ["db.query"]),
    "a with": ("with SessionLocal() as db:\n        db.execute(1)", ["db.execute"]),
    "a transaction": ("with SessionLocal.begin() as db:\n        db.scalars(1)", ["db.scalars"]),
    "a savepoint": (
        "point = SessionLocal().begin_nested()\n    point.commit()",
        ["SessionLocal().begin_nested", "point.commit"],
    ),
    "a generator": ("db = next(get_db())\n    db.flush()", ["db.flush"]),
    "run through": ("for db in get_db():\n        db.merge(1)", ["db.merge"]),
    "asynchronous": ("async with AsyncSessionLocal() as db:\n        await db.commit()", []),
    "awaited": ("async for db in get_async_db():\n        await db.execute(1)", []),
    "nothing that blocks": ("db = SessionLocal()\n    db.add(1)", []),
}


@pytest.mark.parametrize("is_in_tree", [True, False])
@pytest.mark.parametrize("form", SESSIONS)
def test_sessions_of_the_applications_own_module(tmp_path: Path, form: str, is_in_tree: bool) -> None:
    body, expected = SESSIONS[form]
    if not is_in_tree and "get_" in body:
        expected = []  # what a function of an unknown module returns is unknown
    names = "AsyncSessionLocal, SessionLocal, get_async_db, get_db"
    text = f"from ..api.database import {names}\nasync def bid():\n    {body}\n"
    files = {"src__api__database": DATABASE} if is_in_tree else {}
    found = found_in(tmp_path, src__shop__bids=text, **files)
    assert [finding.call for finding in found] == expected


@pytest.mark.parametrize(
    "parameter",
    ["db=Depends(get_db)", "db: Session = Depends(get_db)", "db: Annotated[Session, Depends(get_db)]"],
)
def test_sessions_that_fastapi_passes(tmp_path: Path, parameter: str) -> None:
    imports = (
        "from fastapi import Depends\nfrom sqlalchemy.orm import Session\nfrom .database import get_db\n"
    )
    text = f"{imports}@app.post('/')\nasync def bid({parameter}):\n    db.commit()\n"
    found = found_in(tmp_path, api__database=DATABASE, api__bids=text)
    assert [finding.call for finding in found] == ["db.commit"]


def test_a_session_that_a_coroutine_is_given_and_a_context_manager_that_commits(tmp_path: Path) -> None:
    found = found_in(
        tmp_path,
        database=DATABASE,
        bids="""
            from database import SessionLocal, session_scope
            async def place(db, posting):
                if await is_known(db, posting):
                    return
                db.commit()
            async def is_known(db, posting):
                return db.query(posting).first()
            async def scan():
                db = SessionLocal()
                await place(db, 1)
            async def with_scope():
                with session_scope() as db:
                    db.add(1)
        """,
    )
    expected = [
        ("place", "db.commit"),
        ("is_known", "db.query"),
        ("with_scope", "session_scope -> db.commit"),
    ]
    assert [(finding.function, finding.call.partition(" (")[0]) for finding in found] == expected


# --- an application as a whole ---


def test_an_application_whose_services_are_three_objects_away(tmp_path: Path) -> None:
    found = found_in(
        tmp_path,
        src__api__database=DATABASE,
        src__market__writing="""
            from src.llm_service import LLMService
            class Letter:
                def __init__(self, topic="", llm: LLMService | None = None):
                    self.llm = llm or LLMService()
                def write(self, wish, **keywords):
                    return self.llm.complete(prompt=wish)
        """,
        src__market__desk="""
            from .writing import Letter
            def serve(wish, **keywords):
                letter = Letter(llm=keywords.get("llm"))
                return letter.write(wish, **keywords)
        """,
        src__market__planning="""
            from src.llm_service import LLMService
            from observability import traced
            def chosen(topic) -> LLMService:
                return LLMService.for_complex_task() if topic else LLMService.for_basic_admin()
            class Reader:
                def __init__(self, llm=None):
                    self.llm = llm
                @traced(name="read")
                def read(self, wish):
                    return self.llm.complete(wish)
            class Course:
                def __init__(self, llm: LLMService | None = None, topic=None):
                    if llm is None and topic:
                        self.llm = chosen(topic)
                    else:
                        self.llm = llm or LLMService()
                    self.reader = Reader(self.llm)
                @traced(name="course")
                def run(self, wish):
                    return self.reader.read(wish)
        """,
        src__market__contest="""
            from src.llm_service import LLMService
            from src.market.planning import Course
            class Entry:
                def __init__(self, name: str, llm: LLMService):
                    self.name, self.llm = name, llm
            class Rival:
                def __init__(self, entry: Entry, topic: str):
                    self.course = Course(llm=entry.llm, topic=topic)
                async def compete(self, wish):
                    return self.course.run(wish=wish)
        """,
        # These name modules of the folder above as if they were in this one.
        src__market__counters__counters="""
            class LetterCounter:
                async def serve(self, wish, **keywords):
                    from src.llm_service import LLMService
                    from .desk import Letter
                    llm = keywords.get("llm", LLMService())
                    return Letter(llm=llm).write(wish, **keywords)
            class OtherCounter:
                async def serve(self, wish, **keywords):
                    from .desk import serve
                    return serve(wish, **keywords)
        """,
        src__market__bids="""
            from sqlalchemy.orm import Session
            async def is_new(db: Session, posting) -> bool:
                return not db.query(posting).filter(1).first()
            async def insert(db: Session, posting):
                db.add(posting)
                db.commit()
        """,
        src__market__scanner="""
            from ..api.database import SessionLocal
            from .bids import insert, is_new
            try:
                from ..llm_service import LLMService
                HAS_LLM = True
            except ImportError:
                HAS_LLM = False
            class Scanner:
                def __init__(self):
                    self.llm = None
                    if HAS_LLM:
                        try:
                            self.llm = LLMService.with_local(model="m")
                        except Exception:
                            pass
                async def judge(self, posting):
                    return await self._ask(posting)
                async def _ask(self, posting):
                    return self.llm.complete(prompt=posting)
            async def bid(posting):
                db = SessionLocal()
                try:
                    if await is_new(db, posting):
                        await insert(db, posting)
                        db.commit()
                finally:
                    db.close()
        """,
    )
    assert sorted((finding.function, finding.call.partition(" (")[0]) for finding in found) == [
        ("LetterCounter.serve", "Letter.write -> self.llm.complete"),
        ("OtherCounter.serve", "serve -> Letter.write -> self.llm.complete"),
        ("Rival.compete", "Course.run -> Reader.read -> self.llm.complete"),
        ("Scanner._ask", "self.llm.complete"),
        ("bid", "db.commit"),
        ("insert", "db.commit"),
        ("is_new", "db.query"),
    ]


# --- odd code ---


def test_code_that_refers_to_itself_comes_to_an_end(tmp_path: Path) -> None:
    chain = "x" + ".a()" * 3_000
    found = found_in(
        tmp_path,
        a=f"""
            from b import *
            from b import other as thing, B
            import a
            class A(B, A):
                llm: "A | (" = thing
                def __init__(self, llm=None): self.llm = self.llm or llm or A(self.llm)
                def make(self): return self.make().make()
                async def run(self, x): self.llm.llm.make().llm.complete(x)
            value = value or other_value
            other_value = value
            async def deep(x): return {chain}
        """,
        b="""
            from a import thing as other, A
            class B(A): pass
            def again(f): return again(f)(f)
            async def run(): again(again)
        """,
    )
    assert found == []


def test_a_link_and_a_file_of_one_name_are_both_places(tmp_path: Path) -> None:
    found_in(tmp_path, real__clock="import time\ndef pause(): time.sleep(1)\n")
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "watch.py").symlink_to("../real/clock.py")
    (found,) = found_in(tmp_path / "app", jobs="from .watch import pause\nasync def job(): pause()\n")
    assert places([found]) == [("jobs.py", "job", 2)]
