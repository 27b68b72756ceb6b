"""Mistakes on a command line are one line; every script has the parser that sees to it."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

from util.command_line import Parser
from util.errors import InputError

ROOT = Path(__file__).resolve().parents[2]


def commands() -> Parser:
    parser = Parser("tool.py", description="What it does.\n\n    tool.py add 1\n")
    parser.add_argument("--output")
    add = parser.add_subparsers(dest="command", required=True).add_parser("add")
    add.add_argument("number", type=int)
    add.add_argument("--into", type=Path, default=Path("here"))
    return parser


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        ([], "required: command; see tool.py --help"),
        (["add"], "required: number; see tool.py add --help"),
        (["add", "one"], "argument number: invalid int value: 'one'; see tool.py add --help"),
        (["remove"], r"invalid choice: 'remove' .*see tool.py --help"),
        (["--out", "x", "add", "1"], "invalid choice: 'x'|unrecognized arguments: --out"),
        (["--output"], "argument --output: expected one argument"),
        (["add", "1", "--into", ""], "argument --into: expected some text, found nothing; see tool.py add --help"),
        (["add", "1", "--into", " "], "argument --into: expected some text, found nothing; see tool.py add --help"),
    ],
)
def test_mistakes_are_one_line(argv: list[str], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match=expected) as caught:
        commands().parse_args(argv)
    assert "\n" not in str(caught.value)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("tool", "argv", "name"),
    [
        ("checkpoint", ["inspect", ""], "file"),
        ("checkpoint", ["to-compact", "", "out.pth"], "published"),
        ("checkpoint", ["to-published", "in.pth", "out.pth", "--base", ""], "--base"),
        ("export", [""], "model"),
        ("report", ["output/run", "--mevis_path", ""], "--mevis_path"),
        ("train_stand_in", ["--roberta", ""], "--roberta"),
    ],
)
def test_places_that_are_no_paths_are_not_empty_either(tool: str, argv: list[str], name: str) -> None:
    with pytest.raises(InputError, match=f"argument {name}: expected some text, found nothing"):
        importlib.import_module(f"tools.{tool}").main(argv)


def test_paths_are_read_as_paths() -> None:
    assert commands().parse_args(["add", "1"]).into == Path("here")
    assert commands().parse_args(["add", "1", "--into", "there"]).into == Path("there")


def test_help_keeps_the_lines_of_the_description(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        commands().parse_args(["--help"])
    assert "What it does.\n\n    tool.py add 1\n" in capsys.readouterr().out


def test_every_script_has_this_parser() -> None:
    """But for the script that is exported to where this code is not."""
    own = {ROOT / "util" / "command_line.py", ROOT / "tools" / "exporting" / "run.py"}
    scripts = [*ROOT.glob("*.py"), *(path for folder in ("configs", "tools") for path in (ROOT / folder).rglob("*.py"))]
    nodes = (node for path in {*scripts} - own for node in ast.walk(ast.parse(path.read_text())))
    calls = [ast.unparse(node.func) for node in nodes if isinstance(node, ast.Call)]
    assert calls.count("Parser") > 20
    assert "argparse.ArgumentParser" not in calls
