"""Tables as people's programs write them: the same values for each spelling, or a named error."""

import unicodedata
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from geolib import data
from geolib.data.splits import splits as osv5m_splits
from geolib.data.tables import positions, read_table

COLUMNS = ["file", "country", "latitude", "longitude"]
HEADER = "file,country,latitude,longitude\n"
ROWS = [("a.png", "Réunion", -21.1, 55.5), ("b.png", "Korea, Republic of", 37.5, 127.0)]


def write(folder: Path, content: str | bytes, name: str = "metadata.csv") -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def write_photo(path: Path, content: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(content).integers(0, 256, (16, 16, 3), np.uint8)
    Image.fromarray(pixels).save(path)


def values(path: Path) -> list[tuple]:
    table = read_table(path, COLUMNS)
    return [
        (file, country, latitude, longitude)
        for (file, country), (latitude, longitude) in zip(
            table[["file", "country"]].values, positions(table, path).values, strict=True
        )
    ]


COMMAS = (
    "file,country,latitude,longitude\na.png,Réunion,-21.1,55.5\n"
    'b.png,"Korea, Republic of",37.5,127\n'
)
SEMICOLONS = (
    "file;country;latitude;longitude\na.png;Réunion;-21,1;55,5\nb.png;Korea, Republic of;37,5;127\n"
)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(COMMAS, id="plain"),
        pytest.param(COMMAS.replace("\n", "\r\n"), id="windows"),
        pytest.param(COMMAS.replace("\n", "\r"), id="old mac"),
        pytest.param(COMMAS.encode("utf-8-sig"), id="byte order mark"),
        pytest.param(COMMAS.encode("utf-16"), id="utf-16"),
        pytest.param(COMMAS.encode("utf-16-le"), id="utf-16 without a mark"),
        pytest.param(COMMAS.encode("utf-16-be"), id="utf-16, big endian"),
        pytest.param(COMMAS.replace("\n", ",\n"), id="trailing commas"),
        pytest.param(HEADER + COMMAS.partition("\n")[2].replace("\n", ",,\n"), id="in rows alone"),
        pytest.param(f",,,\n\n{COMMAS}\n,,,\n ,,,\n,\n", id="empty rows"),
        pytest.param(COMMAS + COMMAS.partition("\n")[0], id="the header again"),
        pytest.param(COMMAS.replace(",", ", ", 4).replace(',"', ', "'), id="spaces after commas"),
        pytest.param(SEMICOLONS, id="semicolons"),
        pytest.param(SEMICOLONS.replace("a.png", '="a.png"'), id="text for Excel"),
        pytest.param("sep=;\r\n" + SEMICOLONS, id="sep=;"),
        pytest.param('"sep=;";;;\n' + SEMICOLONS, id="sep=; as a cell"),
        pytest.param("SEP=,\n" + COMMAS, id="SEP=,"),
        pytest.param(b"\xef\xbb\xbfsep=;\n" + SEMICOLONS.encode(), id="sep=; after a mark"),
        pytest.param(SEMICOLONS.replace(";", "\t"), id="tabs"),
        pytest.param(
            ("sep=\t\n" + SEMICOLONS.replace(";", "\t")).encode("utf-16"), id="unicode text"
        ),
        pytest.param(SEMICOLONS.replace(";", "|"), id="bars"),
        pytest.param(
            COMMAS.replace("-21.1", '"-21,1"').replace("37.5", '"37,5"'), id="quoted decimal commas"
        ),
        pytest.param(
            '"","file","country","latitude","longitude"\n"1","a.png","Réunion",-21.1,55.5\n'
            '"7","b.png","Korea, Republic of",37.5,127\n',
            id="write.csv of R",
        ),
        pytest.param(
            '"file" "country" "latitude" "longitude"\n"1" "a.png" "Réunion" -21.1 55.5\n'
            '"2" "b.png" "Korea, Republic of" 37.5 127\n',
            id="write.table of R",
        ),
        pytest.param(
            '"file"\t"country"\t"latitude"\t"longitude"\n"1"\t"a.png"\t"Réunion"\t-21.1\t55.5\n'
            '"2"\t"b.png"\t"Korea, Republic of"\t37.5\t127\n',
            id="write.table of R with tabs",
        ),
        pytest.param(
            "SourceFile,FileName,Country,GPSLatitudeRef,GPSLatitude,GPSLongitude\n"
            'a.png,x,Réunion,South,"21 deg 6\' 0.00""","55 deg 30\' 0.00"" E"\n'
            'b.png,x,"Korea, Republic of",North,"37 deg 30\' 0.00"" N",127\n',
            id="exiftool",
        ),
        pytest.param(
            "SourceFile,Country,EXIF:GPSLatitude,EXIF:GPSLatitudeRef,Composite:GPSLatitude,"
            "EXIF:GPSLongitude,Composite:GPSLongitude\na.png,Réunion,21.1,S,-21.1,55.5,55.5\n"
            'b.png,"Korea, Republic of",37.5,N,37.5,127,127\n',
            id="exiftool -G -n",
        ),
        pytest.param(
            "file,country,latitude,N/S,longitude,lon_hemisphere\na.png,Réunion,21.1,S,55.5,E\n"
            'b.png,"Korea, Republic of",37.5,N,127,E\n',
            id="sides in columns",
        ),
        pytest.param(
            "file,country,Latitude (°),Longitude (°)\na.png,Réunion,21°6′S,55.5° E\n"
            'b.png,"Korea, Republic of",N 37°30\'0",+127\n',
            id="degrees and minutes",
        ),
        pytest.param(
            COMMAS.replace("file,country,latitude", "county,File Name,Country_Code,GPS Latitude")
            .replace("a.png", "x,a.png")
            .replace("b.png", "y,b.png"),
            id="names of columns",
        ),
        pytest.param(
            COMMAS.replace("-21.1", "\u221221.1").replace("a.png", "\ufeffa.png\u200b"), id="signs"
        ),
    ],
)
def test_programs_write_the_same_table(tmp_path, content):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert values(write(tmp_path, content)) == ROWS


def test_windows_1252_is_read_and_said(tmp_path):
    path = write(tmp_path, COMMAS.replace("Réunion", "l’Œuvre d’été").encode("cp1252"))
    with pytest.warns(
        UserWarning, match=r"metadata\.csv is not UTF-8.*line 2: a.png,l’Œuvre d’été"
    ):
        assert [row[1] for row in values(path)] == ["l’Œuvre d’été", "Korea, Republic of"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            f"{HEADER}a.png,Korea, Republic of,37,127\n",
            "line 2 has 5 cells, the header 4; put a cell",
        ),
        ("file,country\na.png,Korea, Republic of\n", "line 2 has 3 cells, the header 2"),
        (f"{HEADER}\na.png,FR,48,2\nb.png;FR;48;2\n", "line 4: 'b.png;FR;48;2' holds no ','"),
        (f'{HEADER}"a\nb.png",FR,48,2\nc.png,FR,91,2\n', "line 4: latitude='91'"),
        (f'{HEADER}a.png,"FR,48,2\nb.png,FR,48,2\n', "line 2: unexpected end .* close or double"),
        (f'{HEADER}a.png,"F"R,48,2\n', "line 2: .* close or double the quotation mark"),
        (f"sep=;\n{SEMICOLONS}c.png;FR;48;2;5\n", "line 5 has 5 cells, the header 4"),
        (b"PK\x03\x04 and so on", "is a workbook, not a CSV file; save it as CSV UTF-8"),
        *(
            (
                HEADER.encode() + f"a.png,{name},1,1\n".encode(encoding),
                "line 2: neither UTF-8, UTF-16",
            )
            for name, encoding in [
                ("日本", "gbk"),
                ("日本", "shift-jis"),
                ("Россия", "cp1251"),
                ("Réunion", "mac-roman"),
                ("España", "mac-roman"),
                ("Réunion", "cp850"),
            ]
        ),
        (COMMAS.encode() + "c.png,Été,1,1\n".encode("cp1252"), "line 4: neither UTF-8"),
        (COMMAS.encode("utf-16") + b"\0", "neither UTF-8, UTF-16"),
        ("country,latitude,longitude\nFR,1,2\n", "lacks the column 'file'; it has"),
        ("", r"lacks the column 'file'; it has \[\]"),
        ("file,lat\na.png,48\n", "lacks the column 'longitude'"),
        (
            "file,lat,GPSLat,lon\na.png,1,2,3\n",
            "has 'lat' and 'GPSLat'; keep one column for 'latitude'",
        ),
        ("file,File\na.png,1\n", "has 'file' and 'File'; keep one"),
        *(
            (f"file,{near},lat,lon\na.png,1,1,2\n", f"column '{near}'; call it 'country'")
            for near in ("Countries", "country_x", "home country")
        ),
        *(
            (f"file,{near},longitude\na.png,1,2\n", f"column '{near}'; call it 'latitude'")
            for near in (
                "lattitude",
                "latitute",
                "start_lat",
                "latitude_x",
                "latitude.1",
                "LatBin",
                "lati",
            )
        ),
        *(
            (f"file,latitude,{near}\na.png,1,2\n", f"column '{near}'; call it 'longitude'")
            for near in ("longtitude", "logitude", "pred_lng", "longitude_y", "lons")
        ),
        *(
            (f"file,lat,lon\na.png,{cells}\n", message)
            for cells, message in [
                ("91,0", "line 2: latitude='91'; expected degrees between -90 and 90"),
                ("0,190", "line 2: longitude='190'; expected degrees between -180 and 180"),
                ("0,-180.1", "line 2: longitude='-180.1'"),
                ("48 N,2 N", "line 2: longitude='2 N'"),
                ("-48 N,2", "line 2: latitude='-48 N'"),
                ("48°70',2", "line 2: latitude="),
                ("4 8,2", "line 2: latitude='4 8'"),
                ('"48,51,24N",2', "line 2: latitude='48,51,24N'"),
                ("inf,2", "line 2: latitude='inf'"),
                ("somewhere,2", "line 2: latitude='somewhere'"),
            ]
        ),
    ],
)
def test_what_is_not_certain_is_refused(tmp_path, content, message):
    path = write(tmp_path, content)
    with pytest.raises(ValueError, match=rf"metadata\.csv.*{message}"):
        positions(read_table(path, COLUMNS, required=["file"]), path)


def test_columns_that_are_no_position_do_not_disturb(tmp_path):
    for name in ("altitude", "GPSAltitude", "attitude", "long_description", "platform", "lat_bin"):
        path = write(tmp_path, f"file,latitude,longitude,{name}\na.png,48,2,7\n")
        assert positions(read_table(path, COLUMNS), path).values.tolist() == [[48, 2]]
    path = write(tmp_path, "file,country,altitude,long_description\na.png,FR,48,2\n")
    assert np.isnan(positions(read_table(path, COLUMNS), path).values).all()


@pytest.mark.parametrize(
    "names", ["coordinates", "X,Y", "GPSPosition", "latlng", "POINT_X,POINT_Y"]
)
def test_a_position_that_is_not_read_is_said(tmp_path, names):
    path = write(tmp_path, f"file,{names}\na.png,1,2\n" if "," in names else f"file,{names}\na,1\n")
    with pytest.warns(UserWarning, match=f"'{names.split(',')[0]}'.* not read; a position is read"):
        read_table(path, COLUMNS)


# Folders -----------------------------------------------------------------------------------------

SPELLINGS = [
    *("latitude,longitude", "lat,lon", "lat,lng", "Latitude,Longitude", "LAT,LON", "lat,long"),
    *("GPSLatitude,GPSLongitude", "gps_lat,gps_lon", "Lat.,Lng.", "Latitude (deg),Longitude (deg)"),
    *("Longitude,Latitude", "location.lat,location.lng", "decimalLatitude,decimalLongitude"),
    *("EXIF:GPSLatitude,EXIF:GPSLongitude", "Breitengrad,Längengrad", "latitud,longitud"),
]


def places_in_splits(root: Path, header: str, positions: list[tuple]) -> Counter[int]:
    """In how many splits each place of five photographs is."""
    lines = [f"file,country,{header}"]
    for i, position in enumerate(positions):
        write_photo(root / f"{i}.png", i)
        lines.append(",".join([f"{i}.png", "JP" if i // 5 % 2 else "FR", *map(str, position)]))
    write(root, "\n".join(lines))
    found = [data.load("folder", name, root=root) for name in ("train", "validation", "test")]
    assert sum(map(len, found)) == len(positions)
    return Counter(place for part in found for place in {int(name[:-4]) // 5 for name in part.ids})


@pytest.mark.parametrize("names", SPELLINGS)
def test_no_place_is_in_two_splits_whatever_the_columns_are_called(tmp_path, names):
    points = [(48 + i // 5 / 10, 2 + i // 5 / 10) for i in range(100)]
    turn = -1 if names.startswith("Longitude") else 1
    placed = places_in_splits(tmp_path, names, [point[::turn] for point in points])
    assert placed == Counter(range(20))
    read = {int(r.id[:-4]): (r.latitude, r.longitude) for r in everything(tmp_path).records}
    assert read == dict(enumerate(points))


def test_places_on_the_date_line_and_at_a_pole_are_in_one_split(tmp_path):
    degrees = [180, -180, 179.99995, -180, -179.99995]
    points = [(-17 - place / 10, east) for place in range(19) for east in degrees]
    points += [(-90, east) for east in degrees]
    assert places_in_splits(tmp_path, "lat,lon", points) == Counter(range(20))


def test_the_date_line_and_a_pole_are_one_place_of_osv5m():
    points = [(-17, 180), (-17, -180), (90, 10), (90, -100), (0, 0), (1, 1)]
    table = pd.DataFrame(points, columns=["latitude", "longitude"])
    table = table.assign(id=table.index.astype(str), country="FJ", sequence=None)
    placed = osv5m_splits(table, ["FJ"], {"train": 6}).set_index("id").place
    assert placed["0"] == placed["1"] != placed["2"] == placed["3"]
    assert placed.nunique() == 4


def everything(root: Path) -> data.GeoDataset:
    return data.load("folder", "all", root=root)


@pytest.mark.parametrize("name", ["metadata.csv", "Metadata.csv", "METADATA.CSV"])
def test_files_are_found_as_they_are_written_elsewhere(tmp_path, name):
    listed = [
        *("FR\\a.PNG", "./FR/b.png", ".\\c.png", "é.png", "E\u0301t\u00e9.png", "FR/d.png "),
        "back\\slash.png",
    ]
    there = [
        *("FR/a.png", "FR/b.png", "c.png", "e\u0301.png", "\u00c9te\u0301.png", "FR/d.png"),
        "back\\slash.png",
    ]
    for content, file in enumerate(there):
        write_photo(tmp_path / file, content)
    write(tmp_path, "File,Country\n" + "".join(f"{file},FR\n" for file in listed), name)
    found = everything(tmp_path)
    assert (sorted(found.ids), found.skipped) == (sorted(there), [])


def test_names_that_differ_in_case_alone_are_two_files(tmp_path):
    write_photo(tmp_path / "a.png", 0)
    write_photo(tmp_path / "A.png", 1)
    write(tmp_path, "file,country\na.png,FR\nA.png,JP\nA.PNG,JP\n")
    found = everything(tmp_path)
    assert {r.id: r.country for r in found.records} == {"a.png": "FR", "A.png": "JP"}
    assert found.skipped == [("A.PNG", "listed in metadata.csv but missing")]
    write(tmp_path, "file\n", "METADATA.csv")
    with pytest.raises(ValueError, match=r"holds METADATA\.csv and metadata\.csv; keep one"):
        everything(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("file,country\na.png,FR\n.\\A.PNG,FR\n", r"A.PNG' more than once.* line 3"),
        ("file\nPHOTOS/a.png\n", "lists 1 files that are not there, for example 'PHOTOS/a.png'"),
        ("file,country,lat,lon\n", "holds no images"),
        ("file\n" + "a" * 300, "lists 1 files that are not there"),
        ("file,lat,lon\na.png,1,NA\n", "line 2: latitude and longitude must both be given"),
    ],
)
def test_a_faulty_list_of_files_is_named(tmp_path, content, message):
    write_photo(tmp_path / "a.png")
    write(tmp_path, content)
    with pytest.raises(ValueError, match=message):
        everything(tmp_path)


@pytest.mark.parametrize("name", ["places.csv", "metadata.tsv", "Metadata.xlsx"])
def test_a_table_of_another_name_is_said(tmp_path, name):
    write_photo(tmp_path / "FR" / "a.png")
    write(tmp_path, "file,lat,lon\nFR/a.png,1,1\n", name)
    with pytest.warns(UserWarning, match=f"{name} not read; a table is called metadata.csv"):
        assert everything(tmp_path).labels == [0]


def test_one_country_however_it_is_written(tmp_path):
    spellings = ["Réunion", unicodedata.normalize("NFD", "Réunion"), " Réunion", "Réunion\u00a0"]
    spellings += ["Réunion\u200b"]
    rows = [f"{i}.png,{country}\n" for i, country in enumerate(spellings)]
    for i in range(len(rows)):
        write_photo(tmp_path / "table" / f"{i}.png", i)
        write_photo(tmp_path / "folders" / spellings[i] / f"{i}.png", i)
    write(tmp_path / "table", "file,country\n" + "".join(rows))
    for name in ("table", "folders"):
        found = everything(tmp_path / name)
        assert (found.classes, found.labels) == (("Réunion",), [0] * len(rows))
    given = data.load("folder", "all", root=tmp_path / "table", classes=(spellings[1],))
    assert given.labels == [0] * len(rows)


def test_absent_cells_are_counted_and_said(tmp_path):
    for i in range(5):
        write_photo(tmp_path / f"{i}.png", i)
    rows = ["0.png,FR,1,1", "1.png,,1,1", "2.png,fr,,", "3.png,FR,NA,n/a", "4.png,NaN,1,1"]
    write(tmp_path, "\n".join(["file,country,lat,lon", *rows]))
    with pytest.warns(UserWarning) as told:
        found = everything(tmp_path)
    messages = [str(warning.message).partition("metadata.csv: ")[2] for warning in told]
    assert messages[:2] == [
        "2 of 5 rows have no country, the first in line 3",
        "2 of 5 rows have no position, the first in line 4",
    ]
    assert str(told[-1].message) == "classes FR, fr differ in case alone"
    assert {r.id[0]: r.label for r in found.records} == {
        "0": 0,
        "1": None,
        "2": 1,
        "3": 0,
        "4": None,
    }
