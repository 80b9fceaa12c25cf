"""The command ``grpo selftest``: its arguments, and what it prints. The work is done by ``grpo.selftest``.

Nothing here imports torch before the command runs.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any, Iterator, Mapping, Sequence

from grpo.commands.exit_codes import EXIT_DONE, EXIT_FAULT
from grpo.commands.screen import add_screen_options, loading_libraries, opened

if TYPE_CHECKING:
    from grpo.selftest.check import Finding

CHECK_NAMES = (
    "head",
    "sampler",
    "draws",
    "native",
    "attention",
    "gradient",
    "mismatch",
    "seeds",
    "save",
    "resume",
    "answers",
    "faults",
    "programs",
)
"""The names of `grpo.selftest.CHECKS`, which imports torch."""
REPORT = (
    "A report of a fault should hold this output with --json, the recipe, and from the run folder \
console.log, environment.jsonl and the last lines of metrics.jsonl."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.epilog = (
        "Without MODEL, the quickstart's base model, which comes with the library. Exit code 0 if every check "
        f"that could be made holds, 1 if one fails. {REPORT}"
    )
    parser.add_argument(
        "model", nargs="?", metavar="MODEL", help="run folder, model folder, .gguf file or hub id"
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        default=[],
        metavar="key=value",
        help="keys of the recipe's model section, e.g. model.dtype=bfloat16",
    )
    parser.add_argument(
        "--only",
        nargs="+",
        default=[],
        choices=CHECK_NAMES,
        metavar="CHECK",
        help=f"make these checks only: {', '.join(CHECK_NAMES)}",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    add_screen_options(parser)


def run(options: argparse.Namespace, command: str) -> int:
    """Make the checks, print them as they end, and what a report of a fault should hold."""
    with opened(options, stream=sys.stderr) as console:
        with loading_libraries(console):
            from grpo.selftest import suite  # noqa: PLC0415  imports torch
        findings = []
        with console.working():
            subject = suite.subject_of(options.model, options.overrides, command)
            for check in suite.chosen(options.only):
                finding = suite.make(check, subject)
                findings.append(finding)
                if not options.json:
                    console.say(*_lines_of(finding))
            facts = suite.for_a_bug_report(subject)
    if options.json:
        checks = [finding.to_mapping() for finding in findings]
        print(json.dumps({"checks": checks, **facts}, indent=1, ensure_ascii=False))
    else:
        print("\n".join(_conclusion(findings, facts)))
    has_failed = any(finding.status == "fails" for finding in findings)
    return EXIT_FAULT if has_failed else EXIT_DONE


def _lines_of(finding: Finding) -> Iterator[str]:
    yield f"{finding.status:<8} {finding.name:<10} {finding.promise}"
    yield f"{'':<19} {finding.found} ({finding.seconds:.1f} s)"


def _conclusion(findings: Sequence[Finding], facts: Mapping[str, Any]) -> Iterator[str]:
    names_by: dict[str, list[str]] = {"holds": [], "fails": [], "skipped": []}
    for finding in findings:
        names_by[finding.status].append(finding.name)
    numbers = [f"{len(names)} {status}" for status, names in names_by.items()]
    yield f"{len(findings)} checks: {', '.join(numbers)}"
    if names_by["fails"]:
        yield f"fails: {', '.join(names_by['fails'])}. {REPORT}"
    for name, value in facts.items():
        shown = value
        if isinstance(value, dict):
            shown = ", ".join(f"{key} {part}" for key, part in value.items())
        yield f"  {name:<14} {shown}"
