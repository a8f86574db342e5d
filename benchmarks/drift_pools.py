"""What a model answers to many faces, as they are and changed: the pools that windows are drawn from.

    >>> pools = build_pools(dataset_dir, package, folder)  # doctest: +SKIP
    >>> pools["blur", 3].accuracy  # doctest: +SKIP
    0.48

With a real dataset these are validation and test images, neither of which trained the model, and the answers
of a package. Without one they are synthetic faces, and a small network stands in for the model.
"""

import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier

from corruptions import KINDS, Grey, corrupt
from ferops import files
from ferops.data import images
from ferops.data.sources.synthetic import Synthetic
from ferops.data.store import Dataset
from ferops.emotions import EMOTIONS
from ferops.evaluation.predictions import PROBABILITY_COLUMNS
from ferops.models.onnx import OnnxClassifier
from ferops.monitoring.window import comparable
from ferops.serving import describe
from ferops.settings import SyntheticSettings
from ferops.simulation.drifts import SEVERITIES

#: The images as they are.
HEALTHY = ("none", 0)
Key = tuple[str, int]
Model = Callable[[Grey], tuple[NDArray[np.floating], NDArray[np.floating]]]

HIDDEN = 32


@dataclass(frozen=True)
class Pool:
    """A model's answers to the same faces in one condition.

    Attributes:
        table: a row a face: descriptors, `p_<emotion>`, `confidence`, `label`, `embedding_<i>`, `emotion`.
    """

    table: pd.DataFrame

    @property
    def accuracy(self) -> float:
        """Share of the faces whose label is their emotion."""
        return float((self.table["label"] == self.table["emotion"]).mean())


def build_pools(dataset_dir: Path | None, package: Path, folder: Path, rows: int) -> dict[Key, Pool]:
    """Every condition's pool, computed once for a dataset, package and code, then read from `folder`.

    Args:
        dataset_dir: the Parquet dataset; none: synthetic faces.
        package: the model's folder, for a dataset.
        folder: where pools are kept.
        rows: faces at most.
    """
    if dataset_dir is None:
        greys, emotions = synthetic_faces(rows, seed=2)
        model: Model = StandIn(*synthetic_faces(5600, seed=1))
        sources = ["synthetic"]
    else:
        dataset = Dataset.open(dataset_dir)
        parts = [dataset.frame(split, ["copy_in_train"]) for split in ("validation", "test")]
        fresh = ~np.concatenate(
            [part["copy_in_train"] for part in parts]
        )  # a copy of what it learnt is easier
        greys = np.concatenate([dataset.images(split)[..., 0] for split in ("validation", "test")])[fresh]
        labels = np.concatenate([dataset.labels(split) for split in ("validation", "test")])[fresh]
        emotions = np.asarray(EMOTIONS)[labels]
        chosen = np.random.default_rng(0).permutation(len(greys))[:rows]
        greys, emotions = greys[chosen], emotions[chosen]
        model = packaged(package)
        sources = [dataset.summary.sha256, files.sha256(package / "model.onnx")]
    modules = (__name__, "corruptions", "ferops.simulation.drifts")
    code = [files.sha256(Path(sys.modules[name].__file__ or "")) for name in modules]
    stamp = files.sha256_of(repr([sources, code, rows]).encode())[:16]
    pools = {}
    conditions = [HEALTHY, *((kind, severity) for kind in KINDS for severity in SEVERITIES)]
    for number, (kind, severity) in enumerate(conditions):
        path = folder / stamp / f"{kind.replace(' ', '_')}-{severity}.parquet"
        if not path.exists():
            print(f"pool {number + 1} of {len(conditions)}: {kind} {severity}", file=sys.stderr, flush=True)
            rng = np.random.default_rng([severity, number])
            seen = greys if kind == "none" else corrupt(kind, severity, greys, rng)
            path.parent.mkdir(parents=True, exist_ok=True)
            half = path.with_suffix(".tmp")
            answered(model, seen, emotions).to_parquet(half)
            half.rename(path)
        pools[kind, severity] = Pool(pd.read_parquet(path))
    return pools


def answered(model: Model, greys: Grey, emotions: NDArray[np.str_]) -> pd.DataFrame:
    """The columns of a monitoring reference, with `label` and `confidence`."""
    probabilities, embedding = model(greys)
    table = pd.DataFrame(describe.describe(greys), columns=list(describe.NAMES))
    table[list(PROBABILITY_COLUMNS)] = probabilities
    table["confidence"] = probabilities.max(axis=1)
    numbers = list(table.columns)
    table[numbers] = comparable(table[numbers].to_numpy(np.float64))
    table["label"] = np.asarray(EMOTIONS)[probabilities.argmax(axis=1)]
    vectors = [f"embedding_{i}" for i in range(embedding.shape[1])]
    table = pd.concat([table, pd.DataFrame(embedding, columns=vectors)], axis=1)
    table["emotion"] = emotions
    return table


def packaged(package: Path) -> Model:
    """A package's model."""
    classifier = OnnxClassifier(package)

    def model(greys: Grey) -> tuple[Any, Any]:
        given = classifier.predict(np.repeat(greys[..., None], 3, axis=-1))
        if given.embedding is None:
            raise SystemExit(f"{package} has no embedding to watch")
        return given.probabilities, given.embedding

    return model


def synthetic_faces(count: int, seed: int) -> tuple[Grey, NDArray[np.str_]]:
    """Fresh synthetic faces, grey, with their emotions."""
    source = Synthetic(SyntheticSettings(train=count, validation=35, test=35), seed)
    records = [record for record in source if record.split == "train"]
    greys = images.faces([record.image for record in records])[..., 0]
    return greys, np.array([record.emotion for record in records])


class StandIn:
    """A network of 32 hidden units on principal components: probabilities and an embedding."""

    def __init__(self, greys: Grey, emotions: NDArray[np.str_]) -> None:
        pixels = greys.reshape(len(greys), -1) / 255.0
        self.pca = PCA(60, random_state=0).fit(pixels)
        self.network = MLPClassifier((HIDDEN,), max_iter=60, random_state=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # it need not be good
            self.network.fit(self.pca.transform(pixels), emotions)

    def __call__(self, greys: Grey) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
        """Probabilities `[N, 7]` in the canonical order, and the hidden layer `[N, 32]`."""
        components = self.pca.transform(greys.reshape(len(greys), -1) / 255.0)
        order = [list(self.network.classes_).index(emotion) for emotion in EMOTIONS]
        hidden = np.maximum(components @ self.network.coefs_[0] + self.network.intercepts_[0], 0)
        return self.network.predict_proba(components)[:, order], hidden
