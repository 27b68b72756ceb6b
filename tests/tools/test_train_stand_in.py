"""A stand-in is trained from nothing on RefShapes: every parameter learns, and an interruption changes nothing."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from configs.schema import shipped_folder
from models.samwise import SAMWISE
from tests.weight_files import save_vocabulary
from tools import train_stand_in
from tools.data import make_refshapes
from tools.stand_in.lessons import (
    CLASSES,
    Lessons,
    object_amount,
    object_motion,
    object_place,
)
from tools.stand_in.products import HalfProducts
from tools.stand_in.scenes import (
    OVER_TIME,
    PROPERTIES,
    QUANTITIES,
    batches,
    choose_frames,
    make_batch,
    order_sentences,
    read_clause,
    read_records,
    read_scenes,
)
from tools.stand_in.sentences import CLAUSE_WORDS, SentenceLessons, SentenceSource, describe
from tools.study import probe, reach
from util.distributed import Processes
from util.errors import InputError
from util.interrupts import StopRequest

SIDE = 64


@pytest.fixture(scope="module")
def refshapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two training videos of 8 frames and four training images."""
    folder = tmp_path_factory.mktemp("stand_in") / "refshapes"
    sizes = ["--videos", "1", "--train_videos", "2", "--images", "4", "--frames", "8", "--workers", "1"]
    make_refshapes.main(["--out", str(folder), "--seed", "3", "--layouts", "mevis", "coco", *sizes])
    return folder


@pytest.fixture(scope="module")
def quick(refshapes: Path) -> list[str]:
    """A command line for a few small steps."""
    vocabulary = save_vocabulary(refshapes.parent / "vocabulary")
    sizes = [
        "--scenes", "2", "1", "1", "--sentences", "2", "1", "2", "--sentence_steps", "1", "--frames", "3",
        "--image_size", str(SIDE),
    ]  # fmt: skip
    return ["--data", str(refshapes), "--roberta", str(vocabulary), *sizes]


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return SAMWISE.from_pretrained(folder).state_dict()


@pytest.mark.slow
@pytest.mark.study
def test_every_part_learns_and_an_interruption_changes_nothing(
    quick: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [*quick, "--half_products", "--steps", "2", "1", "2", "--output"]
    args = train_stand_in.parse_args([*command, str(tmp_path / "whole")])
    before = {key: value.clone() for key, value in train_stand_in.build(args).state_dict().items()}
    train_stand_in.main([*command, str(tmp_path / "whole")])
    after = tensors(tmp_path / "whole")
    learned = [key for key, value in before.items() if not torch.equal(value, after[key])]
    for part in ("sam.image_encoder.trunk", "sam.memory_attention", "text_encoder", "cmt_adapters", "sam.sam_mask"):
        assert any(key.startswith(part) for key in learned), part
    assert not (tmp_path / "whole" / "training" / "state.pth").exists()
    longer = [*quick, "--init", str(tmp_path / "whole"), "--output", str(tmp_path / "longer"), "--steps", "1", "0", "0"]
    begun = train_stand_in.StandInTraining(train_stand_in.parse_args(longer), Processes())
    assert all(torch.equal(value, after[key]) for key, value in begun.model.state_dict().items())
    heads = torch.load(tmp_path / "whole" / train_stand_in.HEADS, weights_only=True)
    assert all(torch.equal(value, heads[key]) for key, value in begun.lessons.state_dict().items())

    steps = 0

    def told_after_five(self: StopRequest, processes: Processes) -> str | None:
        nonlocal steps
        steps += 1
        return "SIGTERM" if steps == 5 else None

    with monkeypatch.context() as patch:
        patch.setattr(StopRequest, "agreed", told_after_five)
        with pytest.raises(InputError, match=r"stopped by SIGTERM after 1 steps of clips"):
            train_stand_in.main([*command, str(tmp_path / "stopped")])
    with pytest.raises(InputError, match="--over_time"):
        train_stand_in.main([*command, str(tmp_path / "stopped"), "--over_time", "1.5"])
    with pytest.raises(InputError, match=r"another --lr"):
        train_stand_in.main([*command, str(tmp_path / "stopped"), "--lr", "0.1"])
    train_stand_in.main([*command, str(tmp_path / "stopped")])
    assert all(torch.equal(value, after[key]) for key, value in tensors(tmp_path / "stopped").items())


def test_a_line_of_the_log_is_of_the_steps_since_the_one_before(
    quick: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also after an interruption, which loses the steps before it."""
    command = [*quick, "--steps", "0", "0", "0", "--sentence_steps", "2", "--output"]

    def log(name: str) -> list[dict[str, object]]:
        return [json.loads(line) for line in (tmp_path / name / "training" / "log.jsonl").read_text().splitlines()]

    monkeypatch.setattr(train_stand_in, "_LOGGED", 1)
    train_stand_in.main([*command, str(tmp_path / "whole")])
    monkeypatch.setattr(train_stand_in, "_LOGGED", 2)
    with monkeypatch.context() as patch:
        patch.setattr(StopRequest, "agreed", lambda self, processes: "SIGTERM")
        with pytest.raises(InputError, match="after 1 steps of sentences"):
            train_stand_in.main([*command, str(tmp_path / "stopped")])
    args = train_stand_in.parse_args([*command, str(tmp_path / "stopped")])
    with pytest.raises(InputError, match="is of a training with another number of processes: give the same"):
        train_stand_in.StandInTraining(args, Processes(0, 2))
    train_stand_in.main([*command, str(tmp_path / "stopped")])
    assert log("stopped") == log("whole")[1:]


def test_a_training_without_steps_ends(quick: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [*quick, "--steps", "0", "0", "0", "--sentence_steps", "0", "--output", str(tmp_path)]
    train_stand_in.main(command)
    assert "a stand-in of" in capsys.readouterr().out
    another = [*quick[:-1], str(2 * SIDE), "--init", str(tmp_path), "--output", str(tmp_path / "other")]
    with pytest.raises(InputError, match=r"--init .* does not fit: .* with the same --image_size"):
        train_stand_in.main(another)
    torch.save({"place.0.weight": torch.zeros(1)}, tmp_path / train_stand_in.HEADS)
    with pytest.raises(InputError, match=r"--init .* does not fit: .* such as amount\.0\.bias"):
        train_stand_in.main([*quick, "--init", str(tmp_path), "--output", str(tmp_path / "other")])


def test_batches_hold_what_sentences_mean(refshapes: Path) -> None:
    scenes = read_scenes(refshapes, "train")
    batch = make_batch(scenes, SIDE, 3, 2, np.random.default_rng(0))
    assert batch.frames.shape == (2, 3, 3, SIDE, SIDE)
    assert batch.targets.shape == (4, 3, SIDE, SIDE)
    assert batch.clip_of.tolist() == [0, 0, 1, 1]
    for sample, text in enumerate(batch.texts):
        scene = scenes[int(batch.clip_of[sample])]
        expression = next(item for item in scene.expressions if item["exp"].lower() == text)
        labels = batch.labels[batch.clip_of[sample]]
        meant = sum((labels == target + 1) for target in expression["targets"])
        assert torch.equal(batch.targets[sample] > 0, meant > 0)
        names = [options[int(n) - 1] for options, n in zip(PROPERTIES.values(), batch.named[sample], strict=True) if n]
        assert set(names) == set(expression["noun"].values())
        meant, fitted, looked_from = (set(row.nonzero().flatten().tolist()) for row in batch.members[sample])
        assert meant == {target + 1 for target in expression["targets"]}
        objects = [dict(zip(PROPERTIES, numbers, strict=True)) for numbers in scene.properties]
        words = {name: PROPERTIES[name].index(value) + 1 for name, value in expression["noun"].items()}
        assert fitted == {k for k, item in enumerate(objects, 1) if words.items() <= item.items()} >= meant
        beside = [int(word) + 1 for word in expression["clause"].split() if word.isdigit()]
        assert looked_from == set(beside)


def test_a_step_has_its_scenes_whatever_came_before(refshapes: Path) -> None:
    scenes = read_scenes(refshapes, "image_train")

    def texts(steps: range, processes: Processes) -> list[list[str]]:
        options = {"seed": 1, "steps": steps, "processes": processes}
        return [batch.texts for batch in batches(scenes, SIDE, 1, 2, 1, **options)]

    assert texts(range(3, 5), Processes()) == texts(range(5), Processes())[3:]
    shares = [texts(range(2), Processes(rank, 2)) for rank in range(2)]
    assert shares[0] != shares[1]
    with pytest.raises(InputError, match="fewer than a step of 6"):
        next(batches(scenes, SIDE, 1, 3, 1, seed=0, steps=range(1), processes=Processes(0, 2)))


def test_sentences_are_told_apart_without_pictures(refshapes: Path, quick: list[str], tmp_path: Path) -> None:
    batch = describe(
        [
            {"exp": "The fastest one", "clause": "fastest"},
            {"exp": "the slowest one", "clause": "slowest"},
            {"exp": "the one that goes up", "clause": "moves up"},
            {"exp": "the disc left of the green star", "clause": "left of 3"},
            {"exp": "the red one", "clause": ""},
        ]
    )
    assert batch.texts[0] == "the fastest one"
    speed, down = (batch.asked[:, QUANTITIES.index(name)].tolist() for name in ("speed", "vy"))
    assert (speed, down) == ([1, -1, 0, 0, 0], [0, 0, -1, 0, 0])
    said = [{CLAUSE_WORDS[place] for place in row.nonzero().flatten().tolist()} for row in batch.clauses]
    assert said == [{"fastest"}, {"slowest"}, {"moves", "up"}, {"left", "of"}, set()]

    network = train_stand_in.build(train_stand_in.parse_args([*quick, "--output", str(tmp_path)]))
    lessons = SentenceLessons(network)
    optimizer = torch.optim.AdamW([*network.text_encoder.parameters(), *lessons.parameters()], lr=2e-3)
    losses = []
    for _ in range(60):
        losses.append(lessons(network, batch))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.1 * losses[0]
    assert all(parameter.grad is None for parameter in network.sam.parameters())

    source = SentenceSource(refshapes)
    drawn = source.draw(60, np.random.default_rng(0)).texts
    known = {
        item["exp"].lower(): item["kind"]
        for record in read_records(refshapes, ("train", "image_train"))
        for item in record["expressions"]
    }
    assert all(known[text] in OVER_TIME for text in drawn[1::2])
    assert {known[text] for text in drawn[::2]} - set(OVER_TIME)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_share_of_clips_has_its_sentences_over_time_first(share: float) -> None:
    expressions = [{"kind": kind} for kind in ("appearance", "motion", "relation", "order", "several")]
    orders = [order_sentences(expressions, share, np.random.default_rng(seed)) for seed in range(400)]
    assert all(sorted(order) == [0, 1, 2, 3, 4] for order in orders)
    assert {tuple(order[2:]) for order in orders} >= {(0, 2, 4), (4, 2, 0)}
    first = [all(expressions[number]["kind"] in OVER_TIME for number in order[:2]) for order in orders]
    assert np.mean(first) == pytest.approx(share + (1 - share) * 0.1, abs=0.08)  # by chance 2 * 1 of 5 * 4 orders


@pytest.mark.parametrize(("count", "wanted"), [(8, 8), (9, 8), (40, 8), (5, 8), (1, 1), (3, 2)])
def test_frames_are_at_an_even_distance(count: int, wanted: int) -> None:
    for seed in range(20):
        chosen = choose_frames(count, wanted, np.random.default_rng(seed))
        assert len(chosen) == wanted
        assert 0 <= chosen[0] <= chosen[-1] < count
        steps = set(np.diff(chosen[: min(count, wanted)]).tolist())
        assert len(steps) <= 1
        assert steps <= {1, 2, 3}


def test_what_is_meant_has_most_of_what_is_asked_for(refshapes: Path) -> None:
    """Of one-word comparisons the target; of relations to another object more than that has."""
    seen = set()
    for scene in read_scenes(refshapes, "train") + read_scenes(refshapes, "image_train"):
        for expression in scene.expressions:
            alone = dataclasses.replace(scene, expressions=(expression,))
            batch = make_batch([alone], SIDE, len(scene.frames), 1, np.random.default_rng(0))
            place = object_place(batch.labels)
            amount = object_amount(batch, place, object_motion(place))[0, :, :, 0]
            weights, origin = read_clause(expression["clause"])
            if not weights:
                assert amount.isnan().all()
            elif origin == "candidates":
                of_all = amount[len(amount) // 2].where(batch.members[0, 1] > 0, torch.nan)
                assert of_all.nanmean().item() == pytest.approx(0, abs=1e-5)
                if of_all.isfinite().sum() == batch.members[0, 1].sum():
                    assert int(of_all.nan_to_num(-torch.inf).argmax()) == expression["targets"][0] + 1
            elif origin == "other":
                assert amount[:, expression["targets"][0] + 1].nanmean() > 0
            seen |= {*weights, origin}
    assert seen >= {"x", "y", "candidates", "other"}


@pytest.mark.parametrize("bias", [True, False])
def test_half_products_are_those_of_linear_layers(bias: bool) -> None:
    torch.manual_seed(0)
    layer = torch.nn.Linear(256, 512, bias=bias)
    x = torch.randn(4, 32, 256, requires_grad=True)
    exact = layer(x)
    wanted = torch.autograd.grad(exact.square().sum(), [x, *layer.parameters()])
    with HalfProducts():
        half = layer(x)
    assert half.dtype == torch.float32
    assert not torch.equal(half, exact)
    found = torch.autograd.grad(half.square().sum(), [x, *layer.parameters()])
    for one, other in zip((half, *found), (exact, *wanted), strict=True):
        assert (one - other).norm() < 0.01 * other.norm()
    with HalfProducts():  # small, or of another type: as ever
        assert torch.equal(layer(x[:1, :1]), layer(x[:1, :1].clone()))
        assert layer.double()(x.double()).dtype == torch.float64


def test_a_new_network_knows_where_things_are(quick: list[str], tmp_path: Path) -> None:
    model = train_stand_in.build(train_stand_in.parse_args([*quick, "--output", str(tmp_path)]))
    grid = model.sam.image_encoder.trunk.position(16, 16)[0].detach().flatten(0, 1)
    place = torch.cartesian_prod(torch.arange(16.0), torch.arange(16.0))
    place = place - place.mean(0)
    found = torch.linalg.lstsq(grid - grid.mean(0), place).solution
    rest = (grid - grid.mean(0)) @ found - place
    assert (rest.square().sum(0) < 0.05 * place.square().sum(0)).all()


def test_a_probe_reads_what_is_there() -> None:
    torch.manual_seed(0)
    place = torch.randn(4, 200, 3)
    features = torch.cat([place @ torch.randn(3, 3), torch.randn(4, 200, 5)], dim=-1)
    assert probe.Samples(list(features), list(place)).r2() == pytest.approx([1, 1, 1], abs=1e-3)
    assert max(probe.Samples(list(features[..., 3:]), list(place)).r2()) < 0.1


def test_choices_are_of_the_object_of_most_overlap(refshapes: Path) -> None:
    scenes = read_scenes(refshapes, "image_train")
    batch = make_batch(scenes, SIDE, 1, 6, np.random.default_rng(0))
    found = dict(probe.choices(batch.targets[:, 0] > 0, batch))
    assert found
    assert all(meant and fits and 0 < chance <= 1 for meant, fits, chance in found.values())
    nothing = dict(probe.choices(torch.zeros_like(batch.targets[:, 0]) > 0, batch))
    assert not any(meant or fits for meant, fits, _ in nothing.values())


def test_a_network_is_probed(quick: list[str], refshapes: Path, tmp_path: Path) -> None:
    model = train_stand_in.build(train_stand_in.parse_args([*quick, "--output", str(tmp_path)]))
    model.save_pretrained(tmp_path / "model")
    probe.main([str(tmp_path / "model"), "--data", str(refshapes), "--scenes", "4", "--out", str(tmp_path / "x.json")])
    found = json.loads((tmp_path / "x.json").read_text())
    assert found["stage 0"].keys() == {*probe.PLACE, *probe.MOTION}
    assert all(0 <= value <= 1 for value in found["choice, relation"].values())


def test_a_patch_knows_of_what_stays_in_it() -> None:
    shares = torch.zeros(5, 8, 8, 2)
    for frame in range(5):
        shares[frame, 1, 2 + frame, 0] = 1.0
        shares[frame, 6, 6, 1] = 0.5
    whole, quarters = reach.inside_patches(shares, 8), reach.inside_patches(shares, 4)
    columns = whole[0, 2, 0, 1::3]  # of the first object, two frames before to two after
    assert columns.tolist() == [2 / 8, 3 / 8, 4 / 8, 5 / 8, 6 / 8]
    assert whole[0, 2, 1, 1::3].tolist() == [6 / 8] * 5
    assert whole[0, 0, 0, 1::3].tolist() == [2 / 8, 2 / 8, 2 / 8, 3 / 8, 4 / 8]  # the first frame is repeated
    assert quarters[0, 2, 0, 2::3].tolist() == [1 / 16, 1 / 16, 0, 0, 0]
    assert quarters[1, 2, 0, 1::3].tolist() == [0, 0, 0, 1 / 4, 2 / 4]


def test_the_reach_of_patches_is_measured(refshapes: Path, tmp_path: Path) -> None:
    command = ["--data", str(refshapes), "--patches", "24", "8", "12", "12", "--out", str(tmp_path / "x.json")]
    reach.main(command)
    found = json.loads((tmp_path / "x.json").read_text())
    assert found["12 of 12"].keys() == set(probe.MOTION)
    with pytest.raises(InputError, match="pairs of divisors"):
        reach.main([*command, "--patches", "24", "7"])


def test_heads_answer_for_every_property(quick: list[str], tmp_path: Path) -> None:
    lessons = Lessons(train_stand_in.build(train_stand_in.parse_args([*quick, "--output", str(tmp_path)])))
    assert lessons.named.out_features == sum(CLASSES) == sum(len(options) + 1 for options in PROPERTIES.values())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--data", "nowhere"], r"nowhere.refshapes.json is missing or damaged"),
        (["--roberta", "nowhere"], "nowhere"),
        (["--init", "nowhere"], "nowhere"),
        (["--init", str(shipped_folder("nano"))], "--init .* does not fit"),
        (["--device", "bogus"], "device 'bogus': expected cpu, cuda, cuda:N or mps"),
        (["--seed", "-1"], "--seed: expected a whole number of at least 0, found '-1'"),
        (["--lr", "inf"], "--lr: expected a number above 0, found 'inf'"),
        (["--lr", "nan"], "--lr: expected a number above 0, found 'nan'"),
    ],
)
def test_what_is_missing_or_wrong_is_named(quick: list[str], tmp_path: Path, change: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        train_stand_in.main([*quick, "--steps", "1", "0", "0", "--output", str(tmp_path / "out"), *change])


def test_a_missing_gpu_is_the_cpu(quick: list[str], tmp_path: Path) -> None:
    args = train_stand_in.parse_args([*quick, "--device", "cuda", "--output", str(tmp_path)])
    assert train_stand_in.build(args).device.type == ("cuda" if torch.cuda.is_available() else "cpu")
