from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from grpo.cost.book import from_metrics, read_costs, together
from grpo.cost.price import Prices

TOKENS = {"prompt": 0, "sampled": 0, "trained": 0, "evaluated": 0}


def line(event: str, step: int, wall: float, **facts: Any) -> dict[str, Any]:
    """A line after `wall` seconds, all of them sampling, in which as much was computed and ten tokens a second made."""
    return {
        "event": event,
        "attempt": "a",
        "step": step,
        "at": wall,
        "rank": 0,
        "world": 1,
        "devices": 1,
        "phases": {"sample": {"wall": wall, "cpu": wall / 2, "children": wall / 4}},
        "tokens": {**TOKENS, "sampled": int(10 * wall)},
        "tells": [],
        "socket_joules": None,
        **facts,
    }


def write(folder: Path, lines: list[dict[str, Any]], name: str = "costs.jsonl") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("".join(json.dumps(of) + "\n" for of in lines))
    return folder


def lives(*of: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Attempts one after another, named a, b, c."""
    return [{**line, "attempt": "abc"[number]} for number, life in enumerate(of) for line in life]


KILLED = [
    line("start", 0, 1.0, resumed_from=None),
    line("step", 1, 2.0),
    line("step", 2, 4.0),
    line("step", 3, 8.0),
    line("now", 3, 9.5),
]


def repeated(folder: Path) -> tuple[int, float, int]:
    costs = read_costs(folder)
    assert costs is not None
    again = costs.repeated
    assert again.spent.gpu == again.spent.wall
    return again.steps, again.spent.wall, again.tokens["sampled"]


def test_a_run_pays_for_what_a_kill_lost_and_says_what_was_made_again(tmp_path: Path) -> None:
    after = [line("start", 2, 1.0, resumed_from=2), line("step", 3, 5.0), line("end", 3, 6.0)]
    folder = write(tmp_path / "run", lives(KILLED, after))
    costs = read_costs(folder)
    assert costs is not None
    assert costs.total.wall == costs.total.gpu == 15.5 and costs.total.cpu == 15.5 * 0.75
    assert costs.tokens["sampled"] == 155 and costs.attempts == 2 and costs.cut_off == 1
    assert repeated(folder) == (1, 5.5, 55)


@pytest.mark.parametrize(
    "resumed_from, steps, wall",
    [(3, 0, 1.5), (1, 2, 7.5), (None, 3, 9.5)],
    ids=["the step under way", "back to step 1", "from the beginning"],
)
def test_what_is_lost_is_what_came_after_the_checkpoint(
    tmp_path: Path, resumed_from: int | None, steps: int, wall: float
) -> None:
    after = [line("start", resumed_from or 0, 1.0, resumed_from=resumed_from)]
    assert repeated(write(tmp_path / "run", lives(KILLED, after)))[:2] == (steps, wall)


def test_a_second_kill_at_the_same_step_counts_what_each_attempt_lost_once(tmp_path: Path) -> None:
    second = [line("start", 2, 1.0, resumed_from=2), line("now", 2, 4.0)]
    third = [line("start", 2, 1.0, resumed_from=2), line("step", 3, 3.0)]
    assert repeated(write(tmp_path / "run", lives(KILLED, second, third)))[:2] == (1, 5.5 + 3.0)


def test_what_a_stopped_run_did_after_its_checkpoint_is_not_lost(tmp_path: Path) -> None:
    stopped = [*KILLED[:3], line("end", 2, 6.0)]
    after = [line("start", 2, 1.0, resumed_from=2)]
    assert repeated(write(tmp_path / "run", lives(stopped, after)))[:2] == (0, 0.0)
    failed = [*KILLED[:3], line("failed", 2, 6.0)]
    assert repeated(write(tmp_path / "run", lives(failed, after)))[:2] == (0, 2.0)


def test_wall_time_counts_once_and_devices_and_processors_of_all_ranks(tmp_path: Path) -> None:
    of_all = {"world": 3}
    folder = write(
        tmp_path / "run", [line("start", 0, 2.0, **of_all), line("end", 4, 8.0, **of_all)]
    )
    write(folder, [line("end", 4, 7.0, rank=1, **of_all)], "costs.1.jsonl")
    write(folder, [line("now", 3, 5.0, rank=2, **of_all)], "costs.2.jsonl")
    costs = read_costs(folder)
    assert costs is not None
    assert costs.total.wall == 8 and costs.total.gpu == 20 and costs.total.cpu == 15
    assert costs.tokens["sampled"] == 80
    assert (costs.processes, costs.devices, costs.missing, costs.cut_off) == (3, 3, 0, 0)
    (folder / "costs.2.jsonl").unlink()
    costs = read_costs(folder)
    assert costs is not None and costs.missing == 1 and costs.total.gpu == 15


def test_a_kill_costs_every_rank_what_it_had_done_since(tmp_path: Path) -> None:
    folder = write(
        tmp_path / "run",
        lives(
            [{**of, "world": 2} for of in KILLED],
            [line("start", 2, 1.0, resumed_from=2), line("end", 3, 2.0)],
        ),
    )
    write(folder, [{**of, "rank": 1, "world": 2} for of in KILLED], "costs.1.jsonl")
    costs = read_costs(folder)
    assert costs is not None
    assert costs.repeated.steps == 1 and costs.repeated.spent.wall == 5.5
    assert costs.repeated.spent.gpu == 11.0 and costs.missing == 0


def test_what_a_device_does_not_tell_is_unknown_and_not_nothing(tmp_path: Path) -> None:
    told = line("end", 1, 4.0, tells=["busy", "joules"], socket_joules=3.0)
    told["phases"]["sample"] |= {"busy": 2.0, "joules": 50.0}
    known = read_costs(write(tmp_path / "known", [told]))
    unknown = read_costs(write(tmp_path / "unknown", [line("end", 1, 4.0)]))
    assert known is not None and unknown is not None
    total = known.to_mapping()["total"]
    assert total["gpu_busy_seconds"] == 2 and total["gpu_joules"] == 50
    assert known.to_mapping()["socket_joules"] == 3
    for costs in (unknown, together([known, unknown])):
        total = costs.to_mapping()["total"]
        assert total["gpu_busy_seconds"] is None and total["gpu_joules"] is None
        assert costs.socket_joules is None


def test_runs_add_up(tmp_path: Path) -> None:
    first = read_costs(write(tmp_path / "one", [line("end", 1, 4.0)]))
    after = [line("start", 2, 1.0, resumed_from=2), line("end", 3, 6.0)]
    second = read_costs(write(tmp_path / "two", lives(KILLED, after)))
    assert first is not None and second is not None
    whole = together([first, second])
    assert whole.total.wall == 4 + 15.5 and whole.tokens["sampled"] == 40 + 155
    assert whole.attempts == 3 and whole.repeated == second.repeated


def test_the_priced_phases_sum_to_the_priced_whole(tmp_path: Path) -> None:
    last = line("end", 1, 0.0)
    last["phases"] = {"load": {"wall": 0.1}, "sample": {"wall": 0.2}, "other": {"wall": 3599.7}}
    costs = read_costs(write(tmp_path / "run", [last]))
    assert costs is not None
    values = costs.to_mapping(Prices({"gpu": 36.0}))
    assert [of["money"] for of in values["phases"].values()] == [0.001, 0.002, 35.997]
    assert values["total"]["money"] == 36.0 and values["total"]["wall_seconds"] == 3600.0


def test_a_run_that_kept_no_costs_gives_what_its_steps_say() -> None:
    records: list[dict[str, Any]] = [
        {
            "step": 1,
            "seconds/sample": 3.0,
            "seconds/judge": 1.0,
            "seconds/update": 2.0,
            "seconds/step": 7.0,
        },
        {
            "step": 2,
            "seconds/sample": 3.0,
            "seconds/update": 2.0,
            "seconds/step": None,
            "completion/tokens": 9,
        },
    ]
    costs = from_metrics(records, {"seconds": 20.0})
    assert {name: spent.wall for name, spent in costs.phases.items()} == {
        "evaluate": 13.0,
        "sample": 6.0,
        "judge": 1.0,
        "update": 4.0,
    }
    assert costs.tokens["sampled"] == 9 and not costs.to_mapping()["recorded"]
    total = costs.to_mapping(Prices({"gpu": 2.0}))["total"]
    assert total["cpu_seconds"] is None and total["gpu_seconds"] is None and total["money"] is None
    assert costs.to_mapping(Prices({"machine": 3.6}))["total"]["money"] == 0.024
