"""Runs of a table as jobs: on submitit's own executors for this machine, and under a Slurm of three short scripts."""

import io
import json
import os
import signal
from dataclasses import replace

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from accelerated import run
from accelerated.checks import InputError
from accelerated.runs.config import Config
from accelerated.runs.validation import checked
from accelerated.thesis import launch, tables

submitit = pytest.importorskip("submitit", reason='jobs need the extra "cluster"')

TINY = Config(data="digits", model="mlp", width=0.25, levels=4, times=(1,), schedules=("streaming",), test_images=16,
              augment="none", device="cpu", resume=True, activation="qcfs", stage1="qcfs")  # fmt: skip


def lineages(out):
    """Two runs that go on from a third: stage 1 of one, and both its second stages."""
    first = checked(replace(TINY, out=str(out), name="first", epochs=(0, 1, 0)))
    other = checked(replace(first, name="other", activation="s-qcfs", stage1="s-qcfs"))
    second = checked(replace(first, name="second", activation="c-qcfs", epochs=(0, 0, 1), start="first"))
    third = checked(replace(other, name="third", activation="cs-qcfs", epochs=(0, 0, 1), start="other"))
    return [[first], [first, second], [other, third]]


def said():
    return Console(file=io.StringIO(), width=400)


def results(out):
    """What the runs found: everything but times, machines and paths."""
    found = {path.parent.name: json.loads(path.read_text()) for path in sorted(out.glob("*/results.json"))}
    return {name: {key: value[key] for key in ("accuracy", "rows", "best")} for name, value in found.items()}


@pytest.fixture
def one_thread():
    """Sums round by the number of threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_several_at_once_leave_the_same_files_as_one_after_another(tmp_path, one_thread):
    one, several = tmp_path / "one", tmp_path / "several"
    tables.carry_out(lineages(one), said())
    executor, console = launch.executor_for("local", several / "jobs"), said()
    outcomes = launch.carry_out_as_jobs(lineages(several), executor, console, at_once=2, threads=1, pause=0.05)
    assert all(isinstance(outcome, dict) for outcome in outcomes)
    assert list(results(one)) == ["first", "other", "second", "third"]
    assert results(one) == results(several)
    for name in results(one):
        ours, theirs = (load_file(out / name / "weights.safetensors") for out in (one, several))
        assert all((ours[key] == theirs[key]).all() for key in theirs), name
    lines = console.file.getvalue().splitlines()
    order = [line.split(":")[0] for line in lines if ": job " in line]
    assert order[:2] == ["first", "other"], "two at once, and no run before the one from which it goes on"
    assert launch.carry_out_as_jobs(lineages(several), executor, said(), at_once=2) == outcomes, "finished: only read"


class AtOnce:
    """In place of an executor: jobs that end when they are asked for the second time, or as `patience` has it."""

    def __init__(self, outcome=lambda config: {"name": config.name}):
        self.outcome, self.running, self.most, self.started, self.patience = outcome, 0, 0, [], {}

    def batch(self):
        import contextlib

        return contextlib.nullcontext()

    def submit(self, work):
        self.running += 1
        self.most = max(self.most, self.running)
        self.started.append(work)
        outer, asked = self, []

        class Job:
            job_id = len(self.started)

            def done(self):
                asked.append(1)
                outer.running -= len(asked) == outer.patience.get(work.config.name, 2)
                return len(asked) == outer.patience.get(work.config.name, 2)

            def result(self):
                return outer.outcome(work.config)

            def cancel(self):
                outer.started.remove(work)

        return Job()


def many(out, count):
    return [[replace(TINY, out=str(out), name=f"run{i}")] for i in range(count)]


def test_no_more_than_so_many_at_once_and_all_where_there_is_no_limit(tmp_path):
    for limit, most in ((1, 1), (3, 3), (0, 5)):
        executor = AtOnce()
        outcomes = launch.carry_out_as_jobs(many(tmp_path, 5), executor, said(), at_once=limit, pause=0)
        assert [outcome["name"] for outcome in outcomes] == [f"run{i}" for i in range(5)]
        assert executor.most == most


def test_what_was_refused_is_not_gone_on_from(tmp_path):
    executor = AtOnce(lambda config: "the threshold is not positive" if config.name == "first" else {})
    outcomes = launch.carry_out_as_jobs(lineages(tmp_path), executor, said(), at_once=2, pause=0)
    assert outcomes == ["the threshold is not positive"] * 2 + [{}]
    assert [work.config.name for work in executor.started] == ["first", "other", "third"]


def test_interrupted_it_stops_the_jobs_of_this_machine_and_leaves_those_of_a_cluster(tmp_path):
    for limit, left in ((2, 0), (0, 3)):
        executor, console = AtOnce(), said()

        def stop(_config):
            raise KeyboardInterrupt

        executor.outcome = stop
        with pytest.raises(KeyboardInterrupt):
            launch.carry_out_as_jobs(many(tmp_path, 4), executor, console, at_once=limit, pause=0)
        assert len(executor.started) - 1 == left, "one had ended"
        assert ("the jobs go on" in console.file.getvalue()) == (limit == 0)


def test_a_job_that_dies_is_named_with_its_log(tmp_path):
    job = launch.executor_for("local", tmp_path / "jobs").submit(os._exit, 3)
    job._process.wait()
    line = launch.outcome_of(job)
    assert f"job {job.job_id} broke off" in line
    assert str(job.paths.stderr) in line
    assert "\n" not in line


def test_a_job_sees_the_gpus_that_its_table_sees(tmp_path, monkeypatch):
    """submitit would count from 0; whoever asked for GPUs 2 and 3 gets them."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    monkeypatch.setattr(tables, "carry_out", lambda *_: [os.environ["CUDA_VISIBLE_DEVICES"]])
    executor = AtOnce()
    launch.carry_out_as_jobs(many(tmp_path, 1), executor, said(), at_once=1, pause=0)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")  # as submitit sets it
    assert executor.started[0]() == "2,3"


def test_a_run_takes_the_gpu_on_which_fewest_are_at_work(tmp_path):
    on = replace(TINY, device="cuda")
    for taken, device in (([], "cuda:0"), (["cuda:0"], "cuda:1"), (["cuda:1"], "cuda:0"), (["cuda:1"] * 2, "cuda:0")):
        assert launch.device_for(on, 2, taken) == device
    assert [launch.device_for(config, 2, []) for config in (TINY, replace(on, device="cuda:1"))] == ["cpu", "cuda:1"]
    executor, runs = AtOnce(), [[replace(on, out=str(tmp_path), name=f"run{i}")] for i in range(3)]
    executor.patience = {"run0": 2, "run1": 9, "run2": 2}
    launch.carry_out_as_jobs(runs, executor, said(), at_once=2, gpus=2, pause=0)
    assert [work.config.device for work in executor.started] == ["cuda:0", "cuda:1", "cuda:0"], "run1 is still at work"


def test_a_table_that_is_told_to_end_stops_its_jobs(tmp_path):
    executor, later = AtOnce(), signal.getsignal(signal.SIGTERM)
    executor.outcome = lambda config: os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(SystemExit) as stop, launch.ended_by_signal():
        launch.carry_out_as_jobs(many(tmp_path, 4), executor, said(), at_once=3, pause=0)
    assert stop.value.code == 128 + signal.SIGTERM
    assert len(executor.started) == 1, "the one that had ended"
    assert signal.getsignal(signal.SIGTERM) is later


SLURM = {
    "sbatch": r"""
id=$(($(cat "$SLURM_FAKE/last" 2>/dev/null || echo 40) + 1)); echo $id > "$SLURM_FAKE/last"
cp "$1" "$SLURM_FAKE/$id.sh"
range=$(sed -n 's/^#SBATCH --array=0-\([0-9]*\).*/\1/p' "$1")
for task in $(seq 0 "${range:-0}"); do
  export SLURM_JOB_ID=$id SLURM_NTASKS=1 SLURM_JOB_NUM_NODES=1 SLURM_NODEID=0 SLURM_PROCID=0 SLURM_LOCALID=0
  if [ -n "$range" ]; then export SLURM_ARRAY_JOB_ID=$id SLURM_ARRAY_TASK_ID=$task; fi
  bash "$1" > /dev/null 2>&1 &
done
echo "Submitted batch job $id"
""",
    "srun": r"""
while [ "${1#--}" != "$1" ]; do case "$1" in --output|--error) shift 2;; *) shift;; esac; done
exec "$@"
""",
    "sacct": 'echo "JobID|State|NodeList"',
}


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """The three commands of Slurm that are used: each job at once, in the background."""
    folder = tmp_path / "slurm"
    folder.mkdir()
    for name, text in SLURM.items():
        (folder / name).write_text(f"#!/bin/bash\n{text}")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_FAKE", str(folder))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return folder


def test_under_slurm_runs_are_arrays_of_jobs(tmp_path, slurm):
    executor = launch.executor_for("slurm", tmp_path / "jobs", ["partition=gpu", "gpus_per_node=1", "time=600"])
    outcomes = launch.carry_out_as_jobs(lineages(tmp_path / "runs"), executor, said(), pause=0.05)
    assert all(isinstance(outcome, dict) for outcome in outcomes), outcomes
    scripts = [(slurm / f"{number}.sh").read_text() for number in (41, 42)]
    assert "#SBATCH --array=0-1" in scripts[0]
    for wanted in ("--partition=gpu", "--gpus-per-node=1", "--time=600", "--job-name=isospike"):
        assert f"#SBATCH {wanted}" in scripts[0]
    assert list(results(tmp_path / "runs")) == ["first", "other", "second", "third"]


def test_a_table_for_gpus_is_sent_from_a_machine_without_one(tmp_path, slurm, capsys):
    """What jobs compute on is looked at where they run; the same table here is refused at once."""
    rows = ["table-3-4", "--scale", "smoke", "--only", "ResNet-20", "w/o channel", "--device", "cuda", "--precision",
            "float16", "--out", str(tmp_path / "runs")]  # fmt: skip
    for launcher in ("here", "local"):
        assert run.main([*rows, "--launcher", launcher]) == 2
        assert "device 'cuda' is not available" in capsys.readouterr().err
        assert not (tmp_path / "runs").exists()
    (slurm / "sbatch").write_text("#!/bin/bash\necho 'sbatch: error: no such partition' >&2; exit 1\n")
    assert run.main([*rows, "--launcher", "slurm"]) == 2
    assert "the jobs could not be submitted: sbatch: error: no such partition" in capsys.readouterr().err


def test_a_cluster_that_refuses_is_quoted(tmp_path, slurm):
    (slurm / "sbatch").write_text("#!/bin/bash\necho 'sbatch: error: invalid partition specified: gpx' >&2; exit 1\n")
    executor = launch.executor_for("slurm", tmp_path / "jobs", ["partition=gpx"])
    with pytest.raises(InputError, match="the jobs could not be submitted: sbatch: error: invalid partition"):
        launch.carry_out_as_jobs(lineages(tmp_path / "runs"), executor, said(), pause=0.05)


def test_a_run_whose_time_is_up_is_queued_again_as_it_is():
    again = launch.Work(TINY, 3).checkpoint()
    assert isinstance(again, submitit.helpers.DelayedSubmission)
    assert again.function == launch.Work(TINY, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--launcher", "pbs"], "unknown launcher 'pbs': choose from here, local, slurm"),
        (["--launcher", "local", "-j", 0], "jobs must be a whole number of at least 1, got 0"),
        (["--launcher", "local", "--slurm", "time=3"], "slurm options are for launcher slurm, got 'local'"),
        (["--slurm", "time=3"], "slurm options are for launcher slurm, got 'here'"),
        (["-j", 3], "jobs is for launcher local, got 'here'"),
        (["--launcher", "slurm"], 'Slurm: Could not detect "srun"'),
    ],
)
def test_bad_options_are_one_line(arguments, message, tmp_path, capsys):
    assert run.main(["table-3-4", "--scale", "smoke", "--out", str(tmp_path), *map(str, arguments)]) == 2
    err = capsys.readouterr().err.strip()
    assert len(err.splitlines()) == 1
    assert message in err


def test_options_of_slurm_that_it_does_not_know(tmp_path, slurm):
    for given, message in ((["time"], "slurm options are NAME=VALUE"), (["tmie=3"], "Slurm: Unavailable parameter")):
        with pytest.raises(InputError, match=message):
            launch.executor_for("slurm", tmp_path / "jobs", given)
