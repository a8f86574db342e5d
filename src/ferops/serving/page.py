"""What people open in a browser: `/` to try the model, `/docs`; for what the monitor found see `reports.py`.

Plain files without a build step and nothing from other hosts; the headers forbid scripts of anybody else's.
"""

import functools
import mimetypes
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio.to_thread
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ferops import files
from ferops.models.onnx import OnnxClassifier
from ferops.serving.report_folder import INDEX, REPORTS_FOLDER, address, stamped

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

STATIC = Path(__file__).parent / "static"

#: What the page may do: its own scripts and styles, its own service, pictures it was given.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' blob: data:; media-src blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
#: Swagger UI writes styles into the page.
DOCS_POLICY = POLICY.replace("style-src 'self'", "style-src 'self' 'unsafe-inline'")
#: Files of `static/`, and of Swagger UI, which BentoML brings.
ASSETS = ("page.css", "page.js", "docs.js")
SWAGGER = ("swagger-ui.css", "swagger-ui-bundle.js")
PUBLIC = ("/", "/docs", "/openapi.json", *(f"/static/{name}" for name in (*ASSETS, *SWAGGER)))  # no secrets


#: Bytes of a file that are sent at one time: no more of it waits for a client that does not read.
SLICE = 65_536


class FileAnswer(Response):
    """An answer in slices, each sent when the one before has left."""

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Send it."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        for start in range(0, len(self.body), SLICE):
            part = self.body[start : start + SLICE]
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


@functools.cache
def _swagger() -> Path:
    import bentoml

    return Path(bentoml.__file__).parent / "_internal" / "server" / "static_content"


async def static_file(path: Path, policy: str) -> Response:
    """A file as it is, in a browser that may do no more with it than the content security policy says.

    It is read before its answer begins: the monitor replaces and removes its files at any time.

    Raises:
        HTTPException: 404 if it cannot be read.
    """
    try:
        content = await anyio.to_thread.run_sync(path.read_bytes)
    except OSError:
        raise HTTPException(404) from None
    return _answer(content, path.name, policy)


@functools.cache
def _own_file(path: Path) -> bytes:
    """A file of the installation, which does not change: once in memory, however many ask for it."""
    return path.read_bytes()


async def _asset(path: Path, policy: str = POLICY) -> Response:
    return _answer(await anyio.to_thread.run_sync(_own_file, path), path.name, policy)


def _answer(content: bytes, name: str, policy: str) -> Response:
    headers = {
        "content-security-policy": policy,
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cache-control": "no-cache",
    }
    return FileAnswer(content, media_type=mimetypes.guess_type(name)[0], headers=headers)


async def index(_: Request) -> Response:
    """The page to try the model on."""
    return await _asset(STATIC / "index.html")


async def docs(_: Request) -> Response:
    """The API, described by `/openapi.json`, in Swagger UI."""
    return await _asset(STATIC / "docs.html", DOCS_POLICY)


async def asset(request: Request) -> Response:
    """Scripts and styles of the two."""
    name = request.path_params["name"]
    if name in ASSETS:
        return await _asset(STATIC / name)
    if name in SWAGGER:
        return await _asset(_swagger() / name)
    raise HTTPException(404)


async def about(request: Request) -> Response:
    """Model, recorded accuracy, what is kept, and last drift verdict, as the page shows them."""
    serving = request.app.state.serving
    classifier, monitoring = serving.predictor.classifier, serving.limits.monitoring_dir
    found = await anyio.to_thread.run_sync(monitored, monitoring)
    return JSONResponse(
        {
            "model": {
                "name": classifier.card.name,
                "version": serving.predictor.version,
                "source": serving.predictor.source,
                "synthetic": classifier.card.synthetic,
                "trained_on": list(classifier.card.training_data.datasets),
            },
            "accuracy": recorded_accuracy(classifier),
            "keeps_images": serving.predictor.keep_images,
            **found,
        }
    )


def recorded_accuracy(classifier: OnnxClassifier) -> dict[str, Any] | None:
    """Accuracy of what answers, 0 to 1, its interval, if any, and how many test images it is of; or none.

    A reduced precision has its own, measured when it was judged: on the test split without copies.
    """
    if classifier.choice is not None and classifier.choice.evidence is not None:
        evidence = classifier.choice.evidence
        return {"value": evidence["accuracy"], "interval": None, "images": evidence["rows"]}
    try:
        official = files.read_json(classifier.folder / "evaluation.json")["official"]
        interval = official.get("intervals", {}).get("accuracy")
        return {"value": official["accuracy"], "interval": interval, "images": official["rows"]}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def monitored(monitoring: Path) -> dict[str, Any]:
    """The monitor's last verdict, and the addresses of its report and of the history, relative to `/`.

    Of a folder that may not be read there is nothing to tell.
    """
    try:
        history = (monitoring / REPORTS_FOLDER / INDEX).is_file()
        return {"drift": _last_verdict(monitoring), "history": address(".") if history else None}
    except OSError:
        return {"drift": None, "history": None}


def _last_verdict(monitoring: Path) -> dict[str, Any] | None:
    for folder in reversed(stamped(monitoring)):
        try:
            said = files.read_json(folder / "verdict.json")
            return {
                "verdict": said["verdict"],
                "time": said["time"],
                "model_version": said["window"]["model_version"],
                "report": address(".", folder.name) if (folder / INDEX).is_file() else None,
            }
        except (OSError, ValueError, KeyError, TypeError):
            continue  # another version's, or half removed
    return None


routes = [
    Route("/", index, methods=["GET"]),
    Route("/docs", docs, methods=["GET"]),
    Route("/static/{name}", asset, methods=["GET"]),
    Route("/about", about, methods=["GET"]),
]
