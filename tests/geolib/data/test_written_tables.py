"""Tables as people's programs write them: the same values for each spelling, or a named error."""

import unicodedata
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from toys import everything, write_photo

from geolib.data.splits import splits as osv5m_splits
from geolib.data.tables import positions, read_table

COLUMNS = ["file", "country", "latitude", "longitude"]
HEADER = "file,country,latitude,longitude\n"
ROWS = [["a.png", "Réunion", -21.1, 55.5], ["b.png", "Korea, Republic of", 37.5, 127.0]]
COMMAS = f'{HEADER}a.png,Réunion,-21.1,55.5\nb.png,"Korea, Republic of",37.5,127\n'
SEMICOLONS = f"{HEADER}a.png,Réunion,-21'1,55'5\nb.png,Korea_ Republic of,37'5,127\n"
SEMICOLONS = SEMICOLONS.replace(",", ";").replace("'", ",").replace("_", ",")
# Of R, whose rows have names, and of exiftool.
CSV_OF_R = """"","file","country","latitude","longitude"
"1","a.png","Réunion",-21.1,55.5
"7","b.png","Korea, Republic of",37.5,127
"""
TABLE_OF_R = """"file" "country" "latitude" "longitude"
"1" "a.png" "Réunion" -21.1 55.5
"2" "b.png" "Korea, Republic of" 37.5 127
"""
TABS_OF_R = TABLE_OF_R.replace(" ", "\t").replace("Korea,\tRepublic\tof", "Korea, Republic of")
EXIFTOOL = """SourceFile,FileName,Country,GPSLatitudeRef,GPSLatitude,GPSLongitude
a.png,x,Réunion,South,"21 deg 6' 0.00\"\"\","55 deg 30' 0.00"" E"
b.png,x,"Korea, Republic of",North,"37 deg 30' 0.00"" N",127
"""
GROUPS = """SourceFile,Country,EXIF:GPSLatitude,EXIF:GPSLatitudeRef,Composite:GPSLatitude,\
EXIF:GPSLongitude,Composite:GPSLongitude
a.png,Réunion,21.1,S,-21.1,55.5,55.5
b.png,"Korea, Republic of",37.5,N,37.5,127,127
"""
SIDES = """file,country,latitude,N/S,longitude,lon_hemisphere
a.png,Réunion,21.1,S,55.5,E
b.png,"Korea, Republic of",37.5,N,127,E
"""
MINUTES = """file,country,Latitude (°),Longitude (°)
a.png,Réunion,21°6′S,55.5° E
b.png,"Korea, Republic of",N 37°30'0",+127
"""
OTHER_NAMES = COMMAS.replace("file,country,latitude", "county,File Name,Country_Code,GPS Latitude")
OTHER_NAMES = OTHER_NAMES.replace("a.png", "x,a.png").replace("b.png", "y,b.png")
SAME = {
    "plain": COMMAS,
    "windows": COMMAS.replace("\n", "\r\n"),
    "old mac": COMMAS.replace("\n", "\r"),
    "byte order mark": COMMAS.encode("utf-8-sig"),
    **{code: COMMAS.encode(code) for code in ("utf-16", "utf-16-le", "utf-16-be")},
    "trailing commas": COMMAS.replace("\n", ",\n"),
    "in rows alone": HEADER + COMMAS.partition("\n")[2].replace("\n", ",,\n"),
    "empty rows": f",,,\n\n{COMMAS}\n,,,\n ,,,\n,\n",
    "the header again": COMMAS + COMMAS.partition("\n")[0],
    "spaces after commas": COMMAS.replace(",", ", ", 4).replace(',"', ', "'),
    "semicolons": SEMICOLONS,
    "text for Excel": SEMICOLONS.replace("a.png", '="a.png"'),
    "sep=;": "sep=;\r\n" + SEMICOLONS,
    "sep=; as a cell": '"sep=;";;;\n' + SEMICOLONS,
    "SEP=,": "SEP=,\n" + COMMAS,
    "sep=; after a mark": b"\xef\xbb\xbfsep=;\n" + SEMICOLONS.encode(),
    "tabs": SEMICOLONS.replace(";", "\t"),
    "unicode text": ("sep=\t\n" + SEMICOLONS.replace(";", "\t")).encode("utf-16"),
    "bars": SEMICOLONS.replace(";", "|"),
    "decimal commas": COMMAS.replace("-21.1", '"-21,1"').replace("37.5", '"37,5"'),
    **{"write.csv of R": CSV_OF_R, "write.table of R": TABLE_OF_R, "with tabs": TABS_OF_R},
    **{"exiftool": EXIFTOOL, "exiftool -G -n": GROUPS, "sides in columns": SIDES},
    **{"degrees and minutes": MINUTES, "names of columns": OTHER_NAMES},
    "signs": COMMAS.replace("-21.1", "\u221221.1").replace("a.png", "\ufeffa.png\u200b"),
}


def write(folder: Path, content: str | bytes, name: str = "metadata.csv") -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def values(path: Path) -> list[list]:
    table = read_table(path, COLUMNS)
    return table[["file", "country"]].join(positions(table, path)).values.tolist()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", SAME)
def test_programs_write_the_same_table(tmp_path, name):
    assert values(write(tmp_path, SAME[name])) == ROWS


def test_windows_1252_is_read_and_said(tmp_path):
    path = write(tmp_path, COMMAS.replace("Réunion", "l’Œuvre d’été").encode("cp1252"))
    said = r"metadata\.csv is not UTF-8.*line 2: a.png,l’Œuvre d’été"
    with pytest.warns(UserWarning, match=said):
        assert [row[1] for row in values(path)] == ["l’Œuvre d’été", "Korea, Republic of"]


NOT_WESTERN = "日本 gbk, 日本 shift-jis, Россия cp1251, Réunion mac-roman, España mac-roman"
NEARLY = {
    "country": "Countries, country_x, home country",
    "latitude": "lattitude, latitute, start_lat, latitude_x, latitude.1, LatBin, lati",
    "longitude": "longtitude, logitude, pred_lng, longitude_y, lons",
}
WRONG_POSITIONS = [
    ("91,0", "line 2: latitude='91'; expected degrees between -90 and 90"),
    ("0,190", "line 2: longitude='190'; expected degrees between -180 and 180"),
    *(("0,-180.1", "line 2: longitude='-180.1'"), ("48 N,2 N", "line 2: longitude='2 N'")),
    *((f"{angle},2", f"line 2: latitude='{angle}'") for angle in ("-48 N", "4 8", "inf", "nan")),
    *(("48°70',2", "line 2: latitude="), ("somewhere,2", "line 2: latitude='somewhere'")),
    ('"48,51,24N",2', "line 2: latitude='48,51,24N'"),
]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            HEADER + "a.png,Korea, Republic of,37,127",
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
            (f"{HEADER}a.png,{name},1,1\n".encode(code), "line 2: neither UTF-8, UTF-16")
            for name, code in map(str.split, [*NOT_WESTERN.split(", "), "Réunion cp850"])
        ),
        (COMMAS.encode() + "c.png,Été,1,1\n".encode("cp1252"), "line 4: neither UTF-8"),
        (COMMAS.encode("utf-16") + b"\0", "neither UTF-8, UTF-16"),
        ("country,latitude,longitude\nFR,1,2\n", "lacks the column 'file'; it has"),
        *(
            ("", r"lacks the column 'file'; it has \[\]"),
            ("file,lat\na,1\n", "lacks .* 'longitude'"),
        ),
        (
            "file,lat,GPSLat,lon\na.png,1,2,3\n",
            "'lat' and 'GPSLat'; keep one column for 'latitude'",
        ),
        ("file,File\na.png,1\n", "has 'file' and 'File'; keep one"),
        *(
            (HEADER.replace(wanted, near), f"column '{near}'; call it '{wanted}'")
            for wanted, nearly in NEARLY.items()
            for near in nearly.split(", ")
        ),
        *((f"file,lat,lon\na.png,{cells}\n", message) for cells, message in WRONG_POSITIONS),
    ],
)
def test_what_is_not_certain_is_refused(tmp_path, content, message):
    path = write(tmp_path, content)
    with pytest.raises(ValueError, match=rf"metadata\.csv.*{message}"):
        positions(read_table(path, COLUMNS, required=["file"]), path)


SPELLINGS = """latitude,longitude lat,lon lat,lng Latitude,Longitude LAT,LON lat,long
GPSLatitude,GPSLongitude gps_lat,gps_lon Lat.,Lng. Latitude_(deg),Longitude_(deg)
location.lat,location.lng decimalLatitude,decimalLongitude EXIF:GPSLatitude,EXIF:GPSLongitude
Breitengrad,Längengrad latitud,longitud"""


def test_positions_are_read_whatever_their_columns_are_called(tmp_path):
    for names in SPELLINGS.split():
        path = write(tmp_path, f"file,{names.replace('_(', ' (')}\na.png,48,2\n")
        assert positions(read_table(path, COLUMNS), path).values.tolist() == [[48, 2]], names
    path = write(tmp_path, "Longitude,file,Latitude\n2,a.png,48\n")
    assert positions(read_table(path, COLUMNS), path).values.tolist() == [[48, 2]]
    # Columns that are no position do not disturb.
    for name in ("altitude", "GPSAltitude", "attitude", "long_description", "platform", "lat_bin"):
        path = write(tmp_path, f"file,latitude,longitude,{name}\na.png,48,2,7\n")
        assert positions(read_table(path, COLUMNS), path).values.tolist() == [[48, 2]], name
    path = write(tmp_path, "file,country,altitude,long_description\na.png,FR,48,2\n")
    assert np.isnan(positions(read_table(path, COLUMNS), path).values).all()


@pytest.mark.parametrize(
    "names", ["coordinates", "X,Y", "GPSPosition", "latlng", "POINT_X,POINT_Y"]
)
def test_a_position_that_is_not_read_is_said(tmp_path, names):
    first, *more = names.split(",")
    path = write(tmp_path, f"file,{names}\na.png,1{',2' * len(more)}\n")
    with pytest.warns(UserWarning, match=f"'{first}'.* not read; a position is read"):
        read_table(path, COLUMNS)


def test_the_date_line_and_a_pole_are_one_place_of_osv5m():
    points = [(-17, 180), (-17, -180), (90, 10), (90, -100), (0, 0), (1, 1)]
    table = pd.DataFrame(points, columns=["latitude", "longitude"])
    table = table.assign(id=table.index.astype(str), country="FJ", sequence=None)
    placed = osv5m_splits(table, ["FJ"], {"train": 6}).set_index("id").place
    assert placed["0"] == placed["1"] != placed["2"] == placed["3"]
    assert placed.nunique() == 4


# Folders -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["metadata.csv", "Metadata.csv", "METADATA.CSV"])
def test_files_are_found_as_they_are_written_elsewhere(tmp_path, name):
    written = {  # in the table, on disk
        **{"FR\\a.PNG": "FR/a.png", "./FR/b.png": "FR/b.png", ".\\c.png": "c.png"},
        **{"é.png": "e\u0301.png", "E\u0301t\u00e9.png": "\u00c9te\u0301.png"},
        **{"FR/d.png ": "FR/d.png", "back\\slash.png": "back\\slash.png"},
    }
    for content, file in enumerate(written.values()):
        write_photo(tmp_path / file, content)
    write(tmp_path, "File,Country\n" + "".join(f"{file},FR\n" for file in written), name)
    found = everything(tmp_path)
    assert (sorted(found.ids), found.skipped) == (sorted(written.values()), [])


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
        ("name,country\na.png,FR\n", "lacks the column 'file'"),
        ("file,country\na.png,FR\n.\\A.PNG,FR\n", r"A.PNG' more than once.* line 3"),
        ("file\nPHOTOS/a.png\n", "lists 1 files that are not there, for example 'PHOTOS/a.png'"),
        ("file,country,lat,lon\n", "holds no images"),
        ("file,country\n ,FR\n", "line 2: the file's name is empty"),
        ("file\n" + "a" * 300, "lists 1 files that are not there"),
        ("file,lat,lon\na.png,1,1\nb.png,91,0", "line 3: latitude='91'; expected"),
        *((f"file,lat,lon\na.png,1,{none}\n", "line 2: .* both be given") for none in ("NA", "")),
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
    composed = unicodedata.normalize("NFD", "Réunion")
    spellings = ["Réunion", composed, " Réunion", "Réunion\u00a0", "Réunion\u200b"]
    spellings += ["France", "France ", "France\u00a0"]
    for i, country in enumerate(spellings):
        write_photo(tmp_path / "table" / f"{i}.png", i)
        write_photo(tmp_path / "folders" / country / f"{i}.png", i)
    rows = "".join(f"{i}.png,{country}\n" for i, country in enumerate(spellings))
    write(tmp_path / "table", f"file,country\n{rows}")
    for name, place in (("table", "{i}.png"), ("folders", "{country}/{i}.png")):
        found, given = (
            everything(tmp_path / name, classes=classes)
            for classes in (None, (f"{composed} ", "other"))
        )
        assert (found.classes, given.classes) == (("France", "Réunion"), ("Réunion", "other"))
        expected = {place.format(i=i, country=c): int(i < 5) for i, c in enumerate(spellings)}
        assert {r.id: r.label for r in found.records} == expected
        assert {r.id: 1 - r.label for r in given.records} == expected


def test_absent_cells_are_counted_and_said(tmp_path):
    for i in range(5):
        write_photo(tmp_path / f"{i}.png", i)
    rows = ["0.png,FR,1,1", "1.png,,1,1", "2.png,fr,,", "3.png,FR,NA,n/a", "4.png,NaN,1,1"]
    write(tmp_path, "\n".join(["file,country,lat,lon", *rows]))
    with pytest.warns(UserWarning) as told:
        found = everything(tmp_path)
    *messages, last = [str(warning.message) for warning in told]
    assert [message.partition("metadata.csv: ")[2] for message in messages[:2]] == [
        "2 of 5 rows have no country, the first in line 3",
        "2 of 5 rows have no position, the first in line 4",
    ]
    assert last == "classes FR, fr differ in case alone"
    labels = {"0.png": 0, "1.png": None, "2.png": 1, "3.png": 0, "4.png": None}
    assert {r.id: r.label for r in found.records} == labels
