"""What the monitor found, to read in a browser: its history at `/monitoring/`, each report below it.

Addresses follow the files in `<FEROPS_MONITORING_DIR>/reports`, so that the pages' links to each other work
on a disk and over HTTP. Nothing else of that folder can be read, and nothing written.
"""

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ferops.serving.page import static_file
from ferops.serving.report_folder import INDEX, REPORTS_FOLDER, ROUTE, STAMP

#: The monitor's own pages have their styles inside and no script: shut off from everything else.
PLAIN_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; sandbox allow-popups"
)
#: Evidently's are one file each with all that they need inside, scripts too.
SCRIPTED_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; "
    "img-src data: blob:; font-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "sandbox allow-scripts allow-popups"
)

#: A report's files.
POLICIES = {
    INDEX: PLAIN_POLICY,
    "verdict.json": PLAIN_POLICY,
    "evidently.html": SCRIPTED_POLICY,
    "quality.html": SCRIPTED_POLICY,
}


async def history(request: Request) -> Response:
    """The page of all verdicts."""
    return await _page(request, INDEX, PLAIN_POLICY)


async def report(request: Request) -> Response:
    """A file of one report."""
    stamp, name = request.path_params["stamp"], request.path_params.get("name", INDEX)
    if not STAMP.fullmatch(stamp) or name not in POLICIES:
        raise HTTPException(404)
    return await _page(request, f"{stamp}/{name}", POLICIES[name])


async def _page(request: Request, place: str, policy: str) -> Response:
    return await static_file(request.app.state.serving.limits.monitoring_dir / REPORTS_FOLDER / place, policy)


routes = [
    Route(ROUTE, history, methods=["GET"]),
    Route(f"{ROUTE}{INDEX}", history, methods=["GET"]),
    Route(f"{ROUTE}{{stamp}}/", report, methods=["GET"]),
    Route(f"{ROUTE}{{stamp}}/{{name}}", report, methods=["GET"]),
]
