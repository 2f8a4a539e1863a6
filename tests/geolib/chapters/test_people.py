"""The study of people: who sees what, what the page holds and keeps, and how answers are read."""

from __future__ import annotations

import ast
import html
import json
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import jupytext
import numpy as np
import pandas as pd
import pytest
import toys
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from pandas.io.formats.style import Styler
from PIL import Image
from statsmodels.stats.inter_rater import aggregate_raters, fleiss_kappa

import geoscenes
from geolib import statistics
from geolib.book import claims, results
from geolib.chapters.experiment import Experiment
from geolib.chapters.people import judging, material, page, responses
from geolib.chapters.people.material import CANNOT_TELL, CONDITIONS, OTHER, THINGS
from geolib.chapters.people.responses import COLUMNS, GENERATED, PERSON
from geoscenes.semantic import CONCEPTS

SIDE = 32


def key(n_scenes=6, n_participants=6, seed=0):
    """A study by hand: scene s is in the s-th country, round and round, and shows a vehicle."""
    classes = ("France", "India", "Japan")
    countries = [classes[scene % 3] for scene in range(n_scenes)]
    framed = {"frame": (4, 8, 20, 24), "things": ("vehicle", "sky")}
    whole, items = {"frame": None, "cues": ("vehicle", "building")}, []
    for number in range(3 * n_scenes):
        scene, condition = number // 3, CONDITIONS[number % 3]
        known = {"item": number, "condition": condition, "picture": f"{number:04d}.png"}
        known |= {"scene": scene, "country": countries[scene], "model": "France", "credit": ""}
        known |= {"observer": CANNOT_TELL if condition == "random" else countries[scene]}
        items.append(material.Item(**known, **(whole if condition == "whole" else framed)))
    orders = material.schedule(countries, n_participants, seed)
    numbered = [[3 * scene + CONDITIONS.index(c) for scene, c in order] for order in orders]
    study = {"id": "abc", "classes": classes, "size": SIDE, "drawn": True}
    return material.Key(**study, items=items, schedule=numbered)


def answers(study, answer=lambda item, person: item.country, element=lambda item, person: "sky"):
    """What people would hand back who answer by a rule."""
    rows = []
    for person, order in enumerate(study.schedule, start=1):
        for position, item in enumerate((study.items[number] for number in order), start=1):
            shown = study.id, PERSON, person, position, item.item, item.condition
            rows.append((*shown, answer(item, person), element(item, person), "", 2.5))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def judge(study, **rules):
    """The answers that follow from rules, with what is known of each picture."""
    return judging.judge(answers(study, **rules), study)


def changed(study, **rules):
    """The study with its items changed by rules: what of an item, and how."""
    news = [{name: rule(item) for name, rule in rules.items()} for item in study.items]
    pairs = zip(study.items, news, strict=True)
    return study.model_copy(update={"items": tuple(i.model_copy(update=new) for i, new in pairs)})


@given(
    countries=st.lists(st.sampled_from(["France", "India", "Japan"]), min_size=1, max_size=20),
    n_participants=st.integers(1, 7),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_the_square_is_balanced(countries, n_participants, seed):
    orders = material.schedule(countries, n_participants, seed)
    for order in orders:
        assert sorted(scene for scene, _ in order) == list(range(len(countries)))
        for among in (set(countries), *({c} for c in countries)):
            shown = [condition for scene, condition in order if countries[scene] in among]
            assert np.ptp([shown.count(condition) for condition in CONDITIONS]) <= 1
    for three in zip(orders, orders[1:], orders[2:], strict=False):
        seen = [dict(order) for order in three]
        for scene in range(len(countries)):
            assert {one[scene] for one in seen} == set(CONDITIONS)


def test_orders_follow_from_the_seed_and_the_number_alone():
    countries = ["France", "India"] * 5
    few, many = material.schedule(countries, 3, 7), material.schedule(countries, 9, 7)
    assert few == many[:3]
    assert material.schedule(countries, 3, 8) != few
    assert len({tuple(scene for scene, _ in order) for order in many}) == 9


def test_as_many_scenes_of_each_country_as_can_be():
    countries = ["France"] * 6 + [None] + ["India"] * 2 + ["Japan"] * 4
    chosen = material._choose(countries, 8, np.random.default_rng(0))
    assert Counter(countries[place] for place in chosen) == {"France": 3, "India": 2, "Japan": 3}
    assert len(material._choose(countries, 99, np.random.default_rng(0))) == 12


def test_every_concept_can_be_named_and_things_fill_a_quarter_of_the_frame():
    assert sorted(name for concepts in THINGS.values() for name in concepts) == sorted(CONCEPTS)
    names = list(THINGS)
    things = np.zeros((10, 10), int)
    things[0:4, 0:4] = 3
    things[0:4, 2:4] = 5  # of a 4 × 4 frame: eight pixels each
    assert material.things_in(things, (0, 0, 4, 4)) == (names[3], names[5])
    assert material.things_in(things, (0, 0, 10, 4)) == (names[0],)  # 24, 8 and 8 of 40
    things[0, 0:4] = range(6, 10)
    things[1, 0:3] = 10
    assert material.things_in(things, (0, 0, 4, 2)) == (names[10],)  # three of eight, others one


def test_the_observer_multiplies_the_cues_shown_and_knows_nothing_without():
    scene = geoscenes.render(3, "Japan", size=96, all_cues=True)
    everything = np.ones((96, 96), bool)
    cues = material.shown_cues(scene, everything)
    assert {cue.category for cue in cues} == set(scene.visible_cues())
    for cue in cues:
        kind = geoscenes.table()[cue.category]
        shares = pd.Series({c: kind.probability(c, cue.look) for c in geoscenes.COUNTRIES})
        ahead = shares.index[shares == shares.max()]
        expected = ahead[0] if len(ahead) == 1 else CANNOT_TELL
        assert material.observe(scene, [cue], geoscenes.COUNTRIES) == expected
    assert material.observe(scene, cues, geoscenes.COUNTRIES) == "Japan"
    assert material.observe(scene, [], geoscenes.COUNTRIES) == CANNOT_TELL
    assert material.shown_cues(scene, ~everything) == []


@pytest.fixture
def photographs(tmp_path, own_cache):
    """A study of photographs that carry positions, and a classifier that sees a planted square."""
    position = Image.Exif()
    position.get_ifd(0x8825)[1] = "N"
    position[0x010E] = "somebody's garden"
    toys.write_photographs(tmp_path / "photos", 2)
    for file in (tmp_path / "photos").glob("*/*.png"):
        with Image.open(file) as image:
            image.load()
            image.save(file, exif=position)
    settings = {"classes": toys.CLASSES, "image_size": toys.SIDE, "top_p": 0.1, "s_min": 0.3}
    experiment = Experiment(dataset="folder", root=str(tmp_path / "photos"), **settings)
    experiment.__dict__["classifier"] = toys.classifier()
    experiment.__dict__["evaluation"] = experiment.split("all", None)
    return experiment


def test_pictures_hide_what_is_not_shown_and_the_model_answers_them(photographs):
    made = material.prepare(photographs, 4, 3, segmenter="grid")
    x0, y0, x1, y1 = toys.BOX
    # Noise about the same grey surrounds the square, so a shown pixel is one that differs at all.
    shown = (made.pictures != np.round(np.array(toys.MEAN) * 255)).any(-1).mean((1, 2))
    coverage: dict[int, dict[str, float]] = {}
    for item, picture, share in zip(made.key.items, made.pictures, shown, strict=True):
        coverage.setdefault(item.scene, {})[item.condition] = share
        if item.condition == "guided":
            square = picture[y0:y1, x0:x1].mean((0, 1))
            assert square.argmax() == (0 if item.country == "red" else 2)
        if item.condition != "random":
            assert item.model == item.country
        assert (item.observer, item.things, item.cues) == (None, (), ())
    for one in coverage.values():
        assert 0.05 < one["guided"] < 0.5 < 0.8 < one["whole"]
        assert one["random"] == pytest.approx(one["guided"], abs=0.05)
    assert not made.key.drawn
    again = material.prepare(photographs, 4, 3, segmenter="grid")
    assert again.key == made.key
    assert (again.pictures == made.pictures).all()


def test_the_page_tells_no_answer_and_its_pictures_no_place(photographs, tmp_path):
    made = material.prepare(photographs, 4, 3, segmenter="grid")
    contact = "</script><b>Ada & Co</b>"
    written = page.write(tmp_path / "study", made, contact)
    pictures = sorted(written.parent.glob("*.png"))
    assert len(pictures) == 12
    for picture, expected in zip(pictures, made.pictures, strict=True):
        with Image.open(picture) as image:
            assert (np.asarray(image) == expected).all()
            assert not image.info and not image.getexif()
        assert b"garden" not in picture.read_bytes()
    told = json.loads((written.parent / "items.json").read_text())
    assert set(told["items"][0]) == {"item", "condition", "picture", "frame", "credit"}
    text = written.read_text()
    _, _, rest = text.partition('<script type="application/json" id="study">')
    assert json.loads(rest.partition("</script>")[0]) == told and told["contact"] == contact
    assert "http:" not in text and "https:" not in text
    assert responses.read_key(tmp_path / "study") == made.key
    with pytest.raises(ValueError, match="is not empty"):
        page.write(tmp_path / "study", made)


def test_answers_come_back_from_files(tmp_path):
    experiment = key()
    table = answers(experiment)
    table.loc[0, ["element", "other"]] = [OTHER, 'a "red", round thing']
    table[table["participant"] <= 3].to_csv(tmp_path / "b.csv", index=False)
    # One stopped early; that file was saved by a spreadsheet, with a mark at its start.
    rest = table[(table["participant"] == 4) & (table["position"] <= 2)]
    spreadsheet = {"sep": ";", "decimal": ",", "encoding": "utf-8-sig", "lineterminator": "\r\n"}
    rest.to_csv(tmp_path / "a.csv", index=False, **spreadsheet)
    back = responses.read_answers(tmp_path, experiment)
    expected = pd.concat([rest, table[table["participant"] <= 3]], ignore_index=True)
    pd.testing.assert_frame_equal(back, expected, check_dtype=False)
    assert responses.label(back) == "Answers of 4 people"


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        *(("study", "other", "'abc'"), ("source", "me", "'person', 'generated'")),
        *(("participant", "7", "'1', '2', '3', '4', '5', '6'"), ("participant", "x", "'1'")),
        *(("position", "9", "'6'"), ("item", "0.5", "expected '"), ("element", "", "'vehicle'")),
        ("answer", "Spain", "'France', 'India', 'Japan', 'cannot tell'"),
        ("condition", "guide", "expected '"),
        *(("seconds", seconds, "at least 0") for seconds in ("-1", "inf", "soon")),
    ],
)
def test_a_wrong_value_is_named_by_file_row_and_column(tmp_path, column, value, words):
    table = answers(key()).astype(str)
    table.loc[2, column] = value
    table.to_csv(tmp_path / "anna.csv", index=False)
    with pytest.raises(ValueError, match=rf"anna.csv row 4, column '{column}': '{value}'") as error:
        responses.read_answers(tmp_path, key())
    assert words in str(error.value)


def refused_answers():
    """Files that hold no answers of the study, and what is said of them."""
    table = answers(key())
    swapped = table.copy()  # the first person's first picture is that of the second place
    swapped.loc[0, ["item", "condition"]] = table.loc[1, ["item", "condition"]]
    whole, out_of_order = (t.to_csv(index=False).encode() for t in (table, swapped))
    return [
        ([], "no CSV file"),
        ([b"study;participant\nabc;1\n"], r"0\.csv lacks the column 'source' and 'position'"),
        ([b""], r"0\.csv"),
        ([b"\xff\xfe\x00"], r"0\.csv"),
        ([b"study,source\nabc,person,1,2\nabc,person,1,2,3\n"], r"0\.csv"),
        ([whole] * 2, r"twice \(0\.csv row (\d+), 1\.csv row \1\)"),
        ([out_of_order], "row 2, column 'item'"),
    ]


@pytest.mark.parametrize(("files", "message"), refused_answers())
def test_files_that_hold_no_answers_of_the_study_are_refused(tmp_path, files, message):
    for number, content in enumerate(files):
        (tmp_path / f"{number}.csv").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        responses.read_answers(tmp_path, key())
    with pytest.raises(ValueError, match=r"key\.json is not in"):
        responses.read_key(tmp_path)
    (tmp_path / "key.json").write_text("<html>")
    with pytest.raises(ValueError, match=r"key\.json is no key that `geolib study-page` wrote"):
        responses.read_key(tmp_path)


def test_a_study_of_nothing_is_refused():
    with pytest.raises(ValueError, match="0 scenes"):
        material.schedule([], 3)
    with pytest.raises(ValueError, match="n_participants=0"):
        material.schedule(["France"], 0)
    whole = answers(key()).query("condition == 'whole'")
    with pytest.raises(ValueError, match="shown as guided or random; expected some of each"):
        judging.judge(whole, key())


def test_generated_answers_say_so_and_cannot_hide_among_peoples(tmp_path):
    experiment = key()
    made = responses.simulate(experiment, 6)
    assert set(made["source"]) == {GENERATED}
    pd.testing.assert_frame_equal(made, responses.simulate(experiment, 6))
    assert not made.equals(responses.simulate(experiment, 6, seed=1))
    made[made["participant"] > 1].to_csv(tmp_path / "a.csv", index=False)
    back = responses.read_answers(tmp_path, experiment)
    assert responses.label(back).startswith("GENERATED answers of 5 simulated participants")
    assert "no person has answered" in responses.label(back)
    people = answers(experiment)
    people[people["participant"] == 1].to_csv(tmp_path / "b.csv", index=False)
    with pytest.raises(ValueError, match="mixes people's answers with generated ones"):
        responses.read_answers(tmp_path, experiment)


def test_the_report_finds_what_the_generator_was_told():
    experiment = key(n_scenes=30, n_participants=30)
    told = {"whole": 0.9, "guided": 0.9, "random": 0.2}
    even, uneven = (
        judging.advantage(judging.judge(responses.simulate(experiment, 30, knows=how), experiment))
        for how in (responses.KNOWS, told)
    )
    assert even["low"] < 0 < even["high"]
    assert uneven["low"] > 0.2
    assert "Guided boxes tell the country better" in judging.outcome_note(uneven)


def test_the_note_on_the_outcome_says_what_could_have_been_shown():
    turned = {"value": -0.2, "low": -0.3, "high": -0.1, "detectable": 0.14}
    note = judging.outcome_note(turned)
    assert "Random boxes tell the country better" in note
    assert "a difference of 14 points four times in five" in note
    assert "No difference" in judging.outcome_note(turned | {"high": 0.0})
    note = judging.outcome_note(turned | dict.fromkeys(("low", "high", "detectable"), np.nan))
    assert note.startswith("**Too few people or scenes for an interval.** Right with guided minus ")
    assert note.endswith("right with random boxes: -20 percentage points.")


def test_accuracies_by_hand():
    """Everyone is right on whole scenes, on guided ones if French, and never on random ones."""
    rule = {"guided": "France", "random": CANNOT_TELL}
    judged = judge(key(), answer=lambda item, person: rule.get(item.condition, item.country))
    table = judging.accuracy(judged)
    found = table.set_index(["row", "group"])
    people = found.xs("people", level="group")
    assert people["value"].to_dict() == {"whole": 1, "guided": pytest.approx(1 / 3), "random": 0}
    assert people.index.tolist() == ["whole", "guided", "random"]
    assert people.loc["whole", ["low", "high"]].tolist() == [1, 1]
    assert people.loc["random", ["low", "high"]].tolist() == [0, 0]
    assert people.loc["guided", "low"] < 1 / 3 < people.loc["guided", "high"]
    seen = found["value"].loc[
        [("guided", "model"), ("guided", "true cues"), ("random", "true cues")]
    ]
    assert seen.tolist() == pytest.approx([1 / 3, 1, 0])
    # Guided minus random: one scene in three, for everyone alike.
    assert judging.advantage(judged)["value"] == pytest.approx(1 / 3)
    shown = judging.accuracy_table(judged, table).data
    assert shown.loc["random", "people cannot tell"] == "100%"
    row = ["100% (100%\u00a0to 100%)", "2.5", 12]
    assert shown.loc["whole", ["people", "seconds", "answers"]].tolist() == row


@pytest.mark.parametrize(
    ("codes", "items", "drawn", "expected"),
    [
        # They agree on three of four; 3/8 of the answers are 0: (48 − 34) / (64 − 34).
        ([0, 0, 0, 1, 1, 1, 1, 1], [0, 0, 1, 1, 2, 2, 3, 3], 1, 7 / 15),
        # Of answers 0, 0, 1 one pair in three agrees, and the pair 1, 1: half, as by chance.
        ([0, 0, 1, 1, 1], [0, 0, 0, 1, 1], 1, 0),
        # Two who never agree still never do when one of them is drawn twice.
        ([0, 1, 1, 0], [0, 0, 1, 1], [2, 1, 2, 1], -1),
        ([0, 1], [0, 1], 1, np.nan),  # nobody is compared with themselves
    ],
)
def test_kappa_among_people_by_hand(codes, items, drawn, expected):
    ones = np.ones(len(codes))
    found = judging.kappa_among(np.array(codes), np.array(items), 2)(ones * drawn, ones)
    assert found == pytest.approx(expected, nan_ok=True)


def test_kappa_is_that_of_fleiss_and_of_cohen():
    """Three of five agree; both say 0, 0, 1, 1, 2 in some order: (15 − 9) / (25 − 9)."""
    for n_items, n_people in ((20, 5), (4, 2)):
        codes = np.random.default_rng(0).integers(0, 3, (n_items, n_people))
        ones = np.ones(codes.size)
        found = judging.kappa_among(codes.ravel(), np.repeat(np.arange(n_items), n_people), 3)
        assert found(ones, ones) == pytest.approx(fleiss_kappa(aggregate_raters(codes, 3)[0]))
    people, machine = np.array([0, 0, 1, 1, 2]), np.array([0, 1, 1, 0, 2])
    ones = np.ones(5)
    assert judging.kappa(people, machine, 3)(ones, ones) == pytest.approx((15 - 9) / (25 - 9))
    twice = np.array([1.0, 0, 1, 0, 1])
    assert judging.kappa(people, machine, 3)(twice, ones) == pytest.approx(1)


def test_agreement_of_people_who_all_know_and_a_model_that_knows_one_country():
    table = judging.agreement(judge(key()))
    found = table.set_index(["row", "group"])["value"]
    assert found["people with each other"].tolist() == pytest.approx([1] * 3)
    assert found["people with model"].tolist() == pytest.approx([0] * 3)
    assert found["people with true cues", "guided"] == pytest.approx(1)
    assert found["people with true cues", "random"] == pytest.approx(0)
    assert table["row"].iloc[-1] != "people with each other"
    # All alike: nothing is known of what could have been detected.
    assert table.loc[table["row"] == "people with each other", "detectable"].isna().all()
    # Photographs have no true cues to agree with.
    judged = judge(changed(key(), observer=lambda item: None))
    assert set(judging.accuracy(judged)["group"]) == {"people", "model"}
    assert set(judging.agreement(judged)["row"]) == {"people with each other", "people with model"}


def test_naming_by_hand():
    """All frames show a vehicle and the sky, all scenes have vehicle and building as cues."""
    experiment = key()

    def element(item, person):
        return "sky" if item.condition == "guided" else "building"

    judged = judge(experiment, element=element)
    table = judging.naming(judged)
    assert table["value"].to_dict() == {"guided": 1, "whole": 1, "random": 0}
    assert table["by_chance"].to_dict() == {"guided": 1, "whole": 1, "random": 0}
    told = judging.telling(judged, experiment).set_index(["row", "group"])["value"]
    assert told["building", "people"] == told["vehicle", "model"] == 1
    assert told["vehicle", "true cues"] == told["building", "true cues"] == 0.5
    assert ("mountain or hill", "people") not in told
    # One thing in every second scene, named in every scene: right in half, and so by chance.
    half = changed(experiment, cues=lambda item: ("sky",) if item.scene % 2 else item.cues)
    row = judging.naming(judge(half, element=element)).loc["whole"]
    assert (row["value"], row["by_chance"], row["excess"]) == (0.5, 0.5, 0)


def test_naming_above_chance_by_hand():
    """Frames show a vehicle in every second scene, else a building; guided ones are named right.

    Of the eleven other scenes of twelve, five show what one shows: by chance 5/11.
    """
    shown = [("vehicle",), ("building",)]

    def element(item, person):
        return item.things[0] if item.condition == "guided" else "sky"

    study = changed(key(12), things=lambda item: shown[item.scene % 2] if item.frame else ())
    table = judging.naming(judge(study, element=element))
    assert table.index.tolist()[0] == "guided"
    row = table.loc["guided"]
    assert (row["value"], row["low"], row["high"]) == (1, 1, 1)
    assert (row["by_chance"], row["excess"]) == (pytest.approx(5 / 11), pytest.approx(6 / 11))
    # The mix of scenes changes what chance gives, so the excess varies although the share does not.
    assert 0 < row["excess_low"] < row["excess"] < row["excess_high"] <= 1
    html = judging.naming_table(table).to_html()
    assert "100% (100%\u00a0to 100%)" in html and "+55% (" in html and ">45%<" in html


def test_naming_that_knows_nothing_of_the_picture_is_by_chance_on_average():
    three = list(THINGS)[:3]
    experiment = changed(key(n_participants=30), cues=lambda item: (three[item.scene % 3],))
    rng = np.random.default_rng(0)
    found = []
    for _ in range(60):
        judged = judge(experiment, element=lambda item, person: three[rng.integers(3)])
        whole = judged[judged["condition"] == "whole"]
        found.append(judging._excess(whole)(np.ones(len(whole)), np.ones(len(whole))))
    assert abs(np.mean(found)) < 3 * np.std(found) / np.sqrt(len(found))


def test_people_who_name_a_thing_in_nine_of_ten_frames():
    experiment = key(n_scenes=60, n_participants=60)
    rng, said = np.random.default_rng(0), ["vehicle", "sky", OTHER, CANNOT_TELL]
    shares = [0.4, 0.3, 0.2, 0.1]
    table = answers(experiment, element=lambda item, person: rng.choice(said, p=shares))
    table["other"] = np.where(table["element"] == OTHER, "a well", "")
    judged = judging.judge(table, experiment)
    found = judging.perceptible(judged, experiment)
    guided = table[table["condition"] == "guided"]
    assert found.value == pytest.approx((guided["element"] != CANNOT_TELL).mean())
    assert found.low < found.value < found.high and found.n == 60
    assert found.data == "GeoScenes, one element in each of 60, answers of 60 people"
    claim = claims.claims()["object-perceptible"]
    assert claims.verdict(claim, found) == "reproduced on GeoScenes"
    assert judging.perceptible(judged[judged["participant"] == 1], experiment) is None
    # Few people decide nothing, however many scenes they saw.
    few = judging.perceptible(judged[judged["participant"] <= 6], experiment)
    assert few.n == 6 and claims.verdict(claim, few) == "inconclusive on GeoScenes"
    # "Something else" without a word names nothing, and random frames do not count.
    table["other"] = " "
    table.loc[table["condition"] == "random", "element"] = CANNOT_TELL
    wordless = judging.perceptible(judging.judge(table, experiment), experiment)
    assert wordless.value == pytest.approx(guided["element"].isin(THINGS).mean())
    photographs = judging.perceptible(judged, experiment.model_copy(update={"drawn": False}))
    assert photographs.data.startswith("photographs,") and photographs.value == found.value


def _report(experiment, folder, monkeypatch):
    """What the chapter's report shows of a folder of answers, cell by cell, and what it records."""
    (folder / "key.json").write_text(experiment.model_dump_json())
    notebook = jupytext.read(Path(__file__).parents[3] / "notebooks" / "15-human-study.md")
    cells = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    first = next(source for source in cells if "read_answers" in source)
    report = next(i for i, source in enumerate(cells) if "judging.accuracy(" in source)
    shown, kept = [], {}
    monkeypatch.setattr(results, "record", lambda **values: kept.update(values))
    made = material.Material(experiment, np.zeros((0, SIDE, SIDE, 3), np.uint8))
    names = {"answers": str(folder), "study": made, "key": experiment, "seed": 0}
    names |= {"n_participants": 6, "display": shown.append}
    imports = next(source for source in cells if "import" in source).splitlines()
    exec("\n".join(line for line in imports if line.startswith(("import", "from"))), names)
    for source in [first, *cells[report:]]:
        *body, last = ast.parse(source).body
        if not isinstance(last, ast.Expr):
            body.append(last)
        exec(compile(ast.Module(body, []), "cell", "exec"), names)
        if isinstance(last, ast.Expr):
            shown.append(eval(compile(ast.Expression(last.value), "cell", "eval"), names))
    return [_text(one) for one in shown if one is not None], kept


def _text(shown):
    if isinstance(shown, Figure):
        return shown.get_suptitle()
    return shown.to_html() if isinstance(shown, Styler) else shown.data


def test_the_chapter_records_the_claim_of_people_and_of_nobody_else(tmp_path, monkeypatch):
    """The same answers, as they were generated and as if people had given them."""
    experiment = key()
    made = responses.simulate(experiment, 6, seed=1)
    reports = {}
    for source in (GENERATED, PERSON):
        folder = tmp_path / source
        folder.mkdir()
        made.assign(source=source).to_csv(folder / "answers.csv", index=False)
        reports[source] = _report(experiment, folder, monkeypatch)
    shown, kept = reports[GENERATED]
    assert len(shown) > 8
    assert [text for text in shown if "GENERATED answers of 6 simulated" not in text] == []
    assert shown[0].startswith("**Nobody has answered yet.**")
    assert "not testable here" in shown[-1]
    assert kept == {"n_scenes": 6, "n_pictures": 18, "n_participants": 6, "n_people": 0}

    shown, kept = reports[PERSON]
    assert [text for text in shown if "Answers of 6 people" not in text] == []
    assert not any("GENERATED" in text or "Nobody" in text for text in shown)
    assert kept["n_people"] == 6
    guided = made[made["condition"] == "guided"]
    assert kept["claim.object-perceptible.value"] == (guided["element"] != CANNOT_TELL).mean()
    assert "other pictures" not in shown[0]


def test_the_report_of_one_person_has_no_intervals_and_no_claim(tmp_path, monkeypatch):
    table = answers(key())
    table[table["participant"] == 2].to_csv(tmp_path / "a.csv", index=False)
    shown, kept = _report(key(), tmp_path, monkeypatch)
    assert not any("nan" in text for text in shown)
    assert any("Too few people or scenes for an interval" in text for text in shown)
    assert not any(name.startswith("claim.") for name in kept)


@pytest.mark.parametrize("varies", ["participant", "scene"])
def test_intervals_are_as_wide_as_whatever_varies(varies):
    """If only the person (or only the scene) decides, many answers do not narrow the interval."""
    gaps = np.random.default_rng(0).normal(0, 1, 30)
    grid = pd.MultiIndex.from_product([range(30), range(30)], names=["participant", "scene"])
    table = grid.to_frame(index=False)
    share = judging._share(gaps[table[varies]])
    found, alone = judging.interval(table, share), statistics.interval(gaps)
    width = found["high"] - found["low"]
    assert found["value"] == pytest.approx(gaps.mean())
    assert width == pytest.approx(alone.high - alone.low, rel=0.15)
    # 2.8 standard errors show themselves four times in five; an interval spans 3.92 of them.
    assert found["detectable"] == pytest.approx(2.8016 / 3.9199 * width, rel=1e-4)
    assert found["detectable"] == pytest.approx(statistics.detectable_effect(gaps), rel=0.15)
    assert found == judging.interval(table, share)


def test_one_person_and_answers_all_alike_say_nothing_of_what_could_have_been_detected():
    for people, right, width in (([1, 1], [0, 1], np.nan), ([1, 2], [1, 1], 0)):
        table = pd.DataFrame({"participant": people, "scene": [1, 2]})
        found = judging.interval(table, judging._share(right))
        assert found["value"] == np.mean(right) and np.isnan(found["detectable"])
        assert found["high"] - found["low"] == pytest.approx(width, nan_ok=True)


def test_the_page_keeps_answers_over_a_reload_and_saves_what_the_reader_reads(tmp_path):
    browsers = filter(shutil.which, ("chromium", "google-chrome", "chromium-browser"))
    if not (chromium := next(browsers, None)):
        pytest.skip("no Chromium: none of chromium, google-chrome, chromium-browser is installed")
    experiment = key()
    pictures = np.random.default_rng(0).integers(0, 255, (18, SIDE, SIDE, 3), np.uint8)
    written = page.write(tmp_path / "study", material.Material(experiment, pictures))
    probe = tmp_path / "probe.html"
    script = Path(__file__).with_name("study_probe.html").read_text(encoding="utf-8")
    probe.write_text(script.replace("ADDRESS", written.as_uri()), encoding="utf-8")
    command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--allow-file-access-from-files"]
    command += ["--virtual-time-budget=20000", "--dump-dom", probe.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    report = done.stdout.partition('<pre id="report">')[2].partition("</pre>")[0]
    assert report, done.stderr[-2000:]
    seen = json.loads(html.unescape(report))
    assert "error" not in seen, seen

    assert (seen["start"], seen["number"]) == (["start"], "2")
    assert seen["unconsented"] == ["start"]
    assert seen["unanswered"] == "Picture 1 of 6"
    third = experiment.items[experiment.schedule[1][2]]
    for state in (seen["before"], seen["after"]):
        assert (state["visible"], state["where"]) == (["view"], "Picture 3 of 6")
        assert state["chosen"] == ["India"] and state["other"] == ""
        assert state["frame"] == (third.frame is not None)
        assert state["wide"] <= 390
    assert seen["after"]["drawn"] == SIDE
    assert seen["end"] == [["end"], "You answered 2 of 6 pictures."]
    assert seen["saved"] == 1 and seen["refused"] == [["end"], 1]
    gone = [["start"], 0, False, "Your answers are deleted here. You can close this page."]
    assert seen["deleted"] == seen["later"] == gone
    assert seen["reloaded"] == [["start"], 0, False, ""]
    assert seen["again"] == [["view"], "Picture 1 of 6", ""]

    (tmp_path / "answers.csv").write_text(seen["csv"], encoding="utf-8", newline="")
    table = responses.read_answers(tmp_path, experiment)
    assert table["item"].tolist() == list(experiment.schedule[1][:2])
    assert set(table["participant"]) == {2} and set(table["source"]) == {PERSON}
    said = [("Japan", "vehicle", ""), (CANNOT_TELL, OTHER, 'a "thing", yes')]
    assert list(table[["answer", "element", "other"]].itertuples(index=False, name=None)) == said
