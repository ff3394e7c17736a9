"""The way to the server, where a service or the environment chooses it: certificates, proxies, sockets."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import itertools
import socket
import ssl
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from arbitrageai_native import AsyncOpenAI, LLMService, OpenAI, exceptions
from testing_support.keys import KEY
from testing_support.servers import faulty_http as faulty
from testing_support.servers.faulty_http import DONE, FaultyServer, chunk
from testing_support.servers.forward_proxy import ForwardProxy

Serve = Callable[..., FaultyServer]

VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")

# The environment is read once for each combination of settings.
_different = itertools.count(1)


def service(base_url: str, **settings: Any) -> LLMService:
    """A service with connections of its own."""
    settings = {"connect_timeout": 4 + next(_different) / 1000, "max_retries": 0, **settings}
    return LLMService(base_url=base_url, api_key=KEY, enable_circuit_breaker=False, **settings)


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*VARIABLES, "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


# Certificates

LOOPBACK = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))


def self_signed(
    folder: Path, name: x509.GeneralName = LOOPBACK, end: datetime.datetime | None = None
) -> tuple[Path, Path]:
    """A certificate and its key as `openssl req -x509` makes them: marked as an authority's."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "local")])
    now = datetime.datetime.now(datetime.timezone.utc)
    end = end or now + datetime.timedelta(days=1)
    builder = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(end - datetime.timedelta(days=30))
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([name]), critical=False)
    )
    pem = serialization.Encoding.PEM
    certificate_file, key_file = folder / "server.pem", folder / "server.key"
    certificate_file.write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(pem))
    key_file.write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return certificate_file, key_file


@contextlib.contextmanager
def serving(certificate: Path, key: Path, *script: faulty.Action) -> Iterator[FaultyServer]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with FaultyServer(*script, tls=context) as server:
        yield server


@pytest.mark.holds_the_loop("the SDK's client is made in it")
@pytest.mark.parametrize("way", ["SSL_CERT_FILE", "ca_certs"])
async def test_a_self_signed_certificate_in_the_named_file_is_trusted(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate, key = self_signed(tmp_path)
    settings: dict[str, Any] = {}
    if way == "ca_certs":
        settings["ca_certs"] = certificate
    else:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with serving(certificate, key, faulty.answer()) as server:
        client = service(server.base_url, **settings)
        assert (await client.complete_async("hi"))["content"] == "hello"
        assert client.complete("hi")["content"] == "hello"
        trusting = httpx.Client(verify=ssl.create_default_context(cafile=str(certificate)))
        with openai.OpenAI(base_url=server.base_url, api_key=KEY, http_client=trusting) as sdk:
            assert sdk.chat.completions.create(model="m", messages=[]).model == "served-model"


@pytest.mark.holds_the_loop("the server is closed in it")
@pytest.mark.parametrize("wrong", ["name", "date", "other"])
async def test_a_self_signed_certificate_has_to_be_in_order_all_the_same(wrong: str, tmp_path: Path) -> None:
    name = x509.DNSName("elsewhere.example") if wrong == "name" else LOOPBACK
    end = datetime.datetime(2021, 1, 1) if wrong == "date" else None
    certificate, key = self_signed(tmp_path, name, end)
    trusted = certificate
    if wrong == "other":
        (tmp_path / "other").mkdir()
        trusted, _ = self_signed(tmp_path / "other")
    with serving(certificate, key, faulty.answer()) as server:
        with pytest.raises(exceptions.APIConnectionError, match="certificate"):
            await service(server.base_url, ca_certs=trusted).complete_async("hi")
        assert server.requests == []


@pytest.mark.holds_the_loop("the servers are closed in it")
async def test_each_service_may_trust_another_authority(tmp_path: Path) -> None:
    authorities = [trustme.CA(), trustme.CA()]
    servers = []
    with contextlib.ExitStack() as stack:
        for number, authority in enumerate(authorities):
            authority.cert_pem.write_to_path(tmp_path / f"{number}.pem")
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            authority.issue_cert("127.0.0.1").configure_cert(context)
            servers.append(stack.enter_context(FaultyServer(faulty.answer(), tls=context)))
        for number, server in enumerate(servers):
            own, other = tmp_path / f"{number}.pem", tmp_path / f"{1 - number}.pem"
            assert (await service(server.base_url, ca_certs=own).complete_async("hi"))["content"] == "hello"
            with pytest.raises(exceptions.APIConnectionError, match="certificate"):
                await service(server.base_url, ca_certs=str(other)).complete_async("hi")
            with pytest.raises(exceptions.APIConnectionError, match="certificate"):
                await service(server.base_url).complete_async("hi")
            unverified = AsyncOpenAI(base_url=server.base_url, api_key=KEY, verify=False)
            answer = await unverified.chat.completions.create(model="m", messages=[])
            assert answer.choices[0].message.content == "hello"


@pytest.mark.holds_the_loop("the server is closed in it")
@pytest.mark.parametrize("trust", ["named", "unverified"])
async def test_a_server_may_ask_for_the_clients_certificate(trust: str, tmp_path: Path) -> None:
    authority, clients = trustme.CA(), trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    own = clients.issue_cert("client@example.com")
    own.private_key_and_cert_chain_pem.write_to_path(tmp_path / "both.pem")
    own.private_key_pem.write_to_path(tmp_path / "key.pem")
    own.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    clients.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    settings: dict[str, Any] = {"ca_certs": tmp_path / "ca.pem"} if trust == "named" else {"verify": False}
    with FaultyServer(faulty.answer(), tls=context) as server:
        for certificate in (tmp_path / "both.pem", (str(tmp_path / "cert.pem"), tmp_path / "key.pem")):
            client = service(server.base_url, client_cert=certificate, **settings)
            assert (await client.complete_async("hi"))["content"] == "hello"
        with pytest.raises(exceptions.APIConnectionError):
            await service(server.base_url, **settings).complete_async("hi")
        for file in ("missing.pem", "cert.pem"):
            with pytest.raises(ValueError, match="client_cert"):
                await service(server.base_url, client_cert=tmp_path / file, **settings).complete_async("hi")


def test_what_is_no_way_to_a_server_is_refused_by_name(tmp_path: Path) -> None:
    for settings, kind in [
        ({"ca_certs": 5}, TypeError),
        ({"client_cert": ("a",)}, TypeError),
        ({"client_cert": ["a", "b"]}, TypeError),
        ({"verify": "yes"}, TypeError),
        ({"proxy": 5}, TypeError),
        ({"proxy": "ftp://proxy.example:1"}, ValueError),
        ({"proxy": "http://"}, ValueError),
        ({"proxy": "http:/proxy.example"}, ValueError),
        ({"unix_socket": 5}, TypeError),
    ]:
        (name,) = settings
        with pytest.raises(kind, match=name):
            LLMService(base_url="http://x/v1", **settings)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="proxy") as caught:
        OpenAI(api_key=KEY, proxy="htp://user:s3cr3t@proxy.example")
    assert "s3cr3t" not in str(caught.value)
    with pytest.raises(ValueError, match=r"ca_certs.*missing\.pem"):
        service("https://127.0.0.1:9/v1", ca_certs=tmp_path / "missing.pem").complete("hi")


# A Unix socket


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder for a socket, whose path may not be long."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield Path(folder)


async def test_a_server_may_listen_on_a_unix_socket(serve: Serve, short_folder: Path) -> None:
    server = serve(faulty.answer(), faulty.answer(), faulty.stream(chunk("a"), DONE))
    path = short_folder / "s"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        threading.Thread(target=_forward, args=(listener, server.port), daemon=True).start()
        client = service("http://localhost/v1", unix_socket=path)
        assert client.complete("hi")["content"] == "hello"
        assert (await client.complete_async("hi"))["content"] == "hello"
        assert [piece async for piece in client.complete_streaming_async("hi")] == ["a"]
        assert server.requests[0].header("host") == "localhost"
    with pytest.raises(exceptions.APIConnectionError):
        missing = service("http://localhost/v1", unix_socket=short_folder / "none")
        await missing.complete_async("hi")


def _forward(listener: socket.socket, port: int) -> None:
    """Connect each client to the port."""
    with contextlib.suppress(OSError):
        while True:
            client, _ = listener.accept()
            server = socket.create_connection(("127.0.0.1", port))
            for pair in ((client, server), (server, client)):
                threading.Thread(target=_copy, args=pair, daemon=True).start()


# Proxies


class SocksProxy:
    """A SOCKS5 proxy without authorization, or with one user's."""

    def __init__(self, user: bytes = b"", password: bytes = b"") -> None:
        self.targets: list[str] = []
        self._credentials = (user, password)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError), client.makefile("rwb") as stream:
            stream.read(stream.read(2)[1])
            wants_user = self._credentials != (b"", b"")
            stream.write(b"\x05\x02" if wants_user else b"\x05\x00")
            stream.flush()
            if wants_user:
                stream.read(1)
                user = stream.read(stream.read(1)[0])
                password = stream.read(stream.read(1)[0])
                stream.write(b"\x01\x00" if (user, password) == self._credentials else b"\x01\x01")
                stream.flush()
            kind = stream.read(4)[3]
            host = socket.inet_ntoa(stream.read(4)) if kind == 1 else stream.read(stream.read(1)[0]).decode()
            port = int.from_bytes(stream.read(2), "big")
            self.targets.append(f"{host}:{port}")
            server = socket.create_connection(("127.0.0.1", port))
            stream.write(b"\x05\x00\x00\x01\x7f\x00\x00\x01\x00\x00")
            stream.flush()
            back = threading.Thread(target=_copy, args=(server, client), daemon=True)
            back.start()
            while data := stream.read1(65536):
                server.sendall(data)
            server.close()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


@pytest.mark.parametrize("way", ["setting", "ALL_PROXY", "all_proxy", "HTTP_PROXY"])
async def test_a_socks_proxy_works(way: str, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    server = serve(faulty.answer())
    proxy = SocksProxy(b"user", b"s3cr3t")
    url = f"socks5h://user:s3cr3t@127.0.0.1:{proxy.port}"
    settings = {"proxy": url} if way == "setting" else {}
    if way != "setting":
        monkeypatch.setenv(way, url)
    try:
        client = service(server.base_url, **settings)
        assert (await client.complete_async("hi"))["content"] == "hello"
        assert proxy.targets == [f"127.0.0.1:{server.port}"]
        assert "s3cr3t" not in repr(client) + repr(client._options)
    finally:
        proxy.close()


async def test_a_services_own_proxy_overrides_the_environment(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(faulty.answer())
    with ForwardProxy() as own, ForwardProxy() as other:
        monkeypatch.setenv("HTTP_PROXY", other.url)
        monkeypatch.setenv("NO_PROXY", "*")
        await service(server.base_url, proxy=own.url).complete_async("hi")
        assert (len(own.heads), len(other.heads)) == (1, 0)


UNREADABLE = [
    "htp://127.0.0.1:1",
    "ftp://127.0.0.1:1",
    "http:/127.0.0.1",
    "http://",
    "http://user:s3cr3t@[::1",
    "http://127.0.0.1:port",
]


@pytest.mark.parametrize("value", UNREADABLE)
@pytest.mark.parametrize("name", ["HTTP_PROXY", "all_proxy"])
async def test_a_proxy_that_can_not_be_understood_is_an_error_and_never_passed_by(
    name: str, value: str, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(faulty.answer())
    monkeypatch.setenv(name, value)
    client = service(server.base_url)
    for _ in range(2):
        with pytest.raises(ValueError, match=name) as caught:
            await client.complete_async("hi")
        assert "s3cr3t" not in str(caught.value)
    with pytest.raises(ValueError, match=name):
        list(client.complete_streaming("hi"))
    assert server.requests == []


@pytest.mark.parametrize(
    ("excepted", "directly"),
    [
        ("127.0.0.1:{port}", True),
        ("example.com, 127.0.0.1:{port} ", True),
        ("127.0.0.1:1", False),
        ("127.0.0.1:1,127.0.0.1", True),
        ("127.0.0.0/8:{port}", True),
        ("http://127.0.0.1:{port}", True),
        ("127.0.0.0/31", True),
        ("127.0.0.2/32,[::1]:{port},::1,.1", False),
        ("10.0.0.1:{port}", False),
    ],
)
async def test_no_proxy_may_name_a_port(
    excepted: str, directly: bool, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(faulty.answer())
    with ForwardProxy() as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("NO_PROXY", excepted.format(port=server.port))
        await service(server.base_url).complete_async("hi")
        assert (proxy.heads == []) == directly


async def test_names_in_small_letters_override_those_in_capitals(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(faulty.answer())
    with ForwardProxy() as small, ForwardProxy() as capital:
        monkeypatch.setenv("HTTP_PROXY", capital.url)
        monkeypatch.setenv("http_proxy", small.url.removeprefix("http://"))
        await service(server.base_url).complete_async("hi")
        assert (len(small.heads), len(capital.heads)) == (1, 0)
        monkeypatch.setenv("http_proxy", "")
        await service(server.base_url).complete_async("hi")
        assert (len(small.heads), len(capital.heads)) == (1, 0)
        monkeypatch.delenv("http_proxy")
        await service(server.base_url).complete_async("hi")
        assert len(capital.heads) == 1
        monkeypatch.setenv("REQUEST_METHOD", "GET")  # a CGI program's
        await service(server.base_url).complete_async("hi")
        assert len(capital.heads) == 1


# What errors say


async def test_a_connection_error_names_the_address() -> None:
    for base_url, address in [
        ("http://127.0.0.1:9/v1?api_key=s3cr3t", "http://127.0.0.1:9: "),
        ("http://[::1]:9/v1", r"http://\[::1\]:9: "),
        ("http://no-such-host.invalid/v1", "http://no-such-host.invalid: "),
    ]:
        with pytest.raises(exceptions.APIConnectionError, match=address) as caught:
            await service(base_url).complete_async("hi")
        assert "s3cr3t" not in str(caught.value)


async def test_https_to_a_server_without_tls_says_so() -> None:
    listener = socket.create_server(("127.0.0.1", 0))

    def answer() -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                client.recv(1000)
                client.sendall(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
                client.close()

    threading.Thread(target=answer, daemon=True).start()
    try:
        with pytest.raises(exceptions.APIConnectionError, match=r"does not speak TLS.*http://"):
            await service(f"https://127.0.0.1:{listener.getsockname()[1]}/v1").complete_async("hi")
    finally:
        listener.close()


async def test_a_timeout_mentions_keep_alives_that_were_seen(serve: Serve) -> None:
    blank = [b"\n"] * 40
    comments = [b": processing\n\n"] * 40

    def keep_alive(connection: faulty.Connection) -> bool:
        connection.send(faulty.head(200, "Content-Type: application/json", length=1000))
        for part in blank:
            connection.send(part)
            connection.pause(0.02)
        return connection.hang()

    client = service(serve(keep_alive).base_url, timeout=0.3)
    with pytest.raises(exceptions.APITimeoutError, match=r"timeout of 0\.3 s.*keep-alives"):
        await client.complete_async("hi")
    for script, seen in [
        (faulty.stream(*comments, pause=0.02, ending="hang"), True),
        (faulty.stream(chunk("a"), *comments, pause=0.02, ending="hang"), True),
        (faulty.stream(chunk("a")[:20], ending="hang"), False),
        (faulty.hang, False),
    ]:
        streaming = service(serve(script).base_url, timeout=0.3)
        with pytest.raises(exceptions.APITimeoutError) as caught:
            [_ async for _ in streaming.complete_streaming_async("hi")]
        assert ("keep-alives" in str(caught.value)) == seen, caught.value
    with pytest.raises(exceptions.APITimeoutError) as caught:
        await service(serve(faulty.cut(30, ending="hang")).base_url, timeout=0.3).complete_async("hi")
    assert "keep-alives" not in str(caught.value)
