"""A champion with a reference, and a log that looks like the service's, without a service or a model."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from ferops.data.descriptors import DESCRIPTORS
from ferops.emotions import EMOTIONS
from ferops.monitoring.monitor import judge
from ferops.monitoring.policy import load_policy
from ferops.monitoring.verdict import Verdict
from ferops.monitoring.window import Window, current_window
from ferops.promotion.champion import Champion
from ferops.serving.prediction_log import timestamp

ROOT = Path(__file__).parents[1]
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
CHAMPION = Champion(
    model="fer-classifier",
    version="3",
    bento_tag="fer-classifier:v3-0a1b2c3d",
    package_sha256="0a1b2c3d" * 8,
    mlflow_run_id="r",
    candidate="patt_lite",
    promoted_at="2026-02-28T00:00:00Z",
    synthetic=True,
)


def answers(rows: int, seed: int) -> pd.DataFrame:
    """What a 70 % right model says of `rows` ordinary faces: the reference's columns."""
    rng = np.random.default_rng(seed)
    truth = rng.choice(7, rows, p=[0.14, 0.03, 0.13, 0.25, 0.16, 0.12, 0.17])
    logits = rng.normal(0, 1, (rows, 7))
    logits[np.arange(rows), truth] += 2.2
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    light = rng.normal(0, 1, rows)
    numbers = {
        "brightness": 0.5 + 0.1 * light,
        "contrast": rng.normal(0.22, 0.04, rows),
        "sharpness": rng.lognormal(-1.6, 0.3, rows),
        "noise": rng.lognormal(-4, 0.4, rows),
        "dark_fraction": np.clip(rng.normal(0.02, 0.05, rows) - 0.05 * light, 0, 1),  # mostly ties at 0
        "bright_fraction": np.clip(rng.normal(-0.02, 0.04, rows) + 0.03 * light, 0, 1),
        "symmetry": rng.uniform(0.4, 1, rows),
        "entropy": rng.normal(4.8, 0.4, rows),
    }
    assert tuple(numbers) == DESCRIPTORS
    embedding = logits @ np.random.default_rng(0).normal(0, 1, (7, 8)) + rng.normal(0, 0.5, (rows, 8))
    return pd.DataFrame(
        {
            "id": [f"{seed}-{i}" for i in range(rows)],
            "emotion": np.asarray(EMOTIONS)[truth],
            **{f"p_{emotion}": probabilities[:, i] for i, emotion in enumerate(EMOTIONS)},
            **{f"embedding_{i}": np.maximum(embedding[:, i], 0) for i in range(8)},
            **numbers,
        }
    )


@dataclass
class Workplace:
    """A package, a log and a policy in one temporary folder."""

    folder: Path
    now: datetime = NOW
    written: int = field(default=0)

    def __post_init__(self) -> None:
        self.package = self.folder / "package"
        self.log = self.folder / "predictions"
        self.monitoring = self.folder / "monitoring"
        self.package.mkdir()
        self.monitoring.mkdir()
        answers(700, seed=0).to_parquet(self.package / "reference.parquet", index=False)
        (self.monitoring / "policy.yaml").write_text((ROOT / "monitoring/policy.yaml").read_text())
        # The shipped policy, but for the work that the embedding's permutations are.
        self.policy(lambda raw: raw["embedding"].update(sample=200, permutations=1999))

    def policy(self, change: Callable[[dict], object]) -> None:
        path = self.monitoring / "policy.yaml"
        raw = yaml.safe_load(path.read_text())
        change(raw)
        path.write_text(yaml.safe_dump(raw))

    def predict(
        self, rows: pd.DataFrame, version: str = CHAMPION.label, hours_ago: float = 1
    ) -> pd.DataFrame:
        """Append predictions as the service does; returns them."""
        time = self.now - timedelta(hours=hours_ago)
        lines = []
        for row in rows.to_dict("records"):
            probabilities = [row[f"p_{emotion}"] for emotion in EMOTIONS]
            lines.append(
                {
                    "id": row["id"],
                    "time": timestamp(time),
                    "model_version": version,
                    "label": EMOTIONS[int(np.argmax(probabilities))],
                    "confidence": max(probabilities),
                    "probabilities": probabilities,
                    "embedding": [row[f"embedding_{i}"] for i in range(8)],
                    "descriptors": {name: row[name] for name in DESCRIPTORS},
                    **({"client": row["client"]} if "client" in row else {}),
                }
            )
        self._append("predictions", time, lines)
        return rows

    def feedback(self, rows: pd.DataFrame) -> None:
        """People say what the `emotion` column says."""
        lines = [{"id": r.id, "time": timestamp(self.now), "emotion": r.emotion} for r in rows.itertuples()]
        self._append("feedback", self.now, lines)

    def _append(self, kind: str, time: datetime, lines: list[dict]) -> None:
        self.written += 1
        path = self.log / kind / time.date().isoformat() / f"host-{self.written}-0.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))

    def monitor(self, track: bool = False) -> Verdict:
        return judge(self.log, CHAMPION, self.package, self.monitoring, now=self.now, track=track)

    def window(self) -> Window:
        """What `monitor` would judge."""
        policy = load_policy(self.monitoring / "policy.yaml")
        return current_window(self.log, CHAMPION.label, policy, self.now)
