"""Chapter 9: the paper's recipe, places, errors and their tables; maps of what models say."""

from pathlib import Path

import geopandas
import numpy as np
import pandas as pd
import pytest
from matplotlib.lines import Line2D
from matplotlib.text import Text
from PIL import Image
from toys import NARROW, picture, write_photographs

from geolib import data
from geolib.book import run
from geolib.chapters import location, world_map
from geolib.chapters.location import LocationExperiment
from geolib.chapters.world_map import Guess
from geolib.partitioning import PAPER_PRESETS, great_circle_distance
from geolib.training import crops

# The paper's recipe ------------------------------------------------------------------------------


def theiner():
    return run.resolve(["09-partitioning"], "theiner")["09-partitioning"]


pytestmark = pytest.mark.filterwarnings("ignore:.*rows have no position")


def test_the_theiner_profile_is_that_papers_recipe():
    """§4.1 and appendix A of Theiner et al.; the figures are typed in here once more on purpose."""
    experiment = LocationExperiment.from_parameters(theiner())
    both = {"arch": "resnet50", "image_size": 224, "crops": True, "horizontal_flip": True}
    both |= {"optimizer": "sgd", "momentum": 0.9, "weight_decay": 1e-4}
    both |= {"label_smoothing": 0, "color_jitter": 0, "weights": "imagenet"}
    places = {"learning_rate": 0.01, "max_epochs": 15, "batch_size": 200, "schedule": "halving"}
    countries = {"learning_rate": 5e-3, "max_epochs": 10, "batch_size": 128}
    countries["schedule"] = "warm_restarts"
    for config, own in ((experiment.location_config, places), (experiment.training, countries)):
        assert config.model_dump(include={*both, *own}) == both | own
    assert (experiment.tau_min, experiment.tau_d) == ((100, 125, 250), 50)
    assert (crops.TRAINING_EDGE, crops.TESTING_EDGE, crops.SIDE) == (320, 256, 224)
    assert (crops.AREA, crops.ASPECT) == ((0.66, 1.0), (3 / 4, 4 / 3))


# The experiment -----------------------------------------------------------------------------------

TRAININGS = ("country_training", "location_training")
TOWNS = [(44.84, -0.58), (45.76, 4.84), (43.06, 141.35), (34.69, 135.5)]  # in France and Japan


@pytest.fixture(scope="module")
def photographs(tmp_path_factory) -> Path:
    """Four towns, a picture each, fourteen noisy copies per town and one that nobody located."""
    root = tmp_path_factory.mktemp("photographs")
    rng = np.random.default_rng(0)
    rows = []
    for number, (country, place) in enumerate(zip(["FR", "FR", "JP", "JP"], TOWNS, strict=True)):
        for _ in range(14):
            pixels = picture(40, 48, number) // 2 + rng.integers(0, 60, (40, 48, 3), np.uint8)
            Image.fromarray(pixels).save(root / f"{len(rows)}.png")
            rows.append((f"{len(rows)}.png", country, *(place + rng.normal(0, 0.005, 2))))
    Image.fromarray(pixels).save(root / "nowhere.png")
    rows.append(("nowhere.png", "JP", None, None))
    columns = ["file", "country", "latitude", "longitude"]
    pd.DataFrame(rows, columns=columns).to_csv(root / "metadata.csv", index=False)
    return root


@pytest.fixture(scope="module")
def experiment(photographs, tmp_path_factory):
    """The paper's recipe, shortened: one epoch each on countries and on places."""
    small = {"arch": NARROW, "weights": "random", "image_size": 32, "precision": "fp32"}
    small |= {"max_epochs": 1, "batch_size": 16}
    parameters = theiner()
    parameters |= {name: parameters[name] | small for name in TRAININGS}
    parameters |= {"dataset": "folder", "root": str(photographs), "classes": ["FR", "JP"]}
    parameters |= {"image_size": 32, "tau_min": [3, 8, 16], "tau_d": 2, "s2_tau_min": 1}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GEOLIB_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield LocationExperiment.from_parameters(parameters)


def test_the_shortened_recipe_runs(experiment):
    table = experiment.places("semantic", "test")
    assert set(table["variant"]) == {"f", "f*"}
    truth = table[["latitude", "longitude"]].to_numpy()
    found = table[["predicted_latitude", "predicted_longitude"]].to_numpy()
    np.testing.assert_allclose(table["km"], great_circle_distance(truth, found))
    finest = experiment.partitionings("semantic")[0]
    np.testing.assert_array_equal(found, finest.coordinates[table["cell"]])
    assert "nowhere.png" not in set(table["image_id"]) and table["assigned"].all()
    assert len(table) == 2 * len(experiment.images("test"))
    # The row of one image is what is drawn of it.
    row = experiment.places("s2", "test").query("variant == 'f'").iloc[0]
    guess = experiment.guess("s2", "test", row["image_id"])
    best = guess.cells.iloc[0]
    assert (guess.cells.index[0], guess.km) == (row["cell"], row["km"])
    assert best["probability"] == pytest.approx(row["probability"])
    assert guess.predicted == (best["latitude"], best["longitude"])
    assert guess.cells["probability"].is_monotonic_decreasing
    assert guess.cells.geometry.notna().all()


def test_what_was_trained_is_found_again(experiment, monkeypatch):
    first = experiment.location_model("semantic")
    again = "geolib.training.location.train_location"
    monkeypatch.setattr(again, lambda *args, **options: pytest.fail("trained again"))
    again = LocationExperiment(**experiment.model_dump()).location_model("semantic")
    assert again.classifier.weights_sha256 == first.classifier.weights_sha256


def test_cells_come_from_the_training_images_alone(experiment):
    points = experiment.coordinates("train")
    for kind in location.KINDS:
        finest, *coarser = experiment.partitionings(kind)
        assert finest.cells["n_samples"].sum() + finest.parameters["n_unassigned"] == len(points)
        assert all(finest.n_classes >= other.n_classes for other in coarser)


def test_errors_stand_beside_the_ceiling_and_the_prior(experiment):
    errors = experiment.errors("test")
    truth = experiment.coordinates("test")
    assert {len(km) for km in errors.values()} == {len(truth)}
    for short in ("SemP", "S2"):
        for variant in ("f", "f*"):
            assert (errors[f"{short}, {variant}"] >= errors[f"{short}, ceiling"] - 1e-9).all()
    finest = experiment.partitionings("semantic")[0]
    commonest = finest.cells["n_samples"].idxmax()
    place = finest.coordinates[[commonest]].repeat(len(truth), axis=0)
    np.testing.assert_allclose(errors["training prior"], great_circle_distance(truth, place))


def test_without_coordinates_the_chapter_says_so_and_goes_on_with_scenes(experiment, tmp_path):
    write_photographs(tmp_path, 7)
    settings = experiment.model_dump() | {"root": str(tmp_path), "classes": None}
    instead, note = LocationExperiment(**settings).located()
    assert instead.dataset == "geoscenes" and "none of them has coordinates" in note
    assert experiment.located()[0] is experiment
    assert f"{len(experiment.images('test'))} in test" in experiment.located()[1]


# Maps --------------------------------------------------------------------------------------------


def guess_of(places, truth):
    """Round cells by name: latitude, longitude, probability."""
    columns = ["name", "latitude", "longitude", "probability"]
    table = pd.DataFrame([(name, *place) for name, place in places.items()], columns=columns)
    round_ = geopandas.points_from_xy(table["longitude"], table["latitude"]).buffer(0.3)
    cells = geopandas.GeoDataFrame(table, geometry=round_, crs="EPSG:4326")
    return Guess("SemP", cells, truth, (table["latitude"][0], table["longitude"][0]), 123.4)


NEAR = {
    "Bordeaux, Gironde, France": (44.8, -0.6, 0.6),
    "Pessac, Gironde, France": (44.81, -0.63, 0.2),
    "Toulouse, Haute-Garonne, France": (43.6, 1.4, 0.15),
    "Sapporo, Hokkaido, Japan": (43.1, 141.3, 0.05),
}


def test_the_map_shows_the_true_place_and_the_answer():
    truth = (45.8, 4.8)
    west, south, east, north = world_map._view([guess_of(NEAR, truth)])
    for latitude, longitude in (truth, (44.8, -0.6), (43.6, 1.4)):
        assert west < longitude < east and south < latitude < north
    assert east < 20  # not as far as the unlikely cell in Japan


def test_the_figure_says_what_the_models_say():
    """Of the names of cells close together only the first is written."""
    guesses = [guess_of(NEAR, (45.8, 4.8))] * 2
    figure = world_map.guesses(picture(40, 60), guesses, "Photograph: A. Author, CC BY-SA 4.0")
    texts = [text.get_text() for text in figure.findobj(Text)]
    words = " ".join(texts)
    assert "SemP, 123 km off:\nBordeaux, Gironde, France" in words
    assert "A. Author, CC BY-SA 4.0" in words
    named = [texts.count(name) for name in ("Bordeaux", "Pessac", "Toulouse", "Sapporo")]
    assert named == [2, 0, 2, 0]
    points = [line.get_xydata() for line in figure.findobj(Line2D) if line.get_marker() == "o"]
    drawn = {tuple(point[0].tolist()) for point in points if len(point)}
    assert {(4.8, 45.8), (-0.6, 44.8)} <= drawn


# Tables ------------------------------------------------------------------------------------------


def test_accuracy_table_by_hand():
    table = location.accuracy_table({"a": [0.5, 30.0, 100.0, np.inf]})
    values = table.set_index("quantity")["value"]
    shares = {"a_1": 0.25, "a_25": 0.25, "a_200": 0.75, "a_750": 0.75, "a_2500": 0.75}
    assert values[:5].to_dict() == shares
    points = 5000 * np.exp(-np.array([0.5, 30, 100]) / 1492.7)
    assert values["score"] == pytest.approx(points.sum() / 4)
    assert (table["low"] <= table["value"]).all() and (table["value"] <= table["high"]).all()


def test_the_table_for_reading_puts_the_best_first():
    near, far = [10.0, 100.0, 100.0, 900.0], [10.0, 400.0, 900.0, np.inf]
    table = location.wide(location.accuracy_table({"far": far, "near": near}))
    assert table.index.tolist() == ["near", "far"]
    assert table.columns.tolist() == ["a_1", "a_25", "a_200", "a_750", "a_2500", "score"]
    assert table.loc["near", "a_200"].startswith("75.0% (30.")
    assert table.loc["far", "a_750"].startswith("50.0% (")


def test_partitionings_in_the_rows_of_table_1():
    rng = np.random.default_rng(0)
    points = np.array(TOWNS).repeat([80, 40, 40, 40], axis=0) + rng.normal(0, 0.02, (200, 2))
    found = location.configurations(points, (10, 30, 90), 5, 2)
    assert list(found)[:2] == ["SemP {10, 30, 90}", "SemP {10, 12, 15}"]
    assert len(found) == 8
    scaled = PAPER_PRESETS[4].scaled(10)
    assert (str(scaled), scaled) == ("SemP_a {8, 10, 15}", ((8, 10, 15), 5, True))
    own, s2 = found["SemP {10, 30, 90}"], found["S2, as many cells"]
    assert abs(own[0].n_classes - s2[0].n_classes) <= 2
    counted = [p.cells["n_samples"].sum() + p.parameters["n_unassigned"] for p in (own[0], s2[0])]
    assert counted == [200, 200]


def test_coordinates_of_a_file_every_fifth_held_out(tmp_path):
    path = tmp_path / "places.csv"
    path.write_text("id,longitude,latitude\na,2,48\nb,,50\nc,-3,40\ne,,\n" + "d,1,2\n" * 8)
    told = r"2 of 12 rows are not read: 1 without coordinates, 1 with one of two.* line 3"
    with pytest.warns(UserWarning, match=told):
        built, tested = location.read_coordinates(path)
    np.testing.assert_array_equal(tested, [[48, 2], [2, 1]])
    np.testing.assert_array_equal(built, [[40, -3], *[[2, 1]] * 7])
    with pytest.raises(ValueError, match=r"coordinates='.*nowhere\.csv' is no file"):
        location.read_coordinates(tmp_path / "nowhere.csv")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,place\na,48\n", "lacks the column 'latitude' and 'longitude'; it has"),
        ("latitude,place\n48,a\n", "lacks the column 'longitude'"),
        ("lat,lng\n48,2\n48,190\n", "line 3: longitude='190'; expected degrees between -180"),
        ("lat,lng\n,\nNA,NA\n", "holds no coordinates"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*rows are not read")
def test_faulty_coordinates_are_named(tmp_path, text, message):
    path = tmp_path / "places.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"places\.csv.*{message}"):
        location.read_coordinates(path)


def test_coordinates_of_geoestimation(tmp_path):
    path = tmp_path / "mp16_places365.csv"
    path.write_text(
        "IMG_ID,AUTHOR,LAT,LON,S3_Label,Prob_indoor\n"
        "f7/4a/5193735797.jpg,62935703@N00,38.8977,-77.0366,2,0.1\n"
        "16/1b/3084.jpg,9382100@N05,-33.8568,151.2153,2,0.1\n"
    )
    built, tested = location.read_coordinates(path)
    assert (built.tolist(), tested.tolist()) == ([[-33.8568, 151.2153]], [[38.8977, -77.0366]])


def test_difference_is_paired():
    near, far = np.full(20, 10.0), np.full(20, 500.0)
    for n in (20, 1):
        found = location.accuracy_gain(near[:n], far[:n], 200, "x")
        assert (found.value, found.low, found.high, found.n) == (100, 100, 100, n)
    mixed = location.accuracy_gain(np.where(np.arange(20) < 10, 10, 500), far, 200, "x")
    assert mixed.value == 50
    assert 0 < mixed.low < 50 < mixed.high < 100


def test_coordinates_of_scenes_need_no_drawing(monkeypatch, tmp_path):
    scenes = data.load("geoscenes", "train", 6, size=64)
    expected = [(scenes[i].latitude, scenes[i].longitude) for i in range(6)]
    monkeypatch.setattr("geoscenes.Scene.image", property(lambda self: pytest.fail("drawn")))
    np.testing.assert_array_equal(location.coordinates(scenes), expected)
    write_photographs(tmp_path, 2)
    nowhere = location.coordinates(data.load("folder", "all", root=tmp_path))
    np.testing.assert_array_equal(nowhere, np.full((4, 2), np.nan))
