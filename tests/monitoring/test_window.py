"""Current and reference: what is compared, and that it is comparable."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ks_2samp

from ferops.models.onnx import OnnxClassifier
from ferops.monitoring.compaction import compact
from ferops.monitoring.monitor import judge
from ferops.monitoring.policy import WATCHABLE, load_policy
from ferops.monitoring.window import comparable
from ferops.promotion.package import reference
from ferops.serving.prediction_log import PredictionLog
from ferops.serving.predictor import Predictor
from tiny_log import CHAMPION, answers
from tiny_package import write_tiny_package


def test_shares_of_pixels_are_equal_through_log_and_reference():
    exact = np.arange(2305) / 2304
    logged = np.array([float(f"{value:.7g}") for value in exact])
    stored = exact.astype(np.float32).astype(np.float64)
    assert (logged != stored).mean() > 0.5
    assert (comparable(logged) == comparable(stored)).all()
    assert np.abs(comparable(stored) - exact).max() < 1e-5
    few = np.random.default_rng(0).integers(0, 5, 4000)
    assert ks_2samp(comparable(logged[few[:2000]]), comparable(stored[few[2000:]])).pvalue > 0.05


def test_the_draw_is_the_same_every_time_and_only_when_needed(workplace):
    workplace.policy(lambda raw: raw["window"].update(sample=100))
    workplace.predict(answers(90, seed=1), hours_ago=2)
    assert len(workplace.window().rows) == 90
    workplace.predict(answers(400, seed=2))
    window = workplace.window()
    assert (window.usable, len(window.rows)) == (490, 100)
    assert 5 < window.rows["id"].str.startswith("1-").sum() < 40  # of all hours, not of the first or last
    pd.testing.assert_frame_equal(window.rows, workplace.window().rows)
    workplace.policy(lambda raw: raw["window"].update(seed=1))
    assert set(workplace.window().rows["id"]) != set(window.rows["id"])


def test_a_compacted_day_gives_the_same_window(workplace):
    workplace.policy(lambda raw: raw["window"].update(sample=100))
    yesterday = workplace.predict(answers(300, seed=3), hours_ago=14)
    workplace.predict(answers(50, seed=4), hours_ago=13, version="2")
    workplace.predict(answers(100, seed=5))
    workplace.feedback(yesterday.iloc[:40])
    before = workplace.window()
    compact(workplace.log, load_policy(workplace.monitoring / "policy.yaml").log, workplace.now)
    after = workplace.window()
    pd.testing.assert_frame_equal(after.rows, before.rows)
    pd.testing.assert_frame_equal(after.labelled, before.labelled)
    assert len(after.labelled) == 40
    assert (after.usable, after.other_versions_ignored, after.start, after.end) == (
        *(400, 50),
        *(before.start, before.end),
    )


def test_what_comes_after_the_moment_that_is_judged_does_not_count(workplace):
    workplace.predict(answers(150, seed=6))
    workplace.predict(answers(10, seed=7), hours_ago=-1)
    assert workplace.window().usable == 150


def test_rows_with_a_missing_number_are_left_out_and_counted(workplace):
    rows = answers(150, seed=1)
    rows.loc[:9, "noise"] = np.nan
    workplace.predict(rows)
    window = workplace.monitor().window
    assert (window.rows, window.unusable) == (140, 10)


@pytest.fixture
def served(workplace, tiny_dataset):
    """The service's predictor and log, on a package with its real reference; gives a function to call."""
    write_tiny_package(workplace.package)
    classifier = OnnxClassifier(workplace.package)
    reference(classifier, tiny_dataset).to_parquet(workplace.package / "reference.parquet", index=False)
    predictor = Predictor(classifier, CHAMPION.label, PredictionLog(workplace.log), max_pixels=10**6)

    def predict(change=lambda content: content):
        contents = [row for batch in tiny_dataset.batches("test", ["image"]) for row in batch[0].to_pylist()]
        predictor.predict([change(content) for content in contents])
        return judge(workplace.log, CHAMPION, workplace.package, workplace.monitoring, track=False)

    return predict


def test_what_the_service_logs_for_test_images_is_no_drift(served):
    verdict = served()
    assert verdict.window.rows == 105
    assert verdict.verdict == "healthy", verdict.reasons
    assert {column.name for column in verdict.columns} == set(WATCHABLE)
    assert verdict.embedding is not None


def test_dark_photographs_sent_to_the_service_are_found(served):
    import io

    from PIL import Image, ImageEnhance

    def darken(content):
        buffer = io.BytesIO()
        ImageEnhance.Brightness(Image.open(io.BytesIO(content)).convert("L")).enhance(0.5).save(buffer, "PNG")
        return buffer.getvalue()

    verdict = served(darken)
    assert verdict.exit_code == 3
    assert "brightness" in [column.name for column in verdict.columns if column.drifted]
