"""The HTTP client against servers on this machine that lie, drip, redirect and listen: it ends and leaks nothing."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import ssl
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from facetrm.core.errors import ConfigError
from facetrm.core.web.address import Address, read_address, shown_address, zone_of
from facetrm.core.web.client import HttpClient, RequestError, proxy_for, run_request, warn_of_plain_http
from facetrm.core.web.key import ServerKey, hide_secrets, read_server_key
from raw_server import JUNK, LIES, OK, ever, raw_server, response

SECRET = "the-password-0123456789"
KEY = ServerKey("sk-a-key-that-nobody-may-see-0123456789")
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*PROXIES, *map(str.upper, PROXIES)):
        monkeypatch.delenv(name, raising=False)


def address(url: str) -> Address:
    return read_address(url, place="here", error=ConfigError)


def send(url: str, value: Any = None, *, timeout: float = 20.0, key: ServerKey | None = None) -> Any:
    return run_request(HttpClient(address(url), key=key, timeout=timeout).send("/x", {} if value is None else value))


def test_a_request_is_sent_and_its_answer_read() -> None:
    with raw_server(response(b'{"a": [1, 2]}', "X-B: c")) as server:
        reply = send(f"{server.url}/v1/", {"text": "é\ud800"}, key=KEY)
        got = run_request(HttpClient(address(server.url), timeout=9.0).send("/models"))
    assert (reply.status, reply.json(), reply.headers["x-b"]) == (200, {"a": [1, 2]}, "c")
    head, _, body = server.requests[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /v1/x HTTP/1.1\r\nHost: 127.0.0.1:")
    assert KEY.header().encode() in head
    assert json.loads(body) == {"text": "é\ud800"}
    assert server.requests[1].startswith(b"GET /models HTTP/1.1\r\n")
    assert b"Authorization" not in server.requests[1]
    assert got.status == 200


@pytest.mark.parametrize(
    "answer",
    [
        OK + b"\r\n{}",
        OK + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n1;x=y\r\n}\r\n0\r\nX: y\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" + response(b"{}"),
        b"HTTP/1.0 200\nContent-Length: 2\n\n{}",
        response(b"{} and more").replace(b"Content-Length: 11", b"Content-Length: 2"),
    ],
)
def test_every_sound_form_of_an_answer_is_read(answer: bytes) -> None:
    with raw_server(answer) as server:
        assert send(server.url).body == b"{}"


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_ends_in_time_and_is_named(lie: str) -> None:
    began = time.monotonic()
    with raw_server(LIES[lie]) as server, pytest.raises(RequestError) as caught:
        send(server.url, timeout=0.5)
    assert time.monotonic() - began < 5.0
    assert 10 < len(caught.value.reason) < 200
    assert caught.value.kind == ("silent" if "now and then" in lie or "silence" in lie else "broken")


@pytest.mark.parametrize("junk", JUNK)
def test_junk_is_read_or_is_a_value_error(junk: str) -> None:
    with raw_server(JUNK[junk]) as server:
        reply = send(server.url)
    assert reply.text(20).isprintable() or "\x1b" in reply.text(20)
    try:
        assert reply.json() is not None
    except ValueError:
        assert "JSON" in junk or reply.body[:1] not in (b"[", b"{") or "number" in junk or "bytes" in junk


def test_the_deadline_is_for_the_whole_request_and_not_for_each_byte() -> None:
    with raw_server(ever(OK + b"Content-Length: 100000\r\n\r\n", b"x", every=0.02)) as server:
        began = time.monotonic()
        with pytest.raises(RequestError, match=r"no whole answer within 0\.6 s") as caught:
            send(server.url, timeout=0.6)
    assert caught.value.kind == "silent"
    assert 0.5 < time.monotonic() - began < 3.0


def test_nobody_there_is_unreachable() -> None:
    with raw_server() as server:
        pass
    with pytest.raises(RequestError, match="connection refused") as caught:
        send(server.url)
    assert caught.value.kind == "unreachable"


@pytest.mark.parametrize("status", [300, 301, 302, 303, 307, 308])
def test_no_redirect_is_followed(status: int) -> None:
    with raw_server(response(b"{}")) as elsewhere:
        for to in (f"{elsewhere.url}/x", "/y"):
            with raw_server(response(b"", f"Location: {to}", status=f"{status} Moved")) as server:
                assert send(server.url, {"prompt": "private"}, key=KEY).status == status
                assert len(server.requests) == 1
    assert elsewhere.requests == []


# --- addresses and keys


@pytest.mark.parametrize(
    "text",
    [
        f"http://me:{SECRET}@host/v1",
        f"http://me:{SECRET}/x@host",
        f"http://{SECRET}@",
        f"https://host/v1?key={SECRET}",
        f"https://host/v1#{SECRET}",
        f"ftp://host/{SECRET}",
        f"http://host:{SECRET}/",
        f"http://[{SECRET}/",
        f"http:/{SECRET}",
        f"http://ho st/{SECRET}",
        f"http://host/{SECRET}\r\nX-Injected: yes",
        f"http://host:99999/{SECRET}",
        f"http://host:0/{SECRET}",
        f"http://{'a' * 64}.com/{SECRET}",
        f"http://hösst/{SECRET}",
        SECRET,
        "",
    ],
)
def test_what_is_not_an_address_is_refused_without_being_shown(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        address(text)
    assert str(caught.value).startswith(("here: the address contains ", "here: not an http address"))
    assert caught.value.fix
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("text", [f"http://me:{SECRET}@host/v1", f"//me:{SECRET}/@host?{SECRET}", f"me:{SECRET}@h#@"])
def test_no_password_of_an_address_is_shown(text: str) -> None:
    assert SECRET not in shown_address(text)
    assert shown_address(f"http://me:{SECRET}@host/v1?{SECRET}") == "http://***@host/v1"
    assert shown_address("http://host/\x1b[2J" + "a" * 1000).startswith("http://host/ [2Ja")
    assert len(shown_address("a" * 1000)) == 200


def test_near_and_far() -> None:
    near = ["127.0.0.1", "127.9.9.9", "::1", "localhost", "LOCALHOST.", "a.localhost", "::ffff:127.0.0.1", "0.0.0.0"]
    private = ["10.1.2.3", "192.168.0.9", "172.16.0.1", "169.254.1.1", "fd00::1", "fe80::1%eth0", "100.64.0.1"]
    assert {zone_of(host) for host in near} == {"loopback"}
    assert {zone_of(host) for host in private} == {"private"}
    assert {zone_of(host) for host in ("8.8.8.8", "2606:4700::1111", "api.example.com")} == {"public"}


def test_a_key_is_shown_nowhere(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("MY_KEY", "sk-a-key/that-nobody+may-see")
    key = read_server_key("MY_KEY", place="--key-env")
    assert key is not None
    for form in ("sk-a-key/that-nobody+may-see", "sk-a-key%2Fthat-nobody%2Bmay-see", "Bearer abc", "sk-other***key"):
        assert "sk-" not in hide_secrets(f"bad key {form}!", key)
    assert "nobody" not in repr(key) + str(key) + f"{key}"
    for name, value in (("my_key", "x"), ("NONE_SUCH", None), ("MY_KEY", "two words"), ("MY_KEY", "a\u2026")):
        if value is not None:
            monkeypatch.setenv("MY_KEY", value)
        with pytest.raises(ConfigError) as caught:
            read_server_key(name, place="--key-env")
        assert str(caught.value).startswith("--key-env: ")
        assert value is None or f"{value} " not in str(caught.value)
    assert read_server_key("NONE_SUCH", place="x", needed=False) is None


def test_a_key_in_clear_text_is_warned_of(capsys: pytest.CaptureFixture[str]) -> None:
    for url, warned in (
        ("http://127.0.0.1:8000", False),
        ("https://10.0.0.5", False),
        ("http://10.0.0.5", True),
        ("http://api.example.com/v1", True),
    ):
        warn_of_plain_http(address(url), KEY)
        said = capsys.readouterr().err
        assert ("clear text" in said and url in said) == warned
        assert "nobody" not in said
        warn_of_plain_http(address(url), None)
        assert capsys.readouterr().err == ""


# --- proxies


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"])
def test_this_machine_is_never_asked_through_a_proxy(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with raw_server(response(b"{}")) as proxy, raw_server(response(b"{}")) as server:
        monkeypatch.setenv(variable, proxy.url)
        assert proxy_for(address("http://api.example.com")) == proxy.url, "the proxy is at work"
        assert proxy_for(address("https://[::ffff:127.0.0.1]")) is None
        for host in ("127.0.0.1", "localhost"):
            assert send(f"http://{host}:{server.port}", key=KEY).status == 200
    assert (len(server.requests), proxy.requests) == (2, [])


def test_private_networks_are_never_asked_through_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    for host in ("10.1.2.3", "192.168.0.9", "172.31.0.1", "100.64.0.1", "[fd00::1]"):
        assert proxy_for(address(f"http://{host}:8000")) is None
        assert proxy_for(address(f"https://{host}:8000")) is None
    assert proxy_for(address("http://8.8.8.8")) is not None
    numbers = {"gpu.internal": ["10.0.0.7"], "split.internal": ["10.0.0.7", "8.8.8.8"], "127.1": ["127.0.0.1"]}

    def look_up(host: str, *_: Any, **__: Any) -> Any:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (number, 0)) for number in numbers[host]]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    assert proxy_for(address("http://gpu.internal")) is None
    assert proxy_for(address("http://127.1")) is None
    assert proxy_for(address("http://split.internal")) is not None


def test_a_proxy_is_used_beyond_and_its_password_shown_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    with raw_server(response(b"{}")) as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://me:{SECRET}@127.0.0.1:{proxy.port}")
        assert send("http://api.example.com/v1", {"a": 1}).status == 200
        assert proxy.requests[0].startswith(b"POST http://api.example.com/v1/x HTTP/1.1\r\nHost: api.example.com\r\n")
        assert b"Proxy-Authorization: Basic " in proxy.requests[0]
        proxy.answer = response(b"", status="407 Who")
        monkeypatch.setenv("HTTPS_PROXY", f"http://me:{SECRET}@127.0.0.1:{proxy.port}")
        with pytest.raises(RequestError, match=r"the proxy http://\*\*\*@127\.0\.0\.1:\d+ refuses \(HTTP 407\)"):
            send("https://api.example.com/v1", {"prompt": "private"}, key=KEY)
    assert proxy.requests[-1].startswith(b"CONNECT api.example.com:443 HTTP/1.1\r\n")
    assert b"nobody" not in proxy.requests[-1], "no key"
    assert b"private" not in proxy.requests[-1], "no prompt"
    with pytest.raises(RequestError, match=r"the proxy http://\*\*\*@127\.0\.0\.1:\d+ of the environment cannot be"):
        send("http://api.example.com/v1")
    monkeypatch.setenv("NO_PROXY", "api.example.com")
    assert proxy_for(address("http://api.example.com/v1")) is None
    monkeypatch.setenv("NO_PROXY", "")
    for wrong in (f"socks5://me:{SECRET}@127.0.0.1:9", f"http://me:{SECRET}@127.0.0.1:nine", "http://"):
        monkeypatch.setenv("HTTP_PROXY", wrong)
        with pytest.raises(RequestError, match=r"is not an http proxy: set NO_PROXY=api\.example\.com") as caught:
            send("http://api.example.com/v1")
        assert SECRET not in str(caught.value)


# --- certificates


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ssl.SSLContext]:
    """A certificate for api.example.com that its own key signed, and what serves it."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make a certificate with")
    folder = tmp_path_factory.mktemp("tls")
    line = (
        "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=api.example.com -addext subjectAltName=DNS:api.example.com"
    )
    files = ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    subprocess.run(["openssl", *line.split(), *files], check=True, capture_output=True)
    trust = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trust.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return folder / "cert.pem", trust


def test_a_certificate_that_nobody_vouches_for_ends_it(certificate: tuple[Path, ssl.SSLContext]) -> None:
    with raw_server(response(b"{}"), trust=certificate[1]) as server:
        with pytest.raises(RequestError, match=r"its certificate is not trusted \(self.signed certificate\)") as caught:
            send(server.url, key=KEY)
        assert caught.value.kind == "untrusted"
    assert server.requests == []


def test_https_goes_through_a_proxy_unread(
    certificate: tuple[Path, ssl.SSLContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    body = json.dumps(["long"] * 20_000).encode()
    with raw_server(response(body), trust=certificate[1]) as server, raw_server(tunnel=server.port) as proxy:
        with pytest.raises(RequestError, match=r"not trusted \(IP address mismatch"):
            send(server.url, key=KEY)
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        assert send("https://api.example.com", {"prompt": "private"}, key=KEY).body == body
    assert b"private" in server.requests[0]
    assert KEY.header().encode() in server.requests[0]
    assert b"".join(proxy.requests).count(b"\r\n") == 3, "CONNECT and Host, nothing else"


def test_it_works_in_a_notebook() -> None:
    async def notebook(url: str) -> int:
        return int(send(url).status)

    with raw_server(response(b"{}")) as server:
        assert asyncio.run(notebook(server.url)) == 200
