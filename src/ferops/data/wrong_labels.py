"""How many labels of a source are wrong, as far as a plain classifier of pixels can tell.

    >>> measure(Dataset.open(Path("data/dataset"))).suspicions[0].sentence()  # doctest: +SKIP
    'collected 20261122T201500Z, angry: 43 % of 120 labels look wrong, at least 31 %'

A classifier of gradient directions (`ferops.data.label_probe`) learns the main source's train split. It
never sees an image that it judges (three folds, copies together): memory is no agreement. It gives 38 % of
the labels of FER2013, the mean over emotions: too little to judge one label, enough to judge some hundred.
For a row that is labelled c, `7 p(c)` estimates how much likelier such an image is among faces of c than
among all faces. If a share w of the rows labelled c were drawn from all faces, wrongly labelled, the
likelihood of w is

    L(w) = sum_i log((1 - w) q_i + w),   q_i = (1 - e_c) 7 p_i(c) + e_c,

where e_c, the same w for the main source's own train rows, makes these the measure: nothing of them is wrong.
Where the classifier is unsure, q is near 1 and says nothing: hard images are no wrong labels. What stops a
dataset is not the likeliest w but the least one that its labels admit, by the likelihood ratio (Wilks 1938),
corrected for the number of comparisons (Bonferroni).

Out-of-sample probabilities as witnesses of wrong labels are confident learning's (Northcutt et al. 2021). Its
library is not used: it ranks single labels, where this asks about a set, and its licence is the AGPL.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import chi2

from ferops.data import images
from ferops.data.label_probe import FOLDS, Probe
from ferops.data.store import SPLITS, Dataset
from ferops.emotions import EMOTIONS, NUM_EMOTIONS

#: Rows of the main source's train split that are learnt, and of one set that are judged: more take time, and
#: tell little more.
LEARNT, JUDGED = 8_000, 5_000

#: Of each emotion, before the classifier is worth asking; and labels of one set before they are judged.
LEAST_LEARNT, LEAST_JUDGED = 30, 20

#: Chance that right labels of ordinary images are suspected at all, over all comparisons.
SIGNIFICANCE = 0.01

#: Shares of wrong labels that are tried.
SHARES = np.linspace(0, 0.98, 99)


@dataclass(frozen=True)
class Suspicion:
    """What is known of some rows' labels.

    Attributes:
        name: the source, with its split or batch where it is a part.
        emotion: of the labels; none for all of them.
        rows: how many were judged.
        share: of them that look wrong, the most likely one.
        at_least: lower bound of it.
    """

    name: str
    emotion: str | None
    rows: int
    share: float
    at_least: float

    def sentence(self) -> str:
        """For a report."""
        what = f"{self.name}, {self.emotion}" if self.emotion else self.name
        return f"{what}: {self.share:.0%} of {self.rows:,} labels look wrong, at least {self.at_least:.0%}"


@dataclass(frozen=True)
class WrongLabels:
    """The labels of a dataset, judged by a classifier of its main source.

    Attributes:
        reason: why they were not judged; none when they were.
        agreement: mean over emotions of the share of the main source's train labels that the classifier
            gives too, out of sample; guessing reaches 1/7.
        agreement_at_most: its upper bound (one-sided, 99 %).
        suspicions: every set and emotion that was judged, the worst first.
    """

    reason: str | None
    agreement: float
    agreement_at_most: float
    suspicions: Sequence[Suspicion]

    def numbers(self) -> dict[str, float]:
        """For the report: what the checks hold against their limits."""
        whole, emotion = self.worst(by_emotion=False), self.worst(by_emotion=True)
        return {
            "label_agreement": self.agreement,
            "label_agreement_fraction": self.agreement_at_most,
            "wrong_labels_fraction": whole.at_least if whole else 0.0,
            "wrong_labels_of_emotion_fraction": emotion.at_least if emotion else 0.0,
        }

    def worst(self, by_emotion: bool) -> Suspicion | None:
        """That with the highest lower bound, among whole sets or among single emotions of them."""
        return next((s for s in self.suspicions if (s.emotion is not None) == by_emotion), None)


def measure(dataset: Dataset) -> WrongLabels:
    """Judge the labels of a dataset: its main source's validation and test rows, and each other source.

    Another source is judged as a whole and by its `source_split`s, the batches of collected labels: a bad
    batch must not hide among good ones. Rows in `excluded` are neither learnt nor judged.
    """
    rows = dataset.frame(columns=["id", "source", "source_split", "split", "emotion", "pixel_hash"])
    rows = rows[rows["emotion"].isin(EMOTIONS) & rows["split"].isin(SPLITS)].drop_duplicates("id")
    main = rows["source"] == dataset.summary.source
    learnt = _drawn(rows[main & (rows["split"] == "train")], LEARNT)
    rarest = int(np.bincount(_labels(learnt), minlength=NUM_EMOTIONS).min())
    if rarest < LEAST_LEARNT:
        reason = f"not judged: an emotion has {rarest} train images, and it takes {LEAST_LEARNT} to learn it"
        return WrongLabels(reason, 0.0, 1.0, ())
    sets = {name: _drawn(part, JUDGED) for name, part in _sets(rows, main)}

    judged = pd.concat([rows.iloc[:0], *sets.values()]).drop_duplicates("id")
    pixels = _grey(dataset, {*learnt["id"], *judged["id"]})
    judge = Judge.learn(
        np.stack([pixels[i] for i in learnt["id"]]), _labels(learnt), learnt["pixel_hash"].tolist()
    )
    suspicions: list[Suspicion] = []
    if len(judged):
        answers = judge.probe.probabilities(np.stack([pixels[i] for i in judged["id"]]))
        evidence = pd.Series(judge.evidence(answers, _labels(judged)), judged["id"])
        for name, part in sets.items():
            given = evidence[part["id"]].to_numpy()
            suspicions += suspect(name, given, _labels(part), comparisons=len(sets))
    suspicions.sort(key=lambda s: (-s.at_least, -s.share))
    return WrongLabels(None, judge.agreement, judge.agreement_at_most, suspicions)


@dataclass(frozen=True)
class Judge:
    """What a classifier of the main source's train rows tells of labels.

    Attributes:
        probe: the classifier.
        wrong: `[7]`, the share of its own rows of each label that would look wrong; what is usual.
        agreement, agreement_at_most: see `WrongLabels`.
    """

    probe: Probe
    wrong: NDArray[np.float64]
    agreement: float
    agreement_at_most: float

    @staticmethod
    def learn(grey: NDArray[np.uint8], labels: NDArray[np.int64], pixel_hashes: Sequence[str]) -> "Judge":
        """Learn grey uint8 `[N, 48, 48]` with emotion indices `[N]`; images of one hash are in one fold."""
        folds = np.array([int(digest[-8:], 16) % FOLDS for digest in pixel_hashes])
        probe = Probe.fit(grey, labels, folds)
        own = probe.probabilities(grey, folds)
        ratio = _ratio(own, labels)
        wrong = np.array([_share(ratio[labels == c], 0.5)[0] for c in range(NUM_EMOTIONS)])
        return Judge(probe, wrong, *_agreement(own, labels))

    def evidence(self, answers: NDArray[np.float64], labels: NDArray[np.int64]) -> NDArray[np.float64]:
        """`q` of each label, from the classifier's answers `[N, 7]`: above 1 speaks for it, below against."""
        usual = self.wrong[labels]
        return (1 - usual) * _ratio(answers, labels) + usual


def suspect(
    name: str, evidence: NDArray[np.float64], labels: NDArray[np.int64], comparisons: int
) -> Iterator[Suspicion]:
    """Judge the labels of one set of `comparisons`, all of them and by emotion."""
    level = SIGNIFICANCE / (comparisons * (1 + NUM_EMOTIONS))
    for emotion, chosen in [(None, labels >= 0), *((e, labels == c) for c, e in enumerate(EMOTIONS))]:
        if chosen.sum() >= LEAST_JUDGED:
            yield Suspicion(name, emotion, int(chosen.sum()), *_share(evidence[chosen], level))


def _sets(rows: pd.DataFrame, main: pd.Series) -> Iterator[tuple[str, pd.DataFrame]]:
    """What is judged together, and its name; too few rows are left out."""
    held_out = rows[main & (rows["split"] != "train")]
    found = [(f"{source} {split}", part) for (source, split), part in held_out.groupby(["source", "split"])]
    for source, whole in rows[~main].groupby("source"):
        found.append((str(source), whole))
        if whole["source_split"].nunique() > 1:
            found += [(f"{source} {batch}", part) for batch, part in whole.groupby("source_split")]
    yield from (each for each in found if len(each[1]) >= LEAST_JUDGED)


def _share(ratio: NDArray[np.float64], level: float) -> tuple[float, float]:
    """The most likely share of wrong labels, and the least that is no less likely than `level` allows."""
    likelihood = np.log((1 - SHARES) * ratio[:, None] + SHARES).sum(axis=0)
    best = int(likelihood.argmax())
    admitted = 2 * (likelihood[best] - likelihood) <= chi2.ppf(1 - 2 * level, 1)
    return float(SHARES[best]), float(SHARES[admitted.argmax()])


def _ratio(answers: NDArray[np.float64], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """How much likelier an image is among those of its label than among all, with emotions equally many."""
    ratio: NDArray[np.float64] = NUM_EMOTIONS * answers[np.arange(len(labels)), labels]
    return ratio


def _agreement(answers: NDArray[np.float64], labels: NDArray[np.int64]) -> tuple[float, float]:
    """Mean recall of the emotions, and its upper bound."""
    right = [answers[labels == c].argmax(axis=1) == c for c in range(NUM_EMOTIONS)]
    mean = float(np.mean([r.mean() for r in right]))
    error = float(np.sqrt(sum(r.var() / len(r) for r in right))) / NUM_EMOTIONS
    return mean, mean + 2.326 * error


def _drawn(rows: pd.DataFrame, most: int) -> pd.DataFrame:
    """At most so many rows, chosen by their pixels: mostly the same ones when others come."""
    return rows.sort_values(["pixel_hash", "id"]).head(most)


def _labels(rows: pd.DataFrame) -> NDArray[np.int64]:
    return rows["emotion"].map({e: i for i, e in enumerate(EMOTIONS)}).to_numpy(np.int64)


def _grey(dataset: Dataset, wanted: set[str]) -> dict[str, NDArray[np.uint8]]:
    """Grey uint8 `[48, 48]` by id."""
    found = {}
    for split in SPLITS:
        for batch in dataset.batches(split, ["id", "image"]):
            for name, content in zip(batch.column("id").to_pylist(), batch.column("image"), strict=True):
                if name in wanted:
                    found[name] = images.face(images.decode(content.as_py()))[..., 0]
    return found
