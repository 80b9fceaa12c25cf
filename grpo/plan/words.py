"""A plan as lines to read: the model, the step by phase, the table over numbers of devices, every assumption."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Iterator, Sequence

from grpo.cost.price import HOUR, Prices
from grpo.plan.assumed import Assumed
from grpo.plan.device import GIB
from grpo.plan.scaling import largest_useful, stretches, verdict_limit
from grpo.plan.shape import Shape
from grpo.plan.step import Step
from grpo.plan.update import micro_batches
from rewards.spelling import many

CAUTION = "predicted from data sheets and assumptions, not measured"


@dataclass(frozen=True, slots=True)
class Estimate:
    """What is shown: `step` on the devices asked for, `steps` on others, of a run of ``num_steps``."""

    recipe: str
    shape: Shape
    step: Step
    steps: Sequence[Step]
    num_steps: int
    assumed: Assumed
    prices: Prices
    notes: Sequence[str] = ()

    def money(self, step: Step) -> str:
        """What a step costs, in words; empty without a price."""
        if not self.prices:
            return ""
        held = step.seconds * step.site.devices
        machines = -(-step.site.devices // step.site.per_machine)
        spent = self.prices.money(wall=step.seconds * machines, cpu=0.0, gpu=held)
        return self.prices.shown(spent)


def lines(plan: Estimate) -> Iterator[str]:
    """Everything."""
    yield from _header(plan)
    yield ""
    if plan.step.problem:
        yield f"it does not fit on {_devices(plan.step)}: {plan.step.problem}"
    else:
        yield from _phases(plan)
    yield ""
    yield from _table(plan)
    yield ""
    yield "assumed:"
    yield from (f"  {line}" for line in _assumptions(plan))


def _devices(step: Step) -> str:
    return f"{step.site.devices} x {step.site.device.name}"


def _header(plan: Estimate) -> Iterator[str]:
    shape = plan.shape
    step = plan.step
    work = step.work
    yield f"{plan.recipe} on {_devices(step)}: {CAUTION}"
    active = f", {shape.active / 1e9:.3g}B of them a token" if shape.experts else ""
    each = step.site.device.number_bytes
    keys = each * shape.layers * shape.key_numbers
    yield (
        f"model    {shape.name}: {shape.total / 1e9:.3g}B parameters{active}, "
        f"{each * shape.total / GIB:,.3g} GiB; a token's keys and values {keys / 1024:,.3g} KiB"
    )
    yield (
        f"step     {many(work.prompts, 'prompt')} x {work.group}, {work.sampled / 1e6:,.3g}M tokens sampled: "
        f"{work.mean:,.0f} a completion in the mean, at most {work.longest:,}, after {work.prompt_tokens:,.0f} of the "
        "prompt"
    )


def _phases(plan: Estimate) -> Iterator[str]:
    step = plan.step
    shape = plan.shape
    assert step.sampler and step.trainer and step.sampling and step.update
    samplers = (step.site.servers or step.site.devices) // step.sampler.devices
    holders = many(step.sampler.devices, "device")
    sampling = step.sampling
    yield (
        f"sampling {_seconds(step.sample_seconds)}  {many(samplers, 'sampler')} of {holders}, bound by "
        f"{sampling.bound}"
    )
    yield (
        f"         {many(sampling.slots, 'row')} each, {sampling.alive:.0%} alive; {sampling.steps:,.0f} decoding "
        f"steps of {1e3 * sampling.decode / sampling.steps:.3g} ms; prompts {_seconds(sampling.prefill).strip()}"
    )
    yield (
        f"         each reads {sampling.bytes / 1e12:,.3g} TB and does {sampling.operations / 1e15:,.3g} PFLOP"
    )
    yield (
        f"judging  {_seconds(step.left_to_judge)}  {_seconds(step.judging).strip()} alongside; hidden up to "
        f"{verdict_limit(step, plan.assumed):.2g} processor seconds a verdict"
    )
    yield f"gather   {_seconds(step.gather)}  every rank gets every completion"
    yield f"update   {_seconds(step.update_seconds)}  {_update(step, shape)}"
    yield f"push     {_seconds(step.push.seconds)}  {step.push.way}{_size(step.push.bytes)}"
    yield f"other    {_seconds(step.other)}"
    yield from _idle(plan)
    yield f"a step   {_seconds(step.seconds)}  {_rates(plan)}"


def _update(step: Step, shape: Shape) -> str:
    assert step.trainer and step.update
    split = ""
    if step.trainer.shards > 1:
        split = f", weights split over {step.trainer.shards} (FSDP2)"
    return (
        f"{many(step.trainer.devices, 'device')}{split}; {step.update.operations / 1e15:,.3g} PFLOP, bound by "
        f"{step.update.bound}; sums of gradients {_seconds(step.sums).strip()}"
    )


def _size(number: float) -> str:
    return f", {number / GIB:,.3g} GiB each" if number else ""


def _rates(plan: Estimate) -> str:
    step = plan.step
    hours = step.seconds * plan.num_steps * step.site.devices / HOUR
    price = plan.money(step)
    costs = f", {price} a step" if price else ""
    return (
        f"{step.tokens_per_second:,.0f} sampled tokens/s a device; {many(plan.num_steps, 'step')}: "
        f"{step.seconds * plan.num_steps / HOUR:,.3g} hours, {hours:,.3g} GPU hours{costs}"
    )


def _seconds(value: float) -> str:
    return f"{value:9,.3f} s" if value < 10 else f"{value:9,.1f} s"


COLUMNS = ("GPUs", "step s", "sampling", "judging", "gather", "update", "push", "tokens/s/GPU")


def _table(plan: Estimate) -> Iterator[str]:
    price = "  cost/step" if plan.prices else ""
    widths = (5, 9, 9, 8, 8, 9, 8, 12)
    titles = "  ".join(f"{title:>{width}}" for title, width in zip(COLUMNS, widths))
    yield f"{titles}{price}  bottleneck"
    yield from _misfits(plan.steps)
    for step in plan.steps:
        if step.problem:
            continue
        phases = step.phases()
        shown = [step.seconds, phases["sampling"], phases["judging"], phases["gathering"]]
        shown += [phases["update"], phases["push"]]
        figures = [f"{value:{width},.2f}" for value, width in zip(shown, widths[1:])]
        rate = f"{step.tokens_per_second:12,.0f}"
        cost = f"  {plan.money(step):>9}" if plan.prices else ""
        yield "  ".join([f"{step.site.devices:5}", *figures, rate]) + f"{cost}  {step.bottleneck}"
    yield ""
    yield from (f"longest  {stretch.sentence()}" for stretch in stretches(plan.steps))
    useful = largest_useful(plan.steps)
    if useful is not None:
        yield f"useful   up to {many(useful, 'GPU')}; beyond, twice as many make a step less than 1.5 times as fast"


def _misfits(steps: Sequence[Step]) -> Iterator[str]:
    """The numbers of devices on which the work does not fit, by reason."""
    reasons = dict.fromkeys(step.problem for step in steps if step.problem)
    for reason in reasons:
        numbers = [str(step.site.devices) for step in steps if step.problem == reason]
        yield f"{', '.join(numbers)}: does not fit: {reason}"


def _idle(plan: Estimate) -> Iterator[str]:
    """What would give every device something to do."""
    step = plan.step
    if step.trainer is None:
        return
    work = step.work
    batches = micro_batches(work, 1)
    if batches < step.trainer.devices:
        size = work.forwarded / work.updates / step.trainer.devices
        yield (
            f"note     the update has {many(batches, 'micro-batch')} for {many(step.trainer.devices, 'device')}; with "
            f"optim.tokens_per_micro_batch of about {size:,.0f} each has one"
        )


def _assumptions(plan: Estimate) -> Iterator[str]:
    device = plan.step.site.device
    yield (
        f"data sheet of {device.name}: {device.operations / 1e12:,.4g} TFLOP/s, {device.bandwidth / 1e9:,.4g} GB/s, "
        f"{device.memory / 1e9:,.3g} GB; {device.link / 1e9:,.3g} GB/s and direction within a machine of "
        f"{plan.step.site.per_machine}, {device.network / 1e9:,.3g} from machine to machine"
    )
    yield from plan.assumed.lines()
    yield from plan.notes
    yield (
        "left out: evaluations, checkpoints, loading, stragglers, failures, sums within an expert layer, refused and "
        "refilled groups, tools"
    )
