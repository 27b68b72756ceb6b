"""The flag table."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from configs.cli import (
    FLAGS,
    GROUPS,
    adopt_stored_flags,
    all_flags,
    build_parser,
    check_weights_given,
    model_config_from_args,
    parse_flags,
    prefer_shipped_version,
)
from configs.flags import Flag
from configs.loading import load_model_config
from util.errors import InputError

DEMO = ("demo", "weights", "run", "model")
REQUIRED = ["--input_path", "x.mp4", "--text_prompts", "a"]


def parse(*argv: str) -> Any:
    return parse_flags("inference_demo.py", "Segment.", DEMO, [*REQUIRED, *argv])


def test_published_defaults() -> None:
    args = parse()
    expected = {
        "sam2_version": "base",
        "disable_pred_obj_score": False,
        "motion_prompt": False,
        "HSA": False,
        "HSA_patch_size": [8, 4, 2],
        "adapter_dim": 256,
        "fusion_stages_txt": [4, 8, 12],
        "fusion_stages": [1, 2, 3],
        "use_cme_head": False,
        "switch_mem": "reweight",
        "cme_decision_window": 4,
        "output_dir": "output",
        "device": "cuda",
        "seed": 0,
        "resume": None,
        "threshold": 0.5,
        "eval_clip_window": 8,
    }
    assert {name: getattr(args, name) for name in expected} == expected
    assert all_flags(args) == {flag.name: getattr(args, flag.name) for flag in FLAGS if flag.group in DEMO}
    assert args.given == {"input_path", "text_prompts"}


def test_values_are_converted() -> None:
    args = parse("--HSA", "--fusion_stages", "1", "2", "--resume=W", "--fps", "2.5", "--threshold", ".3", "--seed", "7")
    assert (args.HSA, args.fusion_stages, args.resume) == (True, [1, 2], "W")
    assert (args.fps, args.threshold, args.seed) == (2.5, 0.3, 7)
    assert args.given >= {"HSA", "fusion_stages", "resume", "fps", "threshold", "seed"}
    assert "HSA_patch_size" not in args.given
    assert parse_flags("x", "", DEMO, ["--input_path", "i", "--text_prompts", "a b", "c"]).text_prompts == ["a b", "c"]


def test_help_lists_every_flag_with_its_default_in_groups(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        parse("--help")
    assert end.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    sections = text.split("options:")[1]
    for flag in (flag for flag in FLAGS if flag.group in DEMO):
        assert f" --{flag.name} " in sections
    assert sections.count("(required)") == sum(flag.required for flag in FLAGS if flag.group in DEMO)
    assert sections.count("(default: ") == sum(not flag.required for flag in FLAGS if flag.group in DEMO)
    assert "side of its patches in each adapter, in tokens (default: 8 4 2; 8 12 6 for nano)" in text
    assert "of everything random (default: 0)" in text
    for group in DEMO:
        assert f"{GROUPS[group]}:" in sections


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--threshold", "1"], "--threshold: expected a number between 0 and 1, both excluded, found '1'"),
        (["--threshold", "nan"], "--threshold: expected a number between 0 and 1"),
        (["--eval_clip_window", "0"], "--eval_clip_window: expected a whole number of at least 1, found '0'"),
        (["--eval_clip_window", "2.5"], "--eval_clip_window: expected a whole number"),
        (["--fps", "0"], "--fps: expected 0.001 to 1000 frames per second, found '0'"),
        (["--fps", "inf"], "--fps: expected 0.001 to 1000"),
        (["--fps", "1e10"], "--fps: expected 0.001 to 1000"),
        (["--fps", "1e-7"], "--fps: expected 0.001 to 1000"),
        (["--seed", "-1"], "--seed: expected a whole number of at least 0"),
        (["--precision", "fp16"], "--precision: invalid choice: 'fp16'"),
        (["--sam2_version", "huge"], "--sam2_version: invalid choice: 'huge'"),
        (["--HSA_patch_size", "8", "x"], "--HSA_patch_size: expected a whole number of at least 1, found 'x'"),
        (["--treshold", "0.5"], r"unknown argument --treshold 0.5 \(did you mean --threshold\?\)"),
        (["--hsa"], r"unknown argument --hsa \(did you mean --HSA\?\)"),
        (["--thres", "0.5"], "unknown argument --thres 0.5"),  # no abbreviations
        (["--resume"], "--resume: expected one argument"),
        (["--qqqqqq"], "unknown argument --qqqqqq; see"),
    ],
)
def test_mistakes_are_one_line(argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match=message) as caught:
        parse(*argv)
    assert str(caught.value).endswith("; see inference_demo.py --help")
    assert "\n" not in str(caught.value)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("flag", [flag for flag in FLAGS if flag.default is not False and flag.name != "text_prompts"])
def test_a_variable_of_the_shell_that_is_not_set_is_no_value(flag: Flag) -> None:
    with pytest.raises(InputError, match=f"--{flag.name}: expected .*, found"):
        parse_flags("x.py", "", (flag.group,), [f"--{flag.name}", ""])


def test_missing_required_flags_are_named() -> None:
    with pytest.raises(InputError, match="required: --input_path"):
        parse_flags("inference_demo.py", "", DEMO, [])


def test_shipped_weights_are_preferred_to_none() -> None:
    expected = {"": "nano", "--untrained": "nano", "--resume=x": "base", "--sam2_weights=x": "base"}
    for flag, version in expected.items():
        args = parse(*filter(None, [flag]))
        prefer_shipped_version(args)
        assert args.sam2_version == version
    args = parse("--sam2_version", "tiny")
    prefer_shipped_version(args)
    assert args.sam2_version == "tiny"


def test_a_script_has_only_its_groups() -> None:
    args = parse_flags("x.py", "", ("run",), ["--seed", "3"])
    assert args.seed == 3
    assert not hasattr(args, "input_path")
    with pytest.raises(InputError, match=r"unknown argument --HSA \(other scripts have it: leave it out"):
        parse_flags("x.py", "", ("run",), ["--HSA"])


def test_table_is_consistent() -> None:
    names = [flag.name for flag in FLAGS]
    assert len(set(names)) == len(names)
    assert {flag.group for flag in FLAGS} == set(GROUPS)
    build_parser("x.py", "", tuple(GROUPS))


def test_model_config_from_flags() -> None:
    assert model_config_from_args(parse()) == load_model_config("base")
    args = parse("--sam2_version", "tiny", "--HSA", "--use_cme_head", "--switch_mem", "avg", "--disable_pred_obj_score")
    assert model_config_from_args(args) == load_model_config(
        "tiny", hsa=True, use_cme_head=True, switch_mem="avg", pred_obj_score=False
    )
    args = parse("--fusion_stages", "2", "3", "--fusion_stages_txt", "8", "12", "--HSA_patch_size", "4", "2")
    assert model_config_from_args(args).fusion_stages == (2, 3)
    with pytest.raises(InputError, match="one value per adapter"):
        model_config_from_args(parse("--fusion_stages", "2"))


def test_stored_flags_fill_in_what_was_not_given(caplog: pytest.LogCaptureFixture) -> None:
    args = parse("--switch_mem", "avg", "--fusion_stages_txt", "4", "8", "12")
    stored = {
        "HSA": True,
        "HSA_patch_size": (4, 4, 2),
        "switch_mem": "all_mask",
        "cme_decision_window": "three",  # not a value for this flag
        "sam2_version": "tiny",
        "device": "cpu",
        "lr": 1e-5,
    }
    with caplog.at_level(logging.INFO):
        adopt_stored_flags(args, stored)
    assert (args.HSA, args.HSA_patch_size) == (True, [4, 4, 2])
    assert (args.switch_mem, args.cme_decision_window, args.sam2_version, args.device) == ("avg", 4, "base", "cuda")
    assert "--HSA on is taken from the checkpoint" in caplog.text
    assert "--HSA_patch_size 4 4 2 is taken" in caplog.text


def test_starting_without_weights(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    config = load_model_config("tiny")
    with pytest.raises(InputError, match=r"python tools/download_weights\.py.*--untrained"):
        check_weights_given(parse("--sam2_version", "tiny"), config)
    with pytest.raises(InputError, match="--untrained and --resume exclude each other"):
        check_weights_given(parse("--untrained", "--resume", "x"), config)
    assert not caplog.records
    check_weights_given(parse("--resume", "x"), config)
    assert not caplog.records
    check_weights_given(parse("--untrained"), config)
    assert "weights are untrained" in caplog.text
    caplog.clear()
    (tmp_path / "pretrain").mkdir()
    (tmp_path / "pretrain" / config.sam2.checkpoint).write_bytes(b"")
    check_weights_given(parse("--sam2_version", "tiny"), config)
    assert "untrained" in caplog.text
