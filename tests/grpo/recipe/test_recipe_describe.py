"""What a recipe says of itself: help, the page of its keys, the size of a step, differences."""

import re

from grpo.recipe import (
    Recipe,
    describe_keys,
    differences,
    keys_help,
    keys_markdown,
    parse_yaml,
    step_size,
)


def test_the_help_lists_every_key_with_its_default_and_its_docstring():
    lines = keys_help().splitlines()
    for name, default, help in describe_keys():
        shown = default
        if default is None or isinstance(default, bool):
            shown = {None: "null", True: "true", False: "false"}[default]
        assert lines[lines.index(f"  {name} = {shown}") + 1].strip() == help


def test_a_default_shown_in_the_help_can_be_typed_as_it_stands():
    for name, default, _ in describe_keys():
        if "<name>" not in name and default is not None:
            line = next(
                line for line in keys_help().splitlines() if line.startswith(f"  {name} = ")
            )
            assert parse_yaml(line.partition(" = ")[2], name) == default


# ---- the page of the docs --------------------------------------------------------------------------------------


def rows_of(page):
    """The cells of each row of the page's tables, by the name of the key."""
    rows = {}
    for line in page.splitlines():
        if line.startswith("| `"):
            cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            rows[cells[0].strip("`")] = cells[1:]
    return rows


def test_the_page_has_a_row_of_four_cells_for_every_key_in_the_order_of_the_file():
    rows = rows_of(keys_markdown())
    assert set(rows) == {name for name, _, _ in describe_keys()}
    assert {len(cells) for cells in rows.values()} == {3}
    in_order = [name for name, _, _ in describe_keys() if "." in name]
    assert [name for name in rows if "." in name] == in_order


def test_the_page_has_a_chapter_for_every_section_with_its_keys_alone():
    chapters = re.split(r"^## ", keys_markdown(), flags=re.MULTILINE)[1:]
    names = [chapter.splitlines()[0].strip("`") for chapter in chapters]
    sections = dict.fromkeys(name.split(".")[0] for name, _, _ in describe_keys() if "." in name)
    assert names == ["Top level", *sections]
    for name, chapter in zip(names[1:], chapters[1:]):
        assert all(key.split(".")[0] == name for key in rows_of(chapter))
    assert "seed" in rows_of(chapters[0]) and not any("." in key for key in rows_of(chapters[0]))


def test_a_row_has_the_type_with_its_range_the_default_and_the_help():
    rows = rows_of(keys_markdown())
    assert rows["sample.group_size"] == [
        "whole number, at least 1",
        "`8`",
        "completions sampled for each prompt",
    ]
    assert rows["optim.lr"][:2] == ["number, above 0", "`1e-06`"]
    assert rows["optim.state"][:2] == ["one of fp32, 8bit", "`fp32`"]
    assert rows["model.lora"][:2] == ["section; or null", "`null`"]
    assert rows["deterministic"][:2] == ["true or false", "`false`"]
    assert rows["rewards.<name>.timeout_seconds"][0] == "number, above 0; or null"
    assert rows["gates.<name>.upto"][0] == "one of off, note, warn, skip, stop"


def test_markup_in_a_help_is_escaped_and_a_page_of_the_docs_is_a_link():
    rows = rows_of(keys_markdown())
    assert r"dual_clip \|A\|" in rows["loss.dual_clip"][2]
    assert r"advantage.\* and loss.\*" in rows["loss.preset"][2]
    assert rows["run_dir"][2].endswith("runs/&lt;name>")
    assert "or a string with &#123;prompt};" in rows["data.template"][2]
    assert "[objectives.md](objectives.md)" in rows["loss.policy"][2]


# ---- the size of a step ----------------------------------------------------------------------------------------


def test_the_counts_of_a_step_and_of_the_run_are_products():
    recipe = Recipe.from_mapping(
        {
            "steps": 7,
            "sample": {"prompts": 6, "group_size": 5, "max_tokens": 99},
            "optim": {"updates": 3, "epochs": 2},
        }
    )
    assert list(step_size(recipe)) == [
        "a step: 6 prompts x 5 = 30 completions of at most 99 tokens, 6 updates",
        "the run: 7 steps, 210 completions, 42 updates",
    ]
    one = Recipe.from_mapping({"steps": 1})
    first, last = step_size(one)
    assert first.endswith(", 1 update")
    assert last == "the run: 1 step, 256 completions, 1 update"


def test_what_refilling_and_oversampling_may_cost_is_said():
    refilled = Recipe.from_mapping({"loss": {"preset": "dapo"}})
    assert "up to 1024 completions sampled a step" in "\n".join(step_size(refilled))
    oversampled = Recipe.from_mapping(
        {"advantage": {"flat": "drop"}, "sample": {"oversample": 0.5}}
    )
    assert "up to 384 completions sampled a step" in "\n".join(step_size(oversampled))


# ---- differences -----------------------------------------------------------------------------------------------


def test_differences_name_the_keys_and_both_values():
    old = Recipe.from_mapping({"rewards": {"a": {"use": "x"}}}).to_mapping()
    new = Recipe.from_mapping(
        {
            "seed": 1,
            "optim": {"lr": 0.5},
            "model": {"lora": {}},
            "rewards": {"a": {"use": "y"}, "b": {"use": "z"}},
        }
    ).to_mapping()
    changes = {name: (a, b) for name, a, b in differences(old, new)}
    assert changes.pop("model.lora") == (None, new["model"]["lora"])
    assert changes.pop("rewards.b") == (None, new["rewards"]["b"])
    assert changes == {"seed": (0, 1), "optim.lr": (1e-6, 0.5), "rewards.a.use": ("x", "y")}


def test_a_recipe_does_not_differ_from_itself(everything):
    assert list(differences(everything.to_mapping(), everything.to_mapping())) == []
