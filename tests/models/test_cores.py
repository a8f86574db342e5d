"""How many cores there are is asked of the container, not of the machine."""

import math

import pytest

from ferops.models.cores import cores, quota


@pytest.fixture
def groups(tmp_path):
    """A process in the group `pod/container` of a machine, and a way to limit a group."""
    membership = tmp_path / "membership"
    membership.write_text("1:cpu:/old\n0::/pod/container\n")

    def limit(group, text):
        folder = tmp_path / "cgroup" / group
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "cpu.max").write_text(text)

    return tmp_path / "cgroup", membership, limit


@pytest.mark.parametrize("text, processors", [("max 100000\n", math.inf), ("150000 100000\n", 1.5)])
def test_a_containers_quota_is_its_share_of_the_processors(groups, text, processors):
    cgroups, membership, limit = groups
    limit("pod/container", text)
    assert quota(cgroups, membership) == processors


def test_the_tightest_of_the_groups_above_counts(groups):
    cgroups, membership, limit = groups
    limit("pod/container", "400000 100000")
    limit("pod", "200000 100000")
    limit("", "max 100000")
    assert quota(cgroups, membership) == 2


@pytest.mark.parametrize("text", ["", "1:cpu:/\n", "0::/../../../escaped\n"])
def test_without_a_control_group_there_is_no_quota(groups, text):
    cgroups, membership, _ = groups
    membership.write_text(text)
    assert quota(cgroups, membership) == math.inf
    assert quota(cgroups, membership.with_name("absent")) == math.inf


def test_there_is_always_a_core():
    assert cores() >= 1
