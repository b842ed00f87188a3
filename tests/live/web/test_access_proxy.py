"""The page behind a reverse proxy, under a path and another name than the server's own."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from hasn_edge.errors import InputError
from hasn_edge.live.web.access import AccessPolicy
from tests.support.browser_rig import first_image, page, running, waits
from tests.support.reverse_proxy import reverse_proxy
from tests.support.web_rig import get, port, serving, until

PREFIX = "/boards/one"
TOKEN = "a token that is right"
DOCUMENT = Path(__file__).parents[3] / "docs" / "live.md"


def fetch(number: int, path: str) -> tuple[int, str, str]:
    """Return status, policy and text of a request to the proxy under a name that is not the server's."""
    connection = http.client.HTTPConnection("127.0.0.1", number, timeout=20)
    connection.request("GET", path, headers={"Host": "demo.example.com"})
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, answer.getheader("Content-Security-Policy") or "", text


def bare(number: int) -> socket.socket:
    """Return a connection to the proxy."""
    return socket.create_connection(("127.0.0.1", number))


@pytest.mark.parametrize(
    ("keep_host", "allowed"),
    [
        (True, {"allow_hosts": ["demo.example.com"]}),
        (True, {"allow_origins": ["https://demo.example.com"]}),
        (False, {"allow_origins": ["https://demo.example.com"]}),
    ],
)
def test_the_page_and_its_socket_are_reached_under_the_proxys_name(keep_host, allowed):
    with (
        serving(token=TOKEN, **allowed) as (view, _),
        reverse_proxy(port(view), PREFIX, keep_host=keep_host) as number,
    ):
        status, policy, text = fetch(number, f"{PREFIX}/")
        assert (status, "<title>hasn-edge live</title>" in text) == (200, True)
        assert "wss://demo.example.com" in policy
        address = f"ws://demo.example.com{PREFIX}/live"
        with connect(address, sock=bare(number), origin="https://demo.example.com") as viewer:
            viewer.send(json.dumps({"type": "hello", "token": TOKEN}))
            assert json.loads(viewer.recv(timeout=20))["type"] == "welcome"
        with pytest.raises(InvalidStatus):
            connect(address, sock=bare(number), origin="https://evil.example")
        assert fetch(number, "/")[0] == 404


@contextlib.contextmanager
def nginx(folder: Path, target: int) -> Iterator[int]:
    """Run nginx with the block of the documentation in front of a server's port; yields its own port."""
    program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.skip("no nginx; apt-get install nginx")
    block = re.search(r"```nginx\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)[1]
    with socket.create_server(("127.0.0.1", 0)) as free:
        number = free.getsockname()[1]
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    places = "".join(f"{kind}_temp_path {folder}/{kind};\n" for kind in kinds)
    (folder / "nginx.conf").write_text(
        f"daemon off; master_process off; pid {folder}/pid; error_log {folder}/errors; events {{}}\n"
        f"http {{ access_log off;\n{places} server {{ listen 127.0.0.1:{number};\n"
        f"{block.replace(':8765/', f':{target}/')} }} }}"
    )
    child = subprocess.Popen([program, "-c", folder / "nginx.conf"], stderr=subprocess.DEVNULL)
    try:
        until(lambda: reachable(number))
        yield number
    finally:
        child.terminate()
        child.wait(20)


def reachable(number: int) -> bool:
    with contextlib.suppress(OSError), bare(number):
        return True
    return False


def test_the_documented_block_of_nginx_works(tmp_path):
    origin = "https://demo.example.com"
    with (
        serving(token=TOKEN, allow_origins=[origin]) as (view, _),
        nginx(tmp_path, port(view)) as number,
    ):
        status, policy, text = fetch(number, f"{PREFIX}/")
        assert (status, "<title>hasn-edge live</title>" in text) == (200, True)
        assert "wss://demo.example.com" in policy
        assert fetch(number, PREFIX)[0] == 301, "nginx adds the slash by itself"
        with connect(f"ws://demo.example.com{PREFIX}/live", sock=bare(number), origin=origin) as viewer:
            viewer.send(json.dumps({"type": "hello", "token": TOKEN}))
            kinds = [json.loads(viewer.recv(timeout=20))["type"] for _ in range(4)]
        assert kinds == ["welcome", "notice", "stats", "stats"]


def test_without_being_allowed_a_proxys_name_is_refused():
    with serving() as (view, _), reverse_proxy(port(view), PREFIX, keep_host=True) as number:
        status, policy, text = fetch(number, f"{PREFIX}/")
    assert (status, policy) == (421, "")
    assert "start it with that host allowed" in text


def test_whoever_comes_through_a_proxy_needs_a_token():
    for allowed in ({"allow_hosts": ["demo.example.com"]}, {"allow_origins": ["https://demo.example.com"]}):
        policy = AccessPolicy("127.0.0.1", None, **allowed)
        assert not policy.knows_token(None)
        assert "#token=" in policy.addresses(80)[0]
    assert AccessPolicy("127.0.0.1", None, allow_hosts=["localhost"]).knows_token(None)
    with serving(allow_origins=["https://demo.example.com"]) as (view, _):
        place = f"127.0.0.1:{port(view)}"
        with connect(f"ws://{place}/live", origin="https://demo.example.com") as viewer:
            viewer.send('{"type":"hello"}')
            with pytest.raises(ConnectionClosed) as closed:
                viewer.recv(timeout=20)
        assert closed.value.rcvd.code == 4401


def test_names_of_other_places_stay_refused():
    policy = AccessPolicy("127.0.0.1", None, allow_origins=["https://demo.example.com:8443"])
    assert policy.refused_host(["demo.example.com:8443"]) is None
    assert policy.refused_origin(["https://demo.example.com:8443"], ["127.0.0.1:8765"]) is None
    assert policy.refused_host(["evil.example.com"]) is not None
    for origin in ("http://demo.example.com:8443", "https://demo.example.com", "https://evil.example"):
        assert policy.refused_origin([origin], ["127.0.0.1:8765"]) is not None, origin


@pytest.mark.parametrize(
    "origin", ["demo.example.com", "https://demo.example.com/", "ftp://x", "https://", "*"]
)
def test_what_is_no_origin_is_refused(origin):
    with pytest.raises(InputError, match="is no origin; expected a scheme"):
        AccessPolicy("127.0.0.1", None, allow_origins=[origin])


@pytest.mark.parametrize("host", ["", "*", "https://demo.example.com", "demo.example.com/one"])
def test_what_is_no_host_is_refused(host):
    with pytest.raises(InputError, match="is no host; expected a name"):
        AccessPolicy("127.0.0.1", None, allow_hosts=[host])


def test_the_page_names_no_address_of_its_own():
    with serving() as (view, _):
        _, _, html = get(view)
    assert not re.findall(r"location\.(?:host|origin)\b", html)
    assert not re.findall(r"""(?:href|src|action)=["']/""", html)


@pytest.mark.slow
@pytest.mark.browser
def test_frames_arrive_under_a_path(chromium):
    """``demo.localhost`` is a name of this machine in Chromium, and none that the server answers to."""
    with running(allow_hosts=["demo.localhost"], token=TOKEN) as (view, live, _):
        secret = view.addresses[0].partition("#")[2]
        with reverse_proxy(port(view), PREFIX, keep_host=True) as number:
            address = f"http://demo.localhost:{number}{PREFIX}/"
            with page(chromium, f"{address}#{secret}") as tab:
                first_image(tab)
                assert tab.url == address
                tab.locator("#engine").select_option("second int8")
                waits(tab, "view.shown.header.engine === 'second int8'")
                tab.reload()
                first_image(tab)
    assert live.engine == "second int8"


@pytest.mark.slow
@pytest.mark.browser
def test_frames_arrive_from_an_allowed_origin_whose_proxy_hides_its_name(chromium):
    with socket.create_server(("127.0.0.1", 0)) as free:
        number = free.getsockname()[1]
    origin = f"http://demo.localhost:{number}"
    with (
        running(allow_origins=[origin], token=TOKEN) as (view, _, _),
        reverse_proxy(port(view), PREFIX, keep_host=False, number=number),
        page(chromium, f"{origin}{PREFIX}/#{view.addresses[0].partition('#')[2]}") as tab,
    ):
        first_image(tab)
        assert tab.evaluate("document.body.dataset.state") == "running"
