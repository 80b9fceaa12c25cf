"""Does this library compute here what it promises? ``grpo selftest [MODEL]``, in about two minutes on any machine.

Each check asks one question, measures a number and compares it with a bound: kernels against their definitions
(``kernels``), the gradient and the sampler on a model (``model_checks``), a run that is stopped and resumed, and one
that is saved (``run_checks``), the rewards on labelled answers and the sandbox on harmless programs
(``reward_checks``). ``suite`` lists and runs them, ``check`` says what a check is.

Nothing is imported here: workers that load ``failing_rewards`` need no torch.
"""
