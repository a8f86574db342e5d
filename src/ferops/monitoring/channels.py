"""Where alerts go: the log, Prefect's events, a webhook, and whatever Apprise can reach, such as email.

    >>> for channel in configured(Environment()):  # doctest: +SKIP
    ...     channel.deliver(alert)

A channel returns once the other side has said that it took the alert, and raises otherwise. Addresses and
passwords are settings of the environment; no error and no name of a channel tells them.
"""

import hashlib
import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TypeAlias

import httpx
from pydantic import SecretStr

from ferops.environment import Environment
from ferops.monitoring.alerts import Alert
from ferops.serving.prediction_log import timestamp
from ferops.serving.report_folder import REPORTS_FOLDER, page_of

Log: TypeAlias = logging.Logger | logging.LoggerAdapter

logger = logging.getLogger("ferops.alerts")

#: Seconds in which a webhook has to answer; the next window offers the alert again.
PATIENCE_SECONDS = 10.0

#: Apprise's schemes of email: plain or STARTTLS, and always encrypted.
MAIL = ("mailto", "mailtos")


class DeliveryError(Exception):
    """A channel did not take an alert; the message is free of addresses and secrets."""


@dataclass(frozen=True)
class Channel:
    """One way to tell.

    Attributes:
        name: under which the state remembers what it took.
        deliver: raises when the alert did not arrive.
    """

    name: str
    deliver: Callable[[Alert], None]


def configured(environment: Environment, log: Log = logger) -> tuple[Channel, ...]:
    """The channels that are set up: the log always, the others by their settings."""
    channels = [Channel("log", partial(write, log))]
    if environment.prefect_api_url:
        channels.append(Channel("prefect", emit))
    if environment.alert_webhook:
        channels.append(webhook(environment.alert_webhook))
    if environment.alert_urls:
        channels += [notifier(url) for url in environment.alert_urls.get_secret_value().split()]
    return tuple(channels)


def write(log: Log, alert: Alert) -> None:
    """One line in a log: a warning, or for information when something is over."""
    level = logging.INFO if alert.status == "recovered" else logging.WARNING
    log.log(level, "%s: %s", alert.title, "; ".join(alert.body.splitlines()))


def emit(alert: Alert) -> None:
    """An event at the Prefect server of `PREFECT_API_URL`, named by `Alert.event`, for automations.

    Not by Prefect's `emit_event`, which queues and never says whether the event arrived.
    """
    from prefect.client.orchestration import get_client
    from prefect.events import Event, RelatedResource
    from prefect.runtime import flow_run

    run: str | None = flow_run.get_id()
    related = {"prefect.resource.id": f"prefect.flow-run.{run}", "prefect.resource.role": "flow-run"}
    event = Event(
        occurred=datetime.now(UTC),  # told now: the server drops what is long past
        event=alert.event,
        resource={
            "prefect.resource.id": f"ferops.model.{alert.model}",
            "prefect.resource.name": alert.model,
            "ferops.model-version": alert.model_version,
        },
        related=[RelatedResource.model_validate(related)] if run else [],
        payload=alert.payload(),
    )
    with get_client(sync_client=True) as client:
        client.request("POST", "/events", json=[event.model_dump(mode="json")]).raise_for_status()


def webhook(url: SecretStr) -> Channel:
    """POST of `Alert.payload` as JSON; any 2xx means that it was taken."""

    def deliver(alert: Alert) -> None:
        try:
            answer = httpx.post(url.get_secret_value(), json=alert.payload(), timeout=PATIENCE_SECONDS)
        except httpx.TransportError as error:
            raise DeliveryError(f"{type(error).__name__}: {error}") from None
        except (httpx.InvalidURL, ValueError):  # their texts repeat the address, which may hold a token
            raise DeliveryError("FEROPS_ALERT_WEBHOOK is no http:// or https:// address") from None
        if not answer.is_success:
            raise DeliveryError(f"the receiver answered HTTP {answer.status_code}")

    return Channel("webhook", deliver)


def notifier(url: str) -> Channel:
    """One Apprise address: `mailtos://…` is email by STARTTLS, `slack://…`, `msteams://…` and so on.

    Several recipients in one address are one channel: when one of them fails, all of them are told again.
    """
    scheme = url.partition("://")[0]

    def deliver(alert: Alert) -> None:
        import apprise

        # What goes wrong Apprise says in its log alone, where it also tells addresses and tokens.
        with _kept_to_itself("apprise"), apprise.LogCapture(level=logging.DEBUG, fmt="%(message)s") as said:
            target = apprise.Apprise(asset=apprise.AppriseAsset(app_id="ferops"))
            if not target.add(url):
                raise DeliveryError("no Apprise address; docs/alerts.md has examples for FEROPS_ALERT_URLS")
            urgency = (
                apprise.NotifyType.SUCCESS if alert.status == "recovered" else apprise.NotifyType.WARNING
            )
            taken = target.notify(
                body=alert.body,
                title=alert.title,
                notify_type=urgency,
                body_format=apprise.NotifyFormat.TEXT,
            )
            lines = said.getvalue()
        if not taken:
            # A mail server's answer tells nothing that it must not; a URL in other errors may hold a token.
            answers = re.findall(r"(?m)^Socket Exception: (.+)$", lines) if scheme in MAIL else []
            raise DeliveryError("; ".join(answers) or f"{scheme} did not take it; `apprise -vv` says why")

    digest = hashlib.sha256(url.encode()).hexdigest()[:8]
    return Channel(f"{scheme} {digest}", deliver)


@contextmanager
def _kept_to_itself(name: str) -> Iterator[None]:
    log = logging.getLogger(name)
    before, log.propagate = log.propagate, False
    try:
        yield
    finally:
        log.propagate = before


def try_out(environment: Environment) -> dict[str, str | None]:
    """Send a test alert by every channel.

    Returns:
        By channel, why it failed, or none.
    """
    now = timestamp()
    alert = Alert(
        id=f"test:{now}",
        incident=f"test:{now}",
        kind="drift",
        status="test",
        time=now,
        model="fer-classifier",
        model_version="test",
        synthetic=False,
        parts=("brightness",),
        new=("brightness",),
        reasons=("somebody tried the channels with `ferops monitor --test-alert`; nothing has drifted",),
        since=now,
        windows=1,
        predictions=0,
        start="none",
        report=page_of(environment.monitoring_dir / REPORTS_FOLDER, environment.service_url),
    )
    return {channel.name: attempt(channel, alert) for channel in configured(environment)}


def attempt(channel: Channel, alert: Alert) -> str | None:
    """Deliver one alert; why that failed, or none. No channel's failure is another's."""
    try:
        channel.deliver(alert)
    except Exception as error:
        return str(error) or type(error).__name__
    return None
