"""A model made ready for other programs: GGUF files, folders of safetensors, 8-bit weights, each with a model card.

``write`` is the whole of ``grpo export``. ``source`` loads what is exported; ``gguf_file`` writes GGUF, for which
``architectures`` knows names and layout of weights, ``vocabulary`` the tokenizer, ``precision`` and ``k_quants`` the
formats; ``folder`` writes safetensors, whole or as 8-bit integers. ``check`` loads everything back, ``compare``
measures what a precision costs, ``llama_cpp`` runs a file by llama.cpp itself; ``record`` reads what a run has left,
``card`` writes the model card, ``push`` uploads. Training and evaluation are elsewhere.
"""
