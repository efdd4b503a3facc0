"""Jobs of Slurm through submitit, on a cluster of small scripts: started, stopped, found again, broken down."""

import os
import sys

import pytest

from accelerated.checks import InputError
from accelerated.platform import executors, outcomes, worker
from accelerated.platform.executors import executor_of
from accelerated.platform.options import PlatformOptions

from .conftest import wait_for
from .test_jobs import Place

pytest.importorskip("submitit", reason="submitit is not installed")

LEARN = "import os, time; print('on', os.environ['SLURM_JOB_ID'], flush=True); time.sleep(600)"
COMMANDS = {
    "sbatch": r"""
id=$(($(cat "$SLURM_FAKE/last" 2>/dev/null || echo 40) + 1)); echo $id > "$SLURM_FAKE/last"
cp "$1" "$SLURM_FAKE/$id.sh"
export SLURM_JOB_ID=$id SLURM_NTASKS=1 SLURM_JOB_NUM_NODES=1 SLURM_NODEID=0 SLURM_PROCID=0 SLURM_LOCALID=0
setsid bash "$1" > /dev/null 2>&1 &
echo $! > "$SLURM_FAKE/$id.pid"
echo "Submitted batch job $id"
""",
    "srun": r"""
while [ "${1#--}" != "$1" ]; do case "$1" in --output|--error) shift 2;; *) shift;; esac; done
exec "$@"
""",
    "sacct": r"""
for last; do :; done
for id in ${last//,/ }; do
  if [ -e "$SLURM_FAKE/$id.state" ]; then echo "$id|$(cat "$SLURM_FAKE/$id.state")"
  elif kill -0 "$(cat "$SLURM_FAKE/$id.pid")" 2>/dev/null; then echo "$id|RUNNING"
  else echo "$id|COMPLETED"; fi
done
""",
    "scancel": r"""
kill -9 -- "-$(cat "$SLURM_FAKE/$1.pid")"; echo "CANCELLED by 0" > "$SLURM_FAKE/$1.state"
""",
}


class Cluster(Place):
    """A platform whose jobs a cluster runs."""

    def __init__(self, inside, folder):
        super().__init__(inside)
        self.folder = folder
        self.options = PlatformOptions(folder=self.options.folder, executor="slurm", slurm=("partition=gpu",))
        self.restart()

    def ends(self, state):
        """A job is ended by the cluster, which calls it that."""
        number = int((self.folder / "last").read_text())
        os.killpg(int((self.folder / f"{number}.pid").read_text()), 9)
        (self.folder / f"{number}.state").write_text(state)


@pytest.fixture
def cluster(inside, tmp_path, monkeypatch):
    folder = tmp_path / "slurm"
    folder.mkdir()
    for name, text in COMMANDS.items():
        (folder / name).write_text(f"#!/bin/bash\n{text}")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_FAKE", str(folder))
    monkeypatch.setattr(executors, "LOOK", 0.2)
    cluster = Cluster(inside, folder)
    monkeypatch.setattr(worker, "command", lambda record, *_: [sys.executable, "-c", cluster.programs[record.id]])
    yield cluster
    for path in folder.glob("*.pid"):
        try:
            os.killpg(int(path.read_text()), 9)
        except ProcessLookupError:
            continue


def test_a_job_runs_there_and_its_log_is_kept(cluster):
    number = cluster.record("import os; print('on', os.environ['SLURM_JOB_ID'])")
    cluster.until(number, "finished")
    assert cluster.log(number) == "on 41\n"
    assert "#SBATCH --partition=gpu" in (cluster.folder / "41.sh").read_text()


def test_a_job_is_found_again_and_stopped(cluster):
    number = cluster.record(LEARN)
    cluster.until(number, "running")
    assert cluster.words(number) == ["on", "41"]
    cluster.restart()
    cluster.worker.step()
    assert cluster.row(number).state == "running"
    cluster.ask(lambda db, record: setattr(record, "request", "stop"), number)
    cluster.until(number, "stopped")
    assert (cluster.folder / "41.state").read_text().startswith("CANCELLED")


def test_a_job_that_waits_in_the_cluster_is_waited_for(cluster):
    """A worker that is started anew does not submit it twice."""
    (cluster.folder / "sbatch").write_text(
        '#!/bin/bash\necho PENDING > "$SLURM_FAKE/41.state"; echo "Submitted batch job 41"\n'
    )
    number = cluster.record(LEARN)
    cluster.worker.step()
    cluster.restart()
    for _ in range(3):
        cluster.worker.step()
    row = cluster.row(number)
    assert (row.state, row.attempt) == ("starting", 1)
    (cluster.folder / "41.state").write_text("FAILED")
    assert cluster.until(number, "failed", "running").attempt in (1, 2)


@pytest.mark.parametrize(("state", "expected", "message"), [
    ("NODE_FAIL", "finished", ""), ("PREEMPTED", "finished", ""), ("TIMEOUT", "stopped", outcomes.LATE),
    ("OUT_OF_MEMORY", "failed", outcomes.MEMORY), ("FAILED", "lost", outcomes.LOST),
])  # fmt: skip
def test_what_the_cluster_ended_has_its_reason_or_goes_on(cluster, state, expected, message):
    number = cluster.record(LEARN)
    cluster.until(number, "running")
    cluster.words(number)
    cluster.programs[number] = "print('went on')"
    cluster.ends(state)
    row = cluster.until(number, "finished", "stopped", "failed", "lost")
    assert (row.state, row.message) == (expected, message)
    assert ("went on" in cluster.log(number)) == (expected == "finished")
    if state == "FAILED":
        assert row.detail == "Slurm: FAILED"


def test_a_cluster_that_refuses_is_quoted(cluster):
    (cluster.folder / "sbatch").write_text("#!/bin/bash\necho 'sbatch: error: invalid partition' >&2; exit 1\n")
    row = cluster.until(cluster.record(LEARN), "failed")
    assert "invalid partition" in row.detail


def test_several_records_are_jobs_of_their_own(cluster):
    numbers = [cluster.record(f"print({i})") for i in range(2)]
    for number in numbers:
        cluster.until(number, "finished")
    assert wait_for(lambda: (cluster.folder / "42.sh").exists(), "there was no second job")


def test_settings_that_do_not_fit_are_refused(cluster, tmp_path):
    for settings, reason in (({"slurm": ("a=1",)}, "are for --executor slurm"), ({"executor": "cloud"}, "executor"),
                             ({"executor": "slurm", "slurm": ("x",)}, "NAME=VALUE")):  # fmt: skip
        with pytest.raises(InputError, match=reason):
            executor_of(PlatformOptions(folder=str(tmp_path), **settings))
