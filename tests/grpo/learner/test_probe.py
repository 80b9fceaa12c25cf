"""Each way in which a server samples another policy than the one that is trained is found and called by its name."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from grpo.learner.parity import Likeness, likeness
from grpo.monitor.gates import Gates, GateStop
from tests.support.fake_server import VLLM, fake_servers
from tests.support.fake_sglang import SGLANG
from tests.support.served import PLAIN, PROMPTS, fleet_of, moved, probe_of, served_policy


def _push(fleet):
    return [member.server for member in fleet.refresh()]


FAULTS = {
    "": None,
    "stale weights": "holds the weights of version 1, not version 2",
    "stale prefix cache": "scores the same tokens right",
    "wrong temperature": "the sampler's is 1.3",
    "wrong filter": "first suspect a filter",
    "wrong template": "read other prompt tokens than it was sent",
    "wrong head": "the output layer that it started with",
    "wrong tokens": "its log-probs are of other tokens",
}


@pytest.mark.parametrize("wire", [VLLM, SGLANG], ids=lambda wire: wire.engine)
@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_of_full_weights_stops_by_its_name(tmp_path, fault, wire):
    policy = served_policy(tmp_path / "model")
    first = copy.deepcopy(policy)
    with fake_servers(tmp_path / "model", "", wire=wire) as servers:
        fleet = fleet_of(policy, servers, tmp_path)
        probe = probe_of(policy, first)
        if fault == "wrong head":  # as on a CPU, where it is packed once
            servers[0].fault = fault
        moved(policy)
        for verdict in probe.verdicts(_push(fleet), PROMPTS, PLAIN):
            assert servers[0].fault or verdict.distance < 1e-5 and not verdict.likeness
        servers[0].fault = fault
        moved(policy, seed=1)
        verdict = probe.verdicts(_push(fleet), PROMPTS, PLAIN)[0]
    assert _stop(verdict) == (fault or None)
    if fault:
        assert verdict.fault == fault and FAULTS[fault] in verdict.says
        assert servers[0].url in verdict.sentence()


def _stop(verdict):
    """The name under which the gates stop a run, if they do."""
    gates = Gates({}, dtype="float32", device="cpu")
    record = {"server/distance": min(20.0, verdict.distance), "server/likeness": verdict.likeness}
    try:
        gates.probed(record, lambda gate: verdict.sentence())
    except GateStop as stop:
        assert stop.gate in ("server_parity", "server_weights")
        assert verdict.sentence() in str(stop)
        return verdict.fault
    return None


@pytest.mark.parametrize("wire", [VLLM, SGLANG], ids=lambda wire: wire.engine)
@pytest.mark.parametrize("fault", ["", "adapter ignored"])
def test_an_adapter_that_is_taken_and_not_used_stops_by_its_name(tmp_path, fault, wire):
    policy = served_policy(tmp_path / "model", lora=True)
    with fake_servers(tmp_path / "model", fault, wire=wire, lora_rank=8) as servers:
        fleet = fleet_of(policy, servers, tmp_path)
        verdict = probe_of(policy).verdicts(_push(fleet), PROMPTS, PLAIN)[0]
    assert _stop(verdict) == (fault or None)
    if fault:
        assert "holds the base model without the adapter" in verdict.says


def test_weights_of_another_model_are_called_so(tmp_path):
    policy = served_policy(tmp_path / "model", lora=True)
    served_policy(tmp_path / "other")
    with fake_servers(tmp_path / "model", "", lora_rank=8) as servers:
        fleet = fleet_of(policy, servers, tmp_path)
        with torch.no_grad():
            for name, p in policy.model.named_parameters():
                if "mlp" in name and "lora" not in name:
                    p.add_(0.05)
        verdict = probe_of(policy).verdicts(_push(fleet), PROMPTS, PLAIN)[0]
    assert _stop(verdict) == "other weights"


def test_weights_that_are_one_tiny_update_old_are_found_below_every_limit(tmp_path):
    policy = served_policy(tmp_path / "model")
    with fake_servers(tmp_path / "model", "", "") as servers:
        fleet = fleet_of(policy, servers, tmp_path)
        probe = probe_of(policy)
        probe.verdicts(_push(fleet), PROMPTS, PLAIN)
        servers[1].fault = "stale weights"
        moved(policy, by=3e-6)
        right, stale = probe.verdicts(_push(fleet), PROMPTS, PLAIN)
    assert stale.distance < 1e-4, "below the limit at which distances warn"
    assert _stop(stale) == "stale weights"
    assert _stop(right) is None


def test_log_probs_at_another_temperature_than_one_and_greedy_ones_agree_too(tmp_path):
    policy = served_policy(tmp_path / "model")
    with fake_servers(tmp_path / "model", "") as servers:
        fleet = fleet_of(policy, servers, tmp_path)
        for temperature in (0.6, 0.0):
            sampling = type(PLAIN)(temperature=temperature, top_k=0, top_p=1.0, min_p=0.0)
            moved(policy)
            verdict = probe_of(policy).verdicts(_push(fleet), PROMPTS, sampling)[0]
            assert verdict.distance < 1e-5


def test_likeness_is_the_slope_of_least_squares_and_its_error(seed):
    generator = torch.Generator().manual_seed(seed)
    trainer_T, step_T, noise_T = torch.randn(3, 40, generator=generator, dtype=torch.float64)
    suspected_T = trainer_T + 0.1 * step_T
    for slope in (0.0, 0.7, 1.0):
        server_T = trainer_T + slope * 0.1 * step_T + 0.01 * noise_T
        found = likeness(server_T, trainer_T, suspected_T)
        x = (suspected_T - trainer_T)[:, None]
        expected, residual, *_ = torch.linalg.lstsq(x, (server_T - trainer_T)[:, None])
        assert found.slope == pytest.approx(float(expected))
        variance = float((server_T - trainer_T - expected[0, 0] * x[:, 0]).square().sum()) / 39
        assert found.error == pytest.approx(math.sqrt(variance / float(x.square().sum())))
        assert found.explains == (slope == 1.0) or slope == 0.7
    assert likeness(server_T, trainer_T, trainer_T) == Likeness(0.0, math.inf, 1.0)


def test_the_probe_asks_again_for_the_prompts_of_the_probe_before(tmp_path):
    policy = served_policy(tmp_path / "model")
    with fake_servers(tmp_path / "model", "") as servers:
        fleet = fleet_of(policy, servers, tmp_path)
        probe = probe_of(policy)
        probe.verdicts(_push(fleet), PROMPTS[:1], PLAIN)
        moved(policy)
        probe.verdicts(_push(fleet), PROMPTS[1:], PLAIN)
    asked = [tuple(body["prompt"]) for body in servers[0].requests]
    assert asked == [prompt.token_ids for prompt in (PROMPTS[0], *PROMPTS[1:], PROMPTS[0])]
    assert [one.version for one in probe.memory] == [0, 1]
