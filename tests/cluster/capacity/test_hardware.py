"""Figures with their sources, what a user may put in their place, and what GPUs can be asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from clippy.config import ConfigError
from cluster.capacity.hardware import (
    Calibration,
    Figure,
    gpu_cluster,
    gpu_device,
    load_hardware,
    load_prices,
    parse_gpus,
    save_calibration,
    this_machine,
)
from tests.cluster.capacity.settings import HARDWARE


def test_every_gpu_has_a_machine_with_a_price_and_every_number_a_source() -> None:
    prices = load_prices()
    for name, gpu in HARDWARE.gpus.items():
        node = HARDWARE.nodes[gpu.node]
        assert node.gpus
        assert node.source
        assert gpu.source
        assert gpu.node in prices.node_hour or gpu.node == "workstation", name
    assert HARDWARE.cpu_node in prices.node_hour
    assert all(len(figure["source"]) > 5 for figure in HARDWARE.rates.model_dump().values())


@pytest.mark.parametrize(("text", "found"), [("32xH100", (32, "H100")), ("8 x a100-40", (8, "A100-40"))])
def test_gpus_are_read(text: str, found: tuple[int, str]) -> None:
    assert parse_gpus(text, HARDWARE) == found


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("H100", r"--gpus: must be a number and a kind, as in 32xH100 \(got 'H100'\)"),
        ("0xH100", "must be a number and a kind"),
        ("8xA100", "no figures for a GPU named 'A100'; did you mean 'A100-80' or 'A100-40'\\?"),
        ("8xH10", "did you mean 'H100'\\?"),
    ],
)
def test_gpus_that_are_not_there_are_refused_with_the_near_miss(text: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        parse_gpus(text, HARDWARE)


def test_bfloat16_on_a_gpu_without_it_is_refused() -> None:
    with pytest.raises(ValueError, match=r"V100-32 has no matrix unit for bfloat16; set train\.precision=float32"):
        gpu_device("V100-32", HARDWARE, "bfloat16")
    device = gpu_device("V100-32", HARDWARE, "float32")
    assert device.matrix_flops["float32"] == pytest.approx(0.7 * 15.7e12)


def test_cores_that_are_left_to_decoding() -> None:
    cluster = gpu_cluster(12, "H100", HARDWARE, precision="bfloat16", worker_cores=2, cpu_nodes=3)
    assert cluster.nodes == 2
    assert cluster.decode_cores == 2 * 192 - 12 * 2 + 3 * 64
    assert this_machine(2, HARDWARE, worker_cores=1, cores=2).decode_cores == 2  # shared: Ray counts them twice
    assert this_machine(2, HARDWARE, worker_cores=1, cores=16).decode_cores == 14


def test_measured_rates_take_the_place_of_assumed_ones(tmp_path: Path) -> None:
    file = str(tmp_path / "calibration.json")
    rates = {"cpu_matrix_gflops": Figure(value=12.5, source="measured here")}
    save_calibration(file, Calibration(machine="mine", rates=rates))
    found = load_hardware(file).rates
    assert found.cpu_matrix_gflops == rates["cpu_matrix_gflops"]
    assert found.cpu_memory_gb_per_s == HARDWARE.rates.cpu_memory_gb_per_s


def test_files_of_a_user_are_checked(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("machine: mine\nrates: {cpu_gflops: {value: 1, source: x}}")
    with pytest.raises(ConfigError, match="cpu_gflops: no such rate"):
        load_hardware(str(file))
    file.write_text("currency: EUR\nsource: our contract\nnode_hours: {}")
    with pytest.raises(ConfigError, match=r"node_hours .*: no such field; did you mean 'node_hour'\?"):
        load_prices(str(file))
    file.write_text(
        "{currency: EUR, source: ours, node_hour: {p5.48xlarge: 40}, storage_gib_month: 0, get_requests_1000: 0}"
    )
    assert load_prices(str(file)).node_hour == {"p5.48xlarge": 40}
