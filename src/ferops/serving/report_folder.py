"""Where the monitor's reports are, on the disk and over HTTP: the same names below both.

>>> address("http://fer.example", "20260131T120000.000000Z")
'http://fer.example/monitoring/20260131T120000.000000Z/index.html'
"""

import re
from pathlib import Path

#: In the monitoring folder: a page of all verdicts, `index.html`, and a folder for each report.
REPORTS_FOLDER = "reports"
INDEX = "index.html"

#: Name of a report's folder: the end of its window, UTC.
STAMP = re.compile(r"[0-9]{8}T[0-9]{6}\.[0-9]{6}Z")

#: Where the service has the same.
ROUTE = "/monitoring/"


def stamped(monitoring: Path) -> list[Path]:
    """The folders of the reports that are there, oldest first."""
    reports = monitoring / REPORTS_FOLDER
    if not reports.is_dir():
        return []
    return sorted(folder for folder in reports.iterdir() if STAMP.fullmatch(folder.name))


def page_of(folder: Path, service_url: str | None) -> str:
    """Where people read the page in a folder, of one report or of all: at the service if that is known.

    >>> page_of(Path("monitoring/reports/20260131T120000.000000Z"), None)
    'monitoring/reports/20260131T120000.000000Z/index.html'
    >>> page_of(Path("monitoring/reports"), "http://fer.example")
    'http://fer.example/monitoring/'
    """
    if service_url is None:
        return str(folder / INDEX)
    return address(service_url, folder.name if STAMP.fullmatch(folder.name) else None)


def address(service_url: str, report: str | None = None) -> str:
    """Of a report's page, by the name of its folder; of the history when there is no name."""
    return f"{service_url.rstrip('/')}{ROUTE}{f'{report}/{INDEX}' if report else ''}"
