"""The HTTP face of the service: `POST /predict`, `GET /model`, `POST /feedback`.

An ASGI app of our own rather than BentoML's typed APIs: those answer 500 to a file that is no image and keep
no limit on an upload. Here every error is 4xx with `{"code", "message"}`, or 503 with `Retry-After` where
there is more to do than can be done.
"""

import asyncio
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import anyio.to_thread
import orjson
from starlette.applications import Starlette
from starlette.datastructures import QueryParams
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from ferops.emotions import EMOTIONS, UnknownEmotionError, canonical
from ferops.environment import Environment
from ferops.models.cores import cores
from ferops.serving import faces, openapi, page, reports
from ferops.serving.admission import RETRY_AFTER_S, Admission
from ferops.serving.batcher import Batcher, Outcome
from ferops.serving.metrics import Measured, Metrics
from ferops.serving.prediction_log import timestamp
from ferops.serving.predictor import Predictor, Question, UnloggedError, UnusableImageError
from ferops.serving.source import Source
from ferops.serving.uploads import UploadError, read_images

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

#: A prediction id as `Predictor` makes it.
PREDICTION_ID = re.compile(r"[0-9a-f]{32}")

#: Feedback is two short strings.
MAX_FEEDBACK_BYTES = 4096


@dataclass
class Serving:
    """What the routes need; set when the service starts.

    Attributes:
        predictor: answers. A call takes it once, so that one model gives all answers to a request.
        limits: of uploads, and of how many at one time.
        metrics: of this worker.
        admission: who may come in.
        batcher: decodes and classifies off the event loop.
    """

    predictor: Predictor
    limits: Environment
    metrics: Metrics
    admission: Admission
    batcher: Batcher


def start(app: Starlette, predictor: Predictor, limits: Environment, metrics: Metrics | None = None) -> None:
    """Make the app ready to answer."""
    metrics = metrics or Metrics()
    admission = Admission(limits.queue, int(limits.queue_mb * 1e6), metrics.held.set)
    # As many as the runtime computes at one time: more only take Python's lock from each other. Two at least,
    # so that a request that takes long does not hold up all others.
    threads = max(2, cores() // limits.workers // (limits.threads or cores()))

    def answer(questions: Sequence[Question]) -> Sequence[Outcome]:
        metrics.together.observe(len(questions))
        return serving.predictor.predict_each(questions)

    serving = Serving(predictor, limits, metrics, admission, Batcher(answer, threads))
    app.state.serving = serving
    metrics.model(predictor.version, predictor.source)


def take_over(app: Starlette, source: Source) -> None:
    """Answer with another model from now on; requests in work are finished by the one they began with."""
    serving: Serving = app.state.serving
    old = serving.predictor
    new = replace(old, classifier=source.classifier, version=source.version, source=source.kind)
    serving.predictor = new
    serving.metrics.model(new.version, new.source, before=(old.version, old.source))
    serving.metrics.swaps.inc()


async def predictions(scope: "Scope", receive: "Receive") -> bytes:
    """Classify every image of a multipart request; the answer as JSON."""
    serving: Serving = scope["app"].state.serving
    limits = serving.limits
    deadline = asyncio.get_running_loop().time() + limits.timeout_s
    query = scope["query_string"]
    find_faces = faces.wanted(QueryParams(query).get("faces")) if query else False
    with serving.admission.place() as place:
        try:
            async with asyncio.timeout_at(deadline):
                contents = await read_images(
                    dict(scope["headers"]),
                    receive,
                    limits.max_images,
                    int(limits.max_upload_mb * 1e6),
                    int(limits.max_request_mb * 1e6),
                    place.take,
                )
        except TimeoutError:
            raise received_late() from None
        serving.metrics.images.observe(len(contents))
        client = scope["client"][0] if scope.get("client") else None
        answers = await serving.batcher.ask(Question(contents, find_faces, client), deadline)
    return orjson.dumps({"predictions": answers})


async def predict(request: Request) -> Response:
    """What `Predicting` did not answer: the refusal that it met."""
    if "refusal" in request.scope:
        raise request.scope["refusal"]
    return Response(await predictions(request.scope, request.receive), media_type="application/json")


class Predicting:
    """ASGI middleware that answers `POST /predict` without routing, `Request` and `Response`.

    They would cost as much as all else that the event loop does for a prediction. Refusals are left to them.
    """

    def __init__(self, app: "ASGIApp") -> None:
        self.app = app

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Answer, or pass on."""
        if scope["type"] != "http" or scope["path"] != PREDICT.path or scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        try:
            body = await predictions(scope, receive)
        except Exception as refusal:
            scope["refusal"] = refusal
            await self.app(scope, receive, send)
            return
        scope["route"] = PREDICT
        headers = [(b"content-length", b"%d" % len(body)), (b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


PREDICT = Route("/predict", predict, methods=["POST"])


def received_late() -> UploadError:
    """The refusal of a client that takes too long."""
    return UploadError(408, "timeout", "the request was not received in time: send less, or faster")


async def model(request: Request) -> Response:
    """The card of the model that answers, its version, and what runs it."""
    predictor: Predictor = request.app.state.serving.predictor
    card = predictor.classifier.card
    return JSONResponse(
        {
            "model_version": predictor.version,
            "source": predictor.source,
            "synthetic": card.synthetic,
            "runtime": predictor.classifier.runtime,
            "inference": predictor.classifier.choice and asdict(predictor.classifier.choice),
            "card": asdict(card),
            "shadow": predictor.shadow and predictor.shadow.version,
            "log": {"failed": predictor.log.failed},
        }
    )


async def feedback(request: Request) -> Response:
    """Log the true emotion of an earlier prediction.

    The id's form is checked, not its existence: another worker or machine may have made the prediction.
    Monitoring joins the two logs and passes over ids that no prediction has.
    """
    serving: Serving = request.app.state.serving
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":  # what a page from elsewhere may send without asking is none
        raise UploadError(
            415, "unsupported_media_type", "send feedback with `Content-Type: application/json`"
        )
    try:
        async with asyncio.timeout(serving.limits.timeout_s):
            given = await _json_object(request)
    except TimeoutError:
        raise received_late() from None
    identity, emotion = given.get("id"), given.get("emotion")
    if not isinstance(identity, str) or not PREDICTION_ID.fullmatch(identity):
        raise UploadError(422, "bad_id", "`id` must be the id of a prediction, 32 hexadecimal digits")
    try:
        named = canonical(emotion) if isinstance(emotion, str) else None
    except UnknownEmotionError:
        named = None
    if named is None:
        raise UploadError(422, "unknown_emotion", f"`emotion` must be one of {', '.join(EMOTIONS)}")
    record = {"id": identity, "time": timestamp(), "emotion": named}
    logged = await anyio.to_thread.run_sync(serving.predictor.log.feedback, record)
    if not logged and serving.limits.log_required:
        raise unlogged()
    return JSONResponse({**record, "logged": logged}, status_code=202)


async def _json_object(request: Request) -> dict[str, Any]:
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_FEEDBACK_BYTES:
                raise UploadError(413, "too_large", f"feedback has more than {MAX_FEEDBACK_BYTES} bytes")
        given = json.loads(bytes(body))
    except (ValueError, RecursionError) as error:
        if isinstance(error, UploadError):
            raise
        raise UploadError(400, "bad_json", 'send JSON: {"id": "…", "emotion": "happy"}') from None
    except ClientDisconnect:
        raise UploadError(400, "incomplete", "the client left before the request was complete") from None
    if not isinstance(given, dict):
        raise UploadError(400, "bad_json", 'send a JSON object: {"id": "…", "emotion": "happy"}')
    return given


async def alive(_: Request) -> Response:
    """Nothing but 200: a worker takes no connection before its model is loaded and checked."""
    return PlainTextResponse("\n")


async def metrics_page(request: Request) -> Response:
    """All workers' metrics, for Prometheus."""
    content, media_type = request.app.state.serving.metrics.page()
    return Response(content, media_type=media_type)


def _refusal(
    request: Request,
    status: int,
    code: str,
    message: str,
    headers: Mapping[str, str] | None = None,
    **details: Any,
) -> Response:
    request.app.state.serving.metrics.refusals.labels(code).inc()
    return JSONResponse({"code": code, "message": message, **details}, status, headers)


async def refused(request: Request, error: Exception) -> Response:
    """An `UploadError` as JSON."""
    assert isinstance(error, UploadError)
    headers = {}
    if error.status == 503:
        headers = {"retry-after": str(RETRY_AFTER_S)}
    elif error.status == 408:  # after another refusal the rest of the body is taken and thrown away
        headers = {"connection": "close"}
    return _refusal(request, error.status, error.code, str(error), headers, **error.details)


async def unusable(request: Request, error: Exception) -> Response:
    """An image that cannot be classified, as JSON; `index` says which."""
    assert isinstance(error, UnusableImageError)
    status = 413 if error.code == "too_many_pixels" else 422
    which: dict[str, Any] = {} if error.index is None else {"index": error.index}
    return _refusal(request, status, error.code, str(error), **which)


async def not_logged(request: Request, _: Exception) -> Response:
    """Predictions that could not be logged where the log is required."""
    return await refused(request, unlogged())


def unlogged() -> UploadError:
    """The refusal to answer what cannot be logged."""
    return UploadError(503, "log_unavailable", "the answer could not be logged, which it must be: try again")


async def failed(request: Request, _: Exception) -> Response:
    """An error of our own, of which the log has the traceback and the client nothing."""
    return _refusal(request, 500, "internal_error", "the service failed; its log says why")


async def http_error(request: Request, error: Exception) -> Response:
    """The framework's own refusals (method not allowed …) as JSON."""
    assert isinstance(error, HTTPException)
    code = error.detail.lower().replace(" ", "_")
    message = error.detail
    if error.status_code == 404:
        message = "there is nothing at this address: /docs describes those that there are"
    elif error.status_code == 405:
        message = f"this address takes {(error.headers or {}).get('Allow', 'another method')} only"
    return _refusal(request, error.status_code, code, message, error.headers)


app = Starlette(
    routes=[
        PREDICT,
        Route("/model", model, methods=["GET"]),
        Route("/feedback", feedback, methods=["POST"]),
        Route("/metrics", metrics_page, methods=["GET"]),
        *(Route(path, alive, methods=["GET"]) for path in ("/livez", "/readyz", "/healthz")),
        *page.routes,
        *reports.routes,
        *openapi.routes,
    ],
    middleware=[Middleware(Measured), Middleware(Predicting)],
    exception_handlers={
        UploadError: refused,
        UnusableImageError: unusable,
        UnloggedError: not_logged,
        HTTPException: http_error,
        Exception: failed,
    },
)
# With a slash too many it is another address: a redirect would be built from the client's own Host header.
app.router.redirect_slashes = False
