"""Who is answered: whoever brings the token, and without a token this machine alone.

`bentoml serve` listens on every interface unless told otherwise, and the service cannot know what it was
told. So each request is judged by the addresses of its own connection: one that came over loopback, from a
client on loopback, is from this machine; a proxy in between that names its client does not change that.
Browsers on this machine ask for whatever page they show: what another site's page posts, or what asks
for this address under a public name (DNS rebinding), is not of this machine.

Links to the monitor's pages are followed by browsers, which send no bearer token: there, and for reading
alone, the token is taken as a password too, which a browser asks for by itself.
"""

import base64
import binascii
import functools
import hmac
import ipaddress
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from starlette.responses import JSONResponse

from ferops.serving.page import PUBLIC
from ferops.serving.report_folder import ROUTE

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

#: What orchestrators ask, which says nothing but alive or not; and the page and the API's description, the
#: same wherever the service runs: a browser brings no token before it has shown a page that asks for one.
OPEN = frozenset({"/healthz", "/livez", "/readyz", *PUBLIC})

#: Endings of names that no public DNS gives (RFC 6761, RFC 6762, ICANN's `internal`, /etc/hosts of Red Hat).
NOT_PUBLIC = (".localhost", ".localdomain", ".local", ".internal")

logger = logging.getLogger("bentoml.ferops")


class Access:
    """ASGI middleware that answers 401 to whoever may not ask.

    Args:
        app: asked by those who may.
        token: to be brought by everybody as `Authorization: Bearer <token>`; none: only this machine asks.
        anybody: without a token, answer other machines too.
        refused: called for each request that is refused.
    """

    def __init__(
        self,
        app: "ASGIApp",
        token: str | None = None,
        anybody: bool = False,
        refused: Callable[[], None] = lambda: None,
    ) -> None:
        self.app = app
        self._token = (token or "").strip().encode() or None  # files of secrets end with a line's end
        self._anybody = anybody
        self._refused = refused
        self._warned = False

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Pass on or refuse."""
        if scope["type"] not in ("http", "websocket") or scope["path"] in OPEN or self._may_ask(scope):
            await self.app(scope, receive, send)
            return
        if self._token is None and _is_local(scope):
            message = (
                "without FEROPS_TOKEN this service takes nothing that another site's page posts, and no "
                "public name in the Host header: ask for localhost"
            )
        elif self._token is None:
            message = "this service answers its own machine only: it was started without FEROPS_TOKEN"
            if not self._warned:
                logger.warning(
                    "another machine was refused: set FEROPS_TOKEN, or FEROPS_AUTH=off for everybody"
                )
                self._warned = True
        else:
            message = "send the header `Authorization: Bearer <token>` with the service's token"
        self._refused()
        body = {"code": "unauthorized", "message": message}
        scheme = "Basic" if self._token is not None and _is_report(scope) else "Bearer"
        response = JSONResponse(body, 401, {"www-authenticate": f'{scheme} realm="ferops"'})
        await response(scope, receive, send)

    def _may_ask(self, scope: "Scope") -> bool:
        if self._token is None:
            return self._anybody or (_is_local(scope) and not _is_of_another_site(scope))
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        scheme, _, token = (given[0] if len(given) == 1 else b"").partition(b" ")
        if scheme.lower() == b"basic" and _is_report(scope):
            return hmac.compare_digest(_password(token), self._token)
        return scheme.lower() == b"bearer" and hmac.compare_digest(token.strip(), self._token)


def _is_local(scope: "Scope") -> bool:
    """Whether it came over loopback, from a client on loopback."""
    return _is_loopback(scope.get("server")) and _is_loopback(scope.get("client"))


def _is_of_another_site(scope: "Scope") -> bool:
    """Whether a browser sends this for a page from elsewhere; such a page may link here, not read or send."""
    reads = scope.get("method") in ("GET", "HEAD")  # the answer is kept from the page by the browser itself
    for name, value in scope["headers"]:
        if name == b"sec-fetch-site" and value == b"cross-site" and not reads:
            return True
        if name == b"host" and _is_public(value):
            return True
    return False


@functools.lru_cache(maxsize=256)  # as below
def _is_public(host: bytes) -> bool:
    """Whether a Host header has a name that somebody's DNS may have given to this machine."""
    name = "[.]"  # where there is none to be read
    try:
        name = (urlsplit(f"//{host.decode('latin-1')}").hostname or "").rstrip(".")
        ipaddress.ip_address(name)
    except ValueError:
        return "." in name and not name.endswith(NOT_PUBLIC)
    return False


def _is_report(scope: "Scope") -> bool:
    """Whether a page of the monitor is read, which changes nothing, whoever made the browser ask."""
    return scope.get("method") in ("GET", "HEAD") and scope["path"].startswith(ROUTE)


def _password(credentials: bytes) -> bytes:
    """Of HTTP's Basic scheme (RFC 7617), whatever the user's name; empty where it is none."""
    try:
        return base64.b64decode(credentials.strip(), validate=True).partition(b":")[2]
    except binascii.Error:
        return b""


def _is_loopback(address: Sequence[object] | None) -> bool:
    return _names_loopback(str(address[0]) if address else "")


@functools.lru_cache(maxsize=256)  # for each request, of mostly the same few
def _names_loopback(host: str) -> bool:
    try:
        parsed = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = getattr(parsed, "ipv4_mapped", None)
    return (mapped or parsed).is_loopback
