import csv
import io

import numpy as np
import pytest

from vae.data.tables import ATTRIBUTES, PEOPLE, SPLITS, TableFile, by_stem, match, read_table
from vae.errors import UserError

ROWS = [("a b.jpg", [1, -1, 1]), ("c.jpg", [-1, -1, 1]), ("d.jpg", [1, 1, 1])]
HEADER = ["Smiling", "Red_Hair", "Hat"]


def table_of(content, name="list_attr.csv"):
    content = content if isinstance(content, bytes) else content.encode()
    return read_table([TableFile(name, "", lambda: content)])


def written(first=("file",), yes="1", no="-1", **options):
    file = io.StringIO()
    writer = csv.writer(file, **options)
    writer.writerow([*first, *HEADER])
    writer.writerows([name, *(yes if v == 1 else no for v in values)] for name, values in ROWS)
    return file.getvalue()


SPELLINGS = {
    "commas": written(),
    "semicolons and quotes": written(delimiter=";", quoting=csv.QUOTE_ALL),
    "tabs": written(delimiter="\t"),
    "bars": written(delimiter="|"),
    "no first header cell": written(first=()),
    "an empty first header cell": written(first=("",)),
    "another first header cell": written(first=("image_id",)),
    "words": written(yes="True", no="False"),
    "words in capitals": written(yes="TRUE", no="FALSE"),
    "zero and one": written(no="0"),
    "floats": written(yes="1.0", no="-1.0"),
    "line feeds": written(lineterminator="\n"),
    "carriage returns": written(lineterminator="\r"),
    "a count": "3\n" + written(),
    "a byte order mark": written().encode("utf-8-sig"),
    "UTF-16": written(delimiter="\t").encode("utf-16"),
    "UTF-16 of the other order": b"\xfe\xff" + written().encode("utf-16-be"),
    "empty lines": "\n" + written(lineterminator="\n\n") + "\n\n",
    "a last tab in the header alone": written(first=(), delimiter="\t").replace("\r\n", "\t\n", 1),
    "a last comma in each line": written().replace("\r\n", ",\r\n"),
    "spaces after commas": written().replace(",", ", "),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_table_says_the_same_in_every_spelling(spelling):
    table = table_of(SPELLINGS[spelling])
    assert table.names == [name for name, _ in ROWS]
    columns, ignored = table.attributes()
    assert list(columns) == HEADER
    assert ignored == []
    expected = [[value == 1 for value in values] for _, values in ROWS]
    np.testing.assert_array_equal(np.stack(list(columns.values()), axis=1), expected)


@pytest.mark.parametrize("count", ["3\n", ""])
def test_columns_between_spaces_are_read_with_and_without_the_count(count):
    rows = "".join(f"{name.split()[-1]}  {v[0]:2d} {v[1]:2d} {v[2]:2d}\n" for name, v in ROWS)
    table = table_of(f"{count}Smiling Red_Hair Hat \n{rows}", name="list_attr_celeba.txt")
    assert table.names == ["b.jpg", "c.jpg", "d.jpg"]
    assert table.codes(ATTRIBUTES).tolist() == [values for _, values in ROWS]


def test_the_file_names_may_stand_in_any_column():
    table = table_of(",image_id,Hat\n0,x.jpg,1\n1,y.jpg,0\n2,z.jpg,1\n")
    assert table.names == ["x.jpg", "y.jpg", "z.jpg"]
    columns, ignored = table.attributes()
    assert (list(columns), ignored) == (["Hat"], [])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("file,A\na.jpg,1\nb.jpg,0\nc.jpg,-1\n", "has -1, 0 and 1 in its column A"),
        ("file,A,a\na.jpg,1,1\n", "names a more than once in its header"),
        ("file,A,B\na.jpg,1,1\nb.jpg,1\nc.jpg,1,1\n", "2 cells in the row of b.jpg, expected 3"),
        ("file,A,B\na.jpg,1,1\nb.jpg,1\n", "in the row of b.jpg, expected 3: fetch the file again"),
        (
            "file,Hat,text\na.jpg,1,so, so\nb.jpg,0,c, d\n",
            "4 cells in the row of a.jpg, expected 3",
        ),
        ("file,A,B\na.jpg,1\nb.jpg,1\n", "2 cells in the row of a.jpg, expected 3"),
    ],
)
def test_a_table_that_cannot_be_understood_says_where(content, message):
    with pytest.raises(UserError, match=message):
        table_of(content).attributes()


@pytest.mark.parametrize("content", ["", "3\n", "file,A\n", "\n\n"])
def test_a_table_without_rows_fits_no_picture(content):
    table = table_of(content)
    assert match(table, by_stem(["a.jpg"])) == {}
    assert all(len(values) == 0 for values in table.attributes()[0].values())


def test_a_column_with_one_other_value_is_no_attribute():
    columns, ignored = table_of("file,A,B\na.jpg,1,1\nb.jpg,,1\n").attributes()
    assert (list(columns), ignored) == (["B"], ["A"])


@pytest.mark.parametrize("header", ["", "image_id partition\n", "image_id,partition\n"])
@pytest.mark.parametrize(
    "words", [("0", "1", "2"), ("train", "Valid", "test"), ("0.0", "1.0", "2.0")]
)
def test_splits_are_numbers_or_words_with_or_without_a_header(header, words):
    separator = "," if "," in header else " "
    rows = "".join(f"{n}.jpg{separator}{word}\n" for n, word in enumerate(words))
    table = table_of(header + rows, "list_eval_partition.txt")
    assert table.column(SPLITS).tolist() == [0, 1, 2]
    assert table.names == ["0.jpg", "1.jpg", "2.jpg"]


def test_a_split_that_is_none_is_named():
    with pytest.raises(UserError, match=r"does not give the splits of b\.jpg"):
        table_of("a.jpg 0\nb.jpg 7\nc.jpg 1\n", "list_eval_partition.txt").column(SPLITS)


def test_people_are_numbers():
    table = table_of("000001.jpg 2880\n000002.jpg 2937\n", "identity_CelebA.txt")
    assert table.column(PEOPLE).tolist() == [2880, 2937]


# Which row is which picture's

MATCHES = {
    "the path": (["b/1.jpg", "a/1.jpg"], ["a/1.jpg", "b/1.jpg"]),
    "the path with backslashes": (["b\\1.jpg", ".\\a\\1.jpg"], ["a/1.jpg", "b/1.jpg"]),
    "the end of a longer path": (["C:\\x\\b\\1.jpg", "C:\\x\\a\\1.jpg"], ["a/1.jpg", "b/1.jpg"]),
    "the file name": (["2.jpg", "1.jpg"], ["x/1.jpg", "y/2.jpg"]),
    "another ending": (["2.jpg", "1.jpg"], ["1.png", "2.webp"]),
    "no ending": (["2", "1"], ["1.png", "2.webp"]),
    "a point in a name without ending": (["j.smith", "j"], ["j.png", "j.smith.png"]),
    "another case": (["B.JPG", "A.JPG"], ["a.jpg", "b.jpg"]),
    "accents in two parts": (["e\u0301.jpg", "a.jpg"], ["a.jpg", "\u00e9.jpg"]),
    "the better of two rows": (["1.png", "1.jpg"], ["1.jpg"]),
    "the path, where another folder is not there": (["b/1.jpg", "a/1.jpg"], ["a/1.jpg"]),
}


@pytest.mark.parametrize("case", MATCHES)
def test_rows_are_matched_by(case):
    rows, pictures = MATCHES[case]
    table = table_of("file,Hat\n" + "".join(f"{row},1\n" for row in rows))
    assert match(table, by_stem(pictures)) == dict(zip(pictures, (1, 0), strict=False))


def test_pictures_without_a_row_have_none():
    table = table_of("file,Hat\nb.jpg,1\nx.jpg,1\n")
    assert match(table, by_stem(["a.jpg", "b.jpg", "c.jpg"])) == {"b.jpg": 0}


@pytest.mark.parametrize(
    ("rows", "pictures", "message"),
    [
        (["1.jpg", "1.jpg"], ["1.jpg"], "has 1.jpg a second time"),
        (["1"], ["1.jpg", "1.png"], "1 fits 1.jpg and 1.png equally"),
        (["1.jpg"], ["a/1.jpg", "b/1.jpg"], "1.jpg fits a/1.jpg and b/1.jpg equally"),
    ],
)
def test_a_row_that_may_mean_two_pictures_is_refused(rows, pictures, message):
    table = table_of("file,Hat\n" + "".join(f"{row},1\n" for row in rows))
    with pytest.raises(UserError, match=message):
        match(table, by_stem(pictures))


def test_what_cannot_be_printed_in_a_title_is_replaced():
    table = table_of(b"file,Mustach\xe9,B\x01ld,Caf\xc3\xa9\na.jpg,1,0,1\nb.jpg,0,1,1\n")
    columns, others = table.attributes()
    assert [*columns] == ["Mustach\ufffd", "B\ufffdld", "Caf\u00e9"]
    assert not others
    "".join(columns).encode()


def test_a_table_of_splits_with_names_alone_is_refused():
    table = table_of("a.jpg\nb.jpg\n", "list_eval_partition.txt")
    with pytest.raises(UserError, match="txt has no column that could give the splits"):
        table.column(SPLITS)
