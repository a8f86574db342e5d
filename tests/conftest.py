"""Fixtures that every room shares."""

import signal

import pytest

from ferops.data.ingest import ingest
from ferops.data.store import Dataset
from ferops.settings import DataSettings, SyntheticSettings

# Started in the background, a shell hands down an ignored SIGINT, and every server that a test interrupts
# would ignore it too.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """420 synthetic faces (210 train, 105 validation, 105 test), ingested once. Read it, never write.

    The folder is `tiny_dataset.folder`.
    """
    folder = tmp_path_factory.mktemp("tiny") / "dataset"
    synthetic = SyntheticSettings(train=210, validation=105, test=105, noise=0.3)
    ingest(DataSettings(synthetic=synthetic, rows_per_shard=100), seed=0, out=folder)
    return Dataset.open(folder)
