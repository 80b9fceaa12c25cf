from __future__ import annotations

import ctypes
import gc
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from grpo.cost import meter as meters
from grpo.cost import processor
from grpo.cost.book import read_costs
from grpo.cost.energy import Gpu, ProcessorEnergy
from grpo.cost.meter import (
    EVALUATE,
    JUDGE,
    LOAD,
    OTHER,
    SAMPLE,
    SAVE,
    UPDATE,
    WAITING,
    Meter,
    Place,
    metered,
)


class Hands:
    """Clocks that are set by hand: of the wall, of this process, of its children."""

    def __init__(self) -> None:
        self.wall = 100.0
        self.own = 7.0
        self.children = 3.0

    def meter(self) -> Meter:
        return Meter(clock=lambda: self.wall, own=lambda: self.own, children=lambda: self.children)

    def pass_by(self, wall: float, own: float = 0.0, children: float = 0.0) -> None:
        self.wall += wall
        self.own += own
        self.children += children


def walls(folder: Path) -> dict[str, float]:
    costs = read_costs(folder)
    assert costs is not None
    return {name: spent.wall for name, spent in costs.phases.items()}


def test_the_phases_share_out_the_clock_and_an_inner_one_takes_from_the_outer(
    tmp_path: Path,
) -> None:
    hands = Hands()
    meter = hands.meter()
    meter.open(tmp_path, Place("a"), None)
    with meter.phase(LOAD):
        hands.pass_by(4.0, own=2.0)
        with meter.phase(EVALUATE):
            hands.pass_by(8.0, own=5.0)
        hands.pass_by(1.0)
    hands.pass_by(16.0)
    with meter.phase(OTHER):
        with meter.phase(SAMPLE):
            hands.pass_by(32.0, own=30.0)
        hands.pass_by(64.0)
    meter.end()
    assert walls(tmp_path) == {LOAD: 5, EVALUATE: 8, SAMPLE: 32, OTHER: 64, WAITING: 16}
    costs = read_costs(tmp_path)
    assert costs is not None
    assert costs.total.wall == hands.wall - 100 and costs.total.cpu == 37
    assert costs.phases[SAMPLE].cpu == 30 and costs.total.gpu == 0


def test_what_children_compute_during_a_step_is_judging_and_else_of_the_phase(
    tmp_path: Path,
) -> None:
    hands = Hands()
    meter = hands.meter()
    meter.open(tmp_path, Place("a"), None)
    with meter.phase(LOAD):
        hands.pass_by(1.0, children=1.0)
    with meter.phase(OTHER):
        with meter.phase(SAMPLE):
            hands.pass_by(1.0, children=2.0)
        with meter.phase(UPDATE):
            hands.pass_by(1.0, children=4.0)
        with meter.phase(EVALUATE):
            hands.pass_by(1.0, children=8.0)
        hands.children -= 0.5  # one ended and was not yet waited for: no time runs back
        with meter.phase(SAVE):
            hands.pass_by(1.0)
    meter.end()
    costs = read_costs(tmp_path)
    assert costs is not None
    children = {name: spent.children for name, spent in costs.phases.items() if spent.children}
    assert children == {LOAD: 1, JUDGE: 6, EVALUATE: 8}
    assert costs.total.cpu == costs.total.children == 15


def test_an_error_leaves_the_phase_and_the_next_attempt_begins_at_nothing(tmp_path: Path) -> None:
    hands = Hands()
    meter = hands.meter()
    meter.open(tmp_path, Place("a"), None)
    with pytest.raises(KeyError), meter.phase(OTHER), meter.phase(SAMPLE):
        hands.pass_by(2.0)
        raise KeyError
    meter.count(sampled=5)
    meter.end(failed=True)
    hands.pass_by(1000.0)
    meter.begin()
    meter.begin()
    meter.open(tmp_path, Place("b"), 3)
    hands.pass_by(1.0)
    meter.end()
    assert walls(tmp_path) == {SAMPLE: 2, WAITING: 1}
    lines = [json.loads(line) for line in (tmp_path / "costs.jsonl").read_text().splitlines()]
    assert [line["event"] for line in lines] == ["start", "failed", "start", "end"]
    assert lines[2]["resumed_from"] == 3 and lines[2]["tokens"]["sampled"] == 0


def test_a_line_that_a_kill_cut_off_is_ended_before_the_next_and_left_out(tmp_path: Path) -> None:
    (tmp_path / "costs.jsonl").write_text('{"event": "sta')
    with metered(tmp_path):
        pass
    lines = (tmp_path / "costs.jsonl").read_text().splitlines()
    assert lines[0] == '{"event": "sta' and json.loads(lines[1])["event"] == "start"
    costs = read_costs(tmp_path)
    assert costs is not None and costs.attempts == 1


def test_a_command_counts_from_where_it_began(tmp_path: Path) -> None:
    meters.begin_here()
    time.sleep(0.05)
    first = Meter()
    second = Meter()
    for meter, name in ((first, "a"), (second, "b")):
        meter.open(tmp_path, Place(name), None)
        meter.end()
    lines = [json.loads(line) for line in (tmp_path / "costs.jsonl").read_text().splitlines()]
    assert lines[0]["phases"][LOAD]["wall"] >= 0.05 and LOAD not in lines[2]["phases"]


def test_a_disk_that_refuses_costs_only_lines(tmp_path: Path) -> None:
    meter = Meter()
    assert not meter.open(tmp_path / "missing", Place("a"), None)
    with meter.phase(SAMPLE):
        meter.mark(1)
    meter.end()
    assert read_costs(tmp_path / "missing") is None


def test_a_long_step_writes_lines_and_a_dropped_meter_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(meters, "TICK_SECONDS", 0.02)
    before = set(threading.enumerate())
    meter = Meter()
    meter.open(tmp_path, Place("a"), None)
    (thread,) = set(threading.enumerate()) - before
    file = tmp_path / "costs.jsonl"
    deadline = time.monotonic() + 20
    while len(file.read_text().splitlines()) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert json.loads(file.read_text().splitlines()[2])["event"] == "now"
    del meter
    gc.collect()
    thread.join(20)
    assert not thread.is_alive()


BURN = "import time\nend = time.process_time() + 0.3\nwhile time.process_time() < end: pass\n"


def test_children_are_counted_while_they_live_and_after() -> None:
    """A child of a child too; the kernel counts in hundredths of a second."""
    before = processor.children_seconds()
    code = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {BURN!r}])\n{BURN}print('done', flush=True)\ninput()"
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdin is not None and child.stdout is not None
    assert child.stdout.readline() == "done\n"
    living = processor.children_seconds() - before
    child.communicate("\n")
    ended = processor.children_seconds() - before
    assert 0.57 < living <= ended + 0.05 and ended < 5


def test_the_sockets_energy_goes_on_when_a_counter_begins_again(tmp_path: Path) -> None:
    zone = tmp_path / "intel-rapl:0"
    part = tmp_path / "intel-rapl:0:0"
    for place, name in ((zone, "package-0"), (part, "core")):
        place.mkdir()
        (place / "name").write_text(f"{name}\n")
        (place / "max_energy_range_uj").write_text("10000000\n")
        (place / "energy_uj").write_text("9000000\n")
    energy = ProcessorEnergy(tmp_path)
    (zone / "energy_uj").write_text("500000\n")
    assert energy.joules() == pytest.approx(1.5)
    (zone / "energy_uj").write_text("700000\n")
    assert energy.joules() == pytest.approx(1.7)
    assert ProcessorEnergy(tmp_path / "none").joules() is None


class Nvml:
    """A library as NVML is called: 0 for success; ``millijoules`` of a GPU that may not tell."""

    millijoules: int | None = 5000

    def nvmlInit_v2(self) -> int:
        return 0

    def nvmlDeviceGetHandleByUUID(self, uuid: bytes, handle: Any) -> int:
        return 0 if uuid == b"GPU-1" else 6

    def nvmlDeviceGetUtilizationRates(self, handle: Any, rates: Any) -> int:
        rates._obj.gpu = 25
        return 0

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: Any, total: Any) -> int:
        if self.millijoules is None:
            return 3
        ctypes.cast(total, ctypes.POINTER(ctypes.c_ulonglong))[0] = self.millijoules
        return 0


def test_a_gpu_tells_joules_since_it_was_asked_first_and_what_it_does_not_tell_is_unknown() -> None:
    library = Nvml()
    gpu = Gpu("GPU-1", library)
    library.millijoules = 12_500
    assert gpu.joules() == 7.5 and gpu.busy() == 0.25
    library.millijoules = None
    assert gpu.joules() is None
    other = Gpu("GPU-2", library)
    assert other.joules() is None and other.busy() is None


def test_a_held_gpu_counts_by_the_clock_and_is_busy_as_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = Nvml()
    monkeypatch.setattr(meters, "Gpu", lambda uuid: Gpu(uuid, library))
    monkeypatch.setattr(meters, "DEVICE_SECONDS", 1000.0)
    hands = Hands()
    meter = hands.meter()
    meter.open(tmp_path, Place("a", devices=1, gpu="GPU-1"), None)
    meter.tick()
    with meter.phase(SAMPLE):
        hands.pass_by(8.0)
        library.millijoules = 9000
        meter.tick()
    hands.pass_by(2.0)
    meter.end()
    costs = read_costs(tmp_path)
    assert costs is not None and costs.devices == 1
    sampled = costs.phases[SAMPLE]
    assert (sampled.gpu, sampled.busy, sampled.joules) == (8, 2, 4)
    assert costs.total.gpu == 10 and costs.tells == {"busy", "joules"}


def test_children_of_this_process_are_found_by_the_kernels_lists_and_by_psutil() -> None:
    with subprocess.Popen([sys.executable, "-c", f"{BURN}input()"], stdin=subprocess.PIPE) as child:
        assert child.stdin is not None
        deadline = time.monotonic() + 30
        while sum(processor._living_elsewhere()) < 0.3 and time.monotonic() < deadline:
            time.sleep(0.02)
        found = sum(processor._living_elsewhere())
        if os.path.exists(f"/proc/self/task/{os.getpid()}/children"):
            assert sum(processor._living_on_linux()) == pytest.approx(found, abs=0.05)
        assert found >= 0.3
        child.stdin.close()
