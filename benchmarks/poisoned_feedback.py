"""How often validation stops a batch of labels that is right, and one that is wrong, on real faces.

    python benchmarks/poisoned_feedback.py data/dataset

The dataset's test split (of FER2013: PublicTest) stands for traffic: batches are drawn from it, their images
changed as by another camera, or their labels as by careless or hostile people. What is asked is what
`ferops validate` asks, with the limits of params.yaml. The last kind of right batch is the hardest: people
only say something when the model was wrong, so that every image is one that is hard to tell.
"""

import argparse
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from corruptions import corrupt
from ferops.data.store import Dataset
from ferops.data.wrong_labels import LEARNT, Judge, Suspicion, suspect
from ferops.emotions import EMOTIONS
from ferops.models.onnx import OnnxClassifier
from ferops.settings import ValidationSettings, load_settings

Labels = NDArray[np.int64]
Poison = Callable[[Labels, np.random.Generator], Labels]

ROWS = (200, 500, 1000)

#: Right labels: changes of the images, each at a severity of `corruptions.KINDS`.
DRIFTS = (
    *((kind, severity) for kind in ("darker", "low contrast", "blur", "rotation") for severity in (2, 3, 4)),
    *((kind, 3) for kind in ("brighter", "noise", "JPEG", "shift", "occlusion", "tiny faces", "tone curve")),
)

ANGRY, HAPPY, SAD, NEUTRAL, FEAR, SURPRISE = (
    EMOTIONS.index(e) for e in ("angry", "happy", "sad", "neutral", "fear", "surprise")
)


def flipped(share: float) -> Poison:
    """That share of the labels, each to one of the other six."""

    def change(labels: Labels, rng: np.random.Generator) -> Labels:
        wrong = rng.random(len(labels)) < share
        return np.where(wrong, (labels + rng.integers(1, 7, len(labels))) % 7, labels)

    return change


def renamed(old: int, new: int, share: float = 1.0) -> Poison:
    """That share of one emotion's rows, all to one other."""

    def change(labels: Labels, rng: np.random.Generator) -> Labels:
        wrong = (labels == old) & (rng.random(len(labels)) < share)
        return np.where(wrong, new, labels)

    return change


POISONS: Mapping[str, Poison] = {
    "10 % flipped": flipped(0.1),
    "20 % flipped": flipped(0.2),
    "40 % flipped": flipped(0.4),
    "random": lambda labels, rng: rng.integers(0, 7, len(labels)),
    "happy called angry": renamed(HAPPY, ANGRY),
    "half of happy called angry": renamed(HAPPY, ANGRY, 0.5),
    "fear called surprise": renamed(FEAR, SURPRISE),
    "sad called neutral": renamed(SAD, NEUTRAL),
}


def stops(found: list[Suspicion], limits: ValidationSettings) -> bool:
    """Whether `ferops validate` would stop for these."""
    return any(
        s.at_least > (limits.max_wrong_labels if s.emotion is None else limits.max_wrong_labels_of_emotion)
        for s in found
    )


def rate(
    judge: Judge, answers: NDArray[np.float64], labels: Labels, poison: Poison | None, rows: int, draws: int,
    limits: ValidationSettings,
) -> float:  # fmt: skip
    """Share of the batches drawn that are stopped; each is the only one, beside validation and test."""
    stopped = 0
    for draw in range(draws):
        rng = np.random.default_rng((draw, rows))
        chosen = rng.choice(len(labels), rows, replace=len(labels) < rows)
        given = labels[chosen] if poison is None else poison(labels[chosen], rng)
        evidence = judge.evidence(answers[chosen], given)
        stopped += stops(list(suspect("batch", evidence, given, comparisons=3)), limits)
    return stopped / draws


def main() -> None:
    """Print the table, and write the numbers as JSON where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset", type=Path, help="folder that `ferops ingest` wrote")
    parser.add_argument("--draws", type=int, default=200, help="batches of each kind and size")
    parser.add_argument("--model", type=Path, default=Path("release"), help="whose errors people correct")
    parser.add_argument("--out", type=Path, help="JSON file")
    arguments = parser.parse_args()
    limits, dataset = load_settings().validation, Dataset.open(arguments.dataset)

    train = dataset.frame("train", ["pixel_hash"])["pixel_hash"].to_numpy(str)
    first = np.argsort(train)[:LEARNT]
    grey, labels = dataset.images("train")[first, ..., 0], dataset.labels("train")[first]
    began = time.process_time()
    judge = Judge.learn(grey, labels, train[first].tolist())
    print(
        f"learnt from {len(first):,} images in {time.process_time() - began:.1f} s of processor time; "
        f"agreement {judge.agreement:.1%}"
    )
    fresh = ~dataset.frame("test", ["copy_in_train"])["copy_in_train"].to_numpy(bool)
    faces, truth = dataset.images("test")[fresh], dataset.labels("test")[fresh]

    numbers: dict[str, dict[str, float]] = {}

    def line(kind: str, answers: NDArray[np.float64], true: Labels, poison: Poison | None) -> None:
        found = [rate(judge, answers, true, poison, rows, arguments.draws, limits) for rows in ROWS]
        numbers[kind] = dict(zip(map(str, ROWS), found, strict=True))
        print(f"| {kind} | " + " | ".join(f"{share:.1%}" for share in found) + " |", flush=True)

    print(f"\nShare of {arguments.draws} batches that are stopped, by rows of a batch\n")
    print("| labels | " + " | ".join(map(str, ROWS)) + " |\n|---|" + "---|" * len(ROWS))
    answers = judge.probe.probabilities(faces[..., 0])
    line("right", answers, truth, None)
    for kind, severity in DRIFTS:
        changed = corrupt(kind, severity, faces[..., 0], np.random.default_rng(0))
        line(f"right, {kind} {severity}", judge.probe.probabilities(changed), truth, None)
    wrong = _errors(arguments.model, dataset)[fresh]
    line("right, only where the model errs", answers[wrong], truth[wrong], None)
    for kind, poison in POISONS.items():
        line(kind, answers, truth, poison)
    if arguments.out:
        arguments.out.write_text(json.dumps(numbers, indent=2) + "\n")


def _errors(model: Path, dataset: Dataset) -> NDArray[np.bool_]:
    classifier = OnnxClassifier(model)
    faces = dataset.images("test", classifier.card.input_side)
    answers = [
        classifier.predict(faces[start : start + 64]).probabilities.argmax(axis=1)
        for start in range(0, len(faces), 64)
    ]
    return np.concatenate(answers) != dataset.labels("test")


if __name__ == "__main__":
    main()
