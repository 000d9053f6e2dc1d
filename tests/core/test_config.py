from pathlib import Path

import pytest

from quanttaas_jupyter.core.config import ClusterConfig, load_config, save_cluster
from quanttaas_jupyter.core.errors import QuantTaaSError

L4 = ClusterConfig(address="http://127.0.0.1:8265", store="gs://bucket/studies")


def test_a_cluster_is_kept_beside_what_the_file_holds_already(home: Path) -> None:
    home.mkdir()
    (home / "config.yaml").write_text("engine: {idle_minutes: 3}\n")
    save_cluster("l4", L4)
    save_cluster("a100", ClusterConfig(address="https://head:8265/"))
    config = load_config()
    assert config.clusters["l4"] == L4
    assert config.clusters["a100"].address == "https://head:8265"
    assert config.engine.idle_minutes == 3
    save_cluster("l4", None)
    assert list(load_config().clusters) == ["a100"]


@pytest.mark.parametrize("name", ["local", "../x", "A", "", "a/b"])
def test_names_that_are_no_names_are_refused(home: Path, name: str) -> None:
    with pytest.raises(QuantTaaSError, match="no name for a cluster"):
        save_cluster(name, L4)


def test_the_environment_names_a_cluster_over_the_file(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home.mkdir()
    (home / "config.yaml").write_text("cluster: l4\n")
    assert load_config().cluster == "l4"
    monkeypatch.setenv("QUANTTAAS_CLUSTER", "local")
    assert load_config().cluster == "local"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("clusters: {l4: {address: 'ray://head:10001'}}", "clusters.l4.address.*no address of a Jobs API"),
        ("clusters: {l4: {address: 'http://h:8265', slot: {cpus: 0}}}", "clusters.l4.slot.cpus"),
        ("clusters: {l4: {address: 'http://h:8265', colour: red}}", "clusters.l4.colour"),
    ],
)
def test_a_broken_cluster_is_named_by_its_place_in_the_file(home: Path, text: str, complaint: str) -> None:
    home.mkdir()
    (home / "config.yaml").write_text(text)
    with pytest.raises(QuantTaaSError, match=complaint):
        load_config()
