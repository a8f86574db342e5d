"""Look up every pinned dependency among the known vulnerabilities (OSV), as a step of continuous integration.

    python .ci/audit.py [--strict] [--ignore-vuln GHSA-... …]

Exits with 1 when one is known, and says which and what mends it. Where the vulnerability service cannot be
reached, nothing was looked up: that is said, and is no failure, unless `--strict` is given (2). pip-audit by
itself would fail there, or pass when a package index stands in and knows no package. Other options go to
pip-audit.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

LOCK = Path(__file__).parents[1] / "requirements.lock"


def main(options: list[str]) -> int:
    """Audit; gives the exit code."""
    strict = "--strict" in options
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "audit.json"
        done = subprocess.run(
            [
                *("pip-audit", "--requirement", str(LOCK), "--require-hashes", "--disable-pip"),
                *("--vulnerability-service", "osv", "--progress-spinner", "off", "--timeout", "15"),
                *("--format", "json", "--output", str(found)),
                *(option for option in options if option != "--strict"),
            ],
            capture_output=True,
            text=True,
        )
        report = json.loads(found.read_text()) if found.exists() and found.stat().st_size else {}
    packages: list[dict[str, Any]] = report.get("dependencies", [])
    skipped = [package["name"] for package in packages if "skip_reason" in package]
    vulnerable = [package for package in packages if package.get("vulns")]
    for package in vulnerable:
        for known in package["vulns"]:
            mended = ", ".join(known["fix_versions"]) or "no version"
            print(f"{package['name']} {package['version']}: {known['id']}, mended by {mended}")
    if vulnerable:
        print(
            f"{len(vulnerable)} of {len(packages)} packages have known vulnerabilities: `make lock` pins anew"
        )
        return 1
    if skipped or not packages:
        last = (done.stderr.strip().splitlines() or ["pip-audit said nothing"])[-1]
        why = f"{len(skipped)} of {len(packages)} packages are unknown to it" if skipped else last[-300:]
        print(f"NOT AUDITED: the vulnerability service could not be asked ({why})", file=sys.stderr)
        return 2 if strict else 0
    print(f"audited: no known vulnerability in {len(packages)} packages")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
