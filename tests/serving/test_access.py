"""Who is answered, by address and by token."""

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from ferops.serving.access import Access

HERE, IPV6, MAPPED = ("127.0.0.1", 50000), ("::1", 50000), ("::ffff:127.0.0.1", 50000)
STRANGER = ("10.1.2.3", 50000)


def inner():
    async def answer(request):
        return PlainTextResponse("answered")

    return Starlette(
        routes=[
            Route(path, answer, methods=["GET", "POST"])
            for path in ("/predict", "/metrics", "/livez", "/readyz", "/healthz")
        ]
    )


def ask(access, path="/predict", server=HERE, client=HERE, method="GET", **headers):
    async def placed(scope, receive, send):
        await access({**scope, "server": server, "client": client}, receive, send)

    return TestClient(placed).request(method, path, headers=headers)


@pytest.mark.parametrize("address", [HERE, IPV6, MAPPED])
def test_without_a_token_this_machine_is_answered(address):
    assert ask(Access(inner()), server=address, client=address).text == "answered"


@pytest.mark.parametrize(
    ("server", "client"),
    [
        (("10.0.0.1", 3000), STRANGER),
        (("10.0.0.1", 3000), ("10.0.0.1", 50000)),
        (("10.0.0.1", 3000), HERE),  # what a proxy that trusts everybody lets a stranger say
        (HERE, STRANGER),  # behind a proxy on this machine, which says for whom it asks
        (HERE, ("nonsense", 0)),
        (HERE, None),
    ],
)
def test_without_a_token_no_other_machine_is_answered(server, client):
    response = ask(Access(inner()), server=server, client=client)
    assert (response.status_code, response.json()["code"]) == (401, "unauthorized")
    assert response.headers["www-authenticate"].startswith("Bearer")
    assert "FEROPS_TOKEN" in response.json()["message"]


@pytest.mark.parametrize(
    "host",
    [
        *("localhost:3000", "127.0.0.1:3000", "[::1]:3000", "LOCALHOST", "build-7:3000", "127.0.0.1."),
        *("me.local", "localhost.localdomain", "host.docker.internal:3000"),
    ],
)
def test_without_a_token_a_name_that_is_this_machines_own_is_answered(host):
    assert ask(Access(inner()), host=host, **{"sec-fetch-site": "same-origin"}).text == "answered"


@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "cross-site"},
        {"host": "rebound.example.org:3000"},
        {"host": "example.org."},
        {"host": "[bad"},
    ],
)
def test_without_a_token_what_a_page_from_elsewhere_sends_is_refused(headers):
    refused = ask(Access(inner()), method="POST", **headers)
    assert refused.status_code == 401
    assert "public name in the Host header" in refused.json()["message"]
    brought = {"authorization": "Bearer secret", **headers}
    assert ask(Access(inner(), token="secret"), method="POST", **brought).text == "answered"


def test_a_link_on_a_page_from_elsewhere_leads_here():
    """The monitor's reports are such pages: their sandbox gives them no origin."""
    assert ask(Access(inner()), **{"sec-fetch-site": "cross-site"}).text == "answered"


def test_everybody_is_answered_where_that_is_wanted():
    assert ask(Access(inner(), anybody=True), server=("10.0.0.1", 3000), client=STRANGER).status_code == 200


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/healthz"])
def test_orchestrators_need_no_token(path):
    assert ask(Access(inner(), token="secret"), path, client=STRANGER).status_code == 200


@pytest.mark.parametrize("path", ["/predict", "/metrics", "/nowhere", "/livez/../predict"])
@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "secret",
        "Bearer",
        "Bearer ",
        "Bearer wrong",
        "Bearer secret2",
        "Basic secret",
        "Bearer sécret",
    ],
)
def test_a_token_must_be_brought_from_this_machine_too(path, authorization):
    headers = {} if authorization is None else {"authorization": authorization.encode()}
    assert ask(Access(inner(), token="secret"), path, **headers).status_code == 401


def test_refusals_are_counted():
    refused = []
    access = Access(inner(), token="secret", refused=lambda: refused.append(1))
    ask(access)
    ask(access, authorization="Bearer secret")
    assert refused == [1]


@pytest.mark.parametrize("scheme", ["Bearer", "bearer"])
def test_who_brings_the_token_is_answered_from_anywhere(scheme):
    response = ask(Access(inner(), token="secret"), client=STRANGER, authorization=f"{scheme} secret")
    assert response.text == "answered"


def test_a_token_from_a_file_is_the_same_without_the_end_of_its_line():
    guarded = Access(inner(), token="secret\n")
    assert ask(guarded, client=STRANGER, authorization="Bearer secret").text == "answered"
    assert ask(guarded, client=STRANGER, authorization="Bearer").status_code == 401


def test_a_blank_token_lets_no_stranger_in():
    assert ask(Access(inner(), token=" \n"), client=STRANGER, authorization="Bearer ").status_code == 401
