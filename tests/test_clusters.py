"""The files of ``clusters/``: each by its own schema, all by the rules that hold for every cluster."""

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any, NamedTuple

import botocore.session
import kubernetes_validate
import pytest
import yaml
from botocore.validate import ParamValidator
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.autoscaler._private.util import prepare_config, validate_config

from manynet.devices.name import DeviceName
from manynet.devices.placement import PREFIX
from manynet.learning.torchrec_setup import VERSION
from manynet.telemetry import metrics

# isort: split
import psutil  # Ray brings it, and it is found once Ray is imported

ROOT = Path(__file__).parent.parent
CLUSTERS = ROOT / "clusters"
KUBERNETES = "1.37"
RAY_UP = ("aws.yaml", "gcp.yaml")
GROUPS = ("trainers", "evaluators", "devices", "gateways")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
TESTED = dict(
    line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line
)
RAY = TESTED["ray"]


def _read(name: str) -> Any:
    return yaml.safe_load((CLUSTERS / name).read_text())


def _walk(content: Any) -> Iterator[tuple[str, Any]]:
    """All keys with their values, however deep."""
    if isinstance(content, dict):
        for key, value in content.items():
            yield str(key), value
            yield from _walk(value)
    elif isinstance(content, list):
        for value in content:
            yield from _walk(value)


def _files() -> list[Path]:
    return [file for file in sorted(CLUSTERS.rglob("*")) if file.is_file() and file.suffix != ".pyc"]


# --- `ray up`


@pytest.fixture(params=RAY_UP)
def prepared(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A file as `ray up` reads it: with Ray's defaults, by Ray's schema."""
    monkeypatch.chdir(ROOT)  # its paths are relative to there
    config = prepare_config(_read(request.param))
    validate_config(config)
    return config


def test_ray_up_files_name_a_node_type_for_each_kind_of_work(prepared: Any) -> None:
    types = prepared["available_node_types"]
    assert set(types) == {"head", "trainers", "evaluators", "devices"}
    assert prepared["head_node_type"] == "head"
    assert types["head"]["resources"]["CPU"] == types["devices"]["resources"]["CPU"] == 0
    assert types["trainers"]["resources"]["GPU"] >= 1 and types["evaluators"]["resources"]["GPU"] >= 1
    assert all(0 < types[name]["min_workers"] <= types[name]["max_workers"] for name in set(types) - {"head"})
    assert _devices(types["devices"]["resources"])


def test_ray_up_files_start_ray_with_the_token_and_the_dashboard_on_loopback(prepared: Any) -> None:
    assert "--env RAY_AUTH_MODE=token" in prepared["docker"]["run_options"]
    head = " ".join(prepared["head_start_ray_commands"])
    assert "--dashboard-host=127.0.0.1" in head and "0.0.0.0" not in head
    # The token gets to each node by its path, and is there nobody else's to read.
    mounts = prepared["file_mounts"]
    assert mounts["/home/ray/mounted/auth_token"] == "~/.ray/auth_token"
    for commands in (prepared["head_setup_commands"], prepared["worker_setup_commands"]):
        assert any("install -D -m 600" in line and line.endswith("~/.ray/auth_token") for line in commands)


def test_ray_up_files_install_the_version_of_this_repository(prepared: Any) -> None:
    wheel = f"manynet-{PROJECT['version']}-py3-none-any.whl"
    mounted, mounts = "/home/ray/mounted", prepared["file_mounts"]
    assert mounts[f"{mounted}/{wheel}"] == f"build/{wheel}"
    assert (ROOT / mounts[f"{mounted}/install.sh"]).is_file()
    assert (ROOT / mounts[f"{mounted}/constraints.txt"]).is_file()
    for commands in (prepared["head_setup_commands"], prepared["worker_setup_commands"]):
        assert f"bash {mounted}/install.sh {mounted}/{wheel} {mounted}/constraints.txt" in commands


def test_aws_nodes_are_what_ec2_takes() -> None:
    service = botocore.session.get_session().get_service_model("ec2")
    shape = service.operation_model("RunInstances").input_shape
    for node in _read("aws.yaml")["available_node_types"].values():
        report = ParamValidator().validate({**node["node_config"], "MinCount": 1, "MaxCount": 1}, shape)
        assert not report.has_errors(), report.generate_report()


# --- KubeRay


def _cluster(name: str) -> dict[str, Any]:
    content = _read(f"kuberay/{name}")
    spec = content["spec"]["rayClusterSpec"] if content["kind"] == "RayJob" else content["spec"]
    return {"metadata": {"name": "manynet", **content["metadata"]}, "spec": spec}


def _templates() -> list[Any]:
    spec, job = _cluster("raycluster.yaml")["spec"], _read("kuberay/rayjob.yaml")["spec"]
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    return [*(group["template"] for group in groups), job["submitterPodTemplate"]]


@pytest.mark.parametrize("name", ["raycluster.yaml", "rayjob.yaml"])
def test_ray_derives_the_node_types_and_devices_of_kuberay_files(name: str) -> None:
    types = _derive_autoscaling_config_from_ray_cr(_cluster(name))["available_node_types"]
    assert set(types) == {"headgroup", *GROUPS}
    assert {key: (one["min_workers"], one["max_workers"]) for key, one in types.items()} == {
        "headgroup": (0, 0),
        "trainers": (1, 2),
        "evaluators": (2, 8),
        "devices": (1, 2),
        "gateways": (1, 1),
    }
    resources = {key: one["resources"] for key, one in types.items()}
    assert resources["headgroup"]["CPU"] == 0
    assert resources["trainers"]["GPU"] == resources["evaluators"]["GPU"] == 1
    assert _devices(resources["devices"]) == ["xeon/torch", "xeon/onnxruntime", "xeon/openvino"]
    assert _devices(resources["gateways"]) == ["pi/command"]


def _devices(resources: dict[str, Any]) -> list[str]:
    # Ray's own resources aside, each must be a device that a study can name.
    names = [key for key in resources if key not in ("CPU", "GPU", "memory")]
    assert all(name.startswith(PREFIX) for name in names)
    return [str(DeviceName.parse_canonical(name.removeprefix(PREFIX))) for name in names]


def test_a_job_gets_the_cluster_that_stays() -> None:
    assert _cluster("rayjob.yaml")["spec"] == _cluster("raycluster.yaml")["spec"]


def test_pods_are_what_kubernetes_takes_and_no_root() -> None:
    for template in _templates():
        pod = {"apiVersion": "v1", "kind": "Pod", **template}
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)
        assert template["spec"]["securityContext"]["runAsNonRoot"] is True
        assert template["spec"]["automountServiceAccountToken"] is False
        for container in template["spec"]["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["requests"] and container["resources"]["limits"]


def test_plain_objects_are_what_kubernetes_takes_and_what_pods_refer_to() -> None:
    objects = list(yaml.safe_load_all((CLUSTERS / "kuberay/shared.yaml").read_text()))
    for one in objects:
        kubernetes_validate.validate(one, KUBERNETES, strict=True)
    named = {one["kind"]: one for one in objects}
    assert set(named) == {"Namespace", "PersistentVolumeClaim", "NetworkPolicy"}
    labels = named["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"]
    claims = {
        volume["persistentVolumeClaim"]["claimName"]
        for template in _templates()
        for volume in template["spec"].get("volumes", ())
    }
    assert claims == {named["PersistentVolumeClaim"]["metadata"]["name"]}
    assert all(labels.items() <= template["metadata"]["labels"].items() for template in _templates())


@pytest.mark.parametrize("name", ["raycluster.yaml", "rayjob.yaml"])
def test_kuberay_files_ask_for_the_token(name: str) -> None:
    spec = _cluster(name)["spec"]
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["rayVersion"] == RAY  # the operator refuses the token for a version it does not know


# --- what holds for every file


def test_every_start_of_ray_names_the_token() -> None:
    starts = []
    for name in RAY_UP:
        content = _read(name)
        for key in ("head_start_ray_commands", "worker_start_ray_commands"):
            starts += [line for line in content[key] if "ray start" in line]
    assert len(starts) == 2 * len(RAY_UP)
    assert all(line.startswith("RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=") for line in starts)
    assert "ENV RAY_AUTH_MODE=token" in (CLUSTERS / "Dockerfile").read_text()
    script = (CLUSTERS / "local.sh").read_text()
    assert script.index("export RAY_AUTH_MODE=token") < script.index("ray start --head")
    others = {file.name for file in _files() if re.search(r"\bray start --", file.read_text())}
    assert others == {"local.sh", *RAY_UP, "README.md"}


SECRET = re.compile(
    r"-----BEGIN|AKIA[0-9A-Z]{16}|\b[0-9a-f]{32,}\b|\beyJ[\w-]{10,}|AIza[\w-]{30,}|\b(?:ghp|hf|glpat)[_-]\w{16,}"
)


@pytest.mark.parametrize("file", _files(), ids=lambda file: str(file.relative_to(CLUSTERS)))
def test_no_file_holds_a_secret(file: Path) -> None:
    assert not SECRET.search(file.read_text())
    if file.suffix != ".yaml":
        return
    for content in yaml.safe_load_all(file.read_text()):
        for key, value in _walk(content):
            assert key not in ("stringData", "ssh_private_key", "gcp_credentials")
            if key == "env":
                assert all("valueFrom" in one for one in value if re.search("KEY|TOKEN|SECRET", one["name"]))


PINNED = re.compile(rf"rayproject/ray:{re.escape(RAY)}-py311-(cpu|gpu)|REGISTRY/manynet:0\.1\.0-(cpu|gpu)")


def test_images_are_pinned() -> None:
    contents = [_read(name) for name in (*RAY_UP, "kuberay/raycluster.yaml", "kuberay/rayjob.yaml")]
    named = [
        value
        for content in contents
        for key, value in _walk(content)
        if key in ("image", "head_image", "worker_image")
    ]
    named += re.findall(r"(?:BASE=|-t )(\S+)", (CLUSTERS / "Dockerfile").read_text())
    assert len(named) > 15 and all(PINNED.fullmatch(name) for name in named)
    assert f":{PROJECT['version']}-" in (CLUSTERS / "Dockerfile").read_text()


def test_an_image_has_what_the_makefile_installs() -> None:
    makefile, script = (ROOT / "Makefile").read_text(), (CLUSTERS / "install.sh").read_text()
    for commands in (makefile, script):
        assert re.search(r"-m manynet.learning.torchrec_setup \| xargs .* --no-deps", commands)
        assert "--constraint" in commands
    assert TESTED["torchrec"] == VERSION
    extras = re.search(r"'\.\[([\w,]+),test\]'", makefile)
    assert extras and f"[{extras[1]}]" in script
    dockerfile = (CLUSTERS / "Dockerfile").read_text()
    assert "clusters/install.sh" in dockerfile
    assert dockerfile.index('install.sh "$MANYNET"') < dockerfile.index("USER 1000")


@pytest.mark.parametrize("name", ["local.sh", "install.sh"])
def test_scripts_are_bash(name: str) -> None:
    assert os.access(CLUSTERS / name, os.X_OK)
    subprocess.run(["bash", "-n", CLUSTERS / name], check=True)


# --- Grafana


class Query(NamedTuple):
    """A query of the dashboard file."""

    panel: str
    text: str

    @property
    def names(self) -> set[str]:
        return set(re.findall(r"ray_manynet_\w+", self.text))


DASHBOARD = json.loads((CLUSTERS / "monitoring/manynet-dashboard.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
QUERIES = [Query(panel["title"], target["expr"]) for panel in PANELS for target in panel["targets"]]
EXPORTED = {definition.exported: definition for definition in metrics.ALL}


def test_every_query_asks_for_a_metric_that_exists_and_every_metric_is_asked_for() -> None:
    assert all(len(query.names) == 1 for query in QUERIES)
    assert {name for query in QUERIES for name in query.names} == set(EXPORTED)
    variables = [one for one in DASHBOARD["templating"]["list"] if one["type"] == "query"]
    assert [one["name"] for one in variables] == ["study"]
    asked = re.fullmatch(r"label_values\((\w+), (\w+)\)", variables[0]["definition"])
    assert asked and asked[2] in EXPORTED[asked[1]].tags


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: query.panel)
def test_queries_tell_series_apart_by_the_metrics_own_tags(query: Query) -> None:
    (name,) = query.names
    by = re.match(r"\w+ by \(([\w, ]+)\)", query.text)
    tags = EXPORTED[name].tags
    assert by and tuple(by[1].split(", ")) == tags
    assert ('{study=~"$study"}' in query.text) == ("study" in tags)


def test_panels_have_units_descriptions_and_places_of_their_own() -> None:
    assert DASHBOARD["uid"] == "manynet" and DASHBOARD["schemaVersion"] >= 39
    taken: set[tuple[int, int]] = set()
    for panel in PANELS:
        assert panel["description"] and panel["fieldConfig"]["defaults"]["unit"]
        assert panel["datasource"]["uid"] == "${datasource}"
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken
        taken |= cells
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_prometheus_reads_what_ray_writes() -> None:
    (scrape,) = _read("monitoring/prometheus.yml")["scrape_configs"]
    files = scrape["file_sd_configs"][0]["files"]
    assert {Path(file).name for file in files} == {"prom_metrics_service_discovery.json"}
    # Where `clusters/local.sh` and where Ray by itself keeps its session.
    assert {str(Path(file).parent) for file in files} == {"/tmp/manynet-head", "/tmp/ray"}
    assert "/tmp/manynet-head" in (CLUSTERS / "local.sh").read_text()


# --- the local head, for real


class Head(NamedTuple):
    """A head that clusters/local.sh started."""

    environment: dict[str, str]
    home: Path
    token: Path
    dashboard: int
    printed: str


def _local(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(CLUSTERS / "local.sh"), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)


def _free_ports(count: int) -> list[int]:
    # Below those that the kernel hands out, and apart from Ray's own.
    taken = {one.laddr.port for one in psutil.net_connections("inet") if one.laddr}
    return [port for port in range(29000 + os.getpid() % 2000, 32000) if port not in taken][:count]


def _processes(home: Path) -> list[psutil.Process]:
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        try:
            if any(str(home) in part for part in process.cmdline()):
                found.update({one.pid: one for one in [process, *process.children(recursive=True)]})
        except psutil.Error:
            continue  # it has ended, or is not ours
    return list(found.values())


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    with tempfile.TemporaryDirectory(prefix="r-", dir="/tmp") as home:  # sockets' paths must be short
        token = tmp_path_factory.mktemp("token") / "made" / "token"
        port, dashboard, client, *metric = _free_ports(5)
        environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("RAY_")},
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HEAD_DIR": home,
            "PORT": str(port),
            "DASHBOARD_PORT": str(dashboard),
            "RAY_AUTH_TOKEN_PATH": str(token),
            # A head that is told to stop waits up to half a minute for what runs on it.
            "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
            # Ray's own fixed ports, which another Ray on this machine may have.
            "AUTOSCALER_METRIC_PORT": str(metric[0]),
            "DASHBOARD_METRIC_PORT": str(metric[1]),
        }
        resources = json.dumps({"device:board/torch": 1})
        options = ["--num-cpus", "1", "--object-store-memory", "100000000", "--resources", resources]
        done = _local(environment, "start", "--ray-client-server-port", str(client), *options)
        try:
            assert done.returncode == 0, done.stderr
            yield Head(environment, Path(home), token, dashboard, done.stdout + done.stderr)
        finally:
            _local(environment, "stop")
            for process in _processes(Path(home)):
                process.kill()


def _status(head: Head, token: str | None) -> int:
    request = urllib.request.Request(f"http://127.0.0.1:{head.dashboard}/api/jobs/")
    if token is not None:
        request.add_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_a_head_makes_a_token_that_nobody_else_reads_and_tells_nobody(head: Head) -> None:
    assert head.token.stat().st_mode & 0o777 == 0o600
    assert head.token.parent.stat().st_mode & 0o777 == 0o700
    token = head.token.read_text()
    assert re.fullmatch("[0-9a-f]{64}", token)
    logs = [file for file in head.home.rglob("*") if file.is_file() and not file.is_symlink()]
    assert token not in head.printed and len(logs) > 10
    assert not [file for file in logs if token.encode() in file.read_bytes()]


def test_a_head_answers_only_who_has_the_token(head: Head) -> None:
    assert _status(head, None) == 401
    assert _status(head, "0" * 64) == 403
    assert _status(head, head.token.read_text()) == 200


JOB = """
import sys, time
from pathlib import Path
import ray

@ray.remote
class Busy:
    def ready(self):
        return True

ray.init(log_to_driver=False)
actor = Busy.remote()
ray.get(actor.ready.remote())
print(sorted(ray.cluster_resources()))
running = Path(sys.argv[1])
running.touch()
while running.exists():
    time.sleep(0.1)
"""


def test_a_heads_job_finds_the_devices_and_nothing_listens_beyond_loopback(head: Head) -> None:
    marker, script = head.home / "running", head.home / "job.py"
    script.write_text(JOB)
    environment = {
        **head.environment,
        "RAY_AUTH_MODE": "token",
        "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{head.dashboard}",
    }
    command = ["ray", "job", "submit", "--", "python", str(script), str(marker)]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as job:
        try:
            while not marker.exists() and job.poll() is None:
                time.sleep(0.1)
            # With a driver and an actor at work, whose ports these are too.
            processes = _processes(head.home)
            names, listening = "", set()
            for process in processes:
                with contextlib.suppress(psutil.NoSuchProcess):  # it has ended since
                    names += " ".join(process.cmdline())
                    listening |= {
                        (process.name(), one.laddr.ip, one.laddr.port)
                        for one in process.net_connections("inet")
                        if one.status == psutil.CONN_LISTEN
                    }
        finally:
            marker.unlink(missing_ok=True)
        output, _ = job.communicate(timeout=120)
    assert job.returncode == 0, output
    assert "device:board/torch" in output
    assert "job.py" in names and "ray::Busy" in names
    assert len(listening) >= 6
    assert {head.dashboard} < {port for _, _, port in listening}
    beyond = [one for one in listening if not _is_loopback(one[1])]
    assert not beyond


def _is_loopback(address: str) -> bool:
    return ip_address(address.removeprefix("::ffff:")).is_loopback


def test_a_second_head_in_the_same_place_is_refused_in_one_line(head: Head) -> None:
    done = _local(head.environment, "start")
    assert done.returncode == 1
    assert done.stderr.startswith("only one head may use HEAD_DIR, but one runs in")
    assert len(done.stderr.splitlines()) == 1


def test_a_head_stops_alone_and_wholly(head: Head) -> None:
    mine = _processes(head.home)
    assert len(mine) >= 6
    done = _local(head.environment, "stop")
    assert done.returncode == 0, done.stderr
    _, alive = psutil.wait_procs(mine, timeout=60)
    assert not alive and not _processes(head.home)
    again = _local(head.environment, "stop")
    assert again.returncode == 1 and len(again.stderr.splitlines()) == 1
