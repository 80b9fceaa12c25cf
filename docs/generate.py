"""Writes the pages that come from the code: recipe keys, other trainers' settings, the file map, the changelog."""

from __future__ import annotations

import ast
from pathlib import Path

import mkdocs_gen_files

from grpo.convert.page import settings_markdown
from grpo.recipe.benchmarks import BENCHMARKS
from grpo.recipe.describe import keys_markdown
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
        "| name | version | source | rows | protocol | from | remarks |",
        "|---|---|---|---|---|---|---|",
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
write(
    "metrics.md",
    (ROOT / "docs" / "_metrics.md").read_text(encoding="utf-8") + metric_keys_markdown(),
)
