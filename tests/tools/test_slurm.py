"""The batch scripts of tools/slurm, run by bash with stand-ins for the programs of a cluster.

The stand-ins write down how they were called. `srun` starts what it is given once and hands signals on to all processes
of that, as Slurm's does.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SLURM = Path(__file__).resolve().parents[2] / "tools" / "slurm"
TRAIN = SLURM / "train.sbatch"
ARRAY = SLURM / "inference_array.sbatch"
COMMAND = (
    "main.py --resume=pretrain/pretrained_model.pth --dataset_file mevis --HSA --use_cme_head --name_exp X "
    "--epochs 1 --batch_size 4"
)

STAND_INS = {
    "srun": """
        while [[ $1 == --* ]]; do shift; done
        setsid "$@" &
        step=$!
        trap 'kill -USR1 -- -"$step"' USR1
        while kill -0 "$step" 2>/dev/null; do wait "$step"; done
        wait "$step"
    """,
    "scontrol": """
        case $1 in
        show) if [[ $2 == hostnames ]]; then printf '%s\\n' first second; else echo "$JOB_STATE"; fi ;;
        esac
    """,
    "torchrun": """
        training &
        wait $!
    """,
    "python": """
        exec training
    """,
}
TRAINING = f"""#!{sys.executable} -SE
import os, signal, sys

def note(line):
    with open("calls", "a") as calls:
        calls.write(line + chr(10))

# Waited for, not handled: what a handler raises while Python is closing a file is lost.
signals = (signal.SIGUSR1, signal.SIGTERM)
signal.pthread_sigmask(signal.SIG_BLOCK, signals)
note("ready")
got = signal.sigtimedwait(signals, float(os.environ.get("TRAINING_SECONDS", "0")))
if got is not None:
    note("saved")
    sys.exit(0 if got.si_signo == signal.SIGUSR1 else 130)
sys.exit(int(os.environ.get("TRAINING_STATUS", "0")))
"""


class Site:
    """A folder with the stand-ins, in which jobs run.

    Args:
        folder: where.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.variables = {
            "PATH": f"{folder / 'programs'}:{os.environ['PATH']}",
            "SLURM_JOB_ID": "41",
            "SLURM_JOB_NODELIST": "first",
            "JOB_STATE": "JobId=41 JobState=RUNNING PreemptEligibleTime=2026-01-01T00:00:00 PreemptTime=None",
        }
        (folder / "programs").mkdir()
        note = '#!/bin/bash\necho "${0##*/} ${*@Q}" >>calls\n'
        for name, text in {"training": TRAINING, **{name: note + body for name, body in STAND_INS.items()}}.items():
            program = folder / "programs" / name
            program.write_text(text)
            program.chmod(0o755)

    def start(self, script: Path, command: str, **variables: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["bash", str(script), *shlex.split(command)],
            cwd=self.folder,
            env={**self.variables, **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, script: Path, command: str, **variables: str) -> tuple[int, str]:
        """Exit status and standard error."""
        job = self.start(script, command, **variables)
        _, errors = job.communicate()
        return job.returncode, errors

    def run_and_signal(self, script: Path, number: signal.Signals, **variables: str) -> int:
        """The exit status of a job that gets a signal while training runs."""
        job = self.start(script, COMMAND, TRAINING_SECONDS="60", **variables)
        while "ready" not in self.calls():
            assert job.poll() is None
            time.sleep(0.01)
        job.send_signal(number)
        job.communicate()
        return job.returncode

    def calls(self) -> list[str]:
        """What the stand-ins wrote down, in its order."""
        calls = self.folder / "calls"
        return [line.strip() for line in calls.read_text().splitlines()] if calls.exists() else []

    def call(self, program: str) -> list[str]:
        """The arguments of the only call of a program."""
        (found,) = (line for line in self.calls() if line.split()[0] == program)
        return shlex.split(found)[1:]

    def requeued(self) -> list[str]:
        return [line for line in self.calls() if line.startswith("scontrol 'requeue'")]

    def add_checkpoint(self, name: str = "output/X") -> None:
        folder = self.folder / name / "checkpoints"
        folder.mkdir(parents=True)
        (folder / "checkpoint_00000100.pth").touch()


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """A new one for each test."""
    return Site(tmp_path)


@pytest.mark.parametrize("script", [TRAIN, ARRAY])
def test_the_scripts_are_sound(script: Path) -> None:
    subprocess.run(["bash", "-n", script], check=True)
    text = script.read_text()
    assert max(map(len, text.splitlines())) <= 120
    options = re.findall(r"^#SBATCH (--[\w-]+)", text, re.MULTILINE)
    assert len(options) == len(set(options))
    assert {"--requeue", "--signal"} <= set(options)
    # sbatch reads its options up to the first command
    assert text.rindex("#SBATCH") < re.search(r"^[^#\n]", text, re.MULTILINE).start()  # type: ignore[union-attr]


def test_one_node(site: Site) -> None:
    assert site.run(TRAIN, COMMAND, SLURM_JOB_NUM_NODES="1", SLURM_GPUS_ON_NODE="4") == (0, "")
    task = 'bash -c \'trap "" USR1; exec "$@"\' launcher'
    torchrun = (
        "--nnodes=1 --nproc_per_node=4 --rdzv_backend=c10d --rdzv_id=41-0 --rdzv_endpoint=first:20041 main.py "
        "--dataset_file mevis --HSA --use_cme_head --name_exp X --epochs 1 --batch_size 4 "
        "--resume=pretrain/pretrained_model.pth"
    )
    assert site.call("torchrun") == torchrun.split()
    expected = f"--nodes=1 --ntasks-per-node=1 --kill-on-bad-exit=1 {task} torchrun {torchrun}"
    assert site.call("srun") == shlex.split(expected)
    assert site.requeued() == []


def test_many_nodes(site: Site) -> None:
    variables = {"SLURM_JOB_NUM_NODES": "2", "SLURM_GPUS_PER_NODE": "h100:8", "SLURM_RESTART_COUNT": "3"}
    assert site.run(TRAIN, COMMAND, SLURM_JOB_NODELIST="node[1-2]", SAMWISE_PORT="29500", **variables)[0] == 0
    rendezvous = ["--rdzv_backend=c10d", "--rdzv_id=41-3", "--rdzv_endpoint=first:29500"]
    assert site.call("torchrun")[:5] == ["--nnodes=2", "--nproc_per_node=8", *rendezvous]
    assert site.call("srun")[0] == "--nodes=2"
    assert "scontrol 'show' 'hostnames' 'node[1-2]'" in site.calls()


RESUMED = ["--resume", "auto"]
STARTS: dict[str, tuple[str, str, list[str]]] = {
    "pre-training starts": ("main_pretrain.py --name_exp X", "", []),
    "pre-training goes on": ("main_pretrain.py --name_exp X", "output/X", RESUMED),
    "another run's checkpoint": ("main.py --resume W --name_exp X", "output/Y", ["--resume", "W"]),
    "weights are replaced": ("main.py --resume W --name_exp X", "output/X", RESUMED),
    "also with =": ("main.py --resume=W --name_exp=X", "output/X", RESUMED),
    "optimizer's first start": ("main.py --resume W --resume_optimizer", "", ["--resume", "W", "--resume_optimizer"]),
    "optimizer is in the checkpoint": ("main.py --resume=W --name_exp X --resume_optimizer", "output/X", RESUMED),
    "no name": ("main.py --resume=W", "output/default", RESUMED),
    "another folder": ("main.py --output_dir 'my runs' --name_exp X --resume=W", "my runs/X", RESUMED),
    "nothing is trained": ("main.py --eval --resume W --name_exp X", "output/X", ["--resume", "W"]),
    "another folder with =": ("main.py --output_dir=runs --name_exp X --resume=W", "output/X", ["--resume=W"]),
}


@pytest.mark.parametrize("name", STARTS)
def test_first_start_or_resumption(site: Site, name: str) -> None:
    command, folder, expected = STARTS[name]
    if folder:
        site.add_checkpoint(folder)
    assert site.run(TRAIN, command)[0] == 0
    script, *flags = shlex.split(command)
    flags = [flag for flag in flags if not flag.startswith("--resume") and flag != "W"]
    assert site.call("torchrun")[5:] == [script, *flags, *expected]


def test_the_time_limit_saves_and_queues_again(site: Site) -> None:
    assert site.run_and_signal(TRAIN, signal.SIGUSR1) == 0
    assert site.calls()[-2:] == ["saved", "scontrol 'requeue' '41'"]


def test_preemption_saves_and_queues_again(site: Site) -> None:
    preempted = site.variables["JOB_STATE"].replace("PreemptTime=None", "PreemptTime=2026-01-02T03:04:05")
    job = site.start(TRAIN, COMMAND, TRAINING_STATUS="143", JOB_STATE=preempted)
    job.communicate()
    assert job.returncode == 0
    assert site.requeued() == ["scontrol 'requeue' '41'"]


@pytest.mark.parametrize("status", ["1", "2"])
def test_a_failure_is_not_queued_again(site: Site, status: str) -> None:
    assert site.run(TRAIN, COMMAND, TRAINING_STATUS=status)[0] == int(status)
    assert site.requeued() == []


def test_cancelling_waits_for_the_training_and_does_not_queue_again(site: Site) -> None:
    """Slurm sends SIGTERM to the job's steps as well as to the script."""
    job = site.start(TRAIN, COMMAND, TRAINING_SECONDS="0.5")
    while "ready" not in site.calls():
        time.sleep(0.01)
    job.send_signal(signal.SIGTERM)
    job.communicate()
    assert job.returncode == 0
    assert site.requeued() == []


def test_the_environment_of_a_job(site: Site) -> None:
    own = site.folder / "own" / "bin"
    own.mkdir(parents=True)
    shutil.copy(site.folder / "programs" / "torchrun", own)
    (own / "torchrun").write_text('#!/bin/bash\necho "$SETUP $NCCL_SOCKET_IFNAME $SRUN_CPUS_PER_TASK" >calls\n')
    variables = {"SAMWISE_SETUP": "export SETUP=done", "SAMWISE_INTERFACE": "ib0", "SLURM_CPUS_PER_TASK": "12"}
    assert site.run(TRAIN, COMMAND, SAMWISE_ENVIRONMENT="own", **variables)[0] == 0
    assert site.calls()[0] == "done ib0 12"


ARRAY_OF_4 = {
    "SLURM_ARRAY_JOB_ID": "40",
    "SLURM_ARRAY_TASK_ID": "3",
    "SLURM_ARRAY_TASK_MIN": "1",
    "SLURM_ARRAY_TASK_MAX": "4",
    "SLURM_ARRAY_TASK_COUNT": "4",
}
INFERENCE = "inference_ytvos.py --resume=W --name_exp 'a b' --HSA --use_cme_head"


def test_a_job_of_an_array_runs_its_part(site: Site) -> None:
    assert site.run(ARRAY, INFERENCE, **ARRAY_OF_4) == (0, "")
    assert site.call("python") == [*shlex.split(INFERENCE), "--shard", "3/4"]


def test_some_parts_again(site: Site) -> None:
    some = {**ARRAY_OF_4, "SLURM_ARRAY_TASK_MIN": "3", "SLURM_ARRAY_TASK_MAX": "3", "SLURM_ARRAY_TASK_COUNT": "1"}
    assert site.run(ARRAY, INFERENCE, SAMWISE_PARTS="8", **some)[0] == 0
    assert site.call("python")[-2:] == ["--shard", "3/8"]


def test_the_parts_are_joined_outside_of_an_array(site: Site) -> None:
    assert site.run(ARRAY, f"{INFERENCE} --merge")[0] == 0
    assert site.call("python") == [*shlex.split(INFERENCE), "--merge"]


def test_a_part_at_its_time_limit_is_queued_again(site: Site) -> None:
    assert site.run_and_signal(ARRAY, signal.SIGUSR1, **ARRAY_OF_4) == 0
    assert site.calls()[-2:] == ["saved", "scontrol 'requeue' '40_3'"]


def test_a_part_that_fails_or_is_cancelled_is_not_queued_again(site: Site) -> None:
    assert site.run(ARRAY, INFERENCE, TRAINING_STATUS="2", **ARRAY_OF_4)[0] == 2
    (site.folder / "calls").unlink()
    assert site.run_and_signal(ARRAY, signal.SIGTERM, **ARRAY_OF_4) == 130
    assert site.calls()[-1] == "saved"


Mistake = tuple[Path, str, dict[str, str], str]
MISTAKES: dict[str, Mistake] = {
    "no command": (TRAIN, "", {}, "give the training as arguments"),
    "no value": (TRAIN, "main.py --resume", {}, "--resume needs a value"),
    "starting anew": (TRAIN, f"{COMMAND} --overwrite", {}, "a job that is queued again would start anew"),
    "no Slurm": (TRAIN, COMMAND, {"SLURM_JOB_ID": ""}, "this is a job for Slurm"),
    "no torchrun": (TRAIN, COMMAND, {"PATH": "/usr/bin:/bin"}, "there is no torchrun"),
    "no run": (ARRAY, "", {}, "give the run as arguments"),
    "parts that start anew": (ARRAY, f"{INFERENCE} --overwrite", ARRAY_OF_4, "a job that is queued again would start"),
    "no Slurm for the array": (ARRAY, INFERENCE, {"SLURM_JOB_ID": ""}, "this is a job for Slurm"),
    "an array from 0": (
        ARRAY,
        INFERENCE,
        {**ARRAY_OF_4, "SLURM_ARRAY_TASK_MIN": "0", "SLURM_ARRAY_TASK_MAX": "3"},
        "the array is not 1-N",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_one_line_and_exit_status_2(site: Site, name: str) -> None:
    script, command, variables, message = MISTAKES[name]
    status, errors = site.run(script, command, **variables)
    assert status == 2
    assert errors.startswith(f"error: {message}")
    assert errors.count("\n") == 1
    assert site.requeued() == []
