"""The benchmark counts what runs and attributes it to the right parts; no test looks at how long anything takes."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import pytest
import torch

from models.samwise import SAMWISE
from models.static_step import StaticStep
from models.stream import StaticStream
from tools import benchmark
from tools.bench import compare, end_to_end, kernels, report
from tools.bench.end_to_end import BESIDE, FILLING, Pipeline, Settings, plain_computation
from tools.bench.measure import flop_counter
from util.errors import InputError, run_script


def test_linear_layers_are_counted_alike_fused_or_not() -> None:
    x, weight, bias = torch.randn(100, 24), torch.randn(10, 24), torch.randn(10)
    counts = []
    for function in (kernels.own_linear, lambda *a: kernels.linear(*a, "gelu")):
        with torch.inference_mode(), flop_counter() as counter:
            function(x, weight, bias)
        counts.append(counter.get_total_flops())
    assert counts == [2 * 100 * 24 * 10] * 2


def test_attention_is_counted() -> None:
    q, k = torch.randn(1, 2, 30, 8), torch.randn(1, 2, 50, 8)
    with torch.inference_mode(), flop_counter() as counter:
        torch.nn.functional.scaled_dot_product_attention(q, k, k)
    assert counter.get_total_flops() == 2 * 2 * 30 * 50 * 8 * 2


def test_attention_kernels_are_compared_and_those_that_refuse_are_said_to(capsys: pytest.CaptureFixture[str]) -> None:
    found = kernels.attention_kernels("a map", (2, 1, 64, 96, 16), torch.device("cpu"), torch.float32, 1)
    assert [way for way, seconds in found.items() if seconds is not None] == ["network", "flash"]
    assert all(seconds > 0 for seconds in found.values() if seconds is not None)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("a map, 2x1 heads of 16, 64 to 96: network ")
    assert line.endswith(" TFLOP/s), cudnn refuses, efficient refuses")


@pytest.fixture
def small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames of which the network leaves more than half of its input empty."""
    monkeypatch.setattr(end_to_end, "FRAME_SIZE", (40, 96))


@pytest.fixture
def pipeline(micro_model: SAMWISE, tmp_path: Path, small_files: None) -> Iterator[Pipeline]:
    with Pipeline(micro_model, Settings("micro", expressions=2, window=4), tmp_path) as pipeline:
        yield pipeline


def test_a_clip_from_files_to_files(pipeline: Pipeline, tmp_path: Path) -> None:
    pipeline.fill()
    assert pipeline.session.frames_done == FILLING
    assert len(pipeline.session.memory.state_dict()["pointers"]) == 15
    assert pipeline.clip().frames == 4
    masks = sorted((tmp_path / "masks").rglob("*.png"))
    assert len(masks) == 2 * 16
    assert {cv2.imread(str(path), cv2.IMREAD_UNCHANGED).shape for path in masks} == {(40, 96)}


def test_what_is_timed_is_recorded_already(micro_model: SAMWISE, tmp_path: Path, small_files: None) -> None:
    """The last frame of the filling is the first with full memory; the one after it is recorded as a CUDA graph."""
    with Pipeline(micro_model, Settings("micro", window=4, cuda_graphs=True), tmp_path) as pipeline:
        pipeline.fill()
        assert pipeline.session.frames_done >= StaticStep(micro_model).frames_until_full + 2


def test_several_clips_in_a_row_give_the_same_files(
    micro_model: SAMWISE, tmp_path: Path, small_files: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the masks of a clip are written while the next one is computed, as on a GPU."""
    found = []
    for behind in (0, 1):
        monkeypatch.setattr(Pipeline, "behind", behind)
        with Pipeline(micro_model, Settings("micro", window=4, clips=3), tmp_path / str(behind)) as pipeline:
            assert pipeline.clip().frames == 12
        files = sorted((tmp_path / str(behind) / "masks").rglob("*.png"))
        found.append([file.read_bytes() for file in files])
        assert len(files) == 12
    assert found[0] == found[1]


def test_parts_add_up_and_savings_are_counted(pipeline: Pipeline) -> None:
    pipeline.clip()
    counted, timed = pipeline.clip_in_parts(count=True), pipeline.clip_in_parts()
    assert counted.parts.keys() == timed.parts.keys() > set(BESIDE)
    inside = [part.seconds for name, part in timed.parts.items() if name not in BESIDE]
    assert sum(inside) == pytest.approx(timed.seconds)
    with plain_computation(pipeline):
        plain = pipeline.clip_in_parts(count=True).parts
    for name in ("Hiera stage 0", "memory attention"):
        assert 0 < counted.parts[name].flops < plain[name].flops
    assert counted.parts["memory encoder"].flops == plain["memory encoder"].flops > 0


def test_static_steps_read_memory_in_the_same_part(pipeline: Pipeline) -> None:
    """As on a GPU; they have room for all memories from the first frame on."""
    pipeline.fill()
    growing = pipeline.clip_in_parts(count=True).parts
    pipeline.session.memory = StaticStream(StaticStep(pipeline.model), expressions=2)
    pipeline.clip()
    static = pipeline.clip_in_parts(count=True)
    assert static.parts["memory attention"].seconds > 0
    assert static.parts["memory attention"].flops >= growing["memory attention"].flops > 0
    inside = [part.seconds for name, part in static.parts.items() if name not in BESIDE]
    assert sum(inside) == pytest.approx(static.seconds)


def test_more_sentences_add_work_but_not_to_the_shared_stages(micro_model: SAMWISE, tmp_path: Path) -> None:
    found = []
    for count in (1, 2):
        with Pipeline(micro_model, Settings("micro", count, window=2), tmp_path) as pipeline:
            pipeline.clip()
            found.append(pipeline.clip_in_parts(count=True).parts)
    one, two = found
    for name in ("patch embedding", "Hiera stage 0", "Hiera stage 1"):
        assert two[name].flops == one[name].flops > 0
    for name in ("Hiera stage 2", "memory encoder"):
        assert two[name].flops == 2 * one[name].flops


def test_figures_and_plots(micro_model: SAMWISE, tmp_path: Path, small_files: None,
                           monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    monkeypatch.setattr(benchmark, "random_model", lambda settings: micro_model)
    monkeypatch.setattr(benchmark, "matrix_rate", lambda *a: 1e9)
    files = ["--json", str(tmp_path / "figures.json"), "--plot", str(tmp_path / "parts.png")]
    benchmark.main(["end_to_end", "--window", "2", "--expressions", "2", "--repeats", "1", *files])
    result = json.loads((tmp_path / "figures.json").read_text())["results"]["tiny"]
    work, gflop = result["work"], sum(row["gflop"] for row in result["parts"])
    assert work["done"]["tflop_per_frame"] == pytest.approx(gflop / 1000)
    assert work["done"]["share"] == pytest.approx(gflop / result["seconds_per_frame"])
    assert work["plain"]["tflop_per_frame"] > work["done"]["tflop_per_frame"]
    assert cv2.imread(str(tmp_path / "parts.png")) is not None
    assert "of the rate" in capsys.readouterr().out
    report.plot_sides({"this": [1.0, 2.0], "other": [2.0, 2.0]}, tmp_path / "sides.png")
    assert cv2.imread(str(tmp_path / "sides.png")) is not None


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_the_matrix_rate_is_that_of_the_precision(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """TF32 is several times as fast as float32 on the same GPU."""
    kinds = []
    monkeypatch.setattr(benchmark, "matrix_rate", lambda *given: kinds.append((given[1], tf32())) or 1.0)

    def tf32() -> bool:
        return torch.backends.cuda.matmul.allow_tf32

    assert benchmark.rate_of(Settings("micro", precision=precision), torch.device("cpu")) == 1.0
    assert kinds == [(torch.bfloat16 if precision == "bf16" else torch.float32, precision == "tf32")]


def test_a_batch_of_sentences_and_one(
    micro_model: SAMWISE,
    tmp_path: Path,
    small_files: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(benchmark, "random_model", lambda settings: micro_model)
    written = tmp_path / "figures.json"
    benchmark.main(["expressions", "--window", "2", "--batch", "3", "--repeats", "2", "--json", str(written)])
    result = json.loads(written.read_text())["results"]["tiny"]
    (first, second), (before, between, after) = result["together"], result["one"]
    assert result["all"] == pytest.approx([2 * first / (before + between), 2 * second / (between + after)])
    ratios = result["all"]
    assert min(ratios) <= result["ratio"] <= max(ratios)
    assert all(set(seconds) == {"together", "one"} for seconds in result["parts"].values())
    assert result["parts"]["memory attention"]["one"] > 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("tiny: 3 expressions in one batch take") for line in lines)
    assert {line[:30].rstrip() for line in lines} >= result["parts"].keys()


def test_a_side_answers_every_question_with_a_clip(
    small_files: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    questions = [{"settings": {"version": "nano", "window": 4}, "threads": torch.get_num_threads()}, {}, {}]
    monkeypatch.setattr(end_to_end, "FILLING", 4)
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(json.dumps(question) + "\n" for question in questions)))
    monkeypatch.setattr(sys, "stdout", sys.stdout)  # is changed
    compare.serve()
    first, *answers = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert first == {"ready": True}
    assert [set(answer) for answer in answers] == [{"seconds_per_frame"}] * 2


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    benchmark.main(["linear", "--repeats", "1", "--json", str(tmp_path / "figures.json")])
    written = json.loads((tmp_path / "figures.json").read_text())
    assert set(written) == {"machine", "options", "results"}
    assert all(set(figures) == {"own", "inside", "behind"} for figures in written["results"].values())
    assert "ratio" in capsys.readouterr().out
    with pytest.raises(InputError, match="at least 1"):
        benchmark.main(["linear", "--repeats", "0"])
    with pytest.raises(InputError, match="--clips need at least 1"):
        benchmark.main(["linear", "--clips", "0"])
    with pytest.raises(InputError, match="--batch need 1 to 8"):
        benchmark.main(["expressions", "--batch", "9"])
    with pytest.raises(InputError, match="git worktree"):
        benchmark.main(["end_to_end", "--compare", "no-such-revision"])
    with pytest.raises(InputError, match="no parts to draw: leave --plot out"):
        benchmark.main(["end_to_end", "--compile", "--plot", "parts.png"])
    against = benchmark.parse(["end_to_end", "--window", "4"], benchmark.parse(["end_to_end", "--expressions", "3"]))
    assert (against.window, against.expressions) == (4, 3)


def test_the_work_of_a_compiled_network_is_counted_with_one_that_is_not(
    micro_model: SAMWISE, small_files: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    built: list[bool] = []

    def build(settings: Settings) -> SAMWISE:
        built.append(settings.compile)
        return micro_model

    monkeypatch.setattr(benchmark, "random_model", build)
    monkeypatch.setattr(benchmark, "matrix_rate", lambda *a: 1e9)
    flags = ["--window", "2", "--expressions", "2", "--repeats", "1"]
    results = [benchmark.benchmark_end_to_end(benchmark.parse(["end_to_end", *flags, *more]))["tiny"]
               for more in ([], ["--compile"])]  # fmt: skip
    assert built == [False, True, False]
    eager, compiled = results
    for kind in ("done", "plain"):
        assert compiled["work"][kind]["tflop_per_frame"] == eager["work"][kind]["tflop_per_frame"] > 0
        assert compiled["work"][kind]["share"] > 0
    assert eager["parts"]
    assert not compiled["parts"]
    assert capsys.readouterr().out.count("s/frame") == 1


Sides = list[compare.Side]


@pytest.fixture
def measured_sides(monkeypatch: pytest.MonkeyPatch) -> Sides:
    """The sides of which a process was started: here without one, and without a network."""
    started: Sides = []

    class Worker(compare.Worker):
        def __init__(self, side: compare.Side, threads: int) -> None:
            started.append(side)
            self.side = side

        def __exit__(self, *_: object) -> None:
            pass

        def ask(self, question: dict[str, object]) -> dict[str, object]:
            return {"seconds_per_frame": 1.0}

    monkeypatch.setattr(compare, "Worker", Worker)
    return started


@pytest.mark.parametrize("against", [["--against", "--compile"], ["--against=--compile"]])
def test_one_flag_without_a_space_describes_the_other_side(measured_sides: Sides, against: list[str]) -> None:
    benchmark.main(["end_to_end", *against, "--repeats", "1"])
    assert [side.settings.compile for side in measured_sides] == [False, True]
    assert [side.name for side in measured_sides] == ["this", "--compile"]


def test_each_side_counts_its_own_sentences(measured_sides: Sides, capsys: pytest.CaptureFixture[str]) -> None:
    benchmark.main(["end_to_end", "--against", "--expressions 8", "--repeats", "1"])
    lines = [line for line in capsys.readouterr().out.splitlines() if "expression-frames" in line]
    assert [line.split("), ")[1] for line in lines] == [f"{count}.000 expression-frames per second" for count in (1, 8)]


def test_turns_show_their_progress_on_stderr(measured_sides: Sides, capsys: pytest.CaptureFixture[str]) -> None:
    benchmark.main(["end_to_end", "--against", "--window 4", "--repeats", "3"])
    shown = capsys.readouterr()
    assert "tiny, in turns: 100%" in shown.err
    assert "6/6" in shown.err
    assert "clip/s" in shown.err
    assert "in turns:" not in shown.out


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


Refused = Callable[..., str]


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str], no_gpu: None, measured_sides: Sides) -> Refused:
    """The one line with which a command ends, with status 2, before a side is measured."""

    def line_of(*argv: str) -> str:
        with pytest.raises(SystemExit) as ended:
            run_script(lambda: benchmark.main(argv))
        shown = capsys.readouterr()
        assert (ended.value.code, measured_sides) == (2, [])
        assert shown.err.count("\n") == 1
        return shown.err

    return line_of


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["linear", "--threads", "-1"], "--threads -1: expected 1 or more"),
        (["linear", "--threads", "0"], "--threads 0: expected 1 or more"),
        (["linear", "--device", "cuda"], "device cuda: expected one of this computer"),
        (["end_to_end", "--sam2_version", "nano", "--device", "cuda:1"], "device cuda:1: expected one"),
        (["linear", "--device", "foo"], "device 'foo': expected cpu, cuda, cuda:N or mps"),
        (["linear", "--no_such_flag"], "unrecognized arguments: --no_such_flag; see benchmark.py --help"),
        (["linear", "--compare", "HEAD"], "linear knows no --compare, --against or --plot: end_to_end does"),
        (["expressions", "--against", "--window 4"], "expressions knows no --compare, --against or --plot"),
        (["expressions", "--plot", "parts.png"], "expressions knows no --compare, --against or --plot"),
        (["end_to_end", "--cuda_graphs"], "--cuda_graphs: expected --compile and a CUDA device"),
        (["nothing"], "invalid choice: 'nothing'"),
        ([], "required: benchmark"),
    ],
)
def test_unusable_options_are_one_line(refused: Refused, argv: list[str], message: str) -> None:
    assert message in refused(*argv)


@pytest.mark.parametrize(
    ("against", "message"),
    [
        ('"abc', "No closing quotation"),
        ("--device cuda", "device cuda: expected one of this computer"),
        ("--window 0", "--window, --repeats and --clips need at least 1"),
        ("--no_such_flag", "unrecognized arguments: --no_such_flag"),
        ("--sam2_version base", "--sam2_version is the same for both sides: give it outside of --against"),
        ("--window 4 --threads 1", "--threads is the same for both sides"),
        ("--compile --cuda_graphs", "--cuda_graphs: expected --compile and a CUDA device"),
    ],
)
def test_the_other_side_is_checked_before_a_process_starts(refused: Refused, against: str, message: str) -> None:
    line = refused("end_to_end", f"--against={against}")
    assert line.startswith(f"error: --against {against!r}: ")
    assert message in line


def test_against_without_flags_is_one_line(refused: Refused) -> None:
    assert "--against: expected one argument" in refused("end_to_end", "--against")


@pytest.mark.parametrize("flag", ["--json", "--plot"])
def test_files_that_cannot_be_written_are_known_at_once(refused: Refused, tmp_path: Path, flag: str) -> None:
    (tmp_path / "file").touch()
    line = refused("end_to_end", flag, str(tmp_path / "file" / "result"))
    assert line.startswith(f"error: {flag} {tmp_path}/file/result: the folder cannot be written to (")
    assert "--output_dir" not in line
    assert "expected a file, found a folder" in refused("end_to_end", flag, str(tmp_path))
