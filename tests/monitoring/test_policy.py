"""What a policy may say."""

from pathlib import Path

import pytest
import yaml

from ferops.monitoring.policy import PolicyError, load_policy

SHIPPED = Path(__file__).parents[2] / "monitoring/policy.yaml"


def broken(tmp_path, change):
    raw = yaml.safe_load(SHIPPED.read_text())
    change(raw)
    path = tmp_path / "policy.yaml"
    path.write_text(yaml.safe_dump(raw))
    return path


def test_the_shipped_policy_watches_every_descriptor_and_all_that_the_model_answers():
    from ferops.monitoring.policy import WATCHABLE

    policy = load_policy(SHIPPED)
    assert set(policy.columns) == set(WATCHABLE)
    assert policy.level == pytest.approx(0.01 / 19)


def test_the_shipped_policy_trains_on_lasting_drift_and_on_nothing_else():
    policy = load_policy(SHIPPED)
    assert [policy.start(outcome) for outcome in ("healthy", "drift", "too_few")] == [
        "none", "train/nightly", "none",
    ]  # fmt: skip
    # By the time it speaks of the same again, the window holds none of the predictions that it spoke of.
    assert policy.actions.drift.silence_hours >= policy.window.hours


def test_the_shipped_policy_gives_a_reason_for_every_number():
    lines = SHIPPED.read_text().splitlines()
    for number, line in enumerate(lines):
        above = lines[number - 1].lstrip().startswith("#")
        if ": " in line and not line.lstrip().startswith("#"):
            assert "#" in line or above, line


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda raw: raw.update(colour="red"), "colour"),
        (lambda raw: raw["window"].update(minutes=5), "window.minutes"),
        (lambda raw: raw["window"].update(sample=50), "sample is smaller"),
        (lambda raw: raw.pop("significance"), "significance"),
        (lambda raw: raw.update(significance=2), "significance"),
        (lambda raw: raw["columns"].update(smile=raw["columns"]["noise"]), "smile: no such column"),
        (lambda raw: raw["columns"]["noise"].update(test="t"), "columns.noise.test"),
        (lambda raw: raw["columns"]["label"].update(test="ks"), "label: needs chi2"),
        (lambda raw: raw["columns"]["noise"].update(test="chi2"), "noise: needs ks"),
        (lambda raw: raw["columns"].clear(), "nothing would be watched"),
        (lambda raw: raw["embedding"].update(permutations=200), "embedding.permutations"),
        (lambda raw: raw["actions"]["drift"].update(start="rm -rf"), "actions.drift.start"),
        (lambda raw: raw["actions"]["drift"].update(windows=0), "actions.drift.windows"),
        (lambda raw: raw["actions"].update(healthy="none"), "actions.healthy"),
    ],
)
def test_a_broken_policy_is_refused_and_the_key_named(tmp_path, change, says):
    with pytest.raises(PolicyError, match=says):
        load_policy(broken(tmp_path, change))


def test_an_absent_policy_and_one_that_is_no_yaml_are_refused(tmp_path):
    with pytest.raises(PolicyError, match="not found"):
        load_policy(tmp_path / "policy.yaml")
    (tmp_path / "policy.yaml").write_text("window: [")
    with pytest.raises(PolicyError, match="not valid YAML"):
        load_policy(tmp_path / "policy.yaml")


def test_embedding_and_quality_can_be_left_unwatched(tmp_path):
    policy = load_policy(broken(tmp_path, lambda raw: raw.update(embedding=None, quality=None)))
    assert policy.level == pytest.approx(0.01 / 17)
