"""Tables in files: a study, `search.predict` and `promote --data` read the same file alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from search.data import files, sources
from search.errors import DataError
from search.promotion import rows as fresh
from search.studyfile.schema import Definition
from tests.comparison.test_verdict import about
from tests.studyfiles import definition

COMMAS = "plz,Preis\n01234,1.5\n05678,2.25\n"


def study(folder: Path, name: str, target: str = "Preis", **options: Any) -> Definition:
    """Return a study of a CSV file."""
    return definition({"data.source": f"csv:{name}", "data.target": target, "data.options": options}, folder=folder)


def forms(learned: Definition, *texts: str) -> files.Form:
    """Return what travels with a model of a study."""
    options = files.travelling(learned.data.options)
    return files.Form("csv", options, texts=texts, wanted=("plz",))


@pytest.mark.parametrize("separator", [",", ";", "\t", "|", " ", ":", "^"])
def test_a_study_finds_the_separator(tmp_path: Path, separator: str) -> None:
    """A spreadsheet's file would have one column, whose name is its first line, and no target."""
    rows = COMMAS if separator == "," else COMMAS.replace(",", separator).replace(".", ",")
    (tmp_path / "rows.csv").write_text(rows)
    read = sources.read(study(tmp_path, "rows.csv"))
    assert read["Preis"].tolist() == [1.5, 2.25]
    again = next(files.read(tmp_path / "rows.csv", 10, files.Form(wanted=("plz",)))).rows
    assert again["Preis"].tolist() == [1.5, 2.25]


@pytest.mark.parametrize("first", ["sep=;", '"sep=;"', "sep=,"])
def test_the_first_line_of_excel_is_no_header(tmp_path: Path, first: str) -> None:
    """A file that Excel saved would have the columns `sep=` and `Unnamed: 1`."""
    separator = first.strip('"')[-1]
    (tmp_path / "rows.csv").write_text(f"{first}\nplz;Preis\n01;1.5\n02;2.5\n".replace(";", separator))
    assert sources.read(study(tmp_path, "rows.csv"))["Preis"].tolist() == [1.5, 2.5]
    again = next(files.read(tmp_path / "rows.csv", 10, files.Form(wanted=("plz",)))).rows
    assert again["Preis"].tolist() == [1.5, 2.5]


def test_a_name_with_a_comma_is_no_separator(tmp_path: Path) -> None:
    """A header such as `Preis, netto` would be cut in two."""
    (tmp_path / "rows.csv").write_text("Preis, netto;Menge, kg\n1,5;3,0\n2,5;4,5\n")
    assert sources.read(study(tmp_path, "rows.csv", "Menge, kg"))["Preis, netto"].tolist() == [1.5, 2.5]


@pytest.mark.parametrize(
    ("text", "options", "column", "values"),
    [
        ("plz,x,Preis\n01,5.423,1\n02,6.001,2\n", {"thousands": "."}, "x", [5423, 6001]),
        ("plz;x;Preis\n01;5.423,5;1\n02;6.001,5;2\n", {"thousands": "."}, "x", [5423.5, 6001.5]),
        ("# note\nplz,x,Preis\n01,?,1\n02,6,2\n", {"skiprows": 1, "na_values": ["?"]}, "x", [None, 6]),
        ("plz;x;Preis\n01;Straße;1\n02;Öl;2\n", {"encoding": "cp1252"}, "x", ["Straße", "Öl"]),
        (COMMAS, {"dtype": {"plz": "str"}, "nrows": 2}, "plz", ["01234", "05678"]),
    ],
)
def test_the_options_of_a_study_travel_with_its_model(
    tmp_path: Path, text: str, options: dict[str, Any], column: str, values: list[Any]
) -> None:
    """5.423 would be read as 5.4, and predictions be a thousandfold wrong without a word."""
    (tmp_path / "rows.csv").write_bytes(text.encode(options.get("encoding", "utf-8")))
    learned = study(tmp_path, "rows.csv", **options)
    form = forms(learned, *([column] if isinstance(values[0], str) else []))
    by_predict = next(files.read(tmp_path / "rows.csv", 10, form)).rows
    by_promote = files.table(tmp_path / "rows.csv", form, "--data")
    for frame in (sources.read(learned), by_predict, by_promote):
        assert frame[column].astype(object).where(frame[column].notna(), None).tolist() == values


def test_leading_zeros_stay_for_promote_as_for_predict(tmp_path: Path) -> None:
    """A post code would be another category in `promote --data`, and the loss of the champion that of a guess."""
    (tmp_path / "rows.csv").write_text(COMMAS.replace("Preis", "ja").replace("1.5", "1").replace("2.25", "0"))
    known = replace(about(), target=("ja",))
    read = fresh.read(tmp_path / "rows.csv", known, files.Form(texts=("plz",)))
    assert read.inputs["plz"].tolist() == ["01234", "05678"]


def test_a_file_written_in_another_way_than_the_studys_is_read_by_itself(tmp_path: Path) -> None:
    """A model of a spreadsheet's file would misread a plain one: 5.423 as 5423."""
    (tmp_path / "rows.csv").write_text("plz,x\n01,5.423\n")
    form = files.Form("csv", {"sep": ";", "decimal": ",", "thousands": "."}, wanted=("plz", "x"))
    assert files.table(tmp_path / "rows.csv", form, "--data")["x"].tolist() == [5.423]


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("cp1252", "Größe;Preis\n1;2\n3;4\n"),
        ("utf-16", "Größe;Preis\n1;2\n3;4\n"),
        ("utf-16-le", "Größe;Preis\n1;2\n3;4\n"),
        ("cp1251", "Город;Preis;Цена\n1;2;3\n"),
    ],
)
def test_the_option_that_reads_another_encoding_is_told(tmp_path: Path, encoding: str, text: str) -> None:
    """A person would read that a byte cannot be decoded, and try encodings until one does."""
    (tmp_path / "rows.csv").write_bytes(text.encode(encoding))
    target = text.splitlines()[0].split(";")[-1]
    with pytest.raises(DataError, match=rf'not written in utf-8; use options = {{ encoding = "{encoding}" }}'):
        sources.read(study(tmp_path, "rows.csv", target))
    assert len(sources.read(study(tmp_path, "rows.csv", target, encoding=encoding))) > 0
    with pytest.raises(DataError, match=f"can be read in {encoding}: save it in utf-8"):
        list(files.read(tmp_path / "rows.csv", 10, files.Form(wanted=(target,))))


def test_what_only_the_study_needs_does_not_travel() -> None:
    """A file to predict would be cut after some rows, or a secret lie in the model's folder."""
    given: dict[str, Callable[..., Any] | Any] = {
        "nrows": 5,
        "storage_options": {"key": "secret"},
        "sep": ";",
        "f": len,
    }
    assert files.travelling(given) == {"sep": ";"}


def test_arrays_under_names_of_their_own_are_found(tmp_path: Path) -> None:
    """A study of `options = { x = "bilder" }` could not predict a file like its own."""
    import numpy as np

    np.savez(tmp_path / "rows.npz", bilder=np.ones((3, 2)), klasse=np.zeros(3))
    form = files.Form("npz", {"x": "bilder", "y": "klasse"})
    assert set(next(files.read(tmp_path / "rows.npz", 10, form)).rows) == {"x", "y"}


def test_a_parquet_file_is_read_whole(tmp_path: Path) -> None:
    """`promote --data` would compare on the first batch alone."""
    pd.DataFrame({"x": range(5)}).to_parquet(tmp_path / "rows.parquet")
    assert len(files.table(tmp_path / "rows.parquet", files.Form(), "--data")) == 5


def test_a_space_after_the_comma_separates_nothing(tmp_path: Path) -> None:
    """The model would learn texts such as `55,`."""
    (tmp_path / "rows.csv").write_text("size, city, price\n55, Bern, 3.5\n60, Kiel, 4\n")
    read = sources.read(study(tmp_path, "rows.csv", "price", skipinitialspace=True))
    assert read["size"].tolist() == [55, 60]
    assert read["city"].tolist() == ["Bern", "Kiel"]


def test_leading_zeros_stay_under_pandas_other_name_for_the_separator(tmp_path: Path) -> None:
    """`007` would be read as 7, another category, in each file whose cells are digits alone."""
    (tmp_path / "rows.csv").write_text("code;Preis\n007;1.5\n008;2.5\n")
    learned = study(tmp_path, "rows.csv", delimiter=";")
    form = files.Form("csv", files.travelling(learned.data.options), texts=("code",), wanted=("code",))
    assert next(files.read(tmp_path / "rows.csv", 10, form)).rows["code"].tolist() == ["007", "008"]


@pytest.mark.parametrize("text", ["sep=;\nplz;Preis\n01;1.5\n", "plz Preis\n01 1.5\n", "plz^Preis\n01^1.5\n"])
def test_what_a_study_reads_is_not_refused_before(tmp_path: Path, text: str) -> None:
    """A file that the reader takes would be refused by its first line."""
    (tmp_path / "rows.csv").write_text(text)
    files.check_columns(study(tmp_path, "rows.csv"))
    with pytest.raises(DataError, match=r"no column 'Priis' in csv:rows.csv \(it has"):
        files.check_columns(study(tmp_path, "rows.csv", "Priis"))


def test_a_parquet_file_may_have_any_suffix(tmp_path: Path) -> None:
    """`parquet:rows.pq` names the format, and would be refused for its suffix."""
    pd.DataFrame({"plz": ["01"], "Preis": [1.5]}).to_parquet(tmp_path / "rows.pq")
    learned = definition(
        {"data.source": "parquet:rows.pq", "data.target": "Preis", "data.options": {}}, folder=tmp_path
    )
    files.check_columns(learned)
    assert sources.read(learned)["Preis"].tolist() == [1.5]


def test_points_beside_a_comma_are_points(tmp_path: Path) -> None:
    """One cell `1,234` would turn a column of decimal points into text, and 1234 into 1.234."""
    (tmp_path / "rows.csv").write_text("sales;ratio;Preis\n950;0.5;1\n1,234;0.7;2\n")
    assert sources.read(study(tmp_path, "rows.csv"))["ratio"].tolist() == [0.5, 0.7]
    (tmp_path / "rows.csv").write_text("tag;Preis\n01.02;3,50\n02.02;4,25\n")
    assert sources.read(study(tmp_path, "rows.csv"))["Preis"].tolist() == [3.5, 4.25]


def test_a_separator_that_pandas_own_reader_does_not_know(tmp_path: Path) -> None:
    """A file would be refused for an option that the user did not give."""
    (tmp_path / "rows.csv").write_text("plz§Preis\n01§1.5\n", encoding="utf-8")
    with pytest.warns(pd.errors.ParserWarning):
        assert sources.read(study(tmp_path, "rows.csv", sep="§"))["Preis"].tolist() == [1.5]
