"""Whether servers sample the policy that is trained: the probe after a push of weights.

A few tokens are written by each server and scored by both sides; ``parity`` judges. The prompts are the next ones to
be sampled, and those of the probe before, whose keys a server may have kept. Tokens of earlier probes, with what the
trainer's log-probs of them were then, tell stale weights.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Callable, Iterator, Sequence

import torch
from torch import Tensor

from grpo.kernels.log_prob import logprob
from grpo.kernels.sampling.spec import Sampling, completion_seed
from grpo.learner.diagnosis import arbitrate
from grpo.learner.parity import (
    IGNORED_ADAPTER,
    OTHER_HEAD,
    STALE_WEIGHTS,
    Evidence,
    Suspect,
    Verdict,
    joined,
    judge,
)
from grpo.model.packing import pack
from grpo.model.policy import Policy
from grpo.rollout.servers.server import Asked as Request
from grpo.rollout.servers.server import Server, Written, unknown_ids
from grpo.types import Prompt, Row

NUM_PROMPTS = 2
"""How many of the next prompts are written for, and how many of the last probe's again."""
NUM_TOKENS = 16
"""Tokens that are written for each."""
NUM_REMEMBERED = 3
"""Probes whose tokens are kept, beside the first."""


@dataclass(slots=True, eq=False)
class Remembered:
    """Rows of an earlier probe, and the trainer's log-probs [T] of their tokens by the weights of that version.

    ``logp_T`` is None until that probe is judged, which is before any later one is.
    """

    version: int
    rows: tuple[Row, ...]
    logp_T: Tensor | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """What one server said in a probe: rows it wrote with its scores of them, and its scores of remembered rows."""

    rows: tuple[Row, ...]
    scored_T: Tensor
    remembered: tuple[Tensor, ...]
    reads_others: bool


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """What servers said after they were given weights of a version, to be judged by a policy that holds these.

    ``remembered`` are the earlier probes whose rows they scored again, ``own`` is what later ones remember of this.
    """

    version: int
    sampling: Sampling
    servers: tuple[Server, ...]
    answers: tuple[Answers, ...]
    remembered: tuple[Remembered, ...]
    own: Remembered


class Probe:
    """Compares servers with a policy.

    ``limit`` is the mean distance in log-probs above which they count as different. ``first_head`` gives the output
    layer's weights [V, D] that the servers started with, None if they cannot be told; it is asked only after a fault.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        limit: float,
        first_head: Callable[[], Tensor | None] = lambda: None,
    ):
        self.policy = policy
        self.limit = limit
        self.first_head = first_head
        self.memory: list[Remembered] = []
        self.bias = unknown_ids(policy)

    def verdicts(
        self, servers: Sequence[Server], prompts: Sequence[Prompt], sampling: Sampling
    ) -> list[Verdict]:
        """One a server, after it was given the policy's weights; `prompts` are the next to be sampled."""
        return self.judge(self.ask(servers, prompts, sampling, self.policy.version))

    def ask(
        self,
        servers: Sequence[Server],
        prompts: Sequence[Prompt],
        sampling: Sampling,
        version: int,
    ) -> Asked:
        """What the servers say, which were given weights of `version`; the model is not touched, in any thread."""
        chosen = [prompt.token_ids for prompt in prompts[:NUM_PROMPTS]]
        if self.memory:
            chosen += [row.prompt_ids for row in self.memory[-1].rows[:NUM_PROMPTS]]
        remembered = tuple(self.memory)

        def answers_of(server: Server) -> Answers:
            return self._ask(server, chosen, sampling, version=version, remembered=remembered)

        with ThreadPoolExecutor(len(servers)) as pool:
            answers = tuple(pool.map(answers_of, servers))
        own = Remembered(version, answers[0].rows[:NUM_PROMPTS])
        self._remember(own)
        return Asked(version, sampling, tuple(servers), answers, remembered=remembered, own=own)

    def judge(self, asked: Asked) -> list[Verdict]:
        """One a server; the policy must hold the weights that were asked about. In the order in which they were."""
        verdicts = []
        for server, answers in zip(asked.servers, asked.answers):
            verdicts.append(judge(self._evidence(server, answers, asked), self.limit))
        asked.own.logp_T = _plain(self.policy, asked.own.rows)
        return verdicts

    # -- what the servers say -------------------------------------------------------------------------------

    def _ask(
        self,
        server: Server,
        chosen: Sequence[Sequence[int]],
        sampling: Sampling,
        *,
        version: int,
        remembered: Sequence[Remembered],
    ) -> Answers:
        rows: list[Row] = []
        reads_others = False
        for number, prompt_ids in enumerate(chosen):
            request = Request(
                prompt_ids=tuple(prompt_ids),
                max_tokens=NUM_TOKENS,
                seed=completion_seed("probe", version, number),
                sampling=sampling,
                stop_ids=(),
                stop_strings=(),
                bias=self.bias,
            )
            written = server.write(request)
            reads_others |= written.prompt_ids not in (None, tuple(prompt_ids))
            rows.append(_row(number, prompt_ids, written))
        return Answers(
            rows=tuple(rows),
            scored_T=_scores(server, rows),
            remembered=tuple(_scores(server, earlier.rows) for earlier in remembered),
            reads_others=reads_others,
        )

    # -- what the trainer says ------------------------------------------------------------------------------

    def _evidence(self, server: Server, answers: Answers, asked: Asked) -> Evidence:
        temperature = (
            asked.sampling.temperature or 1.0
        )  # greedy: log-probs are of the unscaled logits
        trainer_T, entropy_T = _trainer(self.policy, answers.rows, temperature)
        plain_T = _plain(self.policy, answers.rows)
        evidence = Evidence(
            server=server.url,
            version=asked.version,
            written_T=joined([row.sampled_logps for row in answers.rows]),
            trainer_T=trainer_T,
            entropy_T=entropy_T,
            scored_T=answers.scored_T,
            plain_T=plain_T,
            suspects=tuple(self._earlier(answers, asked)),
            reads_others=answers.reads_others,
            dtype=str(self.policy.base.dtype).removeprefix("torch."),
        )
        if evidence.scored <= self.limit:
            return evidence
        # Only now what takes a model, or its first weights.
        return replace(
            evidence,
            suspects=(*self._other_parts(answers, plain_T), *evidence.suspects),
            arbitration=self._arbitration(answers, plain_T),
        )

    def _earlier(self, answers: Answers, asked: Asked) -> Iterator[Suspect]:
        """The weights of earlier probes, by the tokens of these."""
        for earlier, server_T in zip(asked.remembered, answers.remembered):
            if earlier.version != asked.version and earlier.logp_T is not None:
                yield Suspect(
                    fault=STALE_WEIGHTS,
                    says=f"the weights of version {earlier.version}",
                    suspected_T=earlier.logp_T,
                    server_T=server_T,
                    trainer_T=_plain(self.policy, earlier.rows),
                )

    def _other_parts(self, answers: Answers, plain_T: Tensor) -> Iterator[Suspect]:
        """The policy without its adapter, or with the output layer that the servers started with."""
        model: Any = self.policy.model
        if self.policy.model is not self.policy.base:
            with model.disable_adapter():
                suspected_T = _plain(self.policy, answers.rows)
            yield Suspect(
                IGNORED_ADAPTER,
                "the base model without the adapter",
                suspected_T=suspected_T,
                server_T=answers.scored_T,
                trainer_T=plain_T,
            )
            return
        weight_VD = None if self.policy.head is None else self.first_head()
        if weight_VD is not None:
            yield Suspect(
                OTHER_HEAD,
                "the new weights below the output layer that it started with",
                suspected_T=_plain(self.policy, answers.rows, weight_VD),
                server_T=answers.scored_T,
                trainer_T=plain_T,
            )

    def _arbitration(self, answers: Answers, plain_T: Tensor) -> Any:
        """The model's own opinion on the scores."""
        sizes = [len(row.token_ids) for row in answers.rows]
        scored = answers.scored_T.split(sizes)
        rows = [replace(row, sampled_logps=part_T) for row, part_T in zip(answers.rows, scored)]
        trainer_of = dict(enumerate(plain_T.split(sizes)))
        return arbitrate(self.policy, rows, trainer_of, temperature=1.0)

    def _remember(self, own: Remembered) -> None:
        """Keep what one server wrote, of the first probe and of the last ones."""
        self.memory.append(own)
        if len(self.memory) > NUM_REMEMBERED + 1:
            del self.memory[1]


@torch.no_grad()
def _trainer(policy: Policy, rows: Sequence[Row], temperature: float) -> tuple[Tensor, Tensor]:
    """(log-probs [T], entropies [T]) of the tokens of all rows."""
    stats = policy.token_stats(pack(rows, policy.device), temperature)
    return joined([stats.logp_T]), joined([stats.entropy_T])


@torch.no_grad()
def _plain(policy: Policy, rows: Sequence[Row], weight_VD: Tensor | None = None) -> Tensor:
    """Log-probs [T] at temperature 1, as a server scores prompts: over all ids, those too that no tokenizer knows.

    With `weight_VD` that output layer takes the place of the policy's.
    """
    if policy.head is None:
        return _trainer(policy, rows, 1.0)[0]
    packed = pack(rows, policy.device)
    layer = policy.head.linear
    weight_VD = layer.weight if weight_VD is None else weight_VD.to(layer.weight)
    head = replace(policy.head.at(1.0), weight_VD=weight_VD, bias_V=layer.bias)
    return joined([logprob(policy.hidden(packed), head, packed.target_T)[0]])


def _scores(server: Server, rows: Sequence[Row]) -> Tensor:
    scores = [torch.tensor(server.score(row.prompt_ids, row.token_ids)) for row in rows]
    return joined(scores)


def _row(number: int, prompt_ids: Sequence[int], written: Written) -> Row:
    return Row(
        index=number,
        group=number,
        prompt_ids=tuple(prompt_ids),
        token_ids=written.token_ids,
        sampled_logps=torch.tensor(written.logps),
        advantage=0.0,
        mask=True,
        forwarded=True,
        outcome="trained",
    )
