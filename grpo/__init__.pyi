"""The public names for type checkers and editors; at run time they are imported on first use."""

from grpo.model.policy import Policy as Policy
from grpo.recipe import Recipe as Recipe
from grpo.recipe import RecipeError as RecipeError
from grpo.report.plots.plot import plot as plot
from grpo.run.accuracy import Evaluation as Evaluation
from grpo.stages import RejectionSampler as RejectionSampler
from grpo.stages import SftTrainer as SftTrainer
from grpo.train import Trainer as Trainer
from grpo.types import Completion as Completion
from grpo.types import Group as Group
from grpo.types import Prompt as Prompt
from grpo.types import ScoredGroup as ScoredGroup

__version__: str
