"""The native kernels: against their definitions in fp64, what their bits depend on, and how they are built and loaded."""

from __future__ import annotations

import os
import random
import re
import stat
import subprocess
import sys
import textwrap
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from grpo.kernels.cpu import build, ops
from grpo.kernels.sampling.spec import Sampling, completion_seed, hashes
from grpo.kernels.sampling.torch_sampler import sample
from grpo.rollout.contiguous_cache import ContiguousCache, prompt_width, width_for


@pytest.fixture
def built() -> None:
    if not ops.available():
        pytest.skip(ops.reason())


by_native = pytest.mark.usefixtures("built")


def by_torch(function, *args):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ops, "_library", lambda: "switched off")
        return function(*args)


# ---- attention --------------------------------------------------------------------------------------------------


@dataclass
class Scene:
    """Rows with tokens of their own, some behind shared prompts: `groups` of (tokens of the prompt, own tokens)."""

    heads: int
    kv_heads: int
    width: int
    groups: list[tuple[int, list[int]]]
    padded: int = 0
    draw: object = torch.randn
    scaling: float = 0.2
    buckets: list = field(default_factory=list)
    rows: list = field(default_factory=list)
    members: list = field(default_factory=list)
    prompts: list = field(default_factory=list)

    def __post_init__(self) -> None:
        own, shared = {}, {}
        for length, lengths in self.groups:
            self.members.append(list(range(len(self.rows), len(self.rows) + len(lengths))))
            for number in lengths:
                self.rows.append(
                    (width_for(number + 1), own.setdefault(width_for(number + 1), []), number)
                )
                own[width_for(number + 1)].append(number)
                self.rows[-1] = width_for(number + 1), len(own[width_for(number + 1)]) - 1, number
            if length:
                shared.setdefault(prompt_width(length), []).append(length)
                self.prompts.append(
                    (prompt_width(length), len(shared[prompt_width(length)]) - 1, length)
                )
            else:
                self.prompts.append(None)
        number_of = {width: number for number, width in enumerate(own)}
        ahead = {width: number + len(own) for number, width in enumerate(shared)}
        self.rows = [(number_of[width], entry, length) for width, entry, length in self.rows]
        self.prompts = [p and (ahead[p[0]], p[1], p[2]) for p in self.prompts]
        self.buckets = [
            tuple(self.draw(len(held) + 1, width, self.kv_heads, self.width) for _ in range(2))
            for bucket in (own, shared)
            for width, held in bucket.items()
        ]
        number = len(self.rows) + self.padded
        self.query, self.key, self.value = (
            self.draw(number, heads, self.width)
            for heads in (self.heads, self.kv_heads, self.kv_heads)
        )

    def layout(self, keep=None, order=None) -> ops.DecodeLayout:
        """`keep`: only these rows; `order`: of the groups."""
        groups = [[row for row in group if keep is None or row in keep] for group in self.members]
        order = range(len(groups)) if order is None else order
        return ops.DecodeLayout(
            self.rows, [groups[i] for i in order], [self.prompts[i] for i in order]
        )

    def attend(self, **options) -> Tensor:
        return ops.decode_attention(
            self.query, self.key, self.value, self.buckets, self.layout(**options), self.scaling
        )

    def expected(self, row: int) -> Tensor:
        """[heads, width] in fp64 by the definition, of what was stored before the step and the row's new key."""
        prompt = self.prompts[next(i for i, group in enumerate(self.members) if row in group)]
        bucket, entry, length = self.rows[row]
        seen = []
        for number, new in enumerate((self.key, self.value)):
            parts = (
                [] if prompt is None else [self.buckets[prompt[0]][number][prompt[1], : prompt[2]]]
            )
            parts += [self.buckets[bucket][number][entry, :length], new[row][None]]
            seen.append(
                torch.cat(parts)
                .double()
                .repeat_interleave(self.heads // self.kv_heads, 1)
                .transpose(0, 1)
            )
        keys, values = seen
        scores = (self.query[row].double()[:, None] @ keys.transpose(1, 2)) * self.scaling
        return (scores.softmax(-1) @ values)[:, 0]


def lengths(drawn: random.Random, rows: int) -> list[int]:
    return [
        drawn.choice([0, 1, 2, 15, 63, 64, 65, drawn.randint(0, 255), drawn.randint(0, 500)])
        for _ in range(rows)
    ]


SHAPES = [
    (1, 1, 16),
    (4, 2, 48),
    (9, 3, 64),
    (8, 4, 80),
    (14, 7, 96),
    (9, 9, 128),
    (6, 2, 256),
    (16, 16, 64),
    (64, 64, 16),
    (64, 1, 48),
    (28, 4, 128),
    (33, 1, 16),
]


@by_native
@pytest.mark.parametrize("heads, kv_heads, width", SHAPES)
def test_attention_is_its_definition_and_stores_the_new_token_and_nothing_else(
    heads, kv_heads, width, seed
):
    drawn = random.Random(seed)
    groups = [
        (drawn.choice([0, 1, 3, 40, 64, 70, 200, 300]), lengths(drawn, rows))
        for rows in (1, 5, 2, 1)
    ]
    scene = Scene(heads, kv_heads, width, groups, padded=drawn.randint(0, 7))
    expected = [scene.expected(row) for row in range(len(scene.rows))]
    stored = [tuple(x.clone() for x in bucket) for bucket in scene.buckets]
    for row, (bucket, entry, length) in enumerate(scene.rows):
        stored[bucket][0][entry, length], stored[bucket][1][entry, length] = (
            scene.key[row],
            scene.value[row],
        )
    found = scene.attend()
    torch.testing.assert_close(
        found[: len(expected)].double(), torch.stack(expected), atol=1e-5, rtol=0
    )
    assert found.shape == scene.query.shape and not found[len(expected) :].any()
    assert all(torch.equal(a, b) for pair in zip(scene.buckets, stored) for a, b in zip(*pair))


@by_native
@pytest.mark.parametrize(
    "heads, kv_heads, rows", [(8, 1, 31), (64, 1, 3), (7, 1, 20), (2, 2, 70), (66, 2, 2)]
)
def test_a_group_of_more_queries_than_one_task_takes_is_read_in_parts(heads, kv_heads, rows, seed):
    scene = Scene(heads, kv_heads, 16, [(90, lengths(random.Random(seed), rows))])
    expected = torch.stack([scene.expected(row) for row in range(rows)])
    torch.testing.assert_close(scene.attend().double(), expected, atol=1e-5, rtol=0)


@by_native
def test_inputs_need_not_be_contiguous(seed):
    scene = Scene(6, 2, 32, [(50, [3, 70]), (0, [9])])
    expected = scene.attend()
    scene.query, scene.key, scene.value = (
        torch.stack([x, -x], 2).transpose(0, 1).contiguous().transpose(0, 1)[:, :, 0]
        for x in (scene.query, scene.key, scene.value)
    )
    assert not scene.query.is_contiguous() and torch.equal(scene.attend(), expected)


@by_native
@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_scores_and_values_of_any_scale_are_weighted_correctly(size, seed):
    """Whole numbers, whose scores are exact though they differ by thousands."""
    scene = Scene(
        4,
        2,
        64,
        [(80, [0, 63, 130]), (0, [70])],
        draw=lambda *s: torch.randint(-9, 10, s).float(),
        scaling=0.5,
    )
    scene.value *= size
    for _, values in scene.buckets:
        values *= size
    expected = torch.stack([scene.expected(row) for row in range(4)])
    torch.testing.assert_close(scene.attend().double() / size, expected / size, atol=2e-5, rtol=0)


@by_native
@pytest.mark.parametrize("heads, kv_heads, width", [(9, 3, 64), (4, 4, 48), (14, 2, 80)])
def test_the_bits_of_a_row_depend_neither_on_its_neighbours_nor_on_order_nor_on_threads(
    heads, kv_heads, width, threads, seed
):
    drawn = random.Random(seed)
    scene = Scene(
        heads,
        kv_heads,
        width,
        [(drawn.choice([0, 33, 100, 150]), lengths(drawn, n)) for n in (1, 11, 3, 2)],
    )
    together = scene.attend()
    for number in (2, 3, 1):
        threads(number)
        assert torch.equal(scene.attend(), together)
        assert torch.equal(scene.attend(order=drawn.sample(range(4), 4)), together)
    for row in range(len(scene.rows)):
        assert torch.equal(scene.attend(keep={row})[row], together[row])
    half = set(drawn.sample(range(17), 8))
    assert all(torch.equal(scene.attend(keep=half)[row], together[row]) for row in half)


@by_native
@pytest.mark.parametrize("garbage", [torch.nan, torch.inf, -torch.inf])
def test_what_lies_behind_a_row_or_in_other_rows_changes_no_bit(garbage, seed):
    scene = Scene(6, 2, 48, [(70, [0, 5, 63, 64, 100]), (40, [3, 9]), (0, [60])], padded=2)
    clean = scene.attend()
    for bucket, entry, length in scene.rows:
        for stored in scene.buckets[bucket]:
            stored[entry, length + 1 :] = garbage
            stored[-1] = garbage  # an entry that no row uses
    for bucket, entry, length in filter(None, scene.prompts):
        for stored in scene.buckets[bucket]:
            stored[entry, length:] = garbage
    assert torch.equal(scene.attend(), clean)
    for tensor, row in ((scene.query, 1), (scene.key, 5), (scene.value, 7)):
        tensor[row] = garbage
    found = scene.attend()
    assert (
        all(torch.equal(found[row], clean[row]) for row in (0, 2, 3, 4, 6)) and not found[8:].any()
    )
    assert (
        found[1].isnan().all() and not found[5].isfinite().all() and not found[7].isfinite().any()
    )


@by_native
def test_a_prompt_that_is_nan_fails_its_own_readers_alone(seed):
    scene = Scene(6, 2, 48, [(70, [0, 5]), (40, [3])])
    clean, (bucket, entry, _) = scene.attend(), scene.prompts[0]
    scene.buckets[bucket][0][entry, 7] = torch.nan
    found = scene.attend()
    assert found[:2].isnan().all() and torch.equal(found[2], clean[2])


@by_native
def test_only_what_the_kernel_takes_is_offered_to_it():
    def attends(heads=4, kv_heads=2, width=32, dtype=torch.float32):
        return ops.attends(
            torch.zeros(2, heads, 1, width, dtype=dtype),
            *[torch.zeros(2, kv_heads, 1, width, dtype=dtype)] * 2,
        )

    assert attends() == attends(64, 1) == attends(width=256) == ops.reads_fast()
    assert not (
        attends(width=24) or attends(width=272) or attends(65, 1) or attends(dtype=torch.bfloat16)
    )


@by_native
@pytest.mark.parametrize("window", [None, 50])
@pytest.mark.parametrize("heads, kv_heads, width", [(6, 2, 32), (4, 4, 16)])
def test_the_cache_gives_the_same_with_native_kernels_as_with_torch(
    heads, kv_heads, width, window, seed
):
    """Rows that are added and dropped, that outgrow buckets and windows, behind prompts of their own and shared."""
    drawn, slots = random.Random(seed), [ContiguousCache(shared_from=30) for _ in range(2)]
    for number in range(50):
        for _ in range(drawn.choice([0, 1, 2]) if number else 2):
            length, names = (
                drawn.randint(0, 90),
                [f"{number} {drawn.random()}" for _ in range(drawn.randint(1, 4))],
            )
            prefix = (
                {0: tuple(torch.randn(kv_heads, length, width) for _ in range(2))} if length else {}
            )
            for one in slots:
                one.add(names, names[0], prefix, length)
        order, other = (one.begin() for one in slots)
        assert order == other
        shapes = [(-(-len(order) // 8) * 8, n, 1, width) for n in (heads, kv_heads, kv_heads)]
        query, key, value = map(torch.randn, shapes)

        def step(one):
            return one.attend(query, *one.update(key, value, 0), 0.3, window, None, 0)

        torch.testing.assert_close(step(slots[0]), by_torch(step, slots[1]), atol=1e-5, rtol=0)
        for a, b in zip(*(one.row_buckets.values() for one in slots)):
            assert all(
                torch.equal(x[0][: len(a.names)], y[0][: len(a.names)])
                for x, y in zip(a.stores, b.stores)
            )
        for one in slots:
            one.advance()
        for row in [row for row in order if drawn.random() < 0.1]:
            for one in slots:
                one.drop(row)
        if not slots[0].row_width:
            break


# ---- the sampler ------------------------------------------------------------------------------------------------

VOCABULARIES = [1, 2, 15, 16, 17, 1000, 49152, 151936]


def seeds(number: int, name: object = 0) -> Tensor:
    return torch.tensor([completion_seed(name, i) for i in range(number)])


def scores(logits_RV: Tensor, seed_R: Tensor, position_R: Tensor, temperature: float) -> Tensor:
    """Log-probs and noise [R, V], all in fp64 but the division by the temperature."""
    logp_RV = (logits_RV / (temperature or 1)).double().log_softmax(-1)
    uniform_RV = (
        hashes(seed_R, position_R, logits_RV.shape[-1]).view(torch.uint32).double() + 0.5
    ) / 2.0**32
    return logp_RV - (-torch.log1p(-uniform_RV)).log() if temperature else logp_RV


def assert_drawn_alike(logits_RV: Tensor, temperature: float, seed: int) -> None:
    rows = len(logits_RV)
    inputs = logits_RV, seeds(rows, seed), torch.randint(0, 10**6, (rows,))
    token_R, logp_R, kept_R = sample(*inputs, Sampling(temperature))
    by_torch_R = by_torch(sample, *inputs, Sampling(temperature))[0]
    assert kept_R is None and token_R.dtype == torch.int64 and logp_R.dtype == torch.float32
    score_RV = scores(*inputs, temperature)
    near_R = score_RV.amax(-1) - score_RV.gather(-1, token_R[:, None])[:, 0] < 1e-5
    same_R = (token_R == score_RV.argmax(-1)) & (token_R == by_torch_R)
    assert (same_R | near_R).all() and same_R.double().mean() > 0.9
    exact_R = (
        (logits_RV / (temperature or 1)).double().log_softmax(-1).gather(-1, token_R[:, None])[:, 0]
    )
    torch.testing.assert_close(logp_R.double(), exact_R, atol=2e-6, rtol=0)


@by_native
@pytest.mark.parametrize("temperature", [0.0, 0.3, 1.0, 1.7])
@pytest.mark.parametrize("size", VOCABULARIES)
def test_tokens_are_those_of_torchs_operations_and_logps_those_of_fp64(size, temperature, seed):
    rows = 200 if size < 2000 else 6
    logits_RV = torch.randn(rows, size) * torch.tensor([0.1, 1.0, 4.0]).repeat(rows)[:rows, None]
    logits_RV[1::3, 1::2] = -torch.inf
    assert_drawn_alike(logits_RV, temperature, seed)


@by_native
@pytest.mark.parametrize("gap", [0.0, 2.3, 12.0])
def test_a_sum_of_many_equal_parts_loses_nothing(gap, seed):
    logits_RV = torch.zeros(4, 151936)
    logits_RV[:, 77_777] = gap
    seed_R, position_R = seeds(4, seed), torch.arange(4)
    token_R, logp_R, _ = sample(logits_RV, seed_R, position_R, Sampling())
    exact_R = logits_RV.double().log_softmax(-1).gather(-1, token_R[:, None])[:, 0]
    torch.testing.assert_close(logp_R.double(), exact_R, atol=2e-6, rtol=0)
    assert torch.equal(token_R, scores(logits_RV, seed_R, position_R, 1.0).argmax(-1))


@by_native
@pytest.mark.parametrize("temperature", [0.0, 1.0, 1.7])
@pytest.mark.parametrize("size", [3, 16, 37, 1000])
def test_a_bad_row_fails_alone(size, temperature, seed):
    logits_RV, seed_R, position_R = torch.randn(9, size), seeds(9, seed), torch.arange(9)
    whole = sample(logits_RV, seed_R, position_R, Sampling(temperature))
    at = random.Random(seed).randrange(size)
    logits_RV[1, at], logits_RV[3, at], logits_RV[5], logits_RV[7, :at] = (
        torch.nan,
        torch.inf,
        -torch.inf,
        -torch.inf,
    )
    logits_RV[8] = torch.nan
    token_R, logp_R, _ = sample(logits_RV, seed_R, position_R, Sampling(temperature))
    assert token_R[[1, 3, 5, 8]].eq(-1).all() and logp_R[[1, 3, 5, 8]].isnan().all()
    assert all(
        torch.equal(x[[0, 2, 4, 6]], y[[0, 2, 4, 6]]) for x, y in zip((token_R, logp_R), whole)
    )
    assert at <= token_R[7] < size and logp_R[7].isfinite()
    other_R, _, _ = by_torch(sample, logits_RV, seed_R, position_R, Sampling(temperature))
    assert torch.equal(token_R, other_R)


@by_native
@pytest.mark.parametrize("size", [1, 16, 100, 5000])
def test_of_equal_scores_the_lowest_token_is_taken(size, seed):
    drawn, inputs = random.Random(seed), (seeds(20, seed), torch.arange(20))
    assert not sample(torch.full((20, size), 3.5), *inputs, Sampling(0.0))[0].any()
    first, second = sorted((drawn.randrange(size), drawn.randrange(size)))
    logits_RV = torch.randn(20, size)
    logits_RV[:, [first, second]] = 9.0
    assert sample(logits_RV, *inputs, Sampling(0.0))[0].eq(first).all()
    hash_RV = hashes(*inputs, size)  # equal logits: the most noise wins, and equal noise is rare
    assert torch.equal(
        sample(torch.zeros(20, size), *inputs, Sampling())[0],
        (hash_RV.view(torch.uint32).long()).argmin(-1),
    )


@by_native
def test_greedy_takes_the_largest_logit_also_where_log_probs_round_to_the_same():
    logits_RV = torch.full((1, 40), -5.0)
    logits_RV[0, [7, 20, 33]] = torch.tensor([-1e-9, 1e-9, 1e-9])
    assert sample(logits_RV, seeds(1), torch.zeros(1, dtype=torch.long), Sampling(0.0))[
        0
    ].tolist() == [20]


@by_native
def test_logits_may_be_views_of_any_stride_and_of_half_precision(seed):
    wide_RV, inputs = torch.randn(12, 200), (seeds(6, seed), torch.arange(6), Sampling())
    for view_RV in (
        wide_RV[::2, 5:66],
        wide_RV[:6, ::3],
        wide_RV[:61, :].T[:6, :],
        wide_RV[:1].expand(6, -1),
        wide_RV[6:, :1],
        wide_RV[6:].bfloat16(),
    ):
        found, expected = (
            sample(view_RV, *inputs),
            sample(view_RV.float().contiguous().clone(), *inputs),
        )
        assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])


@by_native
def test_a_token_depends_neither_on_its_neighbours_nor_on_threads(threads, seed):
    logits_RV, seed_R, position_R = torch.randn(13, 777), seeds(13, seed), torch.arange(13)
    together = sample(logits_RV, seed_R, position_R, Sampling(0.7))
    for number in (1, 2, 3):
        threads(number)
        order = torch.randperm(13)[:9]
        found = sample(logits_RV[order], seed_R[order], position_R[order], Sampling(0.7))
        assert all(torch.equal(x, y[order]) for x, y in zip(found[:2], together[:2]))


@by_native
@pytest.mark.parametrize("temperature", [0.3, 1.0, 1.7])
def test_draws_follow_the_distribution(temperature):
    logits_V = 2 * torch.randn(53, generator=torch.Generator().manual_seed(8))
    token_R, _, _ = sample(
        logits_V.expand(100_000, -1),
        seeds(100_000),
        torch.full((100_000,), 3),
        Sampling(temperature),
    )
    expected_V = (logits_V.double() / temperature).softmax(-1) * 100_000
    common_V, counts_V = expected_V >= 10, token_R.bincount(minlength=53)
    found, expected = (
        torch.cat([x[common_V], x[~common_V].sum()[None]]) for x in (counts_V.double(), expected_V)
    )
    statistic = ((found - expected) ** 2 / expected.clamp_min(1)).sum()
    assert torch.special.gammaincc((common_V.sum() / 2).double(), statistic / 2) > 1e-3


@by_native
def test_no_rows_give_no_tokens():
    none = torch.empty(0, dtype=torch.long)
    token_R, logp_R, _ = sample(torch.empty(0, 50), none, none, Sampling())
    assert token_R.shape == logp_R.shape == (0,)


# ---- build ------------------------------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache; kernels are built there without optimization, to be fast."""
    if sys.platform != "linux":
        pytest.skip("native kernels are built on Linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("GRPO_NATIVE", raising=False)
    monkeypatch.setattr(build, "OPTIONS", (*build.OPTIONS, "-O0"))
    monkeypatch.setattr(build.tempfile, "tempdir", str(tmp_path))
    return tmp_path / "cache" / "grpo"


def loaded():
    """What a new process would get: the library, or why there is none."""
    return ops._library.__wrapped__()


def compiler(folder, lines: str) -> str:
    """A C++ compiler that answers --version, and then runs `lines`."""
    script = folder / "cxx"
    script.write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo cxx 1.0 && exit 0\n{lines}\n')
    script.chmod(0o755)
    return str(script)


RUBBISH = (
    """while [ $# -gt 0 ]; do [ "$1" = -o ] && printf '\\177ELF rubbish' > "$2"; shift; done"""
)


@pytest.mark.parametrize(
    "lines, why",
    [
        ("printf 'erreur \\351\\n' >&2; exit 1", "cxx failed: erreur"),
        ("exit 0", "No such file or directory"),
        ("exec sleep 60", "cxx took more than 0.5 seconds"),
        ("kill -SEGV $$", "cxx failed"),
        (RUBBISH, "file too short|invalid ELF header"),
    ],
)
def test_a_compiler_that_fails_leaves_torchs_operations_with_a_reason(
    lines, why, cache, tmp_path, monkeypatch
):
    monkeypatch.setenv("CXX", compiler(tmp_path, lines))
    monkeypatch.setattr(build, "COMPILER_TIMEOUT_SECONDS", 0.5)
    found = loaded()
    assert isinstance(found, str) and re.search(why, found) and "\n" not in found
    assert not [path for path in cache.iterdir() if path.is_dir()], (
        "its temporary files are removed"
    )


def test_without_a_compiler_the_reason_says_where_one_was_looked_for(cache, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert loaded() == "no C++ compiler: $CXX, g++ and clang++ were looked for"


def test_native_kernels_can_be_switched_off(cache, monkeypatch):
    monkeypatch.setenv("GRPO_NATIVE", "0")
    assert loaded() == "GRPO_NATIVE=0" and not cache.exists()


@by_native
def test_a_compiler_that_does_not_exist_is_passed_over_and_a_changed_source_is_another_library(
    cache, tmp_path, monkeypatch
):
    monkeypatch.setenv("CXX", "no-such-compiler -m64")
    assert not isinstance(loaded(), str)
    (first,) = cache.iterdir()
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700
    changed = tmp_path / "changed.cpp"
    changed.write_text(
        build.SOURCE.read_text().replace("from[i] * scaling", "from[i] * scaling * 1.1f")
    )
    monkeypatch.setattr(build, "SOURCE", changed)
    assert loaded() == "the compiled attention gives other numbers than torch"
    assert len(list(cache.iterdir())) == 2 and first.exists()


BROKEN = textwrap.dedent("""
    import sys
    from pathlib import Path
    from grpo.kernels.cpu import build, ops
    build.OPTIONS = (*build.OPTIONS, "-O0")
    made = build.build_library()
    whole = made.read_bytes()
    for broken in (b"", whole[:100], whole[:4096], whole[:len(whole) // 2], whole[:-1], whole[:-32], whole[:-33],
                   b"\\0" * len(whole), whole[:9000] + b"\\0" * (len(whole) - 9000)):
        made.write_bytes(broken)
        if len(broken) not in (0, len(whole)):
            assert not build._is_intact(made)
            continue
        assert not isinstance(ops._library.__wrapped__(), str) and build._is_intact(made)
        made.unlink()
    made.mkdir()
    print(ops._library.__wrapped__())
""")


@by_native
@pytest.mark.slow
def test_a_broken_library_in_the_cache_is_rebuilt(tmp_path):
    """In a process of its own: loading half a library would kill it."""
    done = subprocess.run(
        [sys.executable, "-c", BROKEN],
        capture_output=True,
        text=True,
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": "."},
    )
    assert done.returncode == 0, (done.returncode, done.stderr[-2000:])
    assert "directory" in done.stdout


@by_native
@pytest.mark.slow
def test_processes_can_build_at_the_same_time(tmp_path):
    code = (
        "from grpo.kernels.cpu import build, ops; build.OPTIONS = (*build.OPTIONS, '-O0'); "
        "assert ops.reason() is None, ops.reason()"
    )
    env = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": ".", "OMP_NUM_THREADS": "1"}
    both = [
        subprocess.Popen([sys.executable, "-c", code], env=env, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    ends = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0], ends
    (only,) = (tmp_path / "grpo").iterdir()
    assert build._is_intact(only)


@by_native
def test_torchs_defaults_do_not_matter_to_the_kernels():
    """In a process of its own: memory of the wrong dtype would crash it."""
    code = textwrap.dedent("""
        import torch
        from grpo.kernels.cpu import build, ops
        for dtype, device in ((torch.bfloat16, "cpu"), (torch.float32, "meta")):
            torch.set_default_dtype(dtype)
            torch.set_default_device(device)
            ops._library.cache_clear()  # it is checked as it is loaded
            assert ops.reason() is None, ops.reason()
            made = dict(dtype=torch.float32, device="cpu")
            logits_RV, number_R = torch.randn(3, 5000, **made), torch.arange(3, device="cpu")
            token_R, logp_R = ops.sample(logits_RV, number_R, number_R, 0.0)
            assert torch.equal(token_R, logits_RV.argmax(-1)) and logp_R.dtype == torch.float32
    """)
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": ".", "OMP_NUM_THREADS": "2"},
    )
    assert done.returncode == 0, (done.returncode, done.stderr[-2000:])


def test_the_cache_is_the_users_own_folder_or_another(cache, tmp_path, monkeypatch):
    other = tmp_path / f"grpo-{os.getuid()}"
    assert build._cache_folder() == cache and stat.S_IMODE(cache.stat().st_mode) == 0o700
    for bits in (0o722, 0o720, 0o702):
        cache.chmod(bits)
        assert build._cache_folder() == other
    cache.chmod(0o700)
    cache.parent.chmod(0o777)  # whoever may rename the folder may put another in its place
    assert build._cache_folder() == other
    cache.parent.chmod(0o1777)
    assert build._cache_folder() == cache
    cache.rename(tmp_path / "elsewhere")
    cache.symlink_to(tmp_path / "elsewhere")
    assert build._cache_folder() == other
    cache.unlink()
    cache.write_text("a file")
    assert build._cache_folder() == other
    other.chmod(0o777)
    with pytest.raises(
        build.Unavailable, match="no folder that this user alone can write: .*cache/grpo, .*grpo-"
    ):
        build._cache_folder()
    cache.unlink()
    cache.mkdir()
    if os.getuid() == 0:
        os.chown(cache, 12345, -1)
        with pytest.raises(build.Unavailable):
            build._cache_folder()


def without_home(path):
    raise RuntimeError("Could not determine home directory.")


@pytest.mark.parametrize("relative", ["", "cache", "~/cache"])
def test_a_relative_cache_folder_is_ignored(relative, cache, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", relative)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert build._cache_folder() == tmp_path / "home" / ".cache" / "grpo"
    monkeypatch.setattr(build.Path, "expanduser", without_home)
    assert (
        build._cache_folder() == tmp_path / f"grpo-{os.getuid()}" and not (tmp_path / "~").exists()
    )


@pytest.mark.skipif(sys.platform != "linux", reason="native kernels are built on Linux")
def test_the_kernels_share_torchs_threads():
    """The library of OpenMP is the one that this process has loaded, of several torch's own."""
    found = build._loaded_openmp()
    assert found is None or os.path.isabs(found) and "omp" in os.path.basename(found)
    if (
        os.path.isdir(own := os.path.join(os.path.dirname(os.path.realpath(torch.__file__)), "lib"))
        and found is not None
    ):
        assert found.startswith(own) or not [
            name for name in os.listdir(own) if name.startswith("libgomp")
        ]
