"""Environments written for TRL, verifiers and OpenEnv: their tools, their state, their rewards."""

from __future__ import annotations

import time

import foreign_tools
import light_tools
import pytest

from rewards.environments import Call, EnvironmentPool, EnvironmentSpec, format_of, schemas_of
from rewards.environments.adapters.verifiers import VerifiersTalk, _Once
from rewards.environments.reward import environment

FOREIGN = foreign_tools.__file__


def calling(name, **arguments):
    return format_of("hermes").write(Call(name, arguments))


def spec_of(use, **changes):
    return EnvironmentSpec(use, format="hermes", timeout_seconds=5.0, workers=1, **changes)


# ------------------------------------------------------------------------------------------------ TRL


@pytest.fixture(scope="module")
def baskets():
    with EnvironmentPool(
        spec_of(f"{light_tools.__file__}:Basket", tools=[light_tools.add])
    ) as pool:
        yield pool


def test_the_methods_of_an_environment_factorys_class_are_tools(baskets):
    names = [schema["function"]["name"] for schema in baskets.schemas()]
    assert names == ["add", "look", "put"]
    assert baskets.open("a", {"start": 4, "prompt": "x"}).result(60).text == "The basket holds 4."
    assert baskets.open("b", {"prompt": "x"}).result(60) is None
    baskets.step("b", calling("put", number=1)).result(60)
    turn = baskets.step(
        "a", calling("put", number="3") + calling("look") + calling("add", a=1)
    ).result(60)
    assert [result.text for result in turn.results] == ["7", "7", "2"]


def test_the_turns_of_a_completion_sum_to_get_reward(baskets):
    baskets.open("a", {"start": 2})
    texts = [calling("put", number=3), calling("look"), calling("put", number="x"), "done"]
    turns = [baskets.step("a", text).result(60) for text in texts]
    assert [turn.status for turn in turns] == ["ok", "ok", "error", "ok"]
    assert turns[-1].done
    score = environment("", [{"reward": turn.reward, "parts": turn.parts} for turn in turns])
    assert score.value == pytest.approx(0.5)


def test_a_factory_says_by_its_hint_which_class_it_makes():
    spec = spec_of(f"{FOREIGN}:baskets", args={"size": 3})
    assert [schema["function"]["name"] for schema in schemas_of(spec)] == ["look", "put"]
    with pytest.raises(ValueError, match="say which class it makes"):
        schemas_of(spec_of(lambda: light_tools.Basket()))


# ------------------------------------------------------------------------------------------ verifiers


def test_a_stateful_tool_env_gets_its_hidden_arguments_from_each_rollouts_state():
    with EnvironmentPool(spec_of(f"{FOREIGN}:load_environment")) as pool:
        assert [schema["function"]["name"] for schema in pool.schemas()] == ["lookup", "double"]
        for key in (5, 6):
            pool.open(key, {"info": {"start": key}})
        texts = [
            calling("lookup", key="a"),
            calling("lookup", key="calls"),
            calling("double", number="21"),
        ]
        for key in (5, 6):
            turns = [pool.step(key, text).result(60) for text in texts]
            assert [turn.text for turn in turns] == [str(key), "2", "42"]
        failed = pool.step(5, calling("lookup", key="nothing")).result(60)
    assert (failed.text, failed.status) == ("failed: KeyError", "error")


def test_one_environment_of_verifiers_serves_all_completions_of_a_process():
    made = foreign_tools.StatefulToolEnv.num_made
    once = _Once(foreign_tools.load_environment)
    assert not VerifiersTalk(once).is_async("call", ("lookup", {}))
    assert VerifiersTalk(once).is_async("call", ("double", {}))
    assert foreign_tools.StatefulToolEnv.num_made == made + 1


# -------------------------------------------------------------------------------------------- OpenEnv


def test_an_openenv_client_is_a_session_for_each_completion_and_closed_behind_it(tmp_path):
    log = tmp_path / "closed"
    args = {"base_url": str(log), "reset_columns": ["seed"], "observation_fields": ["echoed"]}
    with EnvironmentPool(EnvironmentSpec(f"{FOREIGN}:EchoClient", args, workers=1)) as pool:
        assert pool.format is None
        assert pool.open("a", {"seed": 7, "other": 1}).result(60).text == f"{log} 7"
        assert pool.open("b", {}).result(60).text == f"{log} 0"
        first = pool.step("a", "hello").result(60)
        assert (first.text, first.reward, first.done) == ("hello", 0.25, False)
        assert pool.step("a", "bye").result(60).done
        assert not pool.step("b", "bye").result(60).done
        pool.forget("a")
        assert pool.step("b", "again").result(60).text == "again"
        for _ in range(1000):
            if log.exists():
                break
            time.sleep(0.01)
    assert log.read_text() == "closed\n"


def test_what_is_observed_is_the_only_text_or_all_fields_as_json():
    args = {"base_url": "x"}
    with EnvironmentPool(EnvironmentSpec(f"{FOREIGN}:EchoClient", args, workers=1)) as pool:
        assert pool.open("a", {}).result(60).text == "x 0"
        assert pool.step("a", "hi").result(60).text == '{"echoed": "hi", "length": 2}'


def test_a_client_of_mappings_needs_to_know_which_key_takes_the_text():
    with pytest.raises(ValueError, match="environment.args.action_field"):
        schemas_of(EnvironmentSpec(f"{FOREIGN}:AnyClient", {"base_url": "x"}))
    args = {"base_url": "x", "action_field": "code"}
    with EnvironmentPool(EnvironmentSpec(f"{FOREIGN}:AnyClient", args, workers=1)) as pool:
        pool.open("a", {})
        assert pool.step("a", "1+1").result(60).text == "1+1"
