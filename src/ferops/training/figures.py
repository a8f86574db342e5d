"""Learning curves as a picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt


def learning_curves(rows: Sequence[Mapping[str, Any]], synthetic: bool, path: Path) -> None:
    """Draw accuracy and loss of train and validation over epochs, with the start of fine-tuning marked.

    Args:
        rows: one an epoch, as in `learning_curves.csv`.
        synthetic: whether to say that the faces were synthetic.
        path: PNG to write.
    """
    epochs = [row["epoch"] for row in rows]
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), constrained_layout=True)
    for axis, measure in zip(axes, ("accuracy", "loss"), strict=True):
        for split, style in (("train", "--"), ("validation", "-")):
            values = [row[f"{split}_{measure}"] for row in rows]
            axis.plot(epochs, values, style, marker="o", markersize=3, label=split)
        axis.set_xlabel("epoch")
        axis.set_ylabel(measure)
        axis.grid(alpha=0.3)
    fine = [row["epoch"] for row in rows if row["stage"] == "fine_tune"]
    if fine and fine[0] > 1:
        for axis in axes:
            axis.axvline(fine[0] - 0.5, color="grey", linewidth=1, label="fine-tuning starts")
    axes[0].legend()
    figure.suptitle("Learning curves" + (" (synthetic faces)" if synthetic else ""))
    figure.savefig(path, dpi=120)
    plt.close(figure)
