"""Drawing one token a row from logits: temperature, filters, Gumbel noise from a counter-based hash.

``spec`` holds the options, the noise and the constants that all samplers share. ``torch_sampler`` is the sampler of CPU
rollouts; ``exact`` defines a second one whose tokens are the same on every device, bit for bit, and runs the
``triton_kernels`` on CUDA. Seeds, stop tokens and sequences are left to ``grpo.rollout``.
"""
