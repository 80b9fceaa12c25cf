"""The arithmetic of the hot path; each piece has a plain reference that states what it computes.

``log_prob`` is the training head, ``decode_attention`` and ``sampling`` are a decoding step, ``cpu`` holds their
C++ forms, ``linear`` the matrix products on CPUs, ``backend`` says where Triton runs. Nothing here knows a model, a
recipe or a run.

What this package takes over from others, for whoever updates them:

- ``linear`` calls torch's private operators ``mkldnn._linear_pointwise`` and ``mkldnn._reorder_linear_weight``, and
  sets ``forward`` on every plain ``nn.Linear`` instance of a model. (``grpo.model`` and ``grpo.rollout`` say what
  they take over.)
- ``cpu`` loads compiled code with ctypes into torch's own OpenMP, and passes tensors' raw pointers.
- ``log_prob`` and ``linear`` register the operators ``grpo::head_logprob``, ``grpo::head_gradient`` and
  ``grpo::linear``.
"""
