import ast
import subprocess
import sys
from importlib import resources
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from quanttaas_jupyter import __version__
from quanttaas_jupyter.compute.templates import RAY, TEMPLATES, TemplateOptions, render
from quanttaas_jupyter.core.errors import QuantTaaSError

OPTIONS = {"project": "my-project", "zone": "europe-west4-a", "bucket": "gs://my-bucket"}
MACHINES = {"T4": ("n1-standard-8", 8), "L4": ("g2-standard-8", 8), "A100": ("a2-highgpu-1g", 12)}
ACCELERATORS = {"T4": "nvidia-tesla-t4", "L4": "nvidia-l4", "A100": "nvidia-tesla-a100"}
CLOUD = "https://www.googleapis.com/auth/cloud-platform"


def gce(**options: Any) -> dict[str, Any]:
    """What Ray's launcher makes of the template, once its own validation accepted it."""
    util = pytest.importorskip("ray.autoscaler._private.util")
    config: dict[str, Any] = util.prepare_config(yaml.safe_load(render("gce", {**OPTIONS, **options})))
    util.validate_config(config)
    return config


def gke(**options: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    head, worker, cluster = yaml.safe_load_all(render("gke", {**OPTIONS, **options}))
    return head, worker, cluster


@pytest.mark.parametrize("spot", [True, False])
@pytest.mark.parametrize("gpu", MACHINES)
def test_ray_accepts_the_machines_of_compute_engine(gpu: str, spot: bool) -> None:
    config = gce(gpu=gpu, spot=spot, max_workers=7, idle_minutes=3)
    head, worker = (config["available_node_types"][name] for name in ("head", "worker"))
    machine, cpus = MACHINES[gpu]
    assert (config["max_workers"], config["idle_timeout_minutes"], config["head_node_type"]) == (7, 3, "head")
    assert (head["max_workers"], worker["min_workers"], worker["max_workers"]) == (0, 0, 7)
    assert head["resources"] == {"CPU": 0}
    assert (worker["resources"]["CPU"], worker["resources"]["GPU"]) == (cpus, 1)

    node = worker["node_config"]
    assert node["machineType"] == machine
    attached = [{"acceleratorType": ACCELERATORS[gpu], "acceleratorCount": 1}]
    assert node["guestAccelerators"] == (attached if gpu == "T4" else [])
    assert node["scheduling"]["onHostMaintenance"] == "TERMINATE"
    assert node["scheduling"]["preemptible"] is spot
    # Compute Engine refuses a termination action for what is no spot machine.
    assert node["scheduling"].get("instanceTerminationAction") == ("DELETE" if spot else None)
    assert "guestAccelerators" not in head["node_config"]
    assert "scheduling" not in head["node_config"]


def test_machines_run_as_accounts_of_their_own_and_pinned_images() -> None:
    config = gce(service_account="weak-one@other-project.iam.gserviceaccount.com", image="ghcr.io/me/worker:1.2")
    head, worker = (config["available_node_types"][name]["node_config"] for name in ("head", "worker"))
    assert worker["serviceAccounts"] == [{"email": "weak-one@other-project.iam.gserviceaccount.com", "scopes": [CLOUD]}]
    assert head["serviceAccounts"][0]["email"] == "quanttaas-head@my-project.iam.gserviceaccount.com"
    assert config["docker"]["image"] == "ghcr.io/me/worker:1.2"
    assert gce()["docker"]["image"] == f"europe-west4-docker.pkg.dev/my-project/quanttaas/worker:{__version__}"
    for node in (head, worker):
        (disk,) = node["disks"]
        assert disk["autoDelete"] is True
        assert disk["initializeParams"]["diskType"] == "zones/europe-west4-a/diskTypes/pd-balanced"
        assert "/family/" not in disk["initializeParams"]["sourceImage"]


def test_the_cluster_asks_for_a_token_and_shows_its_dashboard_to_nobody() -> None:
    config = gce()
    assert config["file_mounts"] == {"~/.ray/auth_token": "~/.ray/auth_token"}
    assert "-e RAY_AUTH_MODE=token" in config["docker"]["run_options"]
    assert "--dashboard-host=127.0.0.1" in config["head_start_ray_commands"][-1]
    assert "0.0.0.0" not in render("gce", OPTIONS)


def test_commands_on_machines_are_shell_and_wait_within_bounds() -> None:
    config = gce()
    worker = config["available_node_types"]["worker"]["initialization_commands"]
    starts = config["head_start_ray_commands"] + config["worker_start_ray_commands"]
    for command in worker + config["initialization_commands"] + starts:
        assert subprocess.run(["bash", "-n", "-c", command], check=False).returncode == 0, command
    loops = [command for command in worker if "until " in command]
    assert any("nvidia-smi" in command for command in loops)
    assert all("timeout " in command for command in loops)
    assert not any("nvidia" in command for command in config["initialization_commands"])
    assert config["head_setup_commands"] == config["worker_setup_commands"] == []
    # Ray's launcher sets it to 1, and workers of Ray would inherit it.
    assert all("unset OMP_NUM_THREADS" in command for command in starts if "ray start" in command)


@pytest.mark.parametrize(
    ("demand", "started"),
    [
        ([{"CPU": 1}], {"worker": 1}),
        ([{"CPU": 4, "GPU": 1}] * 3, {"worker": 3}),
        ([{"CPU": 1, "memory": 16 << 30}], {"worker": 1}),
        ([{"CPU": 8}] * 9, {"worker": 4}),
    ],
)
def test_rays_autoscaler_starts_workers_for_what_stages_ask_for(
    demand: list[dict[str, float]], started: dict[str, int]
) -> None:
    scheduler = pytest.importorskip("ray.autoscaler.v2.scheduler")
    from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
    from ray.autoscaler.v2.utils import ResourceRequestUtil

    config = AutoscalingConfig(yaml.safe_load(render("gce", {**OPTIONS, "max_workers": 4})), skip_content_hash=True)
    asked = ResourceRequestUtil.group_by_count([ResourceRequestUtil.make(bundle) for bundle in demand])
    reply = scheduler.ResourceDemandScheduler(None).schedule(
        scheduler.SchedulingRequest(
            disable_launch_config_check=True,
            node_type_configs=config.get_node_type_configs(),
            max_num_nodes=config.get_max_num_nodes(),
            resource_requests=asked,
        )
    )
    assert {request.instance_type: request.count for request in reply.to_launch} == started


@pytest.mark.parametrize("spot", [True, False])
@pytest.mark.parametrize("gpu", MACHINES)
def test_ray_reads_the_pods_of_kubernetes(gpu: str, spot: bool) -> None:
    producer = pytest.importorskip("ray.autoscaler._private.kuberay.autoscaling_config")
    _, _, cluster = gke(gpu=gpu, spot=spot, max_workers=7, idle_minutes=3, name="mine")
    seen = producer._derive_autoscaling_config_from_ray_cr(cluster)
    head, worker = seen["available_node_types"]["headgroup"], seen["available_node_types"]["gpu"]
    assert (seen["cluster_name"], seen["max_workers"], seen["idle_timeout_minutes"]) == ("mine", 7, 3)
    assert (head["resources"]["CPU"], worker["resources"]["GPU"], worker["min_workers"]) == (0, 1, 0)
    assert 0 < worker["resources"]["CPU"] < MACHINES[gpu][1]

    pod = cluster["spec"]["workerGroupSpecs"][0]["template"]["spec"]
    assert pod["nodeSelector"]["cloud.google.com/gke-accelerator"] == ACCELERATORS[gpu]
    assert pod["nodeSelector"].get("cloud.google.com/gke-spot") == ("true" if spot else None)
    assert [rule["key"] for rule in pod["tolerations"]] == ["nvidia.com/gpu"] + ["cloud.google.com/gke-spot"] * spot
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"


def test_pods_have_a_token_no_root_and_two_accounts() -> None:
    head, worker, cluster = gke(name="mine")
    spec = cluster["spec"]
    assert (spec["authOptions"], spec["autoscalerOptions"]["version"], spec["rayVersion"]) == (
        {"mode": "token"},
        "v2",
        RAY,
    )
    accounts = (head, worker)
    groups = (spec["headGroupSpec"], *spec["workerGroupSpecs"])
    for account, group in zip(accounts, groups, strict=True):
        pod = group["template"]["spec"]
        assert account["kind"] == "ServiceAccount"
        assert account["metadata"]["name"] == pod["serviceAccountName"]
        named = account["metadata"]["annotations"]["iam.gke.io/gcp-service-account"]
        assert named == "quanttaas-worker@my-project.iam.gserviceaccount.com"
        assert pod["securityContext"]["runAsNonRoot"] is True
        for container in pod["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert head["metadata"]["name"] != worker["metadata"]["name"]
    assert worker["automountServiceAccountToken"] is False


def vertex(monkeypatch: pytest.MonkeyPatch, *arguments: str, **options: Any) -> dict[str, Any]:
    """Runs the script beside a stand-in for Google's package, and tells what was asked of that."""
    asked: dict[str, Any] = {}
    cluster = SimpleNamespace(cluster_resource_name="projects/1/locations/x/persistentResources/quanttaas")
    other = SimpleNamespace(cluster_resource_name="projects/1/locations/x/persistentResources/not-quanttaas")

    def create(**given: Any) -> str:
        asked.update(given)
        return str(cluster.cluster_resource_name)

    stand_in = SimpleNamespace(
        AutoscalingSpec=SimpleNamespace,
        Resources=SimpleNamespace,
        create_ray_cluster=create,
        list_ray_clusters=lambda: [other, cluster],
        delete_ray_cluster=lambda name: asked.setdefault("deleted", []).append(name),
    )
    aiplatform = SimpleNamespace(init=lambda project, location: asked.update(init=(project, location)))
    monkeypatch.setitem(sys.modules, "vertex_ray", stand_in)
    monkeypatch.setitem(sys.modules, "google.cloud", SimpleNamespace(aiplatform=aiplatform))
    monkeypatch.setattr(sys, "argv", ["script", *arguments])
    exec(compile(render("vertex", {**OPTIONS, **options}), "vertex.py", "exec"), {"__name__": "script"})
    return asked


def test_the_vertex_script_asks_for_what_was_chosen(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = vertex(monkeypatch, gpu="T4", max_workers=5)
    (pool,) = asked["worker_node_types"]
    assert asked["init"] == ("my-project", "europe-west4")
    assert (asked["cluster_name"], asked["ray_version"], asked["python_version"]) == ("quanttaas", "2.47", "3.11")
    assert (pool.machine_type, pool.accelerator_type, pool.accelerator_count) == ("n1-standard-8", "NVIDIA_TESLA_T4", 1)
    assert vars(pool.autoscaling_spec) == {"min_replica_count": 0, "max_replica_count": 5}
    assert pool.custom_image.endswith(f"worker:{__version__}-vertex")
    assert asked["service_account"] == "quanttaas-worker@my-project.iam.gserviceaccount.com"
    printed = capsys.readouterr().out
    assert "vertex_ray://projects/1/locations/x/persistentResources/quanttaas --store gs://my-bucket" in printed


def test_the_vertex_script_deletes_its_own_cluster_only(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = vertex(monkeypatch, "delete")
    assert asked["deleted"] == ["projects/1/locations/x/persistentResources/quanttaas"]
    assert "cluster_name" not in asked


def test_the_image_is_pinned_and_fits_the_notebook() -> None:
    text = render("docker", {"project": "my-project", "zone": "us-central1-a", "python": "3.12", "torch": "2.14.1"})
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert lines[0] == f"FROM rayproject/ray:{RAY}-py312-cpu"
    assert "latest" not in text
    assert "RUN pip install torch==2.14.1" in lines
    assert f'ARG PACKAGE="quanttaas-jupyter[ray,gcs]=={__version__}"' in lines
    assert not any("nvidia-modelopt[" in line for line in lines)
    installs = [index for index, line in enumerate(lines) if "pip install" in line]
    assert "pip uninstall -y onnxruntime && " in lines[installs[-1]]
    assert "us-central1-docker.pkg.dev/my-project/quanttaas/worker" in text
    assert any("python3.12/site-packages" in line for line in lines)


def test_without_a_choice_the_image_has_the_notebooks_own_versions() -> None:
    torch = pytest.importorskip("torch")
    options = TemplateOptions(project="my-project", zone="us-central1-a")
    assert options.torch == torch.__version__.split("+")[0]
    assert options.python == f"{sys.version_info.major}.{sys.version_info.minor}"


def test_every_template_is_a_file_of_the_package_and_nothing_in_it_stays_open() -> None:
    folder = resources.files("quanttaas_jupyter.compute").joinpath("templates")
    assert set(TEMPLATES) == {"gce", "gke", "vertex", "docker"}
    for kind, file in TEMPLATES.items():
        assert folder.joinpath(file).is_file()
        assert "@@" not in render(kind, OPTIONS)


@pytest.mark.parametrize(
    ("kind", "options", "said"),
    [
        ("gce", {"project": None}, "project None does not fit: give"),
        ("gce", {"gpu": "H100"}, "gpu 'H100' does not fit: choose one of T4, L4, A100"),
        ("gce", {"zone": "us-central1"}, "zone 'us-central1' does not fit: give one such as us-central1-a"),
        ("gce", {"max_workers": 0}, "max_workers 0 does not fit: give a whole number from 1 to 1000"),
        ("gke", {"max_workers": "many"}, "max_workers 'many' does not fit: give a whole number from 1 to 1000"),
        ("gke", {"idle_minutes": 0}, "idle_minutes 0 does not fit: give a whole number from 1 to 1440"),
        ("gke", {"spot": "maybe"}, "spot 'maybe' does not fit: give true or false"),
        ("gke", {"bucket": None}, "the template needs bucket: give"),
        (
            "gke",
            {"bucket": "gs://mine/folder"},
            "bucket 'gs://mine/folder' does not fit: give one such as gs://my-bucket",
        ),
        ("vertex", {"image": "me/worker:latest"}, "image 'me/worker:latest' does not fit: name a version"),
        ("vertex", {"image": "me/worker"}, "image 'me/worker' does not fit: give a path with a version"),
        ("docker", {"python": "3.10"}, "python '3.10' is too old"),
        ("docker", {"colour": "red"}, "there is no option 'colour'; known are project, zone, gpu"),
        ("eks", {}, "there is no cluster template 'eks'; choose one of gce, gke, vertex, docker"),
    ],
)
def test_what_does_not_fit_is_told_in_one_sentence(kind: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(QuantTaaSError) as caught:
        render(kind, {**OPTIONS, **options})
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)


def test_a_missing_project_is_told_with_where_to_find_it() -> None:
    with pytest.raises(QuantTaaSError, match=r"^the template needs project: give .*`gcloud config get project`"):
        TemplateOptions(zone="us-central1-a")  # type: ignore[call-arg]


WORDS = st.from_regex(r"[a-z][a-z0-9-]{4,28}[a-z0-9]", fullmatch=True)
ACCEPTED: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {
        "project": WORDS,
        "zone": st.from_regex(r"(us|europe|asia)-(east|west|central)[1-9]-[a-f]", fullmatch=True),
        "bucket": st.from_regex(r"(gs://)?[a-z0-9][a-z0-9._-]{1,61}[a-z0-9]", fullmatch=True),
        "gpu": st.sampled_from(sorted(MACHINES)),
        "max_workers": st.integers(1, 1000),
        "idle_minutes": st.integers(1, 1440),
        "spot": st.booleans(),
        # Words that YAML takes for something else, unless they are quoted.
        "name": st.from_regex(r"[a-z]([a-z0-9-]{0,28}[a-z0-9])?", fullmatch=True)
        | st.sampled_from(["no", "on", "null"]),
        "image": st.from_regex(r"[a-z]{2,9}\.io(/[a-z0-9]{1,9}){1,3}:[a-zA-Z0-9_][a-z0-9.]{0,9}", fullmatch=True),
        "service_account": st.builds("{}@{}.iam.gserviceaccount.com".format, WORDS, WORDS),
    }
).filter(lambda options: not str(options["image"]).endswith(":latest"))


@given(ACCEPTED)
def test_whatever_is_accepted_comes_back_out_of_the_yaml(options: dict[str, Any]) -> None:
    node_types = (config := yaml.safe_load(render("gce", options)))["available_node_types"]
    worker = node_types["worker"]
    region = options["zone"][:-2]
    assert config["provider"] == {
        "type": "gcp",
        "project_id": options["project"],
        "region": region,
        "availability_zone": options["zone"],
    }
    assert (config["cluster_name"], config["docker"]["image"]) == (options["name"], options["image"])
    assert (config["max_workers"], config["idle_timeout_minutes"]) == (options["max_workers"], options["idle_minutes"])
    assert worker["node_config"]["machineType"] == MACHINES[options["gpu"]][0]
    assert worker["node_config"]["scheduling"]["preemptible"] is options["spot"]
    assert worker["node_config"]["serviceAccounts"][0]["email"] == options["service_account"]

    head, _, cluster = yaml.safe_load_all(render("gke", options))
    group = cluster["spec"]["workerGroupSpecs"][0]
    assert (cluster["metadata"]["name"], group["maxReplicas"]) == (options["name"], options["max_workers"])
    assert cluster["spec"]["autoscalerOptions"]["idleTimeoutSeconds"] == options["idle_minutes"] * 60
    assert group["template"]["spec"]["containers"][0]["image"] == options["image"]
    assert head["metadata"]["annotations"] == {"iam.gke.io/gcp-service-account": options["service_account"]}

    bucket = options["bucket"].removeprefix("gs://")
    for kind in ("gce", "gke", "vertex"):
        text = render(kind, options)
        assert f"gs://{bucket}" in text
        # Placeholders in comments too: what was accepted must not end a line there.
        assert len(text.splitlines()) == len(render(kind, {**OPTIONS, "spot": options["spot"]}).splitlines())
    ast.parse(render("vertex", options))


TEXTS = (
    "project",
    "zone",
    "gpu",
    "bucket",
    "name",
    "image",
    "service_account",
    "head_service_account",
    "python",
    "torch",
)
HOSTILE = st.builds(
    "{}{}{}".format,
    st.sampled_from(["", "my-project", "us-central1-a", "a/b:1", "x@y.iam.gserviceaccount.com", "3.11", "2.13.0"]),
    st.sampled_from(
        ["\n", "\r", "\u2028", "'", '"', "`", "$(id)", "${HOME}", "; id", ": ", " #", "\\", "@@zone", "{", "é"]
    ),
    st.text(max_size=8),
)


@given(st.sampled_from(TEXTS), HOSTILE)
def test_nothing_that_could_carry_yaml_or_shell_is_accepted(option: str, value: str) -> None:
    with pytest.raises(QuantTaaSError) as caught:
        TemplateOptions.model_validate({**OPTIONS, option: value})
    said = str(caught.value)
    assert said.startswith(f"{option} ")
    assert len(said.splitlines()) == 1
    assert len(said) < 260
