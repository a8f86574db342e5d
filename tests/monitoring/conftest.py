import pytest

from tiny_log import Workplace


@pytest.fixture
def workplace(tmp_path):
    return Workplace(tmp_path)
