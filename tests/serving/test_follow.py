"""A new champion takes over a running service; a broken one does not."""

import shutil
from dataclasses import replace

import pytest

from ferops import files
from ferops.promotion.champion import Champion, NoChampionError
from ferops.serving.follow import Follower
from tiny_package import tiny_onnx, write_tiny_package


class Workplace:
    """A registry whose packages are plain folders, and what the follower of one worker did."""

    def __init__(self, folder):
        self.registry, self.packages = folder / "registry", folder / "packages"
        self.taken, self.refusals = [], []
        self.follower = Follower(self.registry, 60, "release-0", self.taken.append, self.refusals.append)

    def package(self, champion):
        folder = self.packages / champion.label
        if not folder.exists():
            raise NoChampionError("the store has lost it")
        return folder

    def promote(self, version, broken=False):
        folder = write_tiny_package(self.packages / "new", seed=version)
        tag = f"fer-classifier:v{version}-{files.sha256(folder)[:8]}"
        if broken:
            tiny_onnx(folder / "model.onnx", seed=version + 1)
        champion = Champion("fer-classifier", str(version), tag, "d" * 64, "run", "patt_lite", "", True)
        shutil.move(folder, self.packages / champion.label)
        champion.save(self.registry)
        return champion


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    workplace = Workplace(tmp_path)
    monkeypatch.setattr(Champion, "folder", lambda champion: workplace.package(champion))
    return workplace


def test_the_first_champion_takes_over_from_the_release(workplace):
    workplace.follower.look()
    assert workplace.taken == []
    champion = workplace.promote(1)
    workplace.follower.look()
    (source,) = workplace.taken
    assert (source.kind, source.version) == ("champion", champion.label)


def test_each_champion_takes_over_once(workplace):
    for version in (1, 2):
        workplace.promote(version)
        for _ in range(3):
            workplace.follower.look()
    assert [source.version.split("-")[0] for source in workplace.taken] == ["v1", "v2"]
    pointer = workplace.registry / "champion.json"
    files.write_bytes(pointer, pointer.read_bytes())  # put back as it was
    workplace.follower.look()
    assert len(workplace.taken) == 2


def test_without_a_pointer_the_champion_stays(workplace):
    workplace.promote(1)
    workplace.follower.look()
    (workplace.registry / "champion.json").unlink()
    workplace.follower.look()
    assert len(workplace.taken) == 1 and workplace.refusals == []


def test_a_broken_champion_is_refused_with_an_alert_and_not_tried_again_and_again(workplace, caplog):
    workplace.promote(1)
    workplace.follower.look()
    workplace.promote(2, broken=True)
    for _ in range(5):
        workplace.follower.look()
    assert len(workplace.taken) == 1
    assert workplace.refusals == [True]
    (alert,) = [record.message for record in caplog.records if record.levelname == "ERROR"]
    assert "ALERT" in alert and "does not answer as it did" in alert and "goes on answering" in alert


def test_after_a_broken_champion_the_next_one_takes_over(workplace):
    workplace.promote(1, broken=True)
    workplace.follower.look()
    workplace.promote(2)
    workplace.follower.look()
    assert workplace.refusals == [True, False]
    assert workplace.taken[0].version.startswith("v2-")


def test_going_back_to_the_model_that_answers_ends_the_alert(workplace):
    first = workplace.promote(1)
    workplace.follower.look()
    workplace.promote(2, broken=True)
    workplace.follower.look()
    first.save(workplace.registry)
    workplace.follower.look()
    assert workplace.refusals == [True, False]
    assert len(workplace.taken) == 1


def test_a_package_that_is_put_right_takes_over(workplace):
    champion = workplace.promote(1, broken=True)
    workplace.follower.look()
    tiny_onnx(workplace.packages / champion.label / "model.onnx", seed=1)
    workplace.follower.look()
    assert [source.version for source in workplace.taken] == [champion.label]
    assert workplace.refusals == [True, False]


def test_a_package_that_the_store_gets_later_takes_over(workplace):
    champion = workplace.promote(1)
    hidden = workplace.packages / "hidden"
    (workplace.packages / champion.label).rename(hidden)
    for _ in range(2):
        workplace.follower.look()
    hidden.rename(workplace.packages / champion.label)
    workplace.follower.look()
    assert workplace.refusals == [True, False]
    assert len(workplace.taken) == 1


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"version": 3}', b"\xff"])
def test_a_pointer_that_cannot_be_read_changes_nothing(workplace, content):
    workplace.promote(1)
    workplace.follower.look()
    (workplace.registry / "champion.json").write_bytes(content)
    workplace.follower.look()
    assert len(workplace.taken) == 1
    assert workplace.refusals == [True]


@pytest.mark.parametrize(
    "tag", [5, None, "", "untagged", "a:b:c", "fer-classifier:../../up", "UPPER CASE:\0"]
)
def test_a_pointer_that_names_no_model_is_refused_once_and_the_next_one_is_followed(workplace, tag):
    champion = workplace.promote(1)
    workplace.follower.look()
    replace(champion, bento_tag=tag).save(workplace.registry)
    for _ in range(3):
        workplace.follower.look()
    assert workplace.refusals == [True]
    workplace.promote(2)
    workplace.follower.look()
    assert workplace.refusals == [True, False]
    assert [source.version[:3] for source in workplace.taken] == ["v1-", "v2-"]
