"""`clip-dissect run` on workers that SLURM starts: `python deployments/slurm.py --jobs 8 -- --spec run.yaml`.

Starts a Dask worker with a GPU in each of so many SLURM jobs, runs the command with their scheduler's address, and
ends the jobs with it. Needs dask-jobqueue, a store that all machines see, and PREFECT_API_URL naming a
Prefect server that they reach: the server that a run brings of its own listens on one machine alone.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
from pathlib import Path

from dask_jobqueue import SLURMCluster


def main() -> int:
    """Returns the status of the run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1, help="SLURM jobs, each a worker with one GPU")
    parser.add_argument("--cores", type=int, default=8, help="processor cores of a job")
    parser.add_argument("--memory", default="32GB", help="memory of a job")
    parser.add_argument("--walltime", default="04:00:00", help="what SLURM stops a job after; a rerun goes on")
    parser.add_argument("--partition", help="partition, such as gpu")
    parser.add_argument("--gres", default="gpu:1", help="what SLURM gives a job besides; empty without GPUs")
    parser.add_argument("--interface", help="network interface of the scheduler and the workers, such as ib0")
    parser.add_argument("options", nargs="+", help="options of `clip-dissect run`, after --")
    given = parser.parse_args()
    api = os.environ.get("PREFECT_API_URL")
    if not api:
        parser.error("PREFECT_API_URL is not set: name a Prefect server that the nodes reach.")
    with SLURMCluster(
        queue=given.partition,
        cores=given.cores,
        memory=given.memory,
        walltime=given.walltime,
        interface=given.interface,
        processes=1,
        # Two tasks at a time: one decodes its first images while the other has the GPU.
        worker_extra_args=["--nthreads", "2", *(["--resources", "GPU=1"] if "gpu" in given.gres else [])],
        job_extra_directives=[f"--gres={given.gres}"] if given.gres else [],
        # What workers import, `module:function` of --target too, is found from where this was started.
        job_script_prologue=[
            f"export PREFECT_API_URL={shlex.quote(api)}",
            f"cd {shlex.quote(str(Path.cwd()))}",
        ],
        scheduler_options={"dashboard_address": None},
    ) as cluster:
        cluster.scale(jobs=given.jobs)
        # The run looks at its start whether workers declare GPUs.
        cluster.wait_for_workers(1)
        # --device stays auto: a worker takes the GPU that SLURM shows it, and this machine needs none.
        command = [sys.executable, "-m", "flows", "run", *given.options]
        return subprocess.run([*command, "--dask-address", cluster.scheduler_address], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
