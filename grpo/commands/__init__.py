"""The commands of ``grpo``, a module each: its arguments, and what it does with them. ``grpo.cli`` has the table."""
