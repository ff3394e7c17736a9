"""What the demo refuses: one clear line on standard error, exit status 2."""

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from arbitrageai_native.cli.main import main
from tests.demo.support import POSTINGS, run_demo

WITHOUT_TITLE = {"marketplace": "m", "id": "1", "description": ""}


Refused = Callable[..., str]


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Refused:
    """Run the demo in this process, which is quicker, and return the line of complaint."""

    def run(*options: str) -> str:
        try:
            status: object = main(["demo", *options])
        except SystemExit as end:
            status = end.code
        printed = capsys.readouterr()
        assert (status, printed.out) == (2, "")
        assert len(printed.err.splitlines()) == 1, printed.err
        return printed.err

    return run


def test_as_a_process_it_is_one_line_and_exit_status_2(tmp_path: Path) -> None:
    for options in (("--postings", str(tmp_path / "none.json")), ("--scanners", "many")):
        completed = run_demo(*options)
        assert (completed.returncode, completed.stdout) == (2, "")
        assert len(completed.stderr.splitlines()) == 1
        assert completed.stderr.startswith("python -m arbitrageai_native")


def changed(**fields: object) -> bytes:
    return json.dumps([{**POSTINGS[0], **fields}]).encode()


ILL_FORMED: dict[bytes, str] = {
    b"": "is not JSON: Expecting value at line 1, column 1",
    b"[\n{]": "at line 2, column 2",
    b'["\xff"]': "is not UTF-8 text (byte 2)",
    b"[" * 100_000: "is not JSON",
    b"{}": "is a JSON object, not a list of postings",
    b"[]": "has no postings in it",
    json.dumps([*POSTINGS, 7]).encode(): "posting 12 is a JSON number, not an object",
    json.dumps([POSTINGS[0], WITHOUT_TITLE]).encode(): "posting 1: field 'title' is missing",
    json.dumps(
        [*POSTINGS, POSTINGS[4]]
    ).encode(): "posting 12 is the same as posting 4: marketplace 'market-0'",
    changed(id=5): "posting 0: field 'id' is a JSON number, not a string",
    changed(id=None): "posting 0: field 'id' is a JSON null",
    changed(marketplace=" "): "posting 0: field 'marketplace' is empty",
    changed(id="a\0"): "posting 0: field 'id' has a control character",
    changed(id="a" * 1001): "posting 0: field 'id' is longer than 1000",
    changed(title="\ud800"): "posting 0: field 'title' has half of a surrogate",
}


@pytest.mark.parametrize(("content", "complaint"), ILL_FORMED.items(), ids=ILL_FORMED.values())
def test_ill_formed_postings(tmp_path: Path, refused: Refused, content: bytes, complaint: str) -> None:
    path = tmp_path / "postings.json"
    path.write_bytes(content)
    line = refused("--postings", str(path))
    assert f": --postings: {path}" in line
    assert complaint in line


def test_postings_that_cannot_be_read(tmp_path: Path, refused: Refused) -> None:
    assert "cannot read" in refused("--postings", str(tmp_path / "none.json"))
    assert "No such file" in refused("--postings", str(tmp_path / "none.json"))
    assert "Is a directory" in refused("--postings", str(tmp_path))


def test_a_byte_order_mark_and_more_fields_are_no_fault(tmp_path: Path) -> None:
    path = tmp_path / "postings.json"
    path.write_text("\ufeff" + json.dumps([{**POSTINGS[0], "budget": 5}]), encoding="utf-8")
    assert run_demo("--postings", str(path), "--stealth-range", "0", "0", "--json").returncode == 0


def test_databases_that_cannot_be_used(tmp_path: Path, refused: Refused) -> None:
    assert f"folder {tmp_path / 'none'} does not exist" in refused(
        "--database-url", f"sqlite:///{tmp_path}/none/a.db"
    )
    assert "is a folder, not a file" in refused("--database-url", f"sqlite:///{tmp_path}")
    (tmp_path / "text.db").write_text("no database " * 100)
    assert "file is not a database" in refused("--database-url", f"sqlite:///{tmp_path}/text.db")
    assert "is not a folder" in refused("--database-url", f"sqlite:///{tmp_path}/text.db/a.db")


def test_a_read_only_folder(tmp_path: Path, refused: Refused) -> None:
    folder = tmp_path / "locked"
    folder.mkdir()
    folder.chmod(0o555)
    assert f"folder {folder} is read-only" in refused("--database-url", f"sqlite:///{folder}/a.db")
    folder.chmod(0o755)


def test_a_read_only_file(tmp_path: Path, refused: Refused) -> None:
    path = tmp_path / "a.db"
    sqlite3.connect(path).close()
    path.chmod(0o444)
    assert f"file {path} is read-only" in refused("--database-url", f"sqlite:///{path}")


def test_a_folder_where_nobody_can_write(refused: Refused) -> None:
    # Its permission bits do not say so; the file system does, to the superuser too.
    assert "--database-url: " in refused("--database-url", "sqlite:////proc/self/a.db")


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("bids.db", "'bids.db' is not a database URL"),
        ("sqlite://", "private to one process"),
        ("sqlite:///:memory:", "private to one process"),
        ("sqlite://folder/a.db", "needs a third slash"),
        ("mysql://localhost/a", "scheme 'mysql' is not supported"),
        ("postgresql+asyncpg://me:secret@127.0.0.1:1/a", "--database-url: "),
    ],
)
def test_database_urls(refused: Refused, url: str, complaint: str) -> None:
    line = refused("--database-url", url)
    assert complaint in line
    assert "secret" not in line


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost",
        "localhost:11434/v1",
        "ftp://localhost/v1",
        "http://",
        "http://a:b/",
        "http://[",
        "http://a b/",
    ],
)
def test_base_urls(refused: Refused, url: str) -> None:
    assert f"--base-url: {url!r} is not a URL" in refused("--base-url", url)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--scanners", "0"), "--scanners: 0 is not a number from 1 to"),
        (("--scanners", "-1"), "--scanners: -1 is not a number from 1 to"),
        (("--scanners", "many"), "argument --scanners: invalid int value: 'many'"),
        (("--stealth-range", "5", "2"), "--stealth-range: MIN (5) is greater than MAX (2)"),
        (("--stealth-range", "nan", "2"), "--stealth-range: nan is not a number of seconds"),
        (("--stealth-range", "0", "inf"), "--stealth-range: inf is not a number of seconds"),
        (("--stealth-range", "1"), "argument --stealth-range: expected 2 arguments"),
        (("--lock-ttl", "0"), "--lock-ttl: 0.0 is not a positive number"),
        (("--model", ""), "--model: the name is empty"),
        (("--api-key", "sk-ä"), "--api-key: the key"),
        (("--colour", "red"), "unrecognized arguments: --colour red"),
    ],
)
def test_other_options(refused: Refused, options: tuple[str, ...], complaint: str) -> None:
    line = refused(*options)
    assert complaint in line
    assert "sk-" not in line
