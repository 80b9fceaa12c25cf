"""Writes the pages that come from the code: recipe keys, settings of other trainers, the file map, a card, ..."""

from __future__ import annotations

import ast
from pathlib import Path

import mkdocs_gen_files

from grpo.convert.page import settings_markdown
from grpo.notebook.cards import CompletionRow, group_card
from grpo.recipe.benchmarks import BENCHMARKS
from grpo.recipe.describe import keys_markdown
from grpo.report.folder import RunFolder
from grpo.report.metric_keys import metric_keys_markdown

ROOT = Path(__file__).resolve().parents[1]


def summary_of(path: Path) -> str:
    """The first sentence of a module's docstring."""
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return docstring.split("\n\n")[0].replace("\n", " ").replace("|", "\\|")


def file_map() -> str:
    lines = []
    for top in ("grpo", "rewards"):
        folders = sorted({path.parent for path in (ROOT / top).rglob("*.py")})
        for folder in folders:
            lines += [
                f"### `{folder.relative_to(ROOT)}/`",
                "",
                "| file | what it does |",
                "|---|---|",
            ]
            for path in sorted(folder.glob("*.py")):
                lines.append(f"| `{path.name}` | {summary_of(path)} |")
            lines.append("")
    return "\n".join(lines)


def write(name: str, text: str) -> None:
    with mkdocs_gen_files.open(name, "w") as page:
        page.write(text)


write("recipe-keys.md", keys_markdown())
write(
    "architecture.md", (ROOT / "docs" / "_architecture.md").read_text(encoding="utf-8") + file_map()
)
write("other-settings.md", settings_markdown())
write("changelog.md", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))


def benchmarks_table() -> str:
    lines = [
        "| name | version | source | commit | rows | protocol | from | remarks |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, benchmark in BENCHMARKS.items():
        keys = benchmark.keys
        source = " ".join(filter(None, (keys["source"], keys.get("subset"), keys.get("split"))))
        remarks = [benchmark.notes]
        if benchmark.rows_differ:
            remarks.append("copies on the hub differ: compare digests")
        cells = (
            f"`{name}`",
            str(benchmark.version),
            f"`{source}`",
            f"`{keys['revision'][:12]}`" if "revision" in keys else "",
            str(benchmark.num_rows or ""),
            f"{benchmark.protocol}; at most {keys['max_tokens']} tokens",
            benchmark.paper,
            "; ".join(filter(None, remarks)),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


write(
    "benchmarks.md",
    (ROOT / "docs" / "_benchmarks.md").read_text(encoding="utf-8") + benchmarks_table(),
)


def card() -> str:
    """A group of the quickstart's first step, as a notebook shows it."""
    run = RunFolder.at(ROOT / "examples" / "runs" / "quickstart" / "seed-0")
    samples = list(run.samples())
    group = [row for row in samples if row["prompt_id"] == samples[0]["prompt_id"]]
    rows = [
        CompletionRow(
            text=row["completion"],
            num_tokens=row["num_tokens"],
            finish=row["finish"],
            reward=row["reward"],
            status=row["status"],
        )
        for row in group
    ]
    numbers = group[0]["prompt"].split(" make ")[0].split()
    truth = {"numbers": [int(number) for number in numbers]}
    return group_card(group[0]["prompt_id"], group[0]["prompt"], truth, rows, is_flat=False)


notebooks = (ROOT / "docs" / "notebooks.md").read_text(encoding="utf-8")
write("notebooks.md", notebooks.replace("<!-- a group's card stands here on the site -->", card()))
write(
    "metrics.md",
    (ROOT / "docs" / "_metrics.md").read_text(encoding="utf-8") + metric_keys_markdown(),
)
