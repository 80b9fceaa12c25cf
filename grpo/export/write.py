"""``grpo export``: a model written in one form, at one or more precisions, checked, compared and described.

Everything is written beside its place and moved there in the end, so a failure leaves nothing. What can be refused is
refused first; then the model is loaded, each precision is written and loaded back, compared if that is asked for, and
the card and ``export.json`` are written.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import tempfile
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Callable, Iterator, Mapping

from grpo import __version__
from grpo.export.card import CardParts, Exported, card
from grpo.export.check import Written, check_export, loaded_back
from grpo.export.compare import Compared, Comparison
from grpo.export.folder import unpacked, write_folder, write_int8
from grpo.export.push import check_push, push
from grpo.export.record import read_record, stated_licence
from grpo.export.source import Source, open_source
from grpo.model.policy import Policy
from grpo.recipe import RecipeError
from grpo.run.log import finite

DTYPES: Mapping[str, str] = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""The dtype of a folder of safetensors by the name of its precision."""
PRECISIONS: Mapping[str, tuple[str, ...]] = {
    "gguf": ("F32", "F16", "BF16", "Q8_0", "Q4_K"),
    "safetensors": tuple(DTYPES),
    "int8": (),
}
"""What may be asked for, by form."""
DEFAULT = "F16"
LIMITS: Mapping[str, float] = {"F64": 1e-3, "F32": 1e-3, "F16": 0.05, "BF16": 0.2, "int8": 0.5}
"""How far the mean log-prob of arbitrary tokens may be off, in nats; GGUF has its own."""
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be exported, and how.

    ``out`` is a folder to be made, or of GGUF at one precision a file. ``recipe`` names data and rewards for a model
    that is no run's; ``overrides`` are recipe keys. ``pre`` names how llama.cpp splits text where that is not found,
    and ``repo`` the repository on the hub to upload to.
    """

    target: str
    form: str
    out: Path
    precisions: tuple[str, ...] = ()
    recipe: str | None = None
    overrides: tuple[str, ...] = ()
    licence: str | None = None
    pre: str | None = None
    compare: bool = False
    repo: str | None = None

    @property
    def is_file(self) -> bool:
        """Whether one file is written, not a folder."""
        return self.form == "gguf" and self.out.suffix == ".gguf"


@dataclass(frozen=True, slots=True)
class Report:
    """What was exported, and the table of what each precision costs, empty if nothing was compared."""

    exported: tuple[Exported, ...]
    compared: tuple[Compared, ...]
    address: str | None = None


def export(wanted: Wanted, say: Say = print) -> Report:
    """Export a model; `say` gets a line for each thing that is done.

    Raises `RecipeError` for what a user can change, `SavedModelDiffers` if what was written is another model, and
    `OSError` if the disk does not take it.
    """
    check_wanted(wanted)
    say(f"loading {wanted.target}")
    dtype = dtype_of(wanted)
    source = open_source(wanted.target, wanted.recipe, wanted.overrides, dtype=dtype)
    if wanted.compare:
        _check_data(wanted, source)
    with _staged(wanted) as folder:
        writing = _Writing(wanted, source, folder, say)
        writing.write_all()
        writing.describe()
    exported = tuple(_moved(part, wanted) for part in writing.exported)
    address = None
    if wanted.repo is not None:
        say(f"uploading {wanted.out} to {wanted.repo}")
        address = push(wanted.out, wanted.repo)
    return Report(exported, tuple(writing.compared), address)


def _moved(export: Exported, wanted: Wanted) -> Exported:
    """With the path that it has in the end."""
    path = wanted.out
    if wanted.form == "gguf" and not wanted.is_file:
        path = path / export.written.path.name
    return replace(export, written=replace(export.written, path=path))


# ---- before anything is loaded ----------------------------------------------------------------------------------


def check_wanted(wanted: Wanted) -> None:
    """Refuse what cannot be: a precision that the form has not, a place that is taken, a package that is missing."""
    check_form(wanted)
    _check_place(wanted.out)
    if wanted.repo is not None:
        if wanted.is_file:
            raise RecipeError("export: --push uploads a folder; name one with -o")
        check_push(wanted.repo)


def check_form(wanted: Wanted) -> None:
    """Refuse a precision that the form has not, several where one is written, and a package that is missing."""
    known = PRECISIONS[wanted.form]
    for precision in wanted.precisions:
        if precision not in known:
            choice = f"one of {', '.join(known)}" if known else "none"
            raise RecipeError(
                f"export: --precision {precision} is none of --to {wanted.form}; it takes {choice}"
            )
    if wanted.form == "gguf" and importlib.util.find_spec("gguf") is None:
        raise RecipeError(
            "export: GGUF files are written by the package gguf, which is not installed; pip install "
            "'grpo-reasoner[gguf]'"
        )
    if len(wanted.precisions) > 1 and (wanted.is_file or wanted.form != "gguf"):
        raise RecipeError(
            f"export: {wanted.out} takes one precision; several of --to gguf go into a folder"
        )


def _check_place(out: Path) -> None:
    is_taken = out.exists() and not (out.is_dir() and not any(out.iterdir()))
    if is_taken:
        raise RecipeError(f"export: {out} exists; name another place with -o, or remove it")
    if not out.absolute().parent.is_dir():
        raise RecipeError(f"export: there is no folder {out.absolute().parent} to put it in")


def dtype_of(wanted: Wanted) -> str | None:
    """The dtype in which the model is loaded; None for the one that it is kept in."""
    if wanted.form == "gguf":
        return "float32"
    return DTYPES[wanted.precisions[0]] if wanted.precisions else None


@contextmanager
def _staged(wanted: Wanted) -> Iterator[Path]:
    """A folder beside the place, which takes it at the end of the block if nothing failed."""
    out = wanted.out.absolute()
    writing = Path(tempfile.mkdtemp(prefix=f".writing-{out.name}-", dir=out.parent))
    try:
        yield writing
        writing.chmod(0o755)  # a temporary folder is its owner's alone
        if not wanted.is_file:
            if out.exists():
                out.rmdir()
            writing.rename(out)
            return
        for file in writing.iterdir():
            file.replace(out.parent / file.name)
    finally:
        shutil.rmtree(writing, ignore_errors=True)


# ---- one precision after the other --------------------------------------------------------------------------------


class _Writing:
    """Writes every precision into `folder`, each checked and, if that is asked for, compared."""

    def __init__(self, wanted: Wanted, source: Source, folder: Path, say: Say):
        self.wanted = wanted
        self.source = source
        self.folder = folder
        self.say = say
        self.record = None if source.run is None else read_record(source.run)
        base = source.recipe if self.record is None else self.record.recipe
        self.licence = wanted.licence or stated_licence(base.model.name)
        self.exported: list[Exported] = []
        self.compared: list[Compared] = []

    def write_all(self) -> None:
        """Write, check and compare each precision."""
        reference = _reference(self.source)
        comparison = None
        if self.wanted.compare:
            comparison = Comparison(self.source, reference, self.say)
            self.compared.append(comparison.original())
        for precision in _precisions(self.wanted):
            self.say(f"writing {self.wanted.form} {precision}".rstrip())
            written = self._write(precision)
            with _readable(self.wanted.form, written.path) as path:
                other = loaded_back(path)
                self.exported.append(Exported(written, check_export(reference, other, written)))
                if comparison is not None:
                    gguf = written.path if self.wanted.form == "gguf" else None
                    self.compared.append(comparison.add(written.precision, path, other, gguf))

    def describe(self) -> None:
        """Write the card and the details."""
        stem = self.wanted.out.stem if self.wanted.is_file else ""
        text = card(self._parts())
        (self.folder / f"{stem or 'README'}.md").write_text(text, encoding="utf-8")
        details = json.dumps(self._details(), indent=1, ensure_ascii=False)
        (self.folder / f"{stem or 'export'}.json").write_text(details + "\n", encoding="utf-8")

    def _write(self, precision: str) -> Written:
        if self.wanted.form == "gguf":
            return self._write_gguf(precision)
        if self.wanted.form == "int8":
            write_int8(self.source.policy, self.folder)
            return _folder(self.folder, "int8")
        write_folder(self.source.policy, self.folder)
        return _folder(self.folder, _name_of(self.source.recipe.model.dtype))

    def _write_gguf(self, precision: str) -> Written:
        from grpo.export.gguf_file import About, write_gguf  # noqa: PLC0415  an optional package
        from grpo.export.precision import PRECISIONS as KINDS  # noqa: PLC0415  as above

        wanted = self.wanted
        name = wanted.out.name if wanted.is_file else f"{self.source.name}-{precision}.gguf"
        about = About(self.source.name, self.licence)
        return write_gguf(
            self.source.policy,
            self.folder / name,
            precision=KINDS[precision],
            about=about,
            pre=wanted.pre,
        )

    def _parts(self) -> CardParts:
        return CardParts(
            source=self.source,
            form=self.wanted.form,
            licence=self.licence,
            exported=self.exported,
            compared=self.compared,
            record=self.record,
        )

    def _details(self) -> dict[str, Any]:
        """What ``export.json`` holds."""
        plain: dict[str, Any] = finite(
            {
                "name": self.source.name,
                "form": self.wanted.form,
                "grpo": __version__,
                "licence": self.licence,
                "files": [_plain(part) for part in self.exported],
                "compared": [asdict(line) for line in self.compared],
            }
        )
        return plain


def _plain(export: Exported) -> dict[str, Any]:
    written = asdict(export.written)
    return {**written, "path": export.written.path.name, "check": asdict(export.check)}


def _precisions(wanted: Wanted) -> tuple[str, ...]:
    """What is written; of a folder, one precision, which may have no name yet."""
    if wanted.form == "gguf":
        return wanted.precisions or (DEFAULT,)
    return wanted.precisions or ("",)


def _check_data(wanted: Wanted, source: Source) -> None:
    data = source.recipe.data
    if data.source is None and not data.sources:
        raise RecipeError(
            f"export: --compare needs rows and rewards, and {wanted.target} names none; give --recipe"
        )


def _reference(source: Source) -> Policy:
    """The model in float32, by whose log-probs every export is checked."""
    section = source.recipe.model
    if section.dtype == "float32":
        return source.policy
    policy = Policy.load(replace(section, dtype="float32"), "cpu")
    policy.tokenizer.chat_template = source.policy.tokenizer.chat_template
    return policy


def _name_of(dtype: str) -> str:
    return {found: name for name, found in DTYPES.items()}.get(dtype, "F64")


def _folder(folder: Path, precision: str) -> Written:
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    return Written(precision, folder, size, LIMITS[precision])


@contextmanager
def _readable(form: str, path: Path) -> Iterator[Path]:
    """What the library loads: the export itself, or a plain copy of an 8-bit folder, which is removed afterwards."""
    if form != "int8":
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="grpo-export-") as folder:
        yield unpacked(path, Path(folder) / "plain")
