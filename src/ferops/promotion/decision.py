"""What the gate decided: `gate.json`, read by promotion, the page and `ferops status`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from ferops import files
from ferops.promotion.rules import Rule

Outcome = Literal["promote", "keep", "no_champion"]
Verdict = Literal["passed", "refused", "not_evaluated", "already_champion"]


class CandidateVerdict(BaseModel):
    """One candidate's verdict, its metric, and every rule in the order of judgement."""

    model_config = ConfigDict(frozen=True)

    verdict: Verdict
    metric: float | None
    package_sha256: str | None
    mlflow_run_id: str | None
    rules: tuple[Rule, ...]

    @property
    def failed(self) -> list[Rule]:
        """The rules that failed, in order."""
        return [rule for rule in self.rules if rule.passed is False]


class Decision(BaseModel):
    """What `gate.json` holds.

    Attributes:
        decision: promote the winner, keep the champion, or stay without one.
        winner: the passing candidate with the best metric.
        candidate: the winner, else the refused candidate that came closest and has a package (the
            challenger), else none.
        package_sha256: of `candidate`'s package, as judged.
        reason: one sentence.
        champion: the pointer that was decided against.
        decided_against_version: its version; promotion refuses if another is champion by then.
    """

    model_config = ConfigDict(frozen=True)

    decision: Outcome
    winner: str | None
    candidate: str | None
    package_sha256: str | None
    reason: str
    champion: Mapping[str, Any] | None
    candidates: Mapping[str, CandidateVerdict]
    metric: str
    dataset_sha256: str
    synthetic: bool
    decided_against_version: str | None
    decided_at: str

    def sentence(self) -> str:
        """The outcome, for a terminal."""
        outcome = {"promote": "promote", "keep": "keep the champion", "no_champion": "no champion yet"}
        faces = " (synthetic faces)" if self.synthetic else ""
        return f"gate: {outcome[self.decision]}{faces}: {self.reason}"

    @classmethod
    def load(cls, path: Path) -> "Decision":
        """Read `gate.json`.

        Raises:
            FileNotFoundError: if the gate has not decided yet.
            ValueError: if it is not what the gate wrote.
        """
        return cls.model_validate(files.read_json(path))
