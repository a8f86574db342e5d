"""The audit of dependencies tells "nothing known" from "nothing looked up"."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

AUDIT = Path(__file__).parents[1] / ".ci" / "audit.py"

SOUND = {"name": "sound", "version": "1.0", "vulns": []}
HOLED = {"name": "holed", "version": "2.0", "vulns": [{"id": "GHSA-x", "fix_versions": ["2.1"]}]}
UNKNOWN = {"name": "unknown", "skip_reason": "Dependency not found and could not be audited"}


def audit(folder, report, *options):
    """Run it with a pip-audit that reports this, or that cannot reach its service."""
    program = folder / "pip-audit"
    write = "" if report is None else f"open(a[a.index('--output') + 1], 'w').write({json.dumps(report)!r})\n"
    end = "sys.exit('ConnectionError: no route to host')" if report is None else ""
    program.write_text(f"#!{sys.executable}\nimport sys\na = sys.argv\n{write}{end}")
    program.chmod(0o755)
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}
    return subprocess.run(
        [sys.executable, str(AUDIT), *options], env=environment, capture_output=True, text=True
    )


@pytest.mark.parametrize("others", [[], [SOUND], [UNKNOWN]])
def test_a_known_vulnerability_fails(tmp_path, others):
    done = audit(tmp_path, {"dependencies": [HOLED, *others]})
    assert done.returncode == 1
    assert "holed 2.0: GHSA-x, mended by 2.1" in done.stdout


def test_nothing_known_passes(tmp_path):
    done = audit(tmp_path, {"dependencies": [SOUND]})
    assert (done.returncode, done.stdout) == (0, "audited: no known vulnerability in 1 packages\n")


@pytest.mark.parametrize("report", [None, {"dependencies": []}, {"dependencies": [SOUND, UNKNOWN]}])
def test_what_was_not_looked_up_is_said_and_fails_only_where_that_is_wanted(tmp_path, report):
    done = audit(tmp_path, report)
    assert done.returncode == 0
    assert "NOT AUDITED" in done.stderr and "audited: no known" not in done.stdout
    assert audit(tmp_path, report, "--strict").returncode == 2
