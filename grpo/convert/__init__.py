"""A recipe from another trainer's configuration, and what became of each of its settings.

`settings` reads TRL's and verl's files into flat settings, `trl` and `verl` work out what depends on several of them,
`conversion` does the rest by the table ``grpo.recipe.other_trainers`` and writes the report. The configuration is read,
never run.
"""

from __future__ import annotations

from grpo.convert.conversion import Converted, convert, convert_file

__all__ = ["Converted", "convert", "convert_file"]
