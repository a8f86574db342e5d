"""How many of the evaluated images has a candidate been trained on, as far as anyone can know?

Two sources, in this order: the list of pixel hashes that training here writes beside the model (measured),
and the names of the datasets it was trained on, compared with what is known of them (declared). Neither
is guessed: without them the answer is "not known", and the gate's policy decides.

There is deliberately no test that infers training images from a model's confidence. It would need images of
the same kind that the model surely never saw to compare with, and for a model of unknown training data
nobody has them.
"""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from pydantic import BaseModel, ConfigDict

from ferops.data import known_datasets
from ferops.data.near_copies import MAX_BITS, has_near_copy
from ferops.data.store import Dataset
from ferops.models.classifier import Card


class Contamination(BaseModel):
    """What is known of a candidate's training images among the evaluated rows.

    Attributes:
        known: False when nobody can say; `share` and `rows` are then none.
        share: of the evaluated rows, 0 to 1.
        rows: how many rows that is; for a declared share, the expected number.
        near_copies: rows that look like a training image without being an exact copy; not in `share`;
            none where it was not measured.
        evidence: sentences that say where the numbers come from.
    """

    model_config = ConfigDict(frozen=True)

    known: bool
    share: float | None = None
    rows: int | None = None
    near_copies: int | None = None
    evidence: Sequence[str] = ()


def measure(card: Card, dataset: Dataset, model_folder: Path | None = None) -> Contamination:
    """Contamination of the used test rows.

    Args:
        card: whose `training_data` is examined.
        dataset: its used test rows are those that are evaluated.
        model_folder: where the card lies; `training_data.pixel_hashes` is relative to it.
    """
    hashes, problem = training_hashes(card, model_folder)
    if hashes is not None and card.training_data.known:
        return _measured(hashes, dataset)
    declared = _declared(card, dataset)
    if problem is None:
        return declared
    return declared.model_copy(update={"evidence": [problem, *declared.evidence]})


def training_hashes(card: Card, model_folder: Path | None) -> tuple[frozenset[str] | None, str | None]:
    """The pixel hashes of a model's training images, or none and a sentence why they cannot be had."""
    name = card.training_data.pixel_hashes
    if name is None:
        return None, None
    path = None if model_folder is None else model_folder / name
    if path is None or not path.is_file():
        return None, f"The card of {card.name} lists its training images in {name}, but that file is absent."
    return frozenset(path.read_text().split()), None


def _measured(hashes: frozenset[str], dataset: Dataset) -> Contamination:
    test = dataset.frame("test", ["pixel_hash", "perceptual_hash"])
    seen = test["pixel_hash"].isin(hashes)
    rows = int(seen.sum())
    evidence = [
        f"Compared the pixel hashes of {len(hashes)} training images with {len(test)} test rows: "
        f"{rows} are exact copies."
    ]
    near = _near_copies(hashes, test[~seen], dataset)
    if near:
        evidence.append(
            f"{near} more test rows look like a training image (perceptual hashes differ in at most "
            f"{MAX_BITS} of 64 bits). They are not counted: some are different pictures."
        )
    share = rows / len(test) if len(test) else 0.0
    return Contamination(known=True, share=share, rows=rows, near_copies=near, evidence=evidence)


def _near_copies(hashes: frozenset[str], test: pd.DataFrame, dataset: Dataset) -> int:
    """Test rows near a training image, as far as this dataset holds the training images."""
    every = dataset.frame(columns=["pixel_hash", "perceptual_hash"], include_excluded=True)
    trained = every.loc[every["pixel_hash"].isin(hashes), "perceptual_hash"]
    return int(has_near_copy(test["perceptual_hash"], trained).sum())


def _declared(card: Card, dataset: Dataset) -> Contamination:
    if not card.training_data.known:
        return Contamination(
            known=False,
            evidence=[
                f"Nobody said what {card.name} was trained on, so it may have seen any of the test images."
            ],
        )
    found = known_datasets.overlap(card.training_data.datasets, dataset.summary.source)
    if not found.known or found.share is None:
        return Contamination(known=False, evidence=[found.evidence])
    rows = round(found.share * len(dataset.frame("test", ["id"])))
    return Contamination(known=True, share=found.share, rows=rows, evidence=[found.evidence])
