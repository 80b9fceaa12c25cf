"""Attention of one decoding step over paged keys and values, where the rows of a group share their prompt's pages.

``spec`` says what the page tables hold, ``reference`` what is computed, ``dispatch`` is what callers use: the Triton
kernels on CUDA, the reference elsewhere. Allocating pages is left to ``grpo.rollout.paged_cache``.
"""
