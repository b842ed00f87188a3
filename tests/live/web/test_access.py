"""Who may watch: the document and its policy, names of this machine, origins and tokens."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import socket

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from hasn_edge.errors import InputError
from hasn_edge.live.web import view as web
from hasn_edge.live.web.access import AccessPolicy
from hasn_edge.live.web.document import page
from tests.support.live_rig import Told
from tests.support.web_rig import Client, get, port, serving


def test_the_page_is_one_document_that_may_run_nothing_else():
    with serving() as (view, _):
        status, headers, html = get(view)
        place = f"127.0.0.1:{port(view)}"
    assert status == 200
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    policy = dict(part.strip().split(" ", 1) for part in headers["Content-Security-Policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["connect-src"] == f"'self' ws://{place} wss://{place}"
    assert policy["frame-ancestors"] == "'none'"
    assert "unsafe" not in headers["Content-Security-Policy"]
    for kind in ("script", "style"):
        blocks = re.findall(rf"<{kind}>(.*?)</{kind}>", html, re.DOTALL)
        hashes = [base64.b64encode(hashlib.sha256(block.encode()).digest()).decode() for block in blocks]
        assert blocks
        assert policy[f"{kind}-src"] == " ".join(f"'sha256-{one}'" for one in hashes)
    assert not re.findall(r'(?:src|href)="(?!#|data:)', html), "loads something"
    assert not re.findall(r"<[^>]*\s(?:style|on[a-z]+)=", html), "the policy would forbid it"
    assert not re.findall(r"\b(?:eval|Function)\(", html)
    assert set(re.findall(r"https?://[^'\" ]+", html)) == {"http://www.w3.org/2000/svg"}
    assert headers["Cache-Control"] == "no-store"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert "Server" not in headers


def test_the_page_is_not_large():
    assert len(page()[0]) < 80_000


def test_other_paths_do_not_exist():
    with serving() as (view, _):
        assert get(view, "/page.css")[0] == 404
        assert get(view, "/../../etc/passwd")[0] == 404
        assert get(view, "/?token=x")[0] == 200
        assert get(view, "/live", Origin=f"http://127.0.0.1:{port(view)}")[0] == 426


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8765", "127.0.0.1.evil.example", "192.168.1.5", ""]
)
def test_other_names_of_this_machine_are_refused_on_loopback(host):
    with serving() as (view, _):
        for path in ("/", "/live"):
            status, headers, text = get(view, path, Host=host, Origin=f"http://{host}")
            assert status == 421
            assert "localhost" in text or "expected one Host" in text
            assert "Content-Security-Policy" not in headers


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1234", "127.0.0.1:9", "[::1]:8765"])
def test_a_forwarded_port_is_let_in(host):
    """``ssh -L 1234:localhost:8765 board`` is how headless boards are watched."""
    with serving() as (view, _):
        assert get(view, Host=host)[0] == 200
        assert get(view, "/live", Host=host, Origin=f"http://{host}")[0] == 426


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://127.0.0.1:1", "http://localhost", None]
)
def test_websockets_of_other_pages_are_refused(origin):
    with serving() as (view, _):
        with pytest.raises(InvalidStatus) as refused:
            Client(view, origin=origin)
        assert refused.value.response.status_code == 403
        assert not view.server.viewers


@pytest.mark.slow
@pytest.mark.parametrize("token", [None, "", "wrong", "a token that is right "])
def test_a_wrong_token_sees_nothing(token):
    with serving(token="a token that is right") as (view, _):
        with Client(view, token=token) as viewer, pytest.raises(ConnectionClosed) as closed:
            viewer.greeted()
        assert closed.value.rcvd.code == 4401
        assert viewer.notes == {}
        with Client(view, token="a token that is right") as viewer:
            assert viewer.greeted()["source"] == "test"


def test_who_does_not_say_hello_first_sees_nothing():
    with serving(token="a token that is right") as (view, _):
        viewer = Client(view, token="a token that is right")
        viewer.greeted()
        place = f"127.0.0.1:{port(view)}"
        with connect(f"ws://{place}/live", origin=f"http://{place}") as rude:
            rude.send('{"type":"want","watch":true}')
            with pytest.raises(ConnectionClosed) as closed:
                rude.recv(timeout=10)
        assert closed.value.rcvd.code == 4400
        viewer.socket.close()


@pytest.mark.slow
def test_other_machines_need_a_token_that_is_made_up_and_printed():
    told = Told()
    with serving(host="0.0.0.0", tell=told) as (view, _):
        (line,) = told
        token = line.split("#token=")[1].split()[0]
        assert len(token) >= 24
        assert all(address.endswith(f"#token={token}") for address in view.addresses)
        assert "0.0.0.0" not in line
        with Client(view, token=token) as viewer:
            viewer.greeted()
        with Client(view) as viewer, pytest.raises(ConnectionClosed):
            viewer.greeted()
    assert AccessPolicy("0.0.0.0", None).addresses(1) != AccessPolicy("0.0.0.0", None).addresses(1), (
        "made up anew"
    )


@pytest.mark.parametrize("display", [True, False])
def test_a_machine_without_a_display_says_how_to_watch_from_another(monkeypatch, display):
    monkeypatch.setattr(web, "has_display", lambda: display)
    told = Told()
    with serving(tell=told) as (view, _):
        number = port(view)
    (line,) = told
    assert line.startswith(f"watch at http://127.0.0.1:{number}/")
    assert (f"'ssh -L {number}:localhost:{number} USER@THIS-MACHINE'" in line) == (not display)
    assert ("use host='0.0.0.0'" in line) == (not display)


def test_tokens_are_compared_in_constant_time(monkeypatch):
    compared = []
    real = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: compared.append((a, b)) or real(a, b))
    gate = AccessPolicy("127.0.0.1", "käse und brot")
    assert gate.knows_token("käse und brot")
    assert not gate.knows_token("käse und brie")
    assert len(compared) == 2


def test_which_addresses_need_a_token():
    for host in ("127.0.0.1", "localhost", "::1", "127.3.2.1"):
        assert AccessPolicy(host, None).knows_token(None)
    for host in ("0.0.0.0", "::", "192.168.1.2", "board.lan"):
        assert not AccessPolicy(host, None).knows_token(None)
    assert not AccessPolicy("127.0.0.1", "longenough").knows_token(None)
    with pytest.raises(InputError, match="expected at least 8"):
        AccessPolicy("0.0.0.0", "short")


def test_names_that_a_machine_in_a_network_answers_to():
    gate = AccessPolicy("0.0.0.0", None)
    name = socket.gethostname().lower()
    for host in ("192.168.1.5:8765", "[fe80::1]:8765", "localhost", name, f"{name.split('.')[0]}.local:1"):
        assert gate.refused_host([host]) is None, host
    assert "start it with that host allowed" in gate.refused_host(["rebound.example:8765"])
    assert AccessPolicy("board.lan", None).refused_host(["board.lan:8765"]) is None
    assert gate.refused_host([]) is not None
    assert gate.refused_host(["localhost", "localhost"]) is not None
    assert AccessPolicy("::1", None).addresses(80) == ["http://[::1]:80/"]
