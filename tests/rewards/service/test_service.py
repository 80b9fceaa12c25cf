"""The reward service: every status, results by index, stuck and dying workers, and nothing left behind."""

import asyncio
import math
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
from hostile import HOSTILE

import rewards.service
from rewards import RewardSpec, Sample, Score
from rewards.clock import Clock, process_state
from rewards.service.service import RewardService, combine
from rewards.table import load

ROOT = Path(__file__).resolve().parents[3]

REWARDS = '''
import asyncio, math, os, signal, subprocess, sys, time

def length(text): return float(len(text))
def equals(text, answer): return text == answer
def raises(text): raise KeyError("no such thing")
def wrong_type(text): return "good"
def nan(text): return math.nan
def infinite(text): return math.inf
def nothing(text): return None
def short_list(completions): return [1.0]
def long_list(completions, **kwargs): return [1.0] * (len(completions) + 1)
def not_a_list(completions): return 1.0
def nan_for_b(completions): return [math.nan if text == "b" else 1.0 for text in completions]
def printing(text): print("noise on stdout", flush=True); return 1.0
def pid(text): return float(os.getpid())
def step(completions, trainer_state, log_metric, **kwargs):
    log_metric("mean", 0.5)
    return [float(trainer_state.global_step)] * len(completions)
def lists(completions): return [float(len(completions))] * len(completions)
async def gently(text):
    began = time.monotonic()
    await asyncio.sleep(0.1)
    return began

def naps(text):
    began = time.monotonic()
    time.sleep(0.1)
    return began

def sleeps(text):
    time.sleep(0.1)
    return float(text)

def stuck_on_request(text):
    if text == "stuck":
        while True: pass
    return 1.0

def sleeping_on_request(text):
    if text == "stuck": time.sleep(3600)
    return 1.0

async def waiting_on_request(text):
    if text == "stuck": await asyncio.sleep(3600)
    return 1.0

async def blocking_on_request(text):
    if text == "stuck": time.sleep(3600)
    return 1.0

def deaf(text):
    if text == "stuck":
        for number in range(1, 65):
            try: signal.signal(number, signal.SIG_IGN)
            except (OSError, ValueError): pass
        while True:
            try:
                while True: pass
            except BaseException: pass
    return 1.0

def holds_the_interpreter(text):
    return 1.0 if text != "stuck" else float(10 ** 10 ** 8 % 7 ** 10 ** 7)

def list_stuck_on_request(completions):
    if "stuck" in completions:
        while True: pass
    return [float(len(completions))] * len(completions)

def group_stuck_on_request(texts):
    if "stuck" in texts:
        while True: pass
    return [1.0] * len(texts)

def dies_on_request(text):
    if text == "die": os.kill(os.getpid(), signal.SIGKILL)
    if text == "leave": os._exit(3)
    return 1.0

def list_dies_on_request(completions):
    if "die" in completions: os.kill(os.getpid(), signal.SIGKILL)
    return [1.0] * len(completions)

def once(text, path, how):
    """Fails the first time, whoever asks."""
    try: os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    except FileExistsError: return 1.0
    if how == "raise": raise ConnectionError("later")
    os.kill(os.getpid(), signal.SIGKILL)

def leaves_a_child(text, path):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    with open(path, "w") as file: file.write(str(child.pid))
    time.sleep(3600)

class Counting:
    """Holds state, as a reward model would."""
    def __init__(self, start): self.count = start
    def __call__(self, text): self.count += 1; return float(self.count)
'''


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("rewards") / "mine.py"
    path.write_text(REWARDS)
    return path


@pytest.fixture
def serve(file):
    """A service for one function of the file above."""
    services = []

    def start(name, workers=2, **spec):
        spec = {"timeout_seconds": 30.0, **spec}
        services.append(
            RewardService([RewardSpec("mine", f"{file}:{name}", **spec)], workers=workers)
        )
        return services[-1]

    yield start
    for service in services:
        service.close()


def samples(*texts, **columns):
    return [Sample(text, columns) for text in texts]


def statuses(scores):
    return [score.status for score in scores]


def values(scores):
    return [score.value for score in scores]


# ------------------------------------------------------------------------------------ the status table


@pytest.mark.parametrize(
    "name, detail",
    [
        ("raises", "raises raised KeyError: 'no such thing'"),
        ("wrong_type", "returned str 'good', not a number"),
        ("nan", "returned nan"),
        ("infinite", "returned inf"),
        ("short_list", "returned 1 value for 2 completions"),
        ("long_list", "returned 3 values for 2 completions"),
        ("not_a_list", "returned float 1.0, not a list"),
    ],
)
def test_a_judge_that_fails_is_a_fault_that_names_it(serve, name, detail):
    scores = serve(name).score(samples("a", "b"))
    assert statuses(scores) == ["fault", "fault"] and values(scores) == [None, None]
    assert detail in scores[0].detail and "mine" in scores[0].detail


def test_none_is_not_applicable(serve):
    scores = serve("nothing").score(samples("a"))
    assert statuses(scores) == ["not_applicable"] and values(scores) == [None]


def test_a_row_without_its_column_is_a_fault_and_the_others_are_not(serve):
    scores = serve("equals").score([Sample("a", {"answer": "a"}), Sample("a", {"anwser": "a"})])
    assert statuses(scores) == ["scored", "fault"] and "wants the column answer" in scores[1].detail


def test_one_bad_value_of_a_list_faults_its_row_alone(serve):
    assert values(serve("nan_for_b").score(samples("a", "b", "c"))) == [1.0, None, 1.0]


@pytest.mark.parametrize(
    "name", ["stuck_on_request", "sleeping_on_request", "waiting_on_request", "deaf"]
)
@pytest.mark.thin(2)
def test_content_that_exhausts_its_budget_twice_is_a_timeout_worth_0(serve, name):
    scores = serve(name, timeout_seconds=0.3).score(samples("a", "stuck", "b"))
    assert statuses(scores) == ["scored", "timeout", "scored"] and values(scores) == [1.0, 0.0, 1.0]
    assert "1.2 s" in scores[1].detail


def test_code_that_never_returns_to_the_interpreter_is_killed_too(serve):
    service = serve("holds_the_interpreter", timeout_seconds=0.3)
    assert statuses(service.score(samples("a", "stuck"))) == ["scored", "timeout"]
    assert service.num_killed == 2


def test_an_async_reward_that_blocks_the_others_does_not_take_them_along(serve):
    scores = serve("blocking_on_request", timeout_seconds=0.3).score(
        samples(*"abc", "stuck", *"def")
    )
    assert statuses(scores) == ["scored"] * 3 + ["timeout"] + ["scored"] * 3


@pytest.mark.parametrize(
    "text, detail", [("die", "killed by signal 9"), ("leave", "left with exit code 3")]
)
def test_a_worker_that_dies_twice_is_a_fault(serve, text, detail):
    service = serve("dies_on_request")
    scores = service.score(samples("a", text, "b"))
    assert statuses(scores) == ["scored", "fault", "scored"] and values(scores) == [1.0, None, 1.0]
    assert detail in scores[1].detail
    assert values(service.score(samples("a", "b", "c"))) == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("how", ["raise", "die"])
def test_a_fault_is_tried_once_more(serve, tmp_path, how):
    columns = {"path": str(tmp_path / how), "how": how}
    assert values(serve("once").score([Sample("a", columns)])) == [1.0]


def test_a_list_with_one_stuck_row_is_judged_row_by_row(serve):
    scores = serve("list_stuck_on_request", timeout_seconds=0.3).score(samples("a", "stuck", "b"))
    assert statuses(scores) == ["scored", "timeout", "scored"] and values(scores) == [1.0, 0.0, 1.0]


def test_a_list_with_one_deadly_row_is_judged_row_by_row(serve):
    assert statuses(serve("list_dies_on_request").score(samples("a", "die", "b"))) == [
        "scored",
        "fault",
        "scored",
    ]


def test_a_list_that_cannot_be_divided_is_a_fault_as_a_whole(serve):
    scores = serve("group_stuck_on_request", timeout_seconds=0.3).score(samples("a", "stuck"))
    assert statuses(scores) == ["fault", "fault"] and "for 2 completions" in scores[0].detail


# --------------------------------------------------------------------------------- neighbours and order


def test_stuck_answers_cost_their_neighbours_nothing(serve):
    service = serve("stuck_on_request", timeout_seconds=0.3)
    texts = [f"fine {index}" for index in range(60)]
    for index in (3, 31):
        texts[index] = "stuck"
    scores = service.score(samples(*texts))
    assert statuses(scores) == ["timeout" if text == "stuck" else "scored" for text in texts]
    clean = service.score(samples(*(f"clean {index}" for index in range(64))))
    assert values(clean) == [1.0] * 64


def test_results_are_placed_by_index_whatever_ends_first(serve):
    service = serve("sleeps", workers=4)
    assert values(service.score(samples(*(str(index) for index in range(20))))) == list(range(20))


def test_many_threads_may_submit_at_once(serve):
    service = serve("length")
    results = {}

    def one(number):
        texts = ["x" * (number + index) for index in range(50)]
        results[number] = values(service.score(samples(*texts)))

    threads = [threading.Thread(target=one, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert results == {
        number: [float(number + index) for index in range(50)] for number in range(8)
    }


def test_the_service_can_live_in_another_thread_than_the_main_one(file):
    results = []

    def live():
        with RewardService(
            [RewardSpec("mine", f"{file}:stuck_on_request", timeout_seconds=0.3)], workers=1
        ) as service:
            results.extend(statuses(service.score(samples("a", "stuck"))))

    thread = threading.Thread(target=live)
    thread.start()
    thread.join(60)
    assert results == ["scored", "timeout"]


def test_submitting_does_not_wait_and_the_callers_loop_is_not_blocked(serve):
    service = serve("stuck_on_request", timeout_seconds=0.3)

    async def longest_pause():
        pauses, last = [], time.monotonic()
        ticket = service.submit(samples("a", "stuck"))
        while not ticket.done():
            await asyncio.sleep(0.001)
            pauses.append(time.monotonic() - last)
            last = time.monotonic()
        return sorted(pauses)[len(pauses) * 9 // 10]

    assert asyncio.run(longest_pause()) < 0.05


def test_a_result_that_is_not_there_in_time_says_so(serve):
    ticket = serve("sleeps").submit(samples("1"))
    with pytest.raises(TimeoutError, match="1 verdicts are still missing after 0.01 s"):
        ticket.result(0.01)
    assert ticket.result(30)[0].score.value == 1.0


# ------------------------------------------------------------------------------------------- waiting rewards


def num_overlapping(began: list[float]) -> int:
    """How many of the naps of 0.1 s that began at these times began before the one before it had ended."""
    return sum(later - earlier < 0.1 for earlier, later in zip(sorted(began), sorted(began)[1:]))


def test_sleeping_rewards_overlap(file):
    with RewardService([RewardSpec("mine", f"{file}:naps")]) as service:
        assert num_overlapping(values(service.score(samples(*("x" * 60))))) > 30
        assert service.num_workers > (os.cpu_count() or 1) or service.num_workers >= 16


def test_async_rewards_run_concurrently_in_one_worker(serve):
    service = serve("gently", workers=1)
    assert num_overlapping(values(service.score(samples(*("x" * 60))))) > 30


def test_a_sleeping_process_uses_its_budget():
    child = subprocess.Popen(
        [sys.executable, "-c", "import time; print(flush=True); time.sleep(600)"], stdout=-1
    )
    try:
        child.stdout.readline()
        clock = Clock(child.pid)
        clock.restart(0.2)
        assert not clock.has_run_out()
        time.sleep(0.3)
        assert clock.has_run_out()
        assert process_state(child.pid) == "S"
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


# ----------------------------------------------------------------------------------------- cleaning up


def children():
    """Processes whose parent we are, as (pid, state)."""
    listing = subprocess.run(
        ["ps", "-o", "pid=,stat=,comm=", "--ppid", str(os.getpid())], capture_output=True, text=True
    )
    return {line.split()[0] for line in listing.stdout.splitlines() if "ps" not in line.split()[2:]}


def test_closing_leaves_no_process_no_zombie_no_thread_and_no_descriptor(file):
    before, threads, descriptors = (
        children(),
        threading.active_count(),
        len(os.listdir("/proc/self/fd")),
    )
    with RewardService(
        [RewardSpec("mine", f"{file}:dies_on_request", timeout_seconds=5)], workers=3
    ) as service:
        service.score(samples("a", "die", "leave", "b"))
        assert 2 <= len(children() - before) <= 3  # one that left may not have been replaced yet
    assert children() <= before
    assert threading.active_count() <= threads
    assert len(os.listdir("/proc/self/fd")) <= descriptors


def test_a_killed_worker_takes_its_own_children_along(serve, tmp_path):
    path = tmp_path / "pid"
    scores = serve("leaves_a_child", timeout_seconds=1).score([Sample("a", {"path": str(path)})])
    assert statuses(scores) == ["timeout"]
    deadline = time.monotonic() + 10
    while process_state(int(path.read_text())) not in "?Z" and time.monotonic() < deadline:
        time.sleep(0.05)
    assert process_state(int(path.read_text())) in "?Z"


def test_a_worker_killed_from_outside_is_replaced(serve):
    service = serve("pid", workers=1)
    worker = int(service.score(samples("a"))[0].value)
    os.kill(worker, signal.SIGKILL)
    assert statuses(service.score(samples("b", "c"))) == ["scored", "scored"]


@pytest.mark.parametrize("is_function", [False, True], ids=["named", "a function"])
def test_a_file_that_is_edited_changes_no_verdict_of_workers_that_start_later(
    tmp_path, is_function
):
    file = tmp_path / "mine.py"
    file.write_text("import os\n\ndef pid(text):\n    return float(os.getpid())\n")
    use = f"{file}:pid"
    with RewardService(
        [RewardSpec("mine", load(use) if is_function else use)], workers=1
    ) as service:
        worker = int(service.score(samples("a"))[0].value)
        file.write_text("def pid(text):\n    return -1.0\n")
        os.kill(worker, signal.SIGKILL)
        score = service.score(samples("b"))[0]
        assert score.status == "scored" and score.value > 0 and score.value != worker
        file.unlink()
        os.kill(int(score.value), signal.SIGKILL)
        assert service.score(samples("c"))[0].value > 0
    file.write_text("def pid(text):\n    return -1.0\n")
    with RewardService([RewardSpec("mine", use)], workers=1) as service:  # another run
        assert service.score(samples("a"))[0].value == -1


@pytest.mark.parametrize("way", ["by path", "as a module", "a function"])
def test_a_module_that_a_reward_imports_may_be_edited_too(tmp_path, monkeypatch, way):
    monkeypatch.syspath_prepend(tmp_path)
    stem = f"mine_{way.replace(' ', '_')}"
    helper = tmp_path / f"helper_of_{stem}.py"
    helper.write_text("import os\n\ndef value():\n    return float(os.getpid())\n")
    file = tmp_path / f"{stem}.py"
    file.write_text(f"def pid(text):\n    from helper_of_{stem} import value\n    return value()\n")
    use = f"{file}:pid" if way == "by path" else f"{stem}:pid"
    reward = load(use) if way == "a function" else use
    with RewardService([RewardSpec("mine", reward)], workers=1) as service:
        worker = int(service.score(samples("a"))[0].value)
        helper.write_text("def value():\n    return -1.0\n")
        if way != "by path":
            file.write_text("def pid(text):\n    return -2.0\n")
        os.kill(worker, signal.SIGKILL)
        score = service.score(samples("b"))[0]
        assert score.status == "scored" and score.value > 0 and score.value != worker


def test_workers_die_with_the_process_that_started_them(file, tmp_path):
    code = textwrap.dedent(f"""
        import os
        from rewards import RewardSpec, Sample
        from rewards.service.service import RewardService
        service = RewardService([RewardSpec("mine", {str(file)!r} + ":pid"),
                                 RewardSpec("stuck", {str(file)!r} + ":stuck_on_request")], workers=2)
        print(int(service.score([Sample("a")])[0].parts["mine"]), flush=True)
        service.submit([Sample("stuck"), Sample("stuck")])
        os._exit(0)
    """)
    output = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    worker = int(output.stdout)
    deadline = time.monotonic() + 10
    while process_state(worker) not in "?Z" and time.monotonic() < deadline:
        time.sleep(0.05)
    assert process_state(worker) in "?Z"


def test_a_forgotten_service_does_not_keep_the_program_from_ending(file):
    code = f"""
from rewards import RewardSpec, Sample
from rewards.service.service import RewardService
service = RewardService([RewardSpec("mine", {str(file)!r} + ":printing")], workers=1)
print(service.score([Sample("a")])[0].value)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0
    assert done.stdout == "1.0\n" and "noise on stdout" in done.stderr


def test_what_is_open_when_the_service_closes_fails_and_does_not_hang(serve):
    service = serve("sleeping_on_request")
    ticket = service.submit(samples("stuck"))
    time.sleep(0.2)
    service.close()
    with pytest.raises(RuntimeError, match="was closed"):
        ticket.result(5)
    with pytest.raises(RuntimeError, match="is closed"):
        service.submit(samples("a"))


# --------------------------------------------------------------------- callables of this process, and state


def test_a_closure_is_judged_in_this_process():
    bonus = 0.5
    with RewardService(
        [RewardSpec("mine", lambda text, answer: bonus + (text == answer))]
    ) as service:
        assert values(service.score(samples("a", "b", answer="a"))) == [1.5, 0.5]
        assert service.num_workers == 0


def test_a_closure_that_is_stuck_is_a_fault_that_names_it_and_the_next_is_judged():
    release = threading.Event()

    def waits_for_ever(text):
        return 1.0 if text != "stuck" else float(release.wait(60))

    try:
        with RewardService([RewardSpec("mine", waits_for_ever, timeout_seconds=0.3)]) as service:
            scores = service.score(samples("a", "stuck", "b"))
        assert statuses(scores) == ["scored", "fault", "scored"]
        assert (
            "waits_for_ever took longer than 0.3 s" in scores[1].detail
            and "cannot be killed" in scores[1].detail
        )
    finally:
        release.set()


@pytest.mark.parametrize(
    "function, expected",
    [
        (lambda text: 1 / 0, "fault"),
        (lambda text: math.nan, "fault"),
        (lambda text: None, "not_applicable"),
        (lambda completions: [1.0], "fault"),
        (lambda completions: [1.0] * 2, "scored"),
    ],
)
def test_closures_keep_the_status_table(function, expected):
    with RewardService([RewardSpec("mine", function)]) as service:
        assert statuses(service.score(samples("a", "b"))) == [expected] * 2


def test_an_async_closure_is_awaited():
    async def mine(text):
        await asyncio.sleep(0.01)
        return len(text)

    with RewardService([RewardSpec("mine", mine)]) as service:
        assert values(service.score(samples("a", "bb"))) == [1.0, 2.0]


def test_a_function_that_workers_can_import_runs_in_a_worker():
    from rewards.shaping.format import think_format

    with RewardService([RewardSpec("mine", think_format)], workers=1) as service:
        assert values(service.score(samples("<think>a</think><answer>b</answer>"))) == [1.0]
        assert service.num_workers == 1


def test_a_class_is_made_once_in_each_worker_of_its_own(file):
    spec = RewardSpec("mine", f"{file}:Counting", args={"start": 10}, workers=1)
    with RewardService(
        [spec, RewardSpec("length", f"{file}:length", weight=0.0)], workers=2
    ) as service:
        assert values(service.score(samples("a", "b"))) == [11.0, 12.0]
        assert values(service.score(samples("c"))) == [13.0]
        assert service.num_workers == 3


def test_a_class_that_cannot_be_made_is_a_fault_that_says_why(file):
    with RewardService(
        [RewardSpec("mine", f"{file}:Counting", args={"begin": 1})], workers=1
    ) as service:
        score = service.score(samples("a"))[0]
    assert (
        score.status == "fault"
        and "cannot be loaded in a worker" in score.detail
        and "begin" in score.detail
    )


def test_a_column_that_cannot_travel_is_a_fault(serve):
    scores = serve("equals").score(
        [Sample("a", {"answer": lambda: None}), Sample("a", {"answer": "a"})]
    )
    assert (
        statuses(scores) == ["fault", "scored"] and "cannot be sent to a worker" in scores[0].detail
    )


def test_a_closure_may_log_metrics():
    def mine(completions, log_metric):
        log_metric("mean", 2)
        return [1.0] * len(completions)

    with RewardService([RewardSpec("mine", mine)]) as service:
        assert values(service.score(samples("a"))) == [1.0]
        assert service.take_metrics() == {"mean": [2.0]}


def test_lists_are_whole_submissions_and_know_the_step(file):
    specs = [RewardSpec("lists", f"{file}:lists"), RewardSpec("step", f"{file}:step")]
    with RewardService(specs, workers=2) as service:
        service.set_step(7)
        judged = service.judge(samples(*"abc"))
        assert [one.parts["lists"].value for one in judged] == [3.0] * 3
        assert [one.parts["step"].value for one in judged] == [7.0] * 3
        assert service.take_metrics() == {"mean": [0.5]} and service.take_metrics() == {}


def test_a_trl_reward_is_called_again_for_equal_completions_with_the_step_that_is_set(file):
    with RewardService([RewardSpec("step", f"{file}:step")], workers=1) as service:
        assert values(service.score(samples("a"))) == [0.0]
        service.set_step(3)
        assert values(service.score(samples("a"))) == [3.0]
        assert service.num_from_cache == 0
        assert service.take_metrics() == {"mean": [0.5, 0.5]}


def test_verdicts_from_the_cache_log_nothing_and_leave_the_metrics_of_others_alone(file):
    specs = [RewardSpec("step", f"{file}:step"), RewardSpec("correct", "math_answer")]
    with RewardService(specs, workers=1) as service:
        service.score(samples(*[r"\boxed{4}"] * 3, answer="4"))
        assert service.num_from_cache == 2
        assert service.take_metrics() == {"mean": [0.5]}


def test_the_package_names_what_others_use_and_a_worker_loads_none_of_it():
    assert all(hasattr(rewards.service, name) for name in rewards.service.__all__)
    assert rewards.service.RewardService is RewardService
    assert not hasattr(rewards.service, "Pool")
    code = "import sys, rewards.service.worker; print('rewards.service.service' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr


# -------------------------------------------------------------------------- combination, conditions, cache


def spec(name, weight=1.0, **other):
    return RewardSpec(name, "think_format", weight=weight, **other)


@pytest.mark.parametrize(
    "parts, value, status",
    [
        ((Score(1.0), Score(0.5)), 1.05, "scored"),
        ((Score(1.0), Score(None, status="fault")), None, "fault"),
        ((Score(None, status="fault"), Score(None, status="not_applicable")), None, "fault"),
        ((Score(1.0), Score(None, status="not_applicable")), 1.0, "scored"),
        ((Score(None, status="not_applicable"),) * 2, None, "not_applicable"),
        ((Score(0.0, status="timeout"), Score(1.0)), 0.1, "timeout"),
        ((Score(0.0, status="no_answer"), Score(1.0)), 0.1, "scored"),
        ((Score(0.0, status="no_answer"), Score(None, status="not_applicable")), 0.0, "no_answer"),
    ],
)
def test_parts_combine_by_the_status_table(parts, value, status):
    combined = combine([spec("a"), spec("b", 0.1)], dict(zip("ab", parts)))
    assert combined.value == pytest.approx(value) and combined.status == status
    assert combined.parts == {"a": parts[0].value, "b": parts[1].value}


def test_a_part_of_weight_0_is_reported_and_changes_nothing():
    combined = combine(
        [spec("a"), spec("b", 0.0)], {"a": Score(1.0), "b": Score(None, status="fault", detail="x")}
    )
    assert (combined.value, combined.status) == (1.0, "scored") and combined.parts == {
        "a": 1.0,
        "b": None,
    }


def test_a_reward_applies_only_where_its_column_has_the_value(file):
    specs = [
        RewardSpec("always", f"{file}:length"),
        RewardSpec("some", f"{file}:length", weight=10, when={"kind": ["x", "y"]}),
        RewardSpec("one", f"{file}:length", weight=100, when={"kind": "x"}),
    ]
    with RewardService(specs, workers=1) as service:
        judged = service.judge(
            [Sample("a", {"kind": kind}) for kind in ("x", "y", "z")] + [Sample("a")]
        )
    assert [one.score.value for one in judged] == [111.0, 11.0, 1.0, 1.0]
    assert judged[2].parts["one"].status == "not_applicable"


def test_a_built_in_reward_is_not_asked_twice_about_the_same():
    with RewardService([RewardSpec("mine", "math_answer")], workers=1) as service:
        same = samples(*[r"\boxed{4}"] * 8, answer="4")
        assert values(service.score(same)) == [1.0] * 8
        assert values(service.score([*same, *samples(r"\boxed{4}", answer="5")])) == [1.0] * 8 + [
            0.0
        ]
        assert (service.num_judged, service.num_from_cache) == (17, 15)


def test_completions_that_share_their_answer_and_gold_are_judged_once_whatever_else_they_say():
    with RewardService([RewardSpec("mine", "math_answer")], workers=1) as service:
        texts = [
            rf"<think>{index}</think>So it is \boxed{{{answer}}}."
            for index in range(8)
            for answer in ("4", "5")
        ]
        judged = service.judge(samples(*texts, answer="4"))
        assert [one.score.value for one in judged] == [1.0, 0.0] * 8
        assert [one.parts["mine"].extracted for one in judged] == ["4", "5"] * 8
        assert (service.num_judged, service.num_from_cache) == (16, 14)
        assert values(service.score(samples(texts[0], answer="5"))) == [0.0]
        assert service.num_from_cache == 14


def test_lenient_and_strict_verdicts_are_not_mixed_up():
    specs = [
        RewardSpec("strict", "math_answer"),
        RewardSpec("lenient", "math_answer", args={"lenient": True}),
    ]
    with RewardService(specs, workers=1) as service:
        judged = service.judge(samples(r"\boxed{27/59}", r"I find \boxed{27/59}", answer="0.458"))
    assert [(one.parts["strict"].value, one.parts["lenient"].value) for one in judged] == [
        (0.0, 1.0)
    ] * 2


def test_a_stuck_answer_that_a_whole_group_gives_costs_one_worker_and_not_eight(tmp_path):
    (tmp_path / "mine.py").write_text(
        "def slow(text):\n    if 'stuck' in text:\n        while True: pass\n    return 1.0\n"
        "slow.cache_key = lambda text: text.split()[-1]\n"
    )
    spec = RewardSpec("mine", f"{tmp_path}/mine.py:slow", timeout_seconds=0.3)
    with RewardService([spec], workers=2) as service:
        scores = service.score(samples(*[f"{index} is stuck" for index in range(8)], "fine"))
        assert [score.status for score in scores] == ["timeout"] * 8 + ["scored"]
        assert service.num_killed <= 2


def test_a_cache_key_that_raises_or_returns_none_only_means_that_nothing_is_cached(tmp_path):
    (tmp_path / "mine.py").write_text(
        "def one(text): return 1.0\ndef two(text): return 1.0\n"
        "one.cache_key = lambda text: text.no_such_thing\ntwo.cache_key = lambda text: None\n"
    )
    specs = [RewardSpec(name, f"{tmp_path}/mine.py:{name}") for name in ("one", "two")]
    with RewardService(specs, workers=1) as service:
        assert values(service.score(samples("a", "a"))) == [2.0, 2.0]
        assert service.num_from_cache == 0


# ------------------------------------------------------------------------------------------ sympy

BASEL = {"text": r"\boxed{\frac{\pi^2}{6}}", "answer": r"\sum_{k=1}^{\infty} \frac{1}{k^2}"}


def test_sympy_is_asked_in_workers_and_never_in_this_process():
    from rewards.math_answer import math_answer

    code = (
        "import sys; from rewards.math_answer import math_answer; score = math_answer(sys.argv[1], sys.argv[2]); "
        "print(score.value, 'sympy' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *BASEL.values()], cwd=ROOT, capture_output=True, text=True
    )
    assert done.stdout.split() == ["0.0", "False"], done.stderr
    other = {**BASEL, "text": r"\boxed{\frac{\pi^2}{8}}"}
    for use in ("math_answer", math_answer):
        with RewardService([RewardSpec("mine", use, timeout_seconds=20)], workers=1) as service:
            judged = service.judge(
                [Sample(row["text"], {"answer": row["answer"]}) for row in (BASEL, other)]
            )
        assert [one.score.value for one in judged] == [1.0, 0.0]
        assert "tier=c" in judged[0].parts["mine"].detail


def test_a_reward_that_only_this_process_has_may_not_ask_for_sympy():
    def local(text, answer, allow_sympy=False):
        return float(allow_sympy)

    with RewardService([RewardSpec("mine", local)], workers=1) as service:
        assert values(service.score([Sample("a", {"answer": "1"})])) == [0.0]
    with pytest.raises(ValueError, match="allow_sympy needs a process that can be killed"):
        RewardService([RewardSpec("mine", local, args={"allow_sympy": True})])


def test_sympy_stuck_in_the_interpreter_gives_up_and_the_answer_is_a_timeout(tmp_path):
    (tmp_path / "mine.py").write_text(
        "import functools, sympy\nfrom rewards.math_answer import math_answer\n"
        "from rewards.mathematics import symbolic\n"
        "def forever(expression):\n    while True: pass\n"
        "Work = functools.partial(symbolic.Work, seconds_left=0.5)\n"
        "def judged(text, answer, allow_sympy=False):\n"
        "    symbolic.warm_up()\n"
        "    symbolic.Work = Work\n"
        "    sympy.simplify = forever  # in the worker alone: this module is imported here too\n"
        "    return math_answer(text, answer, allow_sympy=allow_sympy)\n"
    )
    spec = RewardSpec("mine", f"{tmp_path}/mine.py:judged", timeout_seconds=5)
    with RewardService([spec], workers=1) as service:
        judged = service.judge([Sample(BASEL["text"] + " ", {"answer": BASEL["answer"]})])[0]
        assert (judged.score.value, judged.score.status) == (0.0, "timeout")
        assert service.num_killed == 0


def test_what_sympy_cannot_settle_is_scored_0_without_losing_the_worker():
    open_questions = [text for text in HOSTILE if "infty" in text and len(text) < 200]
    assert len(open_questions) >= 6
    with RewardService(
        [RewardSpec("mine", "math_answer", timeout_seconds=5)], workers=1
    ) as service:
        scores = service.score(
            [Sample(rf"\boxed{{{text}}}", {"answer": "42"}) for text in open_questions]
        )
        assert {(score.value, score.status) for score in scores} == {(0.0, "scored")}
        assert service.num_killed == 0


@pytest.mark.slow
def test_sympy_stuck_in_c_is_killed_at_the_deadline_and_scores_0_and_the_next_are_judged(tmp_path):
    (tmp_path / "mine.py").write_text(
        "import collections, itertools, sympy\nfrom rewards.math_answer import math_answer\n"
        "from rewards.mathematics.symbolic import warm_up\n"
        "def stuck(expression): collections.deque(itertools.repeat(0), maxlen=0)\n"
        "def judged(text, answer, allow_sympy=False):\n"
        "    warm_up()\n"
        "    sympy.simplify = stuck  # in the worker alone: this module is imported here too\n"
        "    return math_answer(text, answer, allow_sympy=allow_sympy)\n"
    )
    spec = RewardSpec("mine", f"{tmp_path}/mine.py:judged", timeout_seconds=0.5)
    with RewardService([spec], workers=1) as service:
        stuck = Sample(BASEL["text"], {"answer": BASEL["answer"]})
        scores = service.score([stuck, *samples(*[r"\boxed{1}"] * 8, answer="1")])
        assert [score.status for score in scores] == ["timeout"] + ["scored"] * 8
        assert values(scores) == [0.0] + [1.0] * 8
        assert service.num_killed == 2


def test_wrong_specs_are_refused_before_anything_starts():
    for specs, message in [
        ([], "there are none"),
        ([spec("a"), spec("a")], "a occurs twice"),
        ([spec("a", math.nan)], "is not a finite number"),
        ([spec("a", timeout_seconds=0)], "is not above 0"),
        ([RewardSpec("a", "think_fromat")], "did you mean think_format"),
    ]:
        with pytest.raises(ValueError, match=message):
            RewardService(specs)


def test_nothing_to_judge_is_judged_at_once(serve):
    assert serve("length").score([]) == []
