"""Networks as folders: saved and loaded bit by bit, refused when damaged, and used in place of weight files."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import hubconf
from configs import schema
from engine.inference.start import load_network, stored_config, stored_flags, weights_to_resume
from models.build import find_tokenizer, load_model
from models.checkpoint import LoadReport, save_compact
from models.checkpoint_keys import is_trainable
from models.model_folder import CONFIG_FILE, WEIGHTS_FILE, read_folder, sha256_of
from models.samwise import SAMWISE
from models.tokenizer import TOKENIZER_FILE, Tokenizer, load_tokenizer
from tests.conftest import build_micro, micro_config
from tests.weight_files import assert_same, save_published, save_vocabulary
from util.errors import InputError

FACTS = {"data": "RefShapes, seed 1", "scores": {"valid_u": {"J&F": 81.5}}, "flags": ["--HSA", "--lr 1e-4"]}


@pytest.fixture(scope="module")
def trained() -> SAMWISE:
    """A micro network that goes by the name of nano."""
    model = build_micro("nano", seed=1)
    model.training_facts = FACTS
    return model


@pytest.fixture(scope="module")
def saved(trained: SAMWISE, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its folder, which the tests only read."""
    folder = tmp_path_factory.mktemp("pretrained") / "nano"
    trained.save_pretrained(folder)
    return folder


@pytest.fixture
def shipped(saved: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in the place of the one that is part of the repository."""
    monkeypatch.setattr(schema, "PRETRAINED", saved.parent)
    return saved


@pytest.fixture
def copy(saved: Path, tmp_path: Path) -> Path:
    """A folder to damage."""
    return Path(shutil.copytree(saved, tmp_path / "copy"))


# ---- saved and loaded


def test_what_was_saved_is_loaded_bit_by_bit(
    trained: SAMWISE, saved: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(*arguments: Any) -> None:
        raise AssertionError("a folder needs no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    model = SAMWISE.from_pretrained(str(saved))
    assert_same(model, trained)
    assert (model.config, model.training_facts, model.training) == (trained.config, FACTS, False)
    trainable = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert trainable == [name for name, _ in model.named_parameters() if is_trainable(name)]
    model.save_pretrained(tmp_path)
    for file in saved.iterdir():
        assert (tmp_path / file.name).read_bytes() == file.read_bytes()


@settings(max_examples=50)
@given(st.text())
def test_the_tokenizer_is_the_same(trained: SAMWISE, saved: Path, text: str) -> None:
    theirs = load_tokenizer(str(saved))
    assert trained.tokenizer is not None
    assert theirs(text)["input_ids"] == trained.tokenizer.tokenizer(text)["input_ids"]


def test_tokenizers_with_merges(tmp_path: Path) -> None:
    model = build_micro()
    ours = load_tokenizer(str(save_vocabulary(tmp_path / "vocabulary")))
    model.tokenizer = Tokenizer(ours, 512)
    sentences = ["ab a b  abab", "x <mask> é", "a"]
    expected = model.tokenizer(sentences)  # leaves the tokenizer with padding switched on
    model.save_pretrained(tmp_path / "model")
    loaded = SAMWISE.from_pretrained(tmp_path / "model").tokenizer
    assert loaded is not None
    batch = loaded(sentences)
    assert torch.equal(batch.ids, expected.ids)
    assert torch.equal(batch.words, expected.words)
    assert len(loaded.tokenizer) == len(ours)


def test_types_are_kept(tmp_path: Path) -> None:
    model = build_micro().bfloat16()
    model.save_pretrained(tmp_path)
    assert_same(SAMWISE.from_pretrained(tmp_path), model)


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    first, second = build_micro(seed=2), build_micro(seed=3, hsa=False)
    first.save_pretrained(tmp_path)
    second.save_pretrained(tmp_path)
    assert_same(SAMWISE.from_pretrained(tmp_path), second)
    assert "Nothing is recorded" in (tmp_path / "README.md").read_text("utf-8")
    second.tokenizer = None
    with pytest.raises(InputError, match="has no tokenizer"):
        second.save_pretrained(tmp_path / "other")
    first.training_facts = {"loss": float("nan")}
    with pytest.raises(InputError, match="plain values"):
        first.save_pretrained(tmp_path)
    assert_same(SAMWISE.from_pretrained(tmp_path), second)
    (tmp_path / CONFIG_FILE).rename(tmp_path / "before.json")
    (tmp_path / CONFIG_FILE).mkdir()  # cannot be replaced
    weights = (tmp_path / WEIGHTS_FILE).read_bytes()
    with pytest.raises(InputError, match="not a regular file"):
        build_micro(seed=2).save_pretrained(tmp_path)
    assert (tmp_path / WEIGHTS_FILE).read_bytes() == weights
    assert not list(tmp_path.glob(".*"))


def test_the_card_tells_what_is_known(saved: Path) -> None:
    text = (saved / "README.md").read_text("utf-8")
    for words in ("# SAMWISE nano", "- data: RefShapes, seed 1", "    - J&F: 81.5", "--HSA, --lr 1e-4", "64 x 64"):
        assert words in text
    assert sha256_of(saved / WEIGHTS_FILE) in text


# ---- folders that are refused


def edit(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    """Change the contents of config.json."""

    def damage(folder: Path) -> None:
        content = json.loads((folder / CONFIG_FILE).read_text("utf-8"))
        change(content)
        (folder / CONFIG_FILE).write_text(json.dumps(content), "utf-8")

    return damage


def cut(name: str, size: int) -> Callable[[Path], None]:
    """Keep only the first bytes of a file."""
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:size])  # type: ignore[return-value]


def cut_and_describe(folder: Path) -> None:
    """A truncated weight file whose hash is right."""
    cut(WEIGHTS_FILE, 100_000)(folder)
    edit(lambda content: content["files"].update({WEIGHTS_FILE: sha256_of(folder / WEIGHTS_FILE)}))(folder)


def empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def flip(folder: Path) -> None:
    data = bytearray((folder / WEIGHTS_FILE).read_bytes())
    data[-1000] ^= 1
    (folder / WEIGHTS_FILE).write_bytes(data)


def to_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("x")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (empty, r"holds no config\.json \(found nothing\)"),
        (shutil.rmtree, "does not exist"),
        (to_file, "is a file"),
        (lambda folder: (folder / CONFIG_FILE).unlink(), r"no config\.json \(found README\.md, model\.safetensors"),
        (lambda folder: (folder / WEIGHTS_FILE).unlink(), r"incomplete: it holds no model\.safetensors"),
        (lambda folder: (folder / TOKENIZER_FILE).unlink(), r"incomplete: it holds no tokenizer\.json"),
        (cut(CONFIG_FILE, 100), r"config\.json is damaged"),
        (cut(CONFIG_FILE, 0), r"config\.json is damaged"),
        (cut(WEIGHTS_FILE, 100_000), "damaged, truncated or replaced"),
        (cut(TOKENIZER_FILE, 1000), "damaged, truncated or replaced"),
        (cut_and_describe, "is damaged or truncated"),
        (flip, "damaged, truncated or replaced"),
        (
            lambda folder: (folder / WEIGHTS_FILE).write_text("version https://git-lfs.github.com/spec/v1\noid"),
            "git lfs pull",
        ),
        (edit(lambda content: content.clear()), "describes no SAMWISE network"),
        (edit(lambda content: content.update(format_version=2)), "is of version 2"),
        (edit(lambda content: content.update(more=1)), "unknown fields: more"),
        (edit(lambda content: content.pop("files")), "expected the hashes"),
        (edit(lambda content: content.pop("model")), "expected names with values"),
        (edit(lambda content: content["model"].update(more=1)), r"unknown \['more'\]"),
        (edit(lambda content: content["model"]["sam2"].pop("hiera")), r"missing \['hiera'\]"),
        (edit(lambda content: content["model"]["text"].update(heads="2")), r"text\.heads: expected"),
        (edit(lambda content: content["model"]["text"].update(heads=5)), "must be a multiple of 5"),
        (edit(lambda content: content["model"].update(adapter_dim=64)), "of another form: cmt_adapters"),
        (edit(lambda content: content["model"].update(hsa=False)), "unexpected: cmt_adapters"),
        (edit(lambda content: content["model"].update(motion_prompt=True)), "6 missing: sam.sam_prompt_encoder"),
    ],
)
def test_damaged_and_wrong_folders(copy: Path, damage: Callable[[Path], None], words: str) -> None:
    damage(copy)
    with pytest.raises(InputError, match=words) as caught:
        SAMWISE.from_pretrained(copy)
    assert "\n" not in str(caught.value)


def test_hub_models_need_a_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="the hub model of that name cannot be read"):
        SAMWISE.from_pretrained("someone/samwise-nano", cache_dir=tmp_path)
    with pytest.raises(InputError, match="pretrained/absent does not exist"):
        SAMWISE.from_pretrained("pretrained/absent")


# ---- in place of weight files


def assert_complete(report: LoadReport, model: SAMWISE) -> None:
    keys = [*report.loaded, *report.from_base, *report.fresh]
    assert sorted(keys) == sorted(model.state_dict())


def test_resume_takes_a_folder(trained: SAMWISE, saved: Path) -> None:
    model, report = load_model(micro_config("nano"), resume=str(saved))
    assert_same(model, trained)
    assert (report.from_base, report.fresh, report.warnings) == ((), (), ())
    assert model.training_facts == FACTS
    assert model.tokenizer is not None
    assert len(model.tokenizer.tokenizer) == 260
    _, report = load_model(micro_config("nano", use_cme_head=False), resume=str(saved))
    assert "--use_cme_head is not given" in report.summary()
    with pytest.raises(InputError, match="does not fit"):
        load_model(micro_config("nano", sam2__hiera__embed_dim=32), resume=str(saved))
    with pytest.raises(InputError, match="260 tokens, but the text encoder of --sam2_version nano knows 200"):
        load_model(micro_config("nano", text__vocab_size=200), untrained=True)


def test_a_stand_in_gives_what_is_frozen(trained: SAMWISE, saved: Path) -> None:
    """Adapters start as they would without any file; of the folder's own adapters nothing is used."""
    fresh = load_model(micro_config("nano"), untrained=True, seed=5)[0].state_dict()
    model, report = load_model(micro_config("nano"), sam2_weights=str(saved), seed=5)
    for key, value in model.state_dict().items():
        assert torch.equal(value, fresh[key] if is_trainable(key) else trained.state_dict()[key]), key
    assert_complete(report, model)
    assert set(report.fresh) == {key for key in fresh if is_trainable(key)}
    assert report.files == (saved / WEIGHTS_FILE,)
    starts = sorted(warning.removeprefix("untrained: ").split(",")[0] for warning in report.warnings)
    assert starts == ["the CME", "the HSA", "the adapters", "the text projection"]
    assert [p.requires_grad for p in model.parameters()] == [is_trainable(name) for name, _ in model.named_parameters()]


def test_a_stand_in_completes_checkpoints(saved: Path, tmp_path: Path) -> None:
    base = SAMWISE.from_pretrained(saved)
    other = build_micro("nano", seed=6)
    state = other.state_dict()
    for key, value in base.state_dict().items():
        if not is_trainable(key):
            state[key].copy_(value)
    save_compact(tmp_path / "compact.safetensors", other)
    full = save_published(tmp_path / "full.pth", build_micro("nano", seed=7), sam2_version="nano")
    no_text = save_published(tmp_path / "part.pth", other, r"^text_encoder", sam2_version="nano")
    for resume in (tmp_path / "compact.safetensors", no_text):
        model, report = load_model(micro_config("nano"), resume=str(resume), sam2_weights=str(saved))
        assert_same(model, other)
        assert_complete(report, model)
        assert (report.fresh, report.warnings) == ((), ())
        assert report.files == (resume, saved / WEIGHTS_FILE)
    model, report = load_model(micro_config("nano"), resume=str(full), sam2_weights=str(saved))
    assert_same(model, build_micro("nano", seed=7))
    assert (report.from_base, report.files) == ((), (full,))
    with pytest.raises(InputError, match="trained with --sam2_version nano, not tiny"):
        load_model(micro_config("tiny"), resume=str(tmp_path / "compact.safetensors"), sam2_weights=str(saved))


def test_a_stand_in_must_fit(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no model folder: it holds no config\.json"):
        load_model(micro_config("nano"), sam2_weights=str(tmp_path))
    with pytest.raises(InputError, match="which this network needs"):
        load_model(micro_config("tiny_2.1"), sam2_weights=str(saved))
    with pytest.raises(InputError, match="does not fit"):
        load_model(micro_config("nano", sam2__memory_attention_layers=1), sam2_weights=str(saved))


# ---- the weights of the repository


def flags(**given: Any) -> dict[str, Any]:
    none = {"resume": None, "sam2_weights": None, "roberta": None, "untrained": False, "seed": 0, "compile": False}
    return {"sam2_version": "nano", **none, **given}


def test_what_is_used_where_no_weights_are_given(trained: SAMWISE, shipped: Path) -> None:
    resume = weights_to_resume(flags())
    assert resume == str(shipped)
    config = stored_config(resume)
    assert config == trained.config
    assert stored_flags(resume)["HSA"]
    assert stored_flags(resume)["adapter_dim"] == 32
    model, facts = load_network(config, "cpu", flags(resume=resume))
    assert_same(model, trained)
    assert facts["weights"]["files"][0]["sha256"] == sha256_of(shipped / WEIGHTS_FILE)
    for values in ({"untrained": True}, {"sam2_weights": "x"}, {"sam2_version": "tiny"}):
        assert weights_to_resume(flags(**values)) is None
    assert weights_to_resume(flags(resume="own.pth")) == "own.pth"
    assert (stored_flags(None), stored_config(None), stored_config("own.pth")) == ({}, None, None)


def test_training_starts_on_the_frozen_parts_of_the_repository(trained: SAMWISE, shipped: Path, tmp_path: Path) -> None:
    model, report = load_model(micro_config("nano"))
    frozen = {key: value for key, value in trained.state_dict().items() if not is_trainable(key)}
    assert all(torch.equal(model.state_dict()[key], value) for key, value in frozen.items())
    assert set(report.from_base) == set(frozen)
    save_compact(tmp_path / "c.safetensors", trained)
    assert_same(load_model(micro_config("nano"), resume=str(tmp_path / "c.safetensors"))[0], trained)
    vocabulary = str(save_vocabulary(tmp_path / "vocabulary"))
    for sources, tokens in (({}, 260), ({"resume": "c.pth"}, 260), ({"roberta": vocabulary}, 262)):
        assert len(find_tokenizer(trained.config, **sources).tokenizer) == tokens


def test_a_copy_without_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "PRETRAINED", tmp_path)
    for start in (lambda: weights_to_resume(flags()), lambda: load_model(micro_config("nano")), hubconf.samwise_nano):
        with pytest.raises(InputError, match="does not exist, which is a part of the repo"):
            start()
    assert load_model(micro_config("nano"), untrained=True)[1].fresh
    full = save_published(tmp_path / "full.pth", build_micro("nano"), sam2_version="nano")
    load_model(micro_config("nano"), resume=str(full), roberta=str(save_vocabulary(tmp_path / "vocabulary")))


def test_entry_point_of_torch_hub(trained: SAMWISE, shipped: Path) -> None:
    assert_same(hubconf.samwise_nano(), trained)
    assert hubconf.samwise_nano(switch_mem="avg").config.switch_mem == "avg"
    with pytest.raises(InputError, match="holds a network of version nano, not tiny"):
        hubconf.samwise_tiny(resume=str(shipped))
    assert read_folder(shipped).config.model == trained.config
