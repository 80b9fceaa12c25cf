"""The model: where it comes from, how one forward reads packed rows, log-probs and saving.

``loading`` finds a model and its tokenizer, ``gguf_metadata`` what transformers drops of a GGUF file; ``adapters``
decides which layers get some; ``policy`` is the model being trained; ``saved`` loads a saved model back and compares it
with the policy; ``packing`` lays completions end to end; ``attention`` and ``shared_prefix`` compute their attention;
``output_head`` takes log-probs without whole logits; ``routing`` reads and repeats where a mixture of experts sends its
tokens; ``experts`` and ``float64_mode`` keep a mixture of experts and a
float64 model exact. How completions are sampled is up to ``grpo.rollout``, how weights change is up to
``grpo.learner``.

What we take over
-----------------
The library changes how PyTorch and transformers compute in the places below, and in no others. If an upgrade of either
breaks something, start here.

Of transformers:

- **The attention implementation** ``grpo`` is registered with `AttentionInterface` when ``attention`` is imported, and
  set in every policy's model: one forward reads packed rows, and decoding reads a cache, without a mask. A model whose
  attention cannot be replaced keeps its own (`Policy.unsupported_reason`).
- **Hooks on mixtures of experts** (``experts``), on every module with transformers' mark ``_apply_gate``: each expert
  gets enough rows that rounding does not depend on how many there are.
- **``forward`` of the routers** of mixtures of experts (``routing``), during a forward: choices are read, and answered
  from a record by a `TorchFunctionMode` on ``topk``.
- **Dropout probabilities** are set to 0 in the modules (`policy.turn_dropout_off`), not in the configuration: a
  log-prob must not depend on chance, even if someone puts the model into training mode.
- **The training flag of checkpointed layers** follows the forward (``policy``): a layer in training mode would drop the
  cache that it is given.
- **``forward`` of norms and MLPs** is compiled while sampling with ``sample.compile`` (``grpo.rollout.compiled``).

Of peft: **the rewriting of targets** for mixtures of experts is off while adapters are put in (``adapters``), and its
warnings are dropped there.

Of PyTorch:

- **``forward`` of every plain ``nn.Linear`` on a CPU** (``grpo.kernels.linear``) uses the faster of two libraries, and
  prepacked weights while sampling, through oneDNN's private operators.
- **Private flash attention operators for CPUs** (``shared_prefix``) give and take the log-sum-exp by which the parts of
  an attention are merged exactly.
- **Casts to float32 in float64 models** are skipped by a `TorchFunctionMode` (``float64_mode``), so that proofs see
  differences below 1e-7.
- **Operators registered as ``grpo::*``** (``grpo.kernels``): the log-prob head and the linear layer are single
  operations to ``torch.compile``.

Of Python: exceptions that leave a wait get the attribute ``waited_for`` (``grpo.monitor.waits``), by which the last
line of a failed run names the component.
"""
