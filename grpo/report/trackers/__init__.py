"""What a run logs, brought to wandb, TensorBoard, trackio and MLflow behind one small interface.

`Trackers` is what a run holds; a further tracker is a class with the methods of `Tracker` and a line in ``registry``.
"""

from grpo.report.trackers.registry import check_installed
from grpo.report.trackers.tracker import Opening, Point, Table, Tracker
from grpo.report.trackers.trackers import Life, Trackers

__all__ = ["Life", "Opening", "Point", "Table", "Tracker", "Trackers", "check_installed"]
