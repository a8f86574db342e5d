"""FER2013 as a CSV, with and without FER+ votes; every wrong row is named."""

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from trees import csv_row, csv_rows, write_csv

from ferops.data.sources import SourceError
from ferops.data.sources.fer2013_csv import Fer2013Csv
from ferops.data.sources.source import LayoutError, MalformedRowError, MissingSourceError, UnknownLabelError
from ferops.emotions import EMOTIONS

VOTES_HEADER = "Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF"


def test_pixels_come_back_unchanged_and_codes_become_emotions(tmp_path: Path) -> None:
    rows = csv_rows({"Training": 1, "PublicTest": 1, "PrivateTest": 1})
    records = list(Fer2013Csv(write_csv(tmp_path / "fer2013.csv", rows)))
    assert [r.emotion for r in records[:7]] == list(EMOTIONS)
    assert [r.name for r in records[:2]] == ["fer0000000", "fer0000001"]
    assert [r.split for r in records[::7]] == ["train", "validation", "test"]
    for row, record in zip(rows, records, strict=True):
        pixels = np.array(row.split(",")[1].split(), int).reshape(48, 48)
        assert (np.asarray(Image.open(io.BytesIO(record.image))) == pixels).all()


def test_a_folder_with_the_csv_in_it_will_do_and_columns_may_be_in_any_order(tmp_path: Path) -> None:
    rows = [csv_row(3, 1).split(","), csv_row(4, 2, "PublicTest").split(",")]
    text = "\n".join(["emotion, Usage, pixels", *(f"{e},{u},{p}" for e, p, u in rows)])
    (tmp_path / "fer2013.csv").write_text(text)
    assert [r.emotion for r in Fer2013Csv(tmp_path)] == ["happy", "sad"]


def _votes(rows: int, usage: str = "Training") -> str:
    return "\n".join([VOTES_HEADER, *(f"{usage},fer{i:07d}.png,4,0,0,1,3,2,0,0,0,{i}" for i in range(rows))])


def test_votes_beside_the_csv_go_with_their_row(tmp_path: Path) -> None:
    write_csv(tmp_path / "fer2013.csv", [csv_row(0), csv_row(1, 1), csv_row(2, 2, "PublicTest")])
    (tmp_path / "fer2013new.csv").write_text(_votes(2) + "\n" + _votes(1, "PublicTest").splitlines()[1])
    votes = [r.votes for r in Fer2013Csv(tmp_path / "fer2013.csv")]
    assert votes[1] == {
        "neutral": 4,
        "happy": 0,
        "surprise": 0,
        "sad": 1,
        "angry": 3,
        "disgust": 2,
        "fear": 0,
        "contempt": 0,
        "unknown": 0,
        "not_a_face": 1,
    }


@pytest.mark.parametrize(
    ("votes", "message"), [(2, "row 3 is missing"), (4, "row 3 is missing or of another")]
)
def test_votes_that_do_not_match_the_rows_are_refused(tmp_path: Path, votes: int, message: str) -> None:
    write_csv(tmp_path / "fer2013.csv", [csv_row(0), csv_row(1), csv_row(2, 2, "PublicTest")])
    (tmp_path / "fer2013new.csv").write_text(_votes(votes))
    with pytest.raises(MalformedRowError, match=message):
        list(Fer2013Csv(tmp_path / "fer2013.csv"))


GOOD = [csv_row(0), csv_row(1, 1, "PublicTest")]


@pytest.mark.parametrize(
    ("row", "error", "message"),
    [
        (csv_row("7"), UnknownLabelError, "row 3: emotion is '7'"),
        (csv_row("happy"), UnknownLabelError, "row 3: emotion is 'happy', expected one of 0 angry"),
        ("0,1 2 3,Training", MalformedRowError, "row 3: 3 pixels, expected 2,304"),
        (csv_row().replace(" ", " -", 1), MalformedRowError, "row 3: pixel '-"),
        (
            csv_row().replace(" ", " 256 ", 1).rsplit(" ", 1)[0] + ",Training",
            MalformedRowError,
            "pixel '256'",
        ),
        (csv_row(usage="Holdout"), MalformedRowError, "row 3: Usage is 'Holdout'"),
        (csv_row(usage="PrivateTestX"), MalformedRowError, "row 3: Usage is 'PrivateTestX'"),
        ("0", MalformedRowError, "row 3 has 1 fields"),
        ("0," + "1" * 200_000 + ",Training", MalformedRowError, "row 3 cannot be read"),
    ],
)
def test_a_wrong_row_is_named_by_its_number(
    tmp_path: Path, row: str, error: type[Exception], message: str
) -> None:
    path = write_csv(tmp_path / "fer2013.csv", [*GOOD, row])
    with pytest.raises(error, match=message):
        list(Fer2013Csv(path))


@pytest.mark.parametrize("header", ["", "emotion,pixels", "a,b,c", "\x00"])
def test_a_header_without_the_columns_is_refused(tmp_path: Path, header: str) -> None:
    (tmp_path / "fer2013.csv").write_text(header + "\n" + GOOD[0])
    with pytest.raises(MalformedRowError, match="header"):
        Fer2013Csv(tmp_path)


def test_an_absent_or_empty_file_is_an_error_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(MissingSourceError, match=r"fer2013\.csv does not exist"):
        Fer2013Csv(tmp_path)
    (tmp_path / "fer2013.csv").touch()
    with pytest.raises(SourceError, match="header"):
        Fer2013Csv(tmp_path)


def test_rows_without_a_test_split_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LayoutError, match="neither PublicTest nor PrivateTest"):
        Fer2013Csv(write_csv(tmp_path / "fer2013.csv", GOOD[:1]))


@given(st.text(max_size=60) | st.lists(st.text(max_size=8), max_size=5).map(",".join))
@settings(max_examples=150, deadline=None)
def test_no_text_in_a_row_breaks_the_reader(tmp_path_factory: pytest.TempPathFactory, row: str) -> None:
    path = tmp_path_factory.mktemp("rows") / "fer2013.csv"
    path.write_bytes(
        "\n".join(["emotion,pixels,Usage", *GOOD, row]).encode("utf-8", errors="surrogatepass") + b"\n"
    )
    try:
        records = list(Fer2013Csv(path))
    except SourceError as error:
        assert "fer2013.csv" in str(error)
    else:
        assert len(records) == 2  # the row was blank


@given(st.lists(st.integers(0, 255), min_size=1, max_size=48), st.integers(0, 6))
@settings(max_examples=20, deadline=None)
def test_any_valid_row_is_read(
    tmp_path_factory: pytest.TempPathFactory, some: list[int], emotion: int
) -> None:
    pixels = (some * 2304)[:2304]
    path = tmp_path_factory.mktemp("rows") / "fer2013.csv"
    write_csv(path, [f"{emotion},{' '.join(map(str, pixels))},Training", GOOD[1]])
    record = next(iter(Fer2013Csv(path)))
    assert record.emotion == EMOTIONS[emotion]
    assert np.asarray(Image.open(io.BytesIO(record.image))).ravel().tolist() == pixels
