"""The HTTP face of the service: `POST /predict`, `GET /model`, `POST /feedback`.

An ASGI app of our own, mounted in the Bento, rather than BentoML's typed APIs: those answer 500 to a file
that is no image and keep no limit on an upload. Here every error is 4xx with `{"code", "message"}`.
"""

import json
import os
import re
from dataclasses import asdict, dataclass
from typing import Any

import anyio.to_thread
from anyio import CapacityLimiter
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ferops.emotions import EMOTIONS, UnknownEmotionError, canonical
from ferops.serving import faces
from ferops.serving.prediction_log import timestamp
from ferops.serving.predictor import Predictor, UnusableImageError
from ferops.serving.uploads import UploadError, read_images
from ferops.settings import Environment

#: A prediction id as `Predictor` makes it.
PREDICTION_ID = re.compile(r"[0-9a-f]{32}")

#: Feedback is two short strings.
MAX_FEEDBACK_BYTES = 4096


@dataclass
class Serving:
    """What the routes need; set when the service starts.

    Attributes:
        predictor: answers.
        limits: of uploads.
        threads: requests that decode and classify at one time; more wait.
        source: `champion`, `release` or `package`.
    """

    predictor: Predictor
    limits: Environment
    threads: CapacityLimiter
    source: str


def start(app: Starlette, predictor: Predictor, limits: Environment, source: str = "package") -> None:
    """Make the app ready to answer; `source` says what kind of model it is."""
    app.state.serving = Serving(predictor, limits, CapacityLimiter(max(2, os.cpu_count() or 1)), source)


async def predict(request: Request) -> Response:
    """Classify every image of a multipart request."""
    serving: Serving = request.app.state.serving
    max_bytes = int(serving.limits.max_upload_mb * 1e6)
    find_faces = faces.wanted(request.query_params.get("faces"))
    contents = await read_images(request, serving.limits.max_images, max_bytes)
    answers = await anyio.to_thread.run_sync(
        serving.predictor.predict, contents, find_faces, limiter=serving.threads
    )
    return JSONResponse({"predictions": answers})


async def model(request: Request) -> Response:
    """The card of the model that answers, its version, and what runs it."""
    predictor: Predictor = request.app.state.serving.predictor
    card = predictor.classifier.card
    return JSONResponse(
        {
            "model_version": predictor.version,
            "source": request.app.state.serving.source,
            "synthetic": card.synthetic,
            "runtime": predictor.classifier.runtime,
            "card": asdict(card),
            "log": {"folder": str(predictor.log.folder), "failed": predictor.log.failed},
        }
    )


async def feedback(request: Request) -> Response:
    """Log the true emotion of an earlier prediction.

    The id's form is checked, not its existence: another worker or machine may have made the prediction.
    Monitoring joins the two logs and passes over ids that no prediction has.
    """
    predictor: Predictor = request.app.state.serving.predictor
    given = await _json_object(request)
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
    logged = await anyio.to_thread.run_sync(predictor.log.feedback, record)
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


async def refused(_: Request, error: Exception) -> Response:
    """An `UploadError` as JSON."""
    assert isinstance(error, UploadError)
    body = {"code": error.code, "message": str(error), **error.details}
    # What is left of a body that was too large is not read: the connection ends with the answer.
    headers = {"connection": "close"} if error.status == 413 else None
    return JSONResponse(body, error.status, headers)


async def unusable(_: Request, error: Exception) -> Response:
    """An image that cannot be classified, as JSON; `index` says which."""
    assert isinstance(error, UnusableImageError)
    status = 413 if error.code == "too_many_pixels" else 422
    return JSONResponse({"code": error.code, "message": str(error), "index": error.index}, status)


async def http_error(_: Request, error: Exception) -> Response:
    """The framework's own refusals (method not allowed …) as JSON."""
    assert isinstance(error, HTTPException)
    code = error.detail.lower().replace(" ", "_")
    return JSONResponse({"code": code, "message": error.detail}, error.status_code, error.headers)


app = Starlette(
    routes=[
        Route("/predict", predict, methods=["POST"]),
        Route("/model", model, methods=["GET"]),
        Route("/feedback", feedback, methods=["POST"]),
    ],
    exception_handlers={UploadError: refused, UnusableImageError: unusable, HTTPException: http_error},
)
