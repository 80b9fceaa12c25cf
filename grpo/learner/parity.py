"""Whether a server samples the policy that is trained, and if not, what it samples instead: the judgement.

A probe (``grpo.learner.probe``) lets a server write a few tokens, lets it score the same tokens as a prompt, and takes
the trainer's log-probs of them. The way a server writes (keys kept, temperature, filters) and its weights go wrong
apart from each other: only the first shows where the scores agree. What weights it has instead is told by `Suspect`s,
each a set of weights with the log-probs that they would give. With d = server - trainer and h = suspect - trainer, the
slope of d on h is 1 where the server holds the suspect's weights and 0 where it holds the trainer's, and its standard
error falls with the number of tokens: it finds weights that are one small update old below the rounding of a single
log-prob.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Sequence

import torch
from torch import Tensor

from grpo.learner.diagnosis import Arbitration, cause_of_writing, suspects
from grpo.learner.drift import MOMENTS, Drift, distances, moments, read

NUM_ERRORS = 5.0
"""Standard errors by which a slope must be above zero to count."""
SAME = 0.5
"""A slope above this is nearer to the suspect's weights than to the trainer's."""
LEFT = 0.25
"""A suspect explains a difference of which this share, or less, is left."""

STALE_WEIGHTS = "stale weights"
STALE_CACHE = "stale prefix cache"
IGNORED_ADAPTER = "adapter ignored"
OTHER_TEMPERATURE = "wrong temperature"
OTHER_FILTER = "wrong filter"
OTHER_PROMPT = "wrong template"
OTHER_HEAD = "wrong head"
OTHER_TOKENS = "wrong tokens"
OTHER_WEIGHTS = "other weights"

REMEDIES = {
    STALE_WEIGHTS: "the server answered that it had taken the new weights; start it anew with grpo serve",
    STALE_CACHE: "the server kept keys of earlier weights; start it without prefix caching, or with grpo serve",
    IGNORED_ADAPTER: "the server writes with its base model; start it with --enable-lora, or with grpo serve",
    OTHER_TEMPERATURE: "its log-probs are not those of sample.temperature; start it with grpo serve (vLLM: "
    "--logprobs-mode processed_logprobs and --generation-config vllm; SGLang: no SGLANG_RETURN_ORIGINAL_LOGPROB)",
    OTHER_FILTER: "start it with grpo serve, so that the model's own generation settings do not act (vLLM: "
    "--generation-config vllm; SGLang: no --preferred-sampling-params)",
    OTHER_PROMPT: "it read other tokens than it was sent: something between renders or re-tokenises prompts",
    OTHER_HEAD: "its output layer was not replaced by the new one, or computes in less precision",
    OTHER_TOKENS: "its log-probs belong to other tokens than it gave",
    OTHER_WEIGHTS: "it may serve another model than the recipe's, or another revision of it",
}
"""What to do about each fault, by its name."""


@dataclass(frozen=True, slots=True, eq=False)
class Suspect:
    """Weights that a server may have: their log-probs of tokens, beside the server's and the trainer's own.

    All three are [T], at temperature 1, of the tokens as a prompt. ``fault`` is the name if it is so, ``says`` which
    weights they are.
    """

    fault: str
    says: str
    suspected_T: Tensor
    server_T: Tensor
    trainer_T: Tensor

    @property
    def likeness(self) -> Likeness:
        """How much the server is like the suspect instead of the trainer."""
        return likeness(self.server_T, self.trainer_T, self.suspected_T)


@dataclass(frozen=True, slots=True)
class Likeness:
    """The slope of (server - trainer) on (suspect - trainer) with its error, and the share of the former it leaves."""

    slope: float
    error: float
    left: float

    @property
    def least(self) -> float:
        """The slope less five standard errors, at least 0."""
        return max(0.0, self.slope - NUM_ERRORS * self.error)

    @property
    def explains(self) -> bool:
        """Whether the server holds the suspect's weights, as far as its tokens tell."""
        return self.least > SAME and self.left <= LEFT


def likeness(server_T: Tensor, trainer_T: Tensor, suspected_T: Tensor) -> Likeness:
    """Compare [T] log-probs of the same tokens; slope 0 with an infinite error where the suspect is the trainer."""
    both_T = server_T.isfinite() & trainer_T.isfinite() & suspected_T.isfinite()
    d_T = (server_T - trainer_T).double()[both_T]
    h_T = (suspected_T - trainer_T).double()[both_T]
    power = float(h_T @ h_T)
    if len(d_T) < 3 or not power:
        return Likeness(0.0, math.inf, 1.0)
    slope = float(d_T @ h_T) / power
    rest_T = d_T - slope * h_T
    error = math.sqrt(float(rest_T @ rest_T) / (len(d_T) - 1) / power)
    size = float(d_T.abs().mean())
    left = float((d_T - h_T).abs().mean()) / size if size else 1.0
    return Likeness(slope, error, left)


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """What a probe of one server found; tensors are [T], of all tokens that the server wrote for it.

    ``written_T`` are the log-probs that came with the tokens, at the recipe's temperature, and ``trainer_T`` with
    ``entropy_T`` the trainer's; ``scored_T`` and ``plain_T`` are both sides' at temperature 1, of the tokens as a
    prompt. ``reads_others`` says that the server named other prompt tokens than it was sent. ``arbitration`` is asked
    of the model itself, and only once something is wrong.
    """

    server: str
    version: int
    written_T: Tensor
    trainer_T: Tensor
    entropy_T: Tensor
    scored_T: Tensor
    plain_T: Tensor
    suspects: Sequence[Suspect] = ()
    reads_others: bool = False
    arbitration: Arbitration | None = None
    dtype: str = "float32"

    @property
    def written(self) -> float:
        """Mean distance in the log-probs of the tokens as they were written."""
        return _distance(self.written_T, self.trainer_T)

    @property
    def scored(self) -> float:
        """Mean distance in the log-probs of the tokens as a prompt."""
        return _distance(self.scored_T, self.plain_T)

    @property
    def likest(self) -> Suspect | None:
        """The suspect that leaves least of the difference, of those that explain it."""
        explaining = [one for one in self.suspects if one.likeness.explains]
        return min(explaining, key=lambda one: one.likeness.left, default=None)

    @property
    def drift(self) -> Drift | None:
        """The drift's statistics of the tokens as they were written."""
        sums = moments(self.written_T, self.trainer_T, self.entropy_T)
        distance_T, counts = distances(self.written_T, self.trainer_T)
        by_name = dict(zip(MOMENTS, sums.tolist()))
        return read(by_name, counts.tolist(), float(distance_T.max()))


def _distance(a_T: Tensor, b_T: Tensor) -> float:
    """The mean of abs(a - b) over tokens that both know; infinite if there is none."""
    d_T = (a_T - b_T).double().abs()
    known_T = d_T.isfinite()
    return float(d_T[known_T].mean()) if known_T.any() else math.inf


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a probe came to.

    ``distance`` is the larger mean distance of log-probs, and `inf` where prompts were not read as they were sent;
    ``likeness`` how certainly the server holds a suspect's weights (0 to 1, see `Likeness.least`). ``fault`` is what
    would be the fault if one of them is too large.
    """

    server: str
    distance: float
    likeness: float
    fault: str
    says: str

    def sentence(self) -> str:
        """Fault, server, reason and remedy."""
        return f"{self.fault}: {self.server} {self.says}; {REMEDIES[self.fault]}"


def judge(evidence: Evidence, limit: float) -> Verdict:
    """The verdict on one server; `limit` is the distance above which sampler and trainer count as different."""
    likest = evidence.likest
    fault, says = _fault(evidence, likest, limit)
    distance = max(evidence.written, evidence.scored)
    return Verdict(
        server=evidence.server,
        distance=math.inf if evidence.reads_others else distance,
        likeness=0.0 if likest is None else likest.likeness.least,
        fault=fault,
        says=says,
    )


def _fault(evidence: Evidence, likest: Suspect | None, limit: float) -> tuple[str, str]:
    """(name, how it shows)."""
    if evidence.reads_others:
        return OTHER_PROMPT, "read other prompt tokens than it was sent"
    if likest is not None:
        share = f"{1 - likest.likeness.left:.0%} of the difference"
        return likest.fault, f"holds {likest.says}, not version {evidence.version} ({share})"
    if evidence.scored > limit:
        return _of_weights(evidence)
    return _of_writing(evidence)


def _of_weights(evidence: Evidence) -> tuple[str, str]:
    """Faults that the scores of a prompt show, and no suspect explains."""
    differs = f"scores tokens {evidence.scored:.1e} a token apart from version {evidence.version}"
    arbitration = evidence.arbitration
    if arbitration is not None and arbitration.is_rounding and evidence.dtype in FULL_PRECISION:
        return OTHER_HEAD, f"{differs}, with the error of half-precision logits"
    return OTHER_WEIGHTS, differs


FULL_PRECISION = ("float32", "float64")


def _of_writing(evidence: Evidence) -> tuple[str, str]:
    """Faults that show only in what the server writes: the scores of the same tokens agree."""
    drift = evidence.drift
    if drift is None:
        return OTHER_TOKENS, "gave no log-probs"
    apart = f"writes with log-probs {evidence.written:.1e} apart, and scores the same tokens right"
    cause = cause_of_writing(drift)
    if not cause:
        return STALE_CACHE, apart
    reason = suspects(drift, None, evidence.dtype, updated=False)
    return BY_CAUSE[cause], f"{apart}: {reason}"


BY_CAUSE = {"tokens": OTHER_TOKENS, "filter": OTHER_FILTER, "temperature": OTHER_TEMPERATURE}
"""The fault that each cause of `cause_of_writing` is."""


def joined(tensors: Sequence[Tensor]) -> Tensor:
    """[T] of several rows, on the CPU."""
    return torch.cat([one.detach().float().cpu() for one in tensors]) if tensors else torch.zeros(0)
