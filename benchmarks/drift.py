"""How often the shipped drift policy cries wolf, and what it catches, on synthetic faces.

    python benchmarks/drift.py --windows 200 --out drift.json

A small network stands in for the champion, so that predictions and embeddings move as a model's do. Every
window is drawn afresh, and so is its reference: what is measured is the whole rule, not one lucky reference.
"""

import argparse
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier

from ferops import files
from ferops.data import images
from ferops.data.descriptors import describe
from ferops.data.sources.synthetic import Synthetic
from ferops.emotions import EMOTIONS
from ferops.monitoring.drift import compare
from ferops.monitoring.policy import load_policy
from ferops.settings import SyntheticSettings

Grey = NDArray[np.uint8]
ROOT = Path(__file__).parents[1]
REFERENCE_ROWS = 700
HIDDEN = 32


def as_uint8(values: NDArray[np.floating]) -> Grey:
    """Clip to 0 to 255."""
    return np.clip(values, 0, 255).astype(np.uint8)


SHIFTS: dict[str, Callable[[Grey, np.random.Generator], Grey]] = {
    "none": lambda face, rng: face,
    "darker by 10 %": lambda face, rng: as_uint8(face * 0.9),
    "darker by 20 %": lambda face, rng: as_uint8(face * 0.8),
    "darker by 40 %": lambda face, rng: as_uint8(face * 0.6),
    "blur, sigma 0.5": lambda face, rng: gaussian_filter(face, 0.5),
    "blur, sigma 1": lambda face, rng: gaussian_filter(face, 1.0),
    "noise, sigma 5": lambda face, rng: as_uint8(face + rng.normal(0, 5, face.shape)),
    "noise, sigma 15": lambda face, rng: as_uint8(face + rng.normal(0, 15, face.shape)),
}
#: Windows with another mix: this share of the rows is happy faces, the rest as usual (22 % happy).
HAPPY_SHARES = {"30 % happy": 0.1, "38 % happy": 0.2, "53 % happy": 0.4}


def faces(count: int, seed: int) -> tuple[list[Grey], NDArray[np.str_]]:
    """Fresh synthetic faces, grey, with their emotions."""
    source = Synthetic(SyntheticSettings(train=count, validation=35, test=35), seed)
    records = [record for record in source if record.split == "train"]
    greys = [np.asarray(images.grey(images.decode(record.image))) for record in records]
    return greys, np.array([record.emotion for record in records])


class StandIn:
    """A network of 32 hidden units on principal components: probabilities and an embedding."""

    def __init__(self, greys: list[Grey], emotions: NDArray[np.str_]) -> None:
        pixels = self._pixels(greys)
        self.pca = PCA(60, random_state=0).fit(pixels)
        self.network = MLPClassifier((HIDDEN,), max_iter=60, random_state=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # it need not be good
            self.network.fit(self.pca.transform(pixels), emotions)

    @staticmethod
    def _pixels(greys: list[Grey]) -> NDArray[np.float64]:
        return np.stack(greys).reshape(len(greys), -1) / 255.0

    def table(self, greys: list[Grey], emotions: NDArray[np.str_]) -> pd.DataFrame:
        """The columns of a monitoring reference."""
        components = self.pca.transform(self._pixels(greys))
        order = [list(self.network.classes_).index(emotion) for emotion in EMOTIONS]
        probabilities = self.network.predict_proba(components)[:, order]
        hidden = np.maximum(components @ self.network.coefs_[0] + self.network.intercepts_[0], 0)
        table = pd.DataFrame([describe(grey)._asdict() for grey in greys])
        table[[f"embedding_{i}" for i in range(HIDDEN)]] = hidden
        table["label"] = np.asarray(EMOTIONS)[probabilities.argmax(axis=1)]
        table["confidence"] = probabilities.max(axis=1)
        table["emotion"] = emotions
        return table


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--windows", type=int, default=40, help="healthy windows of each size")
    parser.add_argument("--shifted", type=int, default=10, help="windows of each shift and size")
    parser.add_argument("--pool", type=int, default=12_000, help="faces that windows are drawn from")
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 500, 2000])
    parser.add_argument("--out", type=Path, default=Path("reports/benchmark_drift.json"))
    arguments = parser.parse_args()

    policy = load_policy(ROOT / "monitoring/policy.yaml")
    model = StandIn(*faces(8000, seed=1))
    greys, emotions = faces(arguments.pool, seed=2)
    rng = np.random.default_rng(0)
    pools = {
        name: model.table([shift(grey, rng) for grey in greys], emotions) for name, shift in SHIFTS.items()
    }
    plain = pools["none"]
    embedding = tuple(f"embedding_{i}" for i in range(HIDDEN))
    accuracy = float((plain["label"] == plain["emotion"]).mean())
    print(f"stand-in: accuracy {accuracy:.3f}; policy: level {policy.level:.2g} per test")

    rows = []
    for name in [*SHIFTS, *HAPPY_SHARES]:
        for size in arguments.sizes:
            count = arguments.windows if name == "none" else arguments.shifted
            alarms, culprits, started = 0, Counter[str](), time.monotonic()
            for _ in range(count):
                drawn = rng.permutation(len(plain))
                reference, rest = plain.iloc[drawn[:REFERENCE_ROWS]], drawn[REFERENCE_ROWS:]
                if name in HAPPY_SHARES:
                    usual, others = rest[: round(size * (1 - HAPPY_SHARES[name]))], rest[size:]
                    rest = np.concatenate([usual, others[emotions[others] == "happy"][: size - len(usual)]])
                current = pools.get(name, plain).iloc[rest[:size]]
                found = compare(
                    current.reset_index(drop=True), reference.reset_index(drop=True), embedding, policy
                )
                moved = [column.name for column in found.columns if column.drifted]
                moved += ["embedding"] if found.embedding and found.embedding.drifted else []
                alarms += bool(moved)
                culprits.update(moved)
            rows.append(
                {
                    "shift": name,
                    "rows": size,
                    "windows": count,
                    "alarms": alarms,
                    "columns": dict(culprits.most_common()),
                    "seconds_per_window": (time.monotonic() - started) / count,
                }
            )
            top = ", ".join(f"{column} {n}" for column, n in culprits.most_common(4))
            print(f"{name:18} {size:5} rows: {alarms:3}/{count} alarms  {top}", flush=True)
    files.write_json(arguments.out, {"accuracy": accuracy, "policy_level": policy.level, "results": rows})


if __name__ == "__main__":
    main()
