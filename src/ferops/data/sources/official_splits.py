"""FER2013's official splits, and what each is used for here."""

from collections.abc import Collection, Mapping
from pathlib import Path

from ferops.data.sources.source import LayoutError
from ferops.data.store import Split

USAGES = ("Training", "PublicTest", "PrivateTest")


def official_splits(path: Path, present: Collection[str]) -> tuple[Mapping[str, Split | None], list[str]]:
    """Split by `Usage`, and a sentence that says so.

    With PrivateTest there (the Kaggle challenge's final ranking) that is the test split and PublicTest is
    validation. Without it PublicTest is the test split and validation is cut from Training (none).

    Raises:
        LayoutError: if Training is missing, or both test splits are.
    """
    if "Training" not in present:
        raise LayoutError(f"{path} has no Training images: FER2013 has 28,709 of them. Is it a part of it?")
    if "PrivateTest" in present:
        if "PublicTest" in present:
            return (
                {"Training": "train", "PublicTest": "validation", "PrivateTest": "test"},
                ["Validation is FER2013's PublicTest, test is its PrivateTest."],
            )
        return {"Training": None, "PrivateTest": "test"}, ["Test is FER2013's PrivateTest."]
    if "PublicTest" in present:
        return {"Training": None, "PublicTest": "test"}, ["Test is FER2013's PublicTest."]
    raise LayoutError(
        f"{path} has neither PublicTest nor PrivateTest images: without a test split nothing can be measured"
    )
