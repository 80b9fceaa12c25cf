"""Judges many completions: worker processes with deadlines, calling conventions, programs in a sandbox."""

from rewards.service.service import RewardService, Ticket

__all__ = ["RewardService", "Ticket"]
