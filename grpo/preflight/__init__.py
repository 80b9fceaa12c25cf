"""What can be known of a run before it starts: ``--dry-run`` and ``--preflight``.

``dry_run`` shows what a recipe will do and loads no weights. ``preflight`` tries it: ``checks`` of recipe, data and
tokenizer, rewards on ``gold`` answers, predicted ``memory`` and whether it fits (``memory_fit``), and a ``baseline`` of
sampled completions. Nothing is trained for good and nothing is written to disk; a run's own alarms are in
``grpo.monitor``.
"""
