"""A GGUF file of a policy: numbers, tokenizer, chat template and tensors, written one tensor at a time.

What becomes of each part is up to ``architectures``, ``vocabulary`` and ``precision``; that the file is the policy is
checked in ``check``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Mapping

import numpy
from gguf import GGML_QUANT_VERSION, GGUFWriter

from grpo.export.architectures import NamedTensor, architecture_of, tensors_of, write_numbers
from grpo.export.check import Written
from grpo.export.precision import Kind, Place, Precision, encoded, kind_of, num_bytes
from grpo.export.vocabulary import Vocabulary, vocabulary_of
from grpo.model.policy import Policy
from grpo.run.folder import disk_errors


@dataclass(frozen=True, slots=True)
class About:
    """What a file says of itself besides the model: its name, licence, and the model that it was made from."""

    name: str
    licence: str | None = None
    base: str | None = None


def write_gguf(
    policy: Policy, path: Path, precision: Precision, about: About, pre: str | None = None
) -> Written:
    """Write `policy`, adapters merged, whole or not at all.

    `pre` names the splitting of text where it is not found. Raises `RecipeError` for what GGUF, or llama.cpp, has no
    place for, and `OSError` if the disk does not take it.
    """
    model = policy.plain_model()
    architecture = architecture_of(model.config)
    config: Any = model.config
    vocabulary = vocabulary_of(policy.tokenizer, policy.vocab_size, policy.stop_ids, pre)
    tensors = tensors_of(model, architecture, policy.vocab_size)
    writing = path.with_name(f".writing-{path.name}")
    writer = GGUFWriter(writing, architecture.name)
    _write_about(writer, about, precision)
    write_numbers(writer, config, policy.vocab_size)
    _write_vocabulary(writer, vocabulary)
    template = policy.tokenizer.chat_template
    if template is not None:
        writer.add_chat_template(_listed(template))
    with disk_errors(path):
        kinds = _write_tensors(writer, tensors, precision, num_layers=config.num_hidden_layers)
        writing.replace(path)
    formats = {kind.name: kinds.count(kind) for kind in dict.fromkeys(kinds)}
    return Written(
        precision=precision.name,
        path=path,
        num_bytes=path.stat().st_size,
        limit=precision.drift_limit,
        formats=formats,
        notes=vocabulary.notes,
    )


def _listed(template: Any) -> Any:
    """Several templates by name as the writer takes them; one as it is."""
    if not isinstance(template, Mapping):
        return template
    return [{"name": name, "template": text} for name, text in template.items()]


def _write_about(writer: GGUFWriter, about: About, precision: Precision) -> None:
    writer.add_name(about.name)
    writer.add_type("model")
    if about.licence:
        writer.add_license(about.licence)
    if about.base:
        writer.add_base_model_count(1)
        writer.add_base_model_name(0, about.base)
    writer.add_file_type(precision.file_type)
    writer.add_quantization_version(GGML_QUANT_VERSION)


def _write_vocabulary(writer: GGUFWriter, vocabulary: Vocabulary) -> None:
    writer.add_tokenizer_model(vocabulary.kind)
    if vocabulary.pre is not None:
        writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(list(vocabulary.tokens))
    writer.add_token_types(list(vocabulary.kinds))
    if vocabulary.merges:
        writer.add_token_merges(list(vocabulary.merges))
    if vocabulary.scores:
        writer.add_token_scores(list(vocabulary.scores))
        writer.add_add_space_prefix(True)
        writer.add_remove_extra_whitespaces(True)
        writer.add_precompiled_charsmap(vocabulary.charsmap)
    for name, number in vocabulary.special_ids.items():
        writer.add_uint32(f"tokenizer.ggml.{name}_token_id", number)
    writer.add_add_bos_token(vocabulary.add_bos)
    writer.add_add_eos_token(vocabulary.add_eos)
    writer.add_string("tokenizer.huggingface.json", vocabulary.tokenizer_json)


def _write_tensors(
    writer: GGUFWriter, tensors: list[NamedTensor], precision: Precision, *, num_layers: int
) -> list[Kind]:
    """Write header and tensors; returns the format of each. No more than one tensor is held in its new format."""
    output = (
        "output.weight" if any(t.name == "output.weight" for t in tensors) else "token_embd.weight"
    )
    kinds = []
    for tensor in tensors:
        place = Place(tensor.name, tensor.shape, num_layers, tensor.name == output)
        kind = kind_of(place, precision)
        size = num_bytes(tensor.shape, kind)
        writer.add_tensor_info(
            tensor.name, tensor.shape, numpy.dtype(numpy.float32), size, raw_dtype=kind
        )
        kinds.append(kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor, kind in zip(tensors, kinds):
        writer.write_tensor_data(encoded(tensor.values(), kind))
    writer.close()
    return kinds
