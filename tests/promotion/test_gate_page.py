import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from ferops.promotion import gate_page
from ferops.promotion.decision import CandidateVerdict, Decision
from ferops.promotion.rules import TITLES, Rule

ONE_PIXEL = b"\x89PNG\r\n\x1a\n" + b"0" * 20


def decision(**changes: object) -> Decision:
    fine = tuple(Rule(rule=name, passed=True, number=0.5, limit=0.1, sentence="Fine.") for name in TITLES)
    bad = Rule(
        rule="recall",
        passed=False,
        number=0.05,
        limit=0.1,
        sentence="The lowest recall is 0.050 <disgust>.",
        advice="Run `dvc repro`.",
    )
    unrun = Rule(
        rule="service", passed=None, number=None, limit=None, sentence="Not run: another rule failed."
    )
    candidates = {
        "good": CandidateVerdict(
            verdict="passed", metric=0.7, package_sha256="a" * 64, mlflow_run_id="run1", rules=fine
        ),
        "poor": CandidateVerdict(
            verdict="refused", metric=0.4, package_sha256=None, mlflow_run_id="run2", rules=(bad, unrun)
        ),
    }
    values = {
        "decision": "promote",
        "winner": "good",
        "candidate": "good",
        "package_sha256": "a" * 64,
        "reason": "good passed every rule",
        "champion": None,
        "candidates": candidates,
        "metric": "macro_f1",
        "dataset_sha256": "b" * 64,
        "synthetic": True,
        "decided_against_version": None,
        "decided_at": "2026-01-01T00:00:00+00:00",
    }
    return Decision.model_validate({**values, **changes})


def render(folder: Path, what: Decision) -> str:
    figures = folder / "good" / "figures"
    figures.mkdir(parents=True, exist_ok=True)
    (figures / "reliability.png").write_bytes(ONE_PIXEL)
    gate_page.write(folder / "gate.html", what, {"good": folder / "good", "poor": folder / "poor"})
    return (folder / "gate.html").read_text()


def test_the_page_shows_each_rule_with_verdict_number_limit_and_what_to_do(tmp_path: Path) -> None:
    page = render(tmp_path, decision())
    for title in TITLES.values():
        assert title in page
    assert "✓ pass" in page and "✗ fail" in page and "not run" in page  # words, not colour alone
    assert "≥ 0.1" in page and "0.05" in page
    assert "what to do" in page and "Run <code>dvc repro</code>." in page


def test_the_page_needs_nothing_beside_it(tmp_path: Path) -> None:
    page = render(tmp_path, decision())
    assert "data:image/png;base64," in page
    assert not re.search(r"(src|href)=\"(?!data:|#)", page)
    assert "<script" not in page


def test_text_from_elsewhere_is_escaped(tmp_path: Path) -> None:
    page = render(tmp_path, decision(reason="<script>alert(1)</script>"))
    assert "<script" not in page
    assert "&lt;disgust&gt;" in page


def test_synthetic_faces_are_named_only_where_they_are(tmp_path: Path) -> None:
    assert "Synthetic faces" in render(tmp_path, decision())
    assert "ynthetic" not in render(tmp_path, decision(synthetic=False))


@pytest.mark.parametrize(
    ("outcome", "heading"),
    [("promote", "Promote good"), ("keep", "The champion stays"), ("no_champion", "No champion yet")],
)
def test_the_heading_is_the_outcome(tmp_path: Path, outcome: str, heading: str) -> None:
    assert f"<h1>{heading}</h1>" in render(tmp_path, decision(decision=outcome))


def test_every_table_has_headings_and_every_picture_a_text(tmp_path: Path) -> None:
    class Outline(HTMLParser):
        tables = headed = pictures = described = 0

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            self.tables += tag == "table"
            self.headed += tag == "thead"
            self.pictures += tag == "img"
            self.described += tag == "img" and bool(dict(attrs).get("alt"))

    outline = Outline()
    outline.feed(render(tmp_path, decision()))
    assert outline.tables == outline.headed == 3
    assert outline.pictures == outline.described == 1


def test_numbers_read_well() -> None:
    assert [gate_page.number(x) for x in (None, 0, 2.4e-7, 0.71234, 20.0)] == [
        "–",
        "0",
        "2.4e-07",
        "0.7123",
        "20",
    ]
