"""tools/report.py: the page as a parser sees it, against the scores and masks it was made of."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets.mevis import open_mevis
from datasets.ref_ytvos import open_ref_ytvos
from engine.published_figures import davis_table
from engine.report.cases import PICTURES_BYTES
from engine.scoring.davis import MEASURES
from tests.benchmark_files import encode_rle, frame_names, labels, write_json, write_mevis, write_ytvos
from tests.html_tree import Node, parse
from tests.report_runs import davis_run, scored_mevis, write_predictions, write_record
from tools import evaluate
from tools.report import main

ATTACKS = ('<script>alert("1")</script>', "\"'><img src=x onerror=alert(1)>", "a \x00 b &amp; عربي")


def make_page(run: Path, *options: str) -> Node:
    main([str(run), *options])
    return parse((run / "report.html").read_text("utf-8"))


@pytest.fixture
def mevis_run(tmp_path: Path) -> Path:
    """A run on MeViS."""
    return scored_mevis(tmp_path)


def percent(value: float) -> str:
    return f"{100 * value:.2f}"


def pictures(node: Node) -> list[Image.Image]:
    data = [str(image.attributes["src"]).removeprefix("data:image/jpeg;base64,") for image in node.all("img")]
    return [Image.open(io.BytesIO(base64.b64decode(text, validate=True))) for text in data]


def test_scores_of_mevis_stand_beside_the_published_ones(mevis_run: Path) -> None:
    page = make_page(mevis_run)
    scores = json.loads((mevis_run / "scores.json").read_text())
    official, by_text, none = scores["official"], scores["by_text"], scores["no_target"]
    assert page.one("table", id="scores").rows() == [
        ["measure", "official", "by text", "published"],
        *([name, percent(official[name]), percent(by_text[name]), ""] for name in ("J", "F")),
        ["J&F", percent(official["J&F"]), percent(by_text["J&F"]), "57.1"],
        ["no target accuracy", percent(none["no_target_accuracy"]), "", ""],
        ["target accuracy", percent(none["target_accuracy"]), "", ""],
    ]
    assert [tile.text for tile in page.all("span", class_="figure")] == [percent(by_text["J&F"]), "57.1"]
    assert "MeViS valid_u · 2 videos · 6 sentences · 4 frames" in page.one("header").text


def test_the_table_has_every_sentence_with_its_scores(mevis_run: Path) -> None:
    table = make_page(mevis_run).one("table", id="sentences")
    entries = json.loads((mevis_run / "scores.json").read_text())["expressions"]
    header, *rows = table.rows()
    assert header == ["sentence", "J&F", "J", "F", "target %", "frames", "video", "id"]
    assert rows == [
        [
            entry["text"],
            *(percent(entry[name]) for name in ("J&F", "J", "F", "target_area")),
            str(entry["frames"]),
            entry["video"],
            entry["expression_id"],
        ]
        for entry in entries
    ]
    assert all(cell.attributes["aria-sort"] == "none" and cell.one("button") for cell in table.all("th"))


def test_cases_go_from_the_worst_and_from_the_best(mevis_run: Path) -> None:
    page = make_page(mevis_run, "--cases", "2")
    entries = json.loads((mevis_run / "scores.json").read_text())["expressions"]
    ranked = sorted((entry for entry in entries if entry["has_target"]), key=lambda entry: entry["J&F"])
    groups = [section for section in page.all("section") if section.all("article")]
    assert [group.one("h2").text for group in groups] == [
        "Worst cases",
        "Best cases",
        "Sentences without a target for which something was found",
    ]
    expected = [ranked[:2], ranked[::-1][:2], [entry for entry in entries if not entry["has_target"]]]
    for group, own in zip(groups, expected, strict=True):
        cases = group.all("article")
        assert [case.one("p", class_="sentence").text for case in cases] == [entry["text"] for entry in own]
        for case, entry in zip(cases, own, strict=True):
            assert f"J {percent(entry['J'])}, F {percent(entry['F'])}, J&F {percent(entry['J&F'])}" in case.text
            assert len(case.all("img")) == 2 * entry["frames"]  # videos of up to 3 frames are shown in full
    links = [str(link.attributes["href"]) for link in page.one("table", id="sentences").all("a")]
    assert sorted(links) == sorted(f"#{case.attributes['id']}" for case in page.all("article"))


def test_pictures_show_prediction_and_target_at_the_size_of_the_frame(mevis_run: Path) -> None:
    page = make_page(mevis_run)
    case = next(case for case in page.all("article") if "one, sentence 0" in case.text)
    frames = case.one("div", class_="strip").all("figure")
    assert [frame.one("figcaption").text for frame in frames] == [f"frame {name} · J 100" for name in frame_names(3)]
    for index, frame in enumerate(frames):
        predicted, target = (np.asarray(picture).astype(int) for picture in pictures(frame))
        assert predicted.shape == target.shape == (24, 32, 3)
        inside = np.s_[4:8, index + 2 : index + 6]  # of object 1, away from its rim and from the blur of JPEG
        assert (predicted[inside][..., 0] > target[..., 0].min() + 60).all()
        assert target[inside][..., 1].mean() > predicted[inside][..., 1].mean() + 30  # yellow has more green than red
        alts = [image.attributes["alt"] for image in frame.all("img")]
        assert alts == [f"{what} in frame {index:05d}: The  walker" for what in ("Prediction", "Ground truth")]


def test_every_plot_counts_every_sentence(mevis_run: Path) -> None:
    page = make_page(mevis_run)
    entries = json.loads((mevis_run / "scores.json").read_text())["expressions"]
    length, size = page.all("figure", class_="plot")
    assert (len(length.all("circle")), len(size.all("circle"))) == (6, 5)  # one sentence has no target
    ((low, high, count, mean),) = length.all("table")[0].rows()[1:]
    assert (low, high, count) == ("1", "9", "6")
    assert float(mean) == pytest.approx(100 * np.mean([entry["J&F"] for entry in entries]), abs=0.005)
    assert sum(int(row[2]) for row in size.all("table")[0].rows()[1:]) == 5
    assert "Sentences without a target, which are not in the plot by size: 1, mean J&F" in page.text


def test_the_page_needs_nothing_else(mevis_run: Path) -> None:
    page = make_page(mevis_run)
    anchors = [str(node.attributes["id"]) for node in page.walk() if "id" in node.attributes]
    assert len(anchors) == len(set(anchors))
    for node in page.walk():
        assert node.tag not in ("link", "iframe", "object", "base", "form")
        assert not any(name.startswith("on") or name == "style" for name in node.attributes)
        source, target = node.attributes.get("src"), node.attributes.get("href")
        assert source is None or source.startswith("data:image/jpeg;base64,")
        assert target is None or (target[0] == "#" and target[1:] in anchors)
    style, script = page.one("style").text, page.one("script").text
    assert "url(" not in style
    assert "@import" not in style
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script)]
    policy = page.one("meta", **{"http-equiv": "Content-Security-Policy"}).attributes["content"]
    assert policy == (
        f"default-src 'none'; img-src data:; style-src 'sha256-{hashes[0]}'; script-src 'sha256-{hashes[1]}'; "
        "base-uri 'none'"
    )
    used = re.findall(r'getElementById\("(.*?)"\)', script)
    assert used
    assert set(used) <= set(anchors)


def test_sections_come_in_order_and_are_linked(mevis_run: Path) -> None:
    page = make_page(mevis_run)
    names = [
        "Scores",
        "By length and size",
        "Worst cases",
        "Best cases",
        "Sentences without a target for which something was found",
        "All sentences",
        "How it was made",
    ]
    assert [heading.text for heading in page.all("h2")] == names
    assert [link.text for link in page.one("nav").all("a")] == names
    assert page.one("html").attributes["lang"] == "en"
    assert page.one("meta", name="viewport").attributes["content"] == "width=device-width, initial-scale=1"
    assert "prefers-color-scheme: dark" in page.one("style").text


def test_sentences_and_records_cannot_become_markup(mevis_run: Path) -> None:
    meta_path = mevis_run.parent / "data" / "valid_u" / "meta_expressions.json"
    meta = json.loads(meta_path.read_text())
    for attack, expression in zip(ATTACKS, meta["videos"]["one"]["expressions"].values(), strict=False):
        expression["exp"] = attack
    write_json(meta_path, meta)
    options = ["--mevis_path", str(mevis_run.parent / "data"), "--output_dir", str(mevis_run), "--num_workers", "0"]
    evaluate.main(["mevis", str(mevis_run / "Annotations"), *options])
    record = json.loads((mevis_run / "run.json").read_text())
    write_json(mevis_run / "run.json", {**record, "command": ATTACKS[0], ATTACKS[1]: {ATTACKS[0]: [ATTACKS[1]]}})
    page = make_page(mevis_run)
    assert len(page.all("script")) == 1
    assert not any(name.startswith("on") for node in page.walk() for name in node.attributes)
    texts = [row[0] for row in page.one("table", id="sentences").rows()[1:]]
    assert texts[:3] == [*ATTACKS[:2], "a \ufffd b &amp; عربي"]
    assert page.one("pre").text == ATTACKS[0]
    assert {ATTACKS[0], ATTACKS[1]} <= {node.text for node in page.all("p", class_="sentence")}


def test_facts_of_the_run(mevis_run: Path) -> None:
    record = json.loads((mevis_run / "run.json").read_text()) | {
        "weights": {"files": [{"path": "w.pth", "sha256": "ab12"}], "tensors": {"loaded": 7}},
        "environment": {"python": "3.11.7", "revision": None},
        "timing": {"model": 3.25, "total": 4.0, "processes": []},
        "attempts": [{"masks": 5, "model": 1e-05, "processes": [{"masks": 5}]}, {"masks": 6}],
    }
    write_json(mevis_run / "run.json", record)
    section = make_page(mevis_run).all("section")[-1]
    assert section.one("pre").text == record["command"]
    shown = {details.one("summary").text: details for details in section.all("details")}
    assert list(shown) == [
        "Configuration",
        "What decides the masks",
        "Weights",
        "Versions and hardware",
        "Time in seconds",
        "Time in seconds, per attempt",
    ]
    assert shown["Versions and hardware"].rows() == [["python", "3.11.7"], ["revision", "none"]]
    assert ["w.pth", "ab12"] in shown["Weights"].rows()
    assert ["model", "3.25"] in shown["Time in seconds"].rows()
    attempts = shown["Time in seconds, per attempt"].all("table")[0].rows()
    assert attempts == [["masks", "model"], ["5", "1e-05"], ["6", ""]]


def test_shards_that_were_merged(mevis_run: Path) -> None:
    record = json.loads((mevis_run / "run.json").read_text())
    for number in (1, 2):
        write_json(mevis_run / f"run-shard-{number}-of-2.json", {**record, "command": f"shard {number}"})
    del record["flags"]
    write_json(mevis_run / "run.json", {**record, "command": "merge"})
    section = make_page(mevis_run).all("section", id="part-7")[0]
    assert [heading.text for heading in section.all("h3")] == [
        "run.json",
        "run-shard-1-of-2.json",
        "run-shard-2-of-2.json",
    ]
    assert [command.text for command in section.all("pre")] == ["merge", "shard 1", "shard 2"]


def test_masks_of_someone_else(mevis_run: Path) -> None:
    """Without run.json, masks in a zip, another place for the page."""
    (mevis_run / "run.json").unlink()
    shutil.make_archive(str(mevis_run.parent / "theirs"), "zip", mevis_run / "Annotations")
    shutil.rmtree(mevis_run / "Annotations")
    data, out = str(mevis_run.parent / "data"), mevis_run.parent / "pages" / "page.html"
    options = ["--dataset_file", "mevis", "--mevis_path", data, "--out", str(out)]
    main([str(mevis_run), *options, "--predictions", str(mevis_run.parent / "theirs.zip"), "--cases", "1"])
    page = parse(out.read_text("utf-8"))
    assert len(page.all("article")) == 3
    assert "There is no run.json" in page.all("section")[-1].text


def test_a_split_without_ground_truth_shows_predictions(tmp_path: Path) -> None:
    write_mevis(tmp_path / "data", "valid")
    write_predictions(tmp_path / "run" / "Annotations", open_mevis(tmp_path / "data", "valid"))
    write_record(tmp_path / "run", "mevis valid", mevis_path=str(tmp_path / "data"))
    page = make_page(tmp_path / "run", "--cases", "3")
    assert "There are no scores" in page.one("p", class_="notice").text
    assert "Published: 49.5 J&F" in page.one("p", class_="notice").text
    assert [node.text for node in page.all("h2")] == ["Scores", "Examples", "All sentences", "How it was made"]
    assert [case.attributes["id"] for case in page.all("article")] == ["case-0", "case-2", "case-5"]
    assert len(page.all("img")) == 3 + 3 + 1
    assert page.one("table", id="sentences").rows()[0] == ["sentence", "frames", "video", "id"]
    assert not page.all("svg")


def test_version_2_of_mevis_is_not_beside_what_is_published_for_version_1(tmp_path: Path) -> None:
    write_mevis(tmp_path / "data", "valid", "meta_expressions_v2.json")
    write_predictions(tmp_path / "run" / "Annotations", open_mevis(tmp_path / "data", "valid"))
    write_record(tmp_path / "run", "mevis valid", mevis_path=str(tmp_path / "data"))
    page = make_page(tmp_path / "run", "--cases", "1")
    assert "Published" not in page.one("p", class_="notice").text
    assert "MeViS valid (version 2) · 2 videos" in page.one("header").text


def test_ref_youtube_vos(tmp_path: Path) -> None:
    write_ytvos(tmp_path / "data", "valid", ["a", "b"], frames=9)
    write_predictions(tmp_path / "run" / "Annotations", open_ref_ytvos(tmp_path / "data", allow_partial=True))
    options = ["--ytvos_path", str(tmp_path / "data"), "--output_dir", str(tmp_path / "run"), "--num_workers", "0"]
    evaluate.main(["ytvos", str(tmp_path / "run" / "Annotations"), *options, "--allow_partial"])
    write_record(tmp_path / "run", "ytvos valid", ytvos_path=str(tmp_path / "data"), allow_partial=True)
    page = make_page(tmp_path / "run")
    scores = json.loads((tmp_path / "run" / "scores.json").read_text())
    figures = [tile.text for tile in page.all("span", class_="figure")]
    assert figures == [percent(scores["official"]["J&F"]), "69.2"]
    assert len(page.all("img")) == 4 * 4 * 2  # four sentences, four of nine frames each
    captions = [node.text.split(" · ")[0] for node in page.all("article")[0].all("figcaption")]
    assert captions == [f"frame {index:05d}" for index in (0, 3, 5, 8)]


def test_ref_davis(tmp_path: Path) -> None:
    run = davis_run(tmp_path)
    page = make_page(run)
    scores = json.loads((run / "scores.json").read_text())
    header, first, *_ = page.one("table", id="scores").rows()
    assert header == ["measure", "anno_0", "anno_1", "anno_2", "anno_3", "average", "published"]
    assert first == ["J&F-Mean", *(percent(own["J&F-Mean"]) for own in scores.values()), "70.6"]
    with (run / "objects.csv").open() as handle:
        objects = list(csv.DictReader(handle))
    areas = {place: np.mean([(labels(index) == place).mean() for index in range(2)]) for place in (1, 2)}
    assert page.one("table", id="sentences").rows()[1:] == [
        [
            f"object {entry['true_object']} of annotator {entry['annotator'][-1]}",
            *(percent(float(entry[name])) for name in ("J&F-Mean", "J-Mean", "F-Mean")),
            percent(areas[int(entry["true_object"])]),
            "2",
            "walk",
            f"{4 * int(entry['true_object']) - 4 + int(entry['annotator'][-1])} ({entry['annotator']})",
        ]
        for entry in objects
    ]
    cases = {case.one("p", class_="sentence").text: case for case in page.all("article")}
    swapped = cases["object 1 of annotator 1"]
    assert "DAVIS's matching scores it with the mask of sentence 5: object 2 of annotator 1" in swapped.text
    assert [caption.text for caption in swapped.all("figcaption")] == ["frame 00000 · J 100", "frame 00001 · J 100"]
    assert "matching" not in cases["object 1 of annotator 0"].text
    assert [caption.text for caption in cases["object 2 of annotator 2"].all("figcaption")] == [
        "frame 00000 · J 0",
        "frame 00001 · J 0",
    ]


def test_the_published_figure_stands_beside_the_task_that_it_was_measured_with(tmp_path: Path) -> None:
    run = davis_run(tmp_path)
    write_record(run, "davis valid", davis_path=str(tmp_path / "data"), set="val", task="semi-supervised")
    header = make_page(run).one("table", id="scores").rows()[0]
    assert header == ["measure", "anno_0", "anno_1", "anno_2", "anno_3", "average"]
    results = {"ours": dict.fromkeys(MEASURES, 1.0)}
    assert "70.6" in davis_table("val", "unsupervised", results)
    other = davis_table("val", "semi-supervised", results)
    assert other.startswith("davis val (semi-supervised) (%)")
    assert "70.6" not in other


def test_a_set_may_have_blanks_in_its_name(tmp_path: Path) -> None:
    run = davis_run(tmp_path)
    write_record(run, "davis valid", davis_path=str(tmp_path / "data"), set="my val")
    assert "Ref-DAVIS17 my val" in make_page(run).one("header").text


def test_davis_masks_without_annotators(tmp_path: Path) -> None:
    run = davis_run(tmp_path)
    options = ["--davis_path", str(tmp_path / "data"), "--output_dir", str(run), "--num_workers", "0"]
    masks = run / "eval_davis" / "valid" / "anno_0"
    evaluate.main(["davis", str(masks), *options])
    (run / "run.json").unlink()
    page = make_page(
        run, "--dataset_file", "davis", "--davis_path", str(tmp_path / "data"), "--predictions", str(masks)
    )
    assert [row[0] for row in page.one("table", id="sentences").rows()] == ["sentence", "object 1", "object 2"]
    assert [tile.text for tile in page.all("span", class_="figure")] == ["100.00", "70.6"]


def test_the_size_of_the_page_is_bounded(tmp_path: Path) -> None:
    """Noise compresses badly; many cases make small pictures instead of a large page."""
    noise = np.random.default_rng(0).integers(0, 256, (240, 320, 3), np.uint8)
    folder = tmp_path / "data" / "valid_u"
    for frame in frame_names(4):
        (folder / "JPEGImages" / "one").mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise).save(folder / "JPEGImages" / "one" / f"{frame}.jpg", quality=95)
    expressions = {str(i): {"exp": f"number {i}", "obj_id": [1], "anno_id": [1]} for i in range(40)}
    video = {"expressions": expressions, "vid_id": 0, "frames": frame_names(4)}
    write_json(folder / "meta_expressions.json", {"videos": {"one": video}})
    write_json(folder / "mask_dict.json", {"1": [encode_rle(labels(0, (240, 320)) == 1)] * 4})
    write_predictions(tmp_path / "run" / "Annotations", open_mevis(tmp_path / "data", "valid_u"))
    options = ["--mevis_path", str(tmp_path / "data"), "--output_dir", str(tmp_path / "run"), "--num_workers", "0"]
    evaluate.main(["mevis", str(tmp_path / "run" / "Annotations"), *options])
    write_record(tmp_path / "run", "mevis valid_u", mevis_path=str(tmp_path / "data"))
    page = make_page(tmp_path / "run", "--cases", "20")
    assert len(page.all("img")) == 40 * 4 * 2
    assert (tmp_path / "run" / "report.html").stat().st_size < 1.4 * PICTURES_BYTES
