"""Rewards judged by servers: the same verdicts as at home, whoever dies; nothing for strangers, no code from outside."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from urllib.parse import urlsplit

import pytest
from reward_servers import TOKEN, serving

from rewards import RewardSpec, Sample
from rewards.remote import client, server, spread
from rewards.remote.client import RemoteServer, ServerLost
from rewards.remote.identity import changed_file, difference, identity_of, own_files
from rewards.remote.spread import NoRewardServerLeft, RemoteRewards
from rewards.remote.wire import plain_samples
from rewards.sandbox import SandboxOptions
from rewards.service.service import RewardService

REWARDS = """
import os, time

def parts(text, answer, num_tokens=0):
    from rewards import Score
    return Score(len(text) / 3, parts={"right": float(text == answer), "long": None}, detail=text[:2])

def raises(text): raise KeyError(text)
def nothing(text): return None
def endless(text):
    while text == "endless":
        pass
    return 0.5
def whole(completions, trainer_state, log_metric, **columns):
    log_metric("mean", len(completions) / 7)
    return [trainer_state.global_step + 0.25] * len(completions)
def sees(text, odd): return 1.0
def slowly(completions, trainer_state, **columns):
    time.sleep(0.3)
    return [1.0] * len(completions)
def slow(text):
    time.sleep(float(text))
    return 1.0
def marks(text, folder):
    with open(os.path.join(folder, "calls"), "a") as file:
        file.write(text + "\\n")
    time.sleep(0.3)
    return float(len(text))
"""
TEXTS = ["", "4", "the answer is \\boxed{7}", "x" * 50, "\ud800", "∛2", "endless", "I think 12/3"]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "mine.py").write_text(REWARDS)
    return tmp_path


@pytest.fixture
def spec(folder):
    def make(name: str, **options) -> RewardSpec:
        return RewardSpec(name, f"{folder}/mine.py:{name}", **options)

    return make


def at(*servers, specs, **options) -> RemoteRewards:
    return RemoteRewards(specs, [one.url for one in servers], token=TOKEN, **options)


def samples_of(texts) -> list[Sample]:
    return [
        Sample(
            text=text,
            columns={"answer": "4", "problem": ["p", 1], "num_tokens": i, "finish": "stop"},
            prompt="prompt",
            token_ids=[i, i + 1],
            group="g",
        )
        for i, text in enumerate(texts)
    ]


def plain(judged):
    return [(one.score, dict(one.parts)) for one in judged]


def test_verdicts_are_those_of_the_service_at_home_bit_for_bit(spec) -> None:
    specs = [
        RewardSpec("right", "math_answer", weight=0.7),
        RewardSpec("format", "think_format", weight=0.1),
        spec("parts", weight=1 / 3),
        spec("raises", weight=0.0),
        spec("nothing"),
        spec("endless", timeout_seconds=0.1),
        spec("whole", weight=0.0),
        RewardSpec("late", "tag_count", from_step=9),
        RewardSpec("other", "tag_count", when={"answer": "5"}),
    ]
    samples = samples_of(TEXTS)
    with RewardService(specs, workers=1) as home:
        home.set_step(3)
        expected = home.judge(samples)
        metrics = home.take_metrics()
    statuses = {part.status for one in expected for part in one.parts.values()}
    assert statuses == {"scored", "no_answer", "timeout", "not_applicable", "fault"}
    with serving(specs) as one, at(one, specs=specs) as remote:
        remote.set_step(3)
        found = remote.judge(samples)
        assert plain(found) == plain(expected)
        assert remote.take_metrics() == metrics != {}
        assert remote.take_metrics() == {} and remote.num_open == 0


def test_programs_of_completions_run_in_the_servers_sandbox() -> None:
    specs = [RewardSpec("tests", "code_tests", timeout_seconds=0.5)]
    tests = [{"input": "3\n", "output": "9\n"}]
    programs = ["print(int(input()) ** 2)", "print(3)", "1 +", "no code"]
    samples = [
        Sample(f"```python\n{program}\n```", columns={"tests": tests}) for program in programs
    ]
    options = SandboxOptions(slots=2)
    with RewardService(specs, workers=1, sandbox=options) as home:
        expected = home.judge(samples)
    assert [one.score.value for one in expected][:2] == [1.0, 0.0]
    with serving(specs, sandbox=options) as one, at(one, specs=specs, sandbox=options) as remote:
        assert plain(remote.judge(samples)) == plain(expected)
        assert "sandbox" in remote.isolation[0]


def test_a_row_that_cannot_travel_is_a_fault_of_the_rewards_that_would_see_it_alone(spec) -> None:
    specs = [spec("sees"), spec("endless", weight=0.0)]
    samples = [Sample("a", columns={"odd": object()}), Sample("b", columns={"odd": 1})]
    with serving(specs) as one, at(one, specs=specs) as remote:
        first, second = remote.judge(samples)
    assert first.parts["sees"].status == "fault"
    assert "column odd cannot be sent to a server" in first.parts["sees"].detail
    assert first.parts["endless"].value == 0.5
    assert second.parts["sees"].value == 1.0


def test_batches_are_spread_over_the_servers(spec) -> None:
    specs = [spec("slow")]
    with serving(specs) as one, serving(specs) as two:
        with at(one, two, specs=specs) as remote:
            tickets = [remote.submit([Sample("0.05")]) for _ in range(8)]
            assert all(ticket.result()[0].score.value == 1.0 for ticket in tickets)
        assert one.num_batches + two.num_batches == 8
        assert min(one.num_batches, two.num_batches) >= 2


def test_an_address_may_end_with_a_slash(spec) -> None:
    specs = [spec("endless")]
    with serving(specs) as one, RemoteRewards(specs, [f"{one.url}/"], token=TOKEN) as remote:
        assert remote.judge([Sample("a")])[0].score.value == 0.5


def test_an_empty_submission_is_done_at_once(spec) -> None:
    specs = [spec("slow")]
    with serving(specs) as one, at(one, specs=specs) as remote:
        assert remote.submit([]).result() == []


def test_a_server_that_breaks_off_is_given_up_and_its_work_counts_once(spec) -> None:
    specs = [spec("parts")]
    with serving(specs) as good, breaking(specs) as broken:
        with at(broken, good, specs=specs) as remote:
            tickets = [remote.submit([Sample(f"text {i}", {"answer": ""})]) for i in range(6)]
            values = [ticket.result()[0].score.value for ticket in tickets]
            assert values == [len(f"text {i}") / 3 for i in range(6)]
            assert good.num_batches == 6 and broken.num_asked >= 1
            assert any("broke off" in line or "lost" in line for line in remote.describe())
            assert remote.num_judged == 6


class Breaking:
    """Answers like the server behind it but for verdicts, at which it breaks off."""

    def __init__(self, real):
        self.real = real
        self.num_asked = 0
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        self.thread = threading.Thread(target=self.answer, daemon=True)
        self.thread.start()

    def answer(self) -> None:
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            with connection:
                asked = connection.recv(1 << 16)
                if asked.startswith(b"GET"):
                    connection.sendall(self.identity())
                else:
                    self.num_asked += 1
                    connection.sendall(b'HTTP/1.0 200 OK\r\n\r\n{"open": 1}\n')

    def identity(self) -> bytes:
        parts = urlsplit(self.real.url)
        link = http.client.HTTPConnection(parts.hostname, parts.port)
        link.request("GET", "/identity", headers={"Authorization": f"Bearer {TOKEN}"})
        body = link.getresponse().read()
        link.close()
        return b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body


class breaking:  # noqa: N801  a context manager
    def __init__(self, specs):
        self.context = serving(specs)

    def __enter__(self) -> Breaking:
        self.broken = Breaking(self.context.__enter__())
        return self.broken

    def __exit__(self, *error) -> None:
        self.broken.socket.close()
        self.context.__exit__(*error)


def test_a_server_that_falls_silent_is_given_up(spec, monkeypatch) -> None:
    specs = [spec("slow")]
    monkeypatch.setattr(server, "BEAT_SECONDS", 60.0)
    with serving(specs) as one, at(one, specs=specs, silence_seconds=0.5) as remote:
        with pytest.raises(NoRewardServerLeft, match="no reward server is left"):
            remote.judge([Sample("3")])


def test_a_server_that_is_slow_but_alive_is_waited_for(spec, monkeypatch) -> None:
    specs = [spec("slow")]
    monkeypatch.setattr(server, "BEAT_SECONDS", 0.1)
    with serving(specs) as one, at(one, specs=specs, silence_seconds=0.5) as remote:
        assert remote.judge([Sample("1.2")])[0].score.value == 1.0


def test_a_server_is_waited_for_while_a_batch_waits_for_its_turn(spec, monkeypatch) -> None:
    specs = [spec("slowly")]
    monkeypatch.setattr(server, "BEAT_SECONDS", 0.1)
    with serving(specs) as one, at(one, specs=specs, silence_seconds=0.6) as remote:
        tickets = [remote.submit([Sample("a")]) for _ in range(5)]
        assert [ticket.result()[0].score.value for ticket in tickets] == [1.0] * 5


def test_when_all_are_lost_the_sentence_names_them_and_one_that_is_back_is_used_again(spec) -> None:
    specs = [spec("parts")]
    sample = [Sample("abc", {"answer": ""})]
    with serving(specs) as one:
        remote = at(one, specs=specs)
        port = urlsplit(one.url).port
        assert remote.judge(sample)[0].score.value == 1.0
    with remote:
        with pytest.raises(NoRewardServerLeft) as lost:
            remote.judge(sample)
        assert one.url in str(lost.value) and "--resume" in str(lost.value)
        judges = server.Judges.of(specs, workers=1)
        again = server.RewardServer([judges], TOKEN, port=port)
        threading.Thread(target=again.serve, daemon=True).start()
        try:
            wait_until_back(remote)
            assert remote.judge(sample)[0].score.value == 1.0
        finally:
            again.close()


def wait_until_back(remote: RemoteRewards) -> None:
    deadline = time.monotonic() + 20
    while any("lost" in line for line in remote.describe()):
        assert time.monotonic() < deadline
        remote.set_step(1)
        time.sleep(0.05)


def test_closing_fails_what_is_open(spec) -> None:
    specs = [spec("slow")]
    with serving(specs) as one:
        remote = at(one, specs=specs)
        ticket = remote.submit([Sample("2")])
        remote.close()
        with pytest.raises(RuntimeError, match="closed"):
            ticket.result()
        with pytest.raises(RuntimeError, match="closed"):
            remote.submit([Sample("2")])


def test_rewards_that_see_the_step_judge_one_batch_at_a_time(spec) -> None:
    specs = [spec("whole")]
    with serving(specs) as one, at(one, specs=specs) as first, at(one, specs=specs) as second:
        first.set_step(1)
        second.set_step(2)
        tickets = [who.submit([Sample("a")] * 3) for who in (first, second) * 6]
        values = [ticket.result()[0].score.value for ticket in tickets]
        assert values == [1.25, 2.25] * 6
        assert first.take_metrics() == second.take_metrics() == {"mean": [3 / 7] * 6}


def test_what_a_lost_clients_batch_has_logged_is_in_no_other_batch(spec, monkeypatch) -> None:
    monkeypatch.setattr(server, "BEAT_SECONDS", 0.05)
    specs = [spec("whole"), spec("slow", weight=0.0)]
    with serving(specs) as one, at(one, specs=specs) as remote:
        parts = urlsplit(one.url)
        body, _ = plain_samples([Sample("0.5")] * 2)
        body |= {"rewards": identity_of(specs, SandboxOptions()).digest, "step": 7}
        data = json.dumps(body).encode()
        with socket.create_connection((parts.hostname, parts.port)) as link:
            head = f"POST /judge HTTP/1.1\r\nAuthorization: Bearer {TOKEN}\r\n"
            link.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
            assert link.recv(4096)
        assert remote.judge([Sample("0")])[0].parts["whole"].value == 0.25
        assert remote.take_metrics() == {"mean": [1 / 7]}


# ---- who may ask, and what for ------------------------------------------------------------------------------------


def ask(url: str, method: str, path: str, body: bytes | None = None, token: str | None = TOKEN):
    parts = urlsplit(url)
    link = http.client.HTTPConnection(parts.hostname, parts.port, timeout=20)
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    link.request(method, path, body, headers)
    answer = link.getresponse()
    data = answer.read()
    link.close()
    return answer.status, data


def test_without_the_token_nothing_but_life_is_told(spec) -> None:
    with serving([spec("parts")]) as one:
        assert ask(one.url, "GET", "/health", token=None) == (200, b'{"ok": true}')
        for token in (None, "", "wrong", TOKEN + "x", TOKEN[:-1], "é"):
            for method, path in (("GET", "/identity"), ("POST", "/judge")):
                status, data = ask(
                    one.url, method, path, b"{}", token and token.encode("utf-8").decode("latin-1")
                )
                assert status == 401 and b"parts" not in data
        with pytest.raises(ValueError, match="401: the token is missing or wrong; set GRPO_"):
            RemoteRewards([spec("parts")], [one.url], token="wrong")
        assert one.num_batches == 0


def test_a_server_without_a_token_is_not_made(spec) -> None:
    with pytest.raises(ValueError, match="needs a token"):
        server.RewardServer([server.Judges.of([spec("parts")])], "")


def test_it_listens_on_this_machine_alone(spec) -> None:
    with serving([spec("parts")]) as one:
        assert urlsplit(one.url).hostname == "127.0.0.1"


def test_what_it_is_sent_names_no_function_file_or_setting(spec, folder) -> None:
    specs = [spec("parts")]
    (folder / "evil.py").write_text(
        f"open({str(folder / 'ran')!r}, 'w')\ndef evil(text): return 1.0\n"
    )
    good = {
        "rewards": identity_of(specs, SandboxOptions()).digest,
        "shared": {"answer": "a"},
        "samples": [
            {
                "text": "a",
                "prompt": "",
                "token_ids": [],
                "group": "",
                "finish": None,
                "turns": [],
                "columns": {},
            }
        ],
    }
    evil = f"{folder}/evil.py:evil"
    with serving(specs) as one:
        for extra in (
            {"use": evil},
            {"specs": [{"name": "x", "use": evil}]},
            {"functions": {"parts": evil}},
            {"style": "batch", "workers": 9, "args": {}},
        ):
            status, data = ask(one.url, "POST", "/judge", json.dumps({**good, **extra}).encode())
            assert status == 200 and json.loads(data.splitlines()[-1])["verdicts"]
        status, _ = ask(one.url, "POST", "/judge", json.dumps({**good, "rewards": evil}).encode())
        assert status == 409
    assert not (folder / "ran").exists()


@pytest.mark.parametrize(
    "body, status",
    [
        (b"", 400),
        (b"no json", 400),
        (b"[1]", 400),
        (b"[" * 100_000, 400),
        (b"\x80\x04cos\nsystem\n", 400),
        (b'{"rewards": "x"}', 409),
        (b'{"rewards": RIGHT}', 400),
        (b'{"rewards": RIGHT, "shared": {}, "samples": [{}]}', 400),
        (b'{"rewards": RIGHT, "shared": {}, "samples": [], "step": "x"}', 400),
    ],
)
def test_nonsense_is_refused_and_the_server_lives(spec, body, status) -> None:
    specs = [spec("parts")]
    right = json.dumps(identity_of(specs, SandboxOptions()).digest).encode()
    with serving(specs) as one:
        found, _ = ask(one.url, "POST", "/judge", body.replace(b"RIGHT", right))
        assert found == status
        assert ask(one.url, "GET", "/nowhere")[0] == 404
        assert ask(one.url, "POST", "/nowhere", b"{}")[0] == 404
        with at(one, specs=specs) as remote:
            assert remote.judge([Sample("abc", {"answer": ""})])[0].score.value == 1.0


def test_a_body_without_end_is_refused_before_it_is_read(spec, monkeypatch) -> None:
    monkeypatch.setattr(server, "LARGEST_BODY", 1000)
    with serving([spec("parts")]) as one:
        assert ask(one.url, "POST", "/judge", b"x" * 1001)[0] == 413


# ---- the same rewards ---------------------------------------------------------------------------------------------


def refused(ours, theirs, **options) -> str:
    with serving(theirs) as one:
        with pytest.raises(ValueError, match="rewards_service.servers: http://127.0.0.1") as error:
            at(one, specs=ours, **options)
    return str(error.value)


def test_another_list_of_rewards_is_refused_with_the_difference(spec) -> None:
    math = RewardSpec("right", "math_answer")
    assert "has no rewards.parts" in refused([math, spec("parts")], [math])
    assert "also judges by rewards.parts" in refused([math], [math, spec("parts")])
    assert "rewards.right.function" in refused([math], [RewardSpec("right", "tag_count")])
    lenient = RewardSpec("right", "math_answer", args={"lenient": True})
    assert 'rewards.right.args = {"lenient": true}, not {}' in refused([math], [lenient])
    late = RewardSpec("right", "math_answer", timeout_seconds=3)
    assert "rewards.right.timeout_seconds = 3, not 10.0" in refused([math], [late])
    options = SandboxOptions(min_isolation="L1")
    assert "confines programs by" in refused([math], [math], sandbox=options)


def test_another_file_of_ones_own_reward_is_refused(spec, folder) -> None:
    ours = identity_of([spec("parts")], SandboxOptions())
    (folder / "mine.py").write_text(REWARDS + "\n# changed\n")
    theirs = identity_of([spec("parts")], SandboxOptions())
    assert ours.digest != theirs.digest
    assert "has another file of rewards.parts" in difference(ours, [theirs.to_mapping()])


def test_a_server_whose_file_was_edited_since_it_began_judges_no_more(spec, folder) -> None:
    """Workers that start later would judge by another file than those that were there."""
    specs = [spec("parts")]
    sample = [Sample("abc", {"answer": ""})]
    words = "the file of rewards.parts, or a module that it imports, has changed since this server"
    with serving(specs) as one, at(one, specs=specs) as remote:
        assert remote.judge(sample)[0].score.value == 1.0
        (folder / "mine.py").write_text(REWARDS.replace("/ 3", "/ 4"))
        with pytest.raises(NoRewardServerLeft, match=words):
            remote.judge(sample)
        with pytest.raises(ValueError, match=words):
            at(one, specs=specs)
        (folder / "mine.py").write_text(REWARDS)
        wait_until_back(remote)
        assert remote.judge(sample)[0].score.value == 1.0


def test_a_module_that_a_file_imports_is_compared_with_it(folder) -> None:
    (folder / "mine.py").write_text("from scale_of_mine import SCALE\n" + REWARDS)
    scale = folder / "scale_of_mine.py"
    scale.write_text("SCALE = 3\n")
    specs = [RewardSpec("parts", f"{folder}/mine.py:parts")]
    ours = identity_of(specs, SandboxOptions())
    files = own_files(specs)
    assert changed_file(ours, files) == ""
    scale.write_text("SCALE = 4\n")
    assert changed_file(ours, files) == "parts"
    theirs = identity_of(specs, SandboxOptions())
    assert "has another file of rewards.parts" in difference(ours, [theirs.to_mapping()])


def test_the_folder_of_a_file_and_the_weight_do_not_matter(spec, folder, tmp_path_factory) -> None:
    other = tmp_path_factory.mktemp("other")
    (other / "mine.py").write_text(REWARDS)
    ours = identity_of([spec("parts", weight=2.0)], SandboxOptions())
    theirs = identity_of([RewardSpec("parts", f"{other}/mine.py:parts")], SandboxOptions(slots=7))
    assert ours.digest == theirs.digest


def test_other_code_of_the_package_is_refused(spec) -> None:
    ours = identity_of([spec("parts")], SandboxOptions())
    for name, words in (
        ("code", "has other code"),
        ("python", "runs Python x"),
        ("sympy", "has sympy x"),
    ):
        theirs = ours.to_mapping()
        theirs["common"] = {**theirs["common"], name: "x"}
        assert words in difference(ours, [theirs])


def test_a_function_of_this_process_alone_is_refused() -> None:
    with pytest.raises(ValueError, match="rewards.mine is a function that only this process has"):
        RemoteRewards([RewardSpec("mine", lambda text: 1.0)], ["http://127.0.0.1:1"], token="x")


def test_a_server_that_is_not_there_or_something_else_is_refused(spec) -> None:
    gone = RemoteServer("http://127.0.0.1:9", TOKEN)
    identity = identity_of([spec("parts")], SandboxOptions())
    assert "http://127.0.0.1:9 does not answer" in gone.problem(identity)
    with pytest.raises(ServerLost):
        gone.judge({})
    assert client.TOKEN == "GRPO_REWARDS_TOKEN" and spread.BATCHES_A_SERVER > 1


def test_two_lists_are_judged_by_one_server(spec) -> None:
    run, own_set = [spec("parts")], [spec("endless")]
    with serving(run, own_set) as one:
        with at(one, specs=run) as first, at(one, specs=own_set) as second:
            assert first.judge([Sample("abc", {"answer": ""})])[0].score.value == 1.0
            assert second.judge([Sample("abc")])[0].score.value == 0.5
