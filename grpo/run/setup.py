"""The one way to build policy, engine, scorer, sampling and learner, for every command.

Training, evaluation, sampling and preflight call these functions, so an option of the recipe means the same in each.
`open_parts` opens all that a training run works with. What is read before a model loads is up to ``inputs``.
"""

from __future__ import annotations

import os
import random
import sys
from dataclasses import dataclass
from typing import Callable, Sequence

import numpy
import torch
import transformers
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from grpo.data.curriculum import Curriculum
from grpo.data.prompts import PromptSet
from grpo.data.stream import MixedStream, PromptStream, Stream
from grpo.distributed.process_group import Ranks
from grpo.environments import RunEnvironment, open_environment
from grpo.kernels.sampling.spec import Sampling
from grpo.learner.learner import Learner
from grpo.learner.optimizer import Optimizer
from grpo.model.policy import Policy
from grpo.monitor import watchdog
from grpo.monitor.gates import Alarm, Gates
from grpo.monitor.watchdog import Watchdog
from grpo.recipe import Recipe, RecipeError, SampleSection
from grpo.recipe.shorthands import HELD_OUT
from grpo.report.console.console import Console
from grpo.report.trackers import Trackers
from grpo.rollout.buffer import RolloutBuffer
from grpo.rollout.compatibility import check_support
from grpo.rollout.engine import Engine
from grpo.run import fingerprint
from grpo.run.inputs import RunInputs
from grpo.run.log import Log
from grpo.run.lookahead import Lookahead
from grpo.run.reward_specs import watched_rewards
from grpo.run.rollouts import Rollouts
from grpo.run.sample_rows import SampleRows
from grpo.run.servers import ServedPolicy, open_servers
from grpo.run.teacher import load_teacher
from grpo.scoring import Scorer
from grpo.types import Prompt
from rewards import RewardSpec

# ---- the model and what uses it -------------------------------------------------------------------------------


def prepare_torch(recipe: Recipe) -> None:
    """Seeds, threads, determinism; the sampler needs no seed, but adapters and users' rewards may."""
    random.seed(recipe.seed)
    numpy.random.seed(recipe.seed % 2**32)
    torch.manual_seed(recipe.seed)
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    if recipe.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)


def hide_progress_bars() -> None:
    """Keep the progress bars of transformers and datasets out of the output of a command or a notebook."""
    transformers.utils.logging.disable_progress_bar()
    if "datasets" in sys.modules:
        sys.modules["datasets"].disable_progress_bars()


def default_device() -> torch.device:
    """The GPU if there is one, else the CPU; training's device is that of its `Ranks`."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def sampling_of(section: SampleSection, temperature: float | None = None) -> Sampling:
    """How tokens are drawn by a ``sample`` section; `temperature` overrides the section's."""
    return Sampling(
        temperature=section.temperature if temperature is None else temperature,
        top_k=section.top_k,
        top_p=section.top_p,
        min_p=section.min_p,
    )


def open_policy(
    recipe: Recipe,
    device: torch.device,
    tokenizer: PreTrainedTokenizerBase,
    model: PreTrainedModel | None = None,
) -> Policy:
    """The policy of the recipe's ``model`` section; `model` is used instead of loading one."""
    with watchdog.loading("grpo.model.loading, the model"):
        policy = Policy.load(recipe.model, device, model=model, tokenizer=tokenizer)
        check_support(policy)
    return policy


def open_engine(recipe: Recipe, policy: Policy) -> Engine:
    """The engine that samples `policy` as the recipe asks, by itself or at servers.

    Raises `RecipeError` for servers that do not fit.
    """
    served = open_servers(recipe, policy) if recipe.sample.is_served else None
    return engine_of(recipe, policy, served)


def engine_of(recipe: Recipe, policy: Policy, served: ServedPolicy | None) -> Engine:
    """The engine that samples `policy`, at servers if it is `served`."""
    sample = recipe.sample
    return Engine(
        policy,
        max_rows=sample.max_rows,
        stop=sample.stop,
        kv_memory_gib=sample.kv_memory_gib,
        deterministic=recipe.deterministic,
        keep=sample.keep_graphs,
        compile=sample.compile,
        open_decoder=None if served is None else served.open_decoder,
    )


def longest_prompt(prompts: PromptSet) -> int:
    """Tokens of the longest prompt that trains or is held out."""
    lengths = [len(prompt.token_ids) for prompt in (*prompts.train, *prompts.held_out)]
    return max(lengths, default=0)


def open_scorer(recipe: Recipe, specs: Sequence[RewardSpec]) -> Scorer:
    """The scorer with its workers running, or its servers found; close it, or use it as a context.

    Raises `RecipeError` for servers that do not answer or have other rewards.
    """
    try:
        return Scorer(specs, sandbox=recipe.sandbox, servers=recipe.rewards_service)
    except ValueError as error:
        if not recipe.rewards_service.servers:
            raise
        raise RecipeError(f"recipe: {error}") from None


def check_reward_servers(recipe: Recipe, inputs: RunInputs) -> None:
    """Ask the reward servers, before a model loads, whether they have the rewards of the run and of its sets."""
    if not recipe.rewards_service.servers:
        return
    for specs in (inputs.specs, *(of.own_specs for of in inputs.sets)):
        if specs:
            open_scorer(recipe, specs).close()


# ---- what only training uses ----------------------------------------------------------------------------------


OpenLearner = Callable[[Recipe, Policy, Ranks, "Gates | None"], Learner]
"""(recipe, policy, ranks, gates) -> the learner of a stage: `open_learner`, say."""


@dataclass(frozen=True, slots=True, eq=False)
class RunParts:
    """What an open training run works with.

    ``environment`` answers the policy between its turns, and ``lookahead`` samples ahead, if anything does.
    """

    ranks: Ranks
    policy: Policy
    curriculum: Curriculum
    engine: Engine
    log: Log
    gates: Gates
    learner: Learner
    scorer: Scorer
    environment: RunEnvironment | None = None
    lookahead: Lookahead[Rollouts] | None = None

    @property
    def isolation(self) -> list[str]:
        """How programs of rewards and tools are confined, in lines for the log; empty if none runs any."""
        lines = list(self.scorer.isolation)
        if self.environment is not None:
            lines += [line for line in self.environment.pool.isolation if line not in lines]
        return lines

    def close(self) -> None:
        """Stop what samples ahead, and the workers of rewards and environments."""
        if self.lookahead is not None:
            self.lookahead.stop()
        self.scorer.close()
        if self.environment is not None:
            self.environment.close()
        if self.lookahead is not None:
            self.lookahead.join()


def open_parts(
    recipe: Recipe,
    inputs: RunInputs,
    dog: Watchdog,
    model: PreTrainedModel | None = None,
    *,
    open_learner: OpenLearner,
    console: Console,
) -> RunParts:
    """Load the policy and start everything that a training run works with; close the parts to stop the workers.

    The tokens that end the examples of supervised training end completions from here on.
    """
    check_reward_servers(recipe, inputs)
    ranks = Ranks.start()
    ranks.watched_by(dog)
    check_ahead(recipe, ranks)
    check_same_prompts(ranks, inputs)
    prepare_torch(recipe)
    policy = open_policy(recipe, ranks.device, inputs.tokenizer, model)
    if recipe.distributed.shard and ranks.world > 1:
        policy.shard(ranks)
    policy.stop_ids |= inputs.examples.end_ids
    trackers = Trackers(
        recipe.log, recipe.folder(), patience_seconds=recipe.watchdog.server_seconds
    )
    log = Log(
        recipe.folder(),
        trackers,
        rows=open_rows(recipe, inputs),
        silent=not ranks.main,
        console=console,
        show_every=recipe.log.show_every,
    )
    gates = open_gates(recipe, inputs, policy, report=log.alarm)
    served = None
    if recipe.sample.is_served:
        longest = longest_prompt(inputs.prompts)
        served = open_servers(recipe, policy, longest_prompt=longest, gates=gates, ranks=ranks)
    return RunParts(
        ranks=ranks,
        policy=policy,
        curriculum=open_curriculum(recipe, inputs),
        engine=engine_of(recipe, policy, served),
        log=log,
        gates=gates,
        learner=open_learner(recipe, policy, ranks, gates),
        scorer=open_scorer(recipe, inputs.specs),
        environment=open_environment(recipe, inputs.environment, policy),
        lookahead=open_lookahead(recipe, served),
    )


def open_lookahead(recipe: Recipe, served: ServedPolicy | None) -> Lookahead[Rollouts] | None:
    """What samples the next steps at servers while a step is trained; None where nothing does."""
    sample = recipe.sample
    if not sample.staleness or served is None:
        return None
    carries = sample.over_request > 0
    return Lookahead(RolloutBuffer(sample.staleness, recipe.steps, carries=carries), served)


def check_ahead(recipe: Recipe, ranks: Ranks) -> None:
    """Refuse several processes whose steps would be sampled ahead."""
    if recipe.sample.staleness and ranks.world > 1:
        raise RecipeError(
            f"sample.staleness is {recipe.sample.staleness}, but {ranks.world} processes train, whose steps are not "
            "yet sampled ahead together; set it to 0, or train with one process and several servers"
        )


def check_same_prompts(ranks: Ranks, inputs: RunInputs) -> None:
    """Refuse ranks that train or are evaluated on different rows: the same id would stand for several questions."""
    if ranks.world == 1:
        return
    digests = ranks.gather([_digests(inputs)])
    for where, first in digests[0].items():
        others = [rank for rank, of in enumerate(digests) if of.get(where) != first]
        if others:
            raise RecipeError(
                f"{where}: the prompts of rank {', '.join(map(str, others))} are not those of rank 0: the same source "
                "gave other rows, or another tokenizer other tokens; give all ranks the same files and package "
                "versions, and a task whose rows follow from its arguments alone"
            )


def _digests(inputs: RunInputs) -> dict[str, str]:
    """A digest of the rows' prompts by the section that they are of."""
    digests = {"data": fingerprint.prompts(inputs.prompts)}
    for of in inputs.sets:
        if of.name != HELD_OUT:
            digest = f"{fingerprint.rows(of.prompts)} {fingerprint.tokens(of.prompts)}"
            digests[f"evaluate.sets.{of.name}"] = digest
    return digests


def open_rows(recipe: Recipe, inputs: RunInputs) -> SampleRows:
    """What makes the rows of ``samples.jsonl``."""
    return SampleRows(
        accurate=inputs.accurate,
        threshold=recipe.evaluate.threshold,
        num_with_tokens=recipe.log.token_logprobs,
        tokenizer=inputs.tokenizer,
        has_versions=recipe.sample.staleness > 0,
    )


def open_curriculum(recipe: Recipe, inputs: RunInputs) -> Curriculum:
    """The order in which training prompts are sampled."""
    advantage = recipe.advantage
    curriculum = Curriculum(
        open_stream(recipe, inputs),
        inputs.accurate,
        flat=advantage.flat,
        flat_by=advantage.flat_by,
        mask_truncated=advantage.mask_truncated,
        retire_at=advantage.retire_at,
        threshold=recipe.evaluate.threshold,
        low=recipe.data.pass_low,
        high=recipe.data.pass_high,
        again=recipe.data.pass_again,
    )
    if recipe.data.pass_column is not None:
        curriculum.begin_with(recipe.data.pass_column)
    return curriculum


def open_stream(recipe: Recipe, inputs: RunInputs) -> Stream:
    """The order of one source's prompts, or of a mixture's."""
    if not recipe.data.sources:
        return PromptStream(inputs.prompts.train, recipe.seed)
    prompts_of: dict[str, list[Prompt]] = {name: [] for name in inputs.weights}
    for prompt in inputs.prompts.train:
        prompts_of[prompt.source].append(prompt)
    return MixedStream(prompts_of, inputs.weights, recipe.seed)


def open_gates(
    recipe: Recipe, inputs: RunInputs, policy: Policy, report: Callable[[Alarm, bool], None]
) -> Gates:
    """The gates of the recipe, with the limits that suit the policy's dtype and device."""
    true, formal = watched_rewards(inputs.specs, inputs.accurate)
    return Gates(
        recipe.gates,
        dtype=str(policy.base.dtype).removeprefix("torch."),
        device=policy.device.type,
        true=true,
        formal=formal,
        report=report,
    )


def open_optimizer(recipe: Recipe, policy: Policy, num_updates: int) -> Optimizer:
    """The optimizer over what trains of `policy`, its schedule stretched over `num_updates`."""
    is_half = policy.base.dtype == torch.float16
    return Optimizer(
        policy.held(), recipe.optim, num_updates, scale_loss=is_half, shards=policy.shards
    )


def open_learner(
    recipe: Recipe, policy: Policy, ranks: Ranks = Ranks(), gates: Gates | None = None
) -> Learner:
    """The learner with its optimizer, reference and teacher; `RecipeError` for a term that the model does not have."""
    check_load_balance(recipe, policy)
    num_updates = recipe.steps * recipe.optim.updates * recipe.optim.epochs
    return Learner(
        policy,
        open_optimizer(recipe, policy, num_updates),
        recipe.loss,
        gates=gates,
        temperature=recipe.sample.temperature,
        ranks=ranks,
        teacher=load_teacher(recipe, policy),
        tokens_per_micro_batch=recipe.optim.tokens_per_micro_batch,
    )


def check_load_balance(recipe: Recipe, policy: Policy) -> None:
    """Refuse ``loss.load_balance`` on a model without such a loss."""
    if not recipe.loss.load_balance:
        return
    reason = policy.no_load_balance()
    if reason:
        raise RecipeError(f"recipe: loss.load_balance is set, but {reason}; set it to 0")
