"""Tiny random models of many architectures, a tokenizer built without download, and plain slow references.

The weights are scaled so that next-token distributions are peaked: a model that is nearly uniform would pass
any comparison of log-probs.
"""

from __future__ import annotations

import copy
from contextlib import nullcontext
from typing import Sequence

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from grpo.kernels.sampling.spec import Sampling
from grpo.model.float64_mode import Float64Mode
from grpo.model.loading import with_adapters
from grpo.model.policy import Policy
from grpo.recipe import LoraSection
from grpo.types import Prompt

VOCABULARY = 89
_SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "attention_dropout": 0.0,
}
_SLIDING = {
    "head_dim": 8,
    "layer_types": ["sliding_attention", "full_attention"],
    "sliding_window": 7,
    "query_pre_attn_scalar": 8,
}
_EXPERTS = {"head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}

FAMILIES: dict[str, dict] = {
    "llama": {},
    "qwen2": {},
    "qwen3": {"head_dim": 8},
    "gemma": {"head_dim": 8},
    "smollm3": {"no_rope_layers": [1, 0], "pad_token_id": 0},
    "gemma3_text": {**_SLIDING, "tie_word_embeddings": False},
    "gemma2": {**_SLIDING, "attn_logit_softcapping": 4.0, "final_logit_softcapping": 9.0},
    "mistral": {"sliding_window": 9},
    "granite": {
        "logits_scaling": 2.0,
        "residual_multiplier": 0.5,
        "embedding_multiplier": 3.0,
        "attention_multiplier": 0.25,
    },
    "phi3": {"sliding_window": None, "pad_token_id": 0},
    "olmo2": {},
    "qwen3_moe": {
        **_EXPERTS,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "norm_topk_prob": True,
    },
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512},
    "gpt_neox": {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    },
}

LATENT: dict[str, dict] = {
    "deepseek_v3": {
        "n_routed_experts": 8,
        "num_experts_per_tok": 2,
        "n_group": 2,
        "topk_group": 1,
        "first_k_dense_replace": 1,
        "num_hidden_layers": 3,
        "moe_intermediate_size": 24,
        "n_shared_experts": 1,
        "num_key_value_heads": 4,
        "kv_lora_rank": 16,
        "q_lora_rank": 24,
        "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 8,
        "v_head_dim": 8,
    },
}
"""Models of latent attention, which the engine's caches do not hold."""


def wide_heads(family: str) -> dict:
    """Options under which a family's heads have a width of 16, as the native kernels ask."""
    if family == "gpt2":
        return {"n_embd": 64}
    return {"hidden_size": 64, **({"head_dim": 16} if "head_dim" in FAMILIES[family] else {})}


def tiny_model(
    family: str, seed: int, *, vocabulary: int = VOCABULARY, peak: float = 3.0, **options
) -> PreTrainedModel:
    """A random fp32 model whose logits have a standard deviation of about `peak`."""
    own = {**FAMILIES, **LATENT}[family]
    shape = {} if family.startswith("gpt") else _SHAPE
    config = AutoConfig.for_model(
        family, vocab_size=vocabulary, bos_token_id=1, eos_token_id=2, **{**shape, **own, **options}
    )
    model = AutoModelForCausalLM.from_config(
        config, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            if p.dim() == 1:
                p.add_(0.2 * noise).mul_(
                    0.3 if "post" in name else 1.0
                )  # else OLMo2's layers outweigh their input
            elif p.shape[0] == vocabulary:
                p.copy_(noise * peak / p.shape[1] ** 0.5)
            else:
                p.copy_(0.6 * noise * min(p.shape[-1], p.shape[-2]) ** -0.5)
    return model


def from_config(kind: str, **options) -> PreTrainedModel:
    """A model of any architecture as transformers initializes it, for those that are not in `FAMILIES`."""
    shape = {
        "vocab_size": 89,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **{**shape, **options}))


def tiny_tokenizer(size: int = VOCABULARY - 5) -> PreTrainedTokenizerFast:
    """`size` tokens: <pad>, <s>, </s>, then one-letter and two-letter words that decode without spaces."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["<pad>", "<s>", "</s>", *letters, *(a + b for a in letters for b in letters)][:size]
    tokenizer = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<pad>")
    )
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.WhitespaceSplit(), decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )


def tiny_policy(
    family: str = "llama",
    seed: int = 0,
    *,
    lora: bool = False,
    tokenizer=None,
    checkpointing=False,
    dtype: torch.dtype = torch.float32,
    **options,
) -> Policy:
    """A policy over a tiny model; `lora` adds adapters that already change what it says."""
    model = tiny_model(family, seed, **options).to(dtype)
    if hasattr(model.config, "num_experts_per_tok") and dtype == torch.float64:
        model.set_experts_implementation("eager")  # torch's grouped product knows no float64
    if lora:
        model = with_adapters(model, LoraSection(rank=4, alpha=8.0))
        generator = torch.Generator().manual_seed(seed + 1)
        with torch.no_grad():
            for name, p in model.named_parameters():
                if "lora_" in name:
                    p.copy_(
                        (0.1 if "lora_B" in name else 0.3)
                        * torch.randn(p.shape, generator=generator)
                    )
    return Policy(model, tokenizer or tiny_tokenizer(), gradient_checkpointing=checkpointing)


def cuda_policy(family: str, **options) -> Policy:
    """A policy over a tiny model on the CUDA device."""
    policy = tiny_policy(family, **options)
    return Policy(policy.model, policy.tokenizer, "cuda")


def byte_tokenizer(merges: Sequence[tuple[str, str]] = ()) -> PreTrainedTokenizerFast:
    """A token for each byte, after <pad>, <s> and </s>, then one for each of the `merges`."""
    words = ["<pad>", "<s>", "</s>", *sorted(ByteLevel.alphabet()), *(a + b for a, b in merges)]
    vocabulary = {word: i for i, word in enumerate(words)}
    tokenizer = Tokenizer(models.BPE(vocabulary, list(merges)))
    tokenizer.pre_tokenizer, tokenizer.decoder = (
        ByteLevel(add_prefix_space=False),
        decoders.ByteLevel(),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )


def random_prompts(seed: int, lengths, vocabulary: int = VOCABULARY - 5) -> list[Prompt]:
    generator = torch.Generator().manual_seed(seed)
    return [
        Prompt(f"p{i}", tuple(torch.randint(3, vocabulary, (n,), generator=generator).tolist()), {})
        for i, n in enumerate(lengths)
    ]


def plain_model(policy: Policy) -> nn.Module:
    """A copy of the policy's model as transformers itself runs it, with eager attention."""
    model = copy.deepcopy(policy.model)
    (model.get_base_model() if hasattr(model, "get_base_model") else model).set_attn_implementation(
        "eager"
    )
    return model.eval()


def plain_logits(policy: Policy, prompt_ids, token_ids, model: nn.Module | None = None) -> Tensor:
    """Logits [T, V] before each completion token: one sequence alone, no cache."""
    model = model or plain_model(policy)
    ids = torch.tensor([[*prompt_ids, *token_ids]])
    with Float64Mode() if next(model.parameters()).dtype == torch.float64 else nullcontext():
        logits = model(input_ids=ids, use_cache=False).logits[0]
    return logits[len(prompt_ids) - 1 : -1, : policy.vocab_size]


def parrot_policy(successor: dict[int, int], tokenizer, *, vocabulary: int) -> Policy:
    """A policy that answers each token with its successor, whatever came before; others with anything."""
    model = tiny_model("llama", 0, vocabulary=vocabulary, num_hidden_layers=1)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "o_proj" in name or "down_proj" in name:
                p.zero_()
        model.model.norm.weight.fill_(1.0)
        for token, after in successor.items():
            hidden = model.model.embed_tokens.weight[token]
            model.lm_head.weight[after] = 50 * hidden / hidden.norm()
    return Policy(model, tokenizer)


def plain_processed(logits_V: Tensor, sampling: Sampling) -> Tensor:
    """The sampling distribution of one row in float64, written as loops over sorted tokens."""
    logits = logits_V.double()
    if sampling.temperature == 0:
        return logits.log_softmax(-1)
    prob = (logits / sampling.temperature).softmax(-1).tolist()
    order = sorted(range(len(prob)), key=lambda i: (-prob[i], i))
    if sampling.top_k:
        order = order[: sampling.top_k]
    if sampling.top_p < 1:
        mass, total, kept = 0.0, sum(prob[i] for i in order), []
        for i in order:
            if mass >= sampling.top_p * total:
                break
            kept.append(i)
            mass += prob[i]
        order = kept or order[:1]
    order = [i for i in order if prob[i] >= sampling.min_p * prob[order[0]]]
    kept_mass = sum(prob[i] for i in order)
    result = torch.full_like(logits, float("-inf"))
    for i in order:
        result[i] = torch.tensor(prob[i] / kept_mass, dtype=torch.float64).log()
    return result
