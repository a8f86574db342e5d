"""The Bento: `bentoml serve` answers with the champion, `bentoml build` takes it along.

Until something is promoted, the release answers: the trained model that lies in the repository.
A running service follows the champion, see `ferops.serving.follow`.
`FEROPS_PACKAGE=<folder>` serves a package folder that is no champion; the gate's trial does this.
"""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import bentoml
from _bentoml_sdk import Service
from bentoml.models import BentoModel
from pydantic import ValidationError

from ferops.environment import Environment
from ferops.models.onnx import BrokenPackageError
from ferops.promotion.champion import NoChampionError
from ferops.serving.access import Access
from ferops.serving.app import app, start, take_over
from ferops.serving.client_buckets import ClientBuckets
from ferops.serving.connection import bound_connections
from ferops.serving.drain import Drain, LastAnswers
from ferops.serving.follow import Follower
from ferops.serving.metrics import Metrics
from ferops.serving.prediction_log import PredictionLog
from ferops.serving.predictor import Predictor
from ferops.serving.shadow import Shadow
from ferops.serving.source import find_challenger, find_source

if TYPE_CHECKING:
    from starlette.types import ASGIApp

logger = logging.getLogger("bentoml.ferops")

# At import, so that the first process fails, and not each worker that it would start again and again.
# BentoML's command line shows its own exceptions as one line and exits with 1.
try:
    environment = Environment()
    source = find_source(environment)
    challenger = find_challenger(environment.shadow) if environment.shadow else None
except ValidationError as error:
    wrong = [
        "".join(f"FEROPS_{str(name).upper()}: " for name in item["loc"][:1]) + item["msg"]  # or it names two
        for item in error.errors()
    ]
    raise bentoml.exceptions.BentoMLException("; ".join(wrong)) from None
except (NoChampionError, BrokenPackageError, OSError, ValueError) as error:
    raise bentoml.exceptions.BentoMLException(str(error)) from None

drain = Drain(environment.drain_s)


class Bare(Service[Any]):
    """A service that is its ASGI app, with nothing of BentoML's around it.

    That would trace, log and time each request, in tasks of their own: half a millisecond, more than all that
    is done here but the model's own work. What it is for, `ferops.serving` does where it costs little:
    metrics, refusals, limits of time, health.
    """

    def to_asgi(self, is_main: bool = True) -> "ASGIApp":
        """What a worker hands to its HTTP server."""

        @asynccontextmanager
        async def lifespan(_: Any) -> AsyncIterator[None]:
            self()
            yield

        app.router.lifespan_context = lifespan
        return Access(
            LastAnswers(app, drain),
            token=environment.token.get_secret_value() if environment.token else None,
            anybody=environment.auth == "off",
            refused=lambda: app.state.serving.metrics.refusals.labels("unauthorized").inc(),
        )


@bentoml.service(
    name="fer_classifier",
    workers=environment.workers,
    service_class=Bare,
    metrics={"enabled": False},  # ours are in `ferops.serving.metrics`, which says why
)
@bentoml.asgi_app(app)
class FerClassifier:
    """Seven facial expressions: POST /predict, GET /model, POST /feedback; see docs/serving.md."""

    if source.bento_tag is not None:
        champion = BentoModel(source.bento_tag)  # so that `bentoml build` takes it along

    def __init__(self) -> None:
        metrics = Metrics()
        log = PredictionLog(environment.log_dir, environment.log_durability, metrics)
        shadow = Shadow(challenger.classifier, challenger.version, log, metrics) if challenger else None
        predictor = Predictor(
            source.classifier,
            source.version,
            log,
            environment.max_pixels,
            source.kind,
            environment.log_required,
            shadow,
            environment.max_request_pixels,
            environment.keep_images,
            ClientBuckets(environment.log_dir) if environment.log_clients else None,
        )
        start(app, predictor, environment, metrics)
        bound_connections(environment.timeout_s, lambda code: metrics.refusals.labels(code).inc())
        drain.on_signals()
        if environment.package is None and environment.follow_s:
            follower = Follower(
                environment.registry_dir,
                environment.follow_s,
                source.version,
                lambda new: take_over(app, new),
                lambda refused: _refused(metrics, refused),
            )
            follower.start()
        if bentoml.server_context.worker_index in (None, 1):  # once, not by each worker
            logger.info(source.sentence())
            if challenger is not None:
                logger.info("challenger %s sees the same images", challenger.version)


def _refused(metrics: Metrics, refused: bool) -> None:
    metrics.champion_refused.set(int(refused))
    if refused:
        metrics.refused_champions.inc()
