"""What runs in a candidate's process once it is confined: a program to its end, or a server for calls of its functions.

Nothing here is trusted: whatever this process says may be forged by the candidate. Imported by fork servers by path;
standard library only, and no pathlib, which is slow to import.
"""

from __future__ import annotations

import ast
import atexit
import binascii
import builtins
import gc
import io
import os
import site
import sys
import threading
import types
from typing import Any

from messages import (  # type: ignore[import-not-found]
    Gone,
    Peer,
    Untravelable,
    decode,
    encode,
    is_array,
    numpy_value,
    pack_frame,
    read_frame,
    write_bytes,
    write_frame,
)

__all__ = ["run", "text_streams"]

CHANNEL = 3
LINK = 4
SYNTAX_EXIT = 97
LARGEST_EXIT_CODE = (1 << 63) - 1
SCRIPT = "solution.py"
NAMES_OF_SCRIPT = ("__file__", "argv", "getsource")
"""A program that says none of these does not look for its own file."""
OUR_MODULES = (
    "messages", "program_process", "assertion_process", "test_suite", "syscalls", "fork_server",
)  # fmt: skip
"""Imported from this folder; a program that imports such a name must get its own or none."""


def run(job: dict[str, Any]) -> None:
    """Do what the supervisor asked of this process; never returns."""
    code = 1
    try:
        code = _MODES[job["mode"]](job)
    except Gone:
        pass
    except BaseException:  # noqa: BLE001  the program's own exception, shown as an interpreter would
        sys.__excepthook__(*sys.exc_info())
    finally:
        os._exit(code)


# --------------------------------------------------------------------------------------------- sources


def _names_defined(tree: ast.Module) -> set[str]:
    """What a module's top level binds, also inside its if, try and with statements."""
    names: set[str] = set()
    waiting: list[ast.stmt] = list(tree.body)
    while waiting:
        statement = waiting.pop()
        if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(statement.name)
            if isinstance(statement, ast.ClassDef) and statement.name == "Solution":
                names.update(getattr(method, "name", "") for method in statement.body)
        elif isinstance(statement, (ast.Import, ast.ImportFrom)):
            names.update((alias.asname or alias.name).split(".")[0] for alias in statement.names)
        elif isinstance(statement, (ast.Assign, ast.AnnAssign)):
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            names.update(
                node.id
                for target in targets
                for node in ast.walk(target)
                if isinstance(node, ast.Name)
            )
        for part in ("body", "orelse", "finalbody"):
            waiting.extend(getattr(statement, part, ()) if not hasattr(statement, "name") else ())
    return names


def _without(source: str, entry: str) -> str:
    """A prompt's imports and helpers, without the stub of the requested function."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        try:
            tree = ast.parse(source.rstrip() + "\n    pass\n")
        except SyntaxError:
            return ""
    kinds = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef, ast.Assign)
    tree.body = [
        node
        for node in tree.body
        if isinstance(node, kinds) and getattr(node, "name", None) != entry
    ]
    return ast.unparse(tree)


def _file_name() -> str:
    return os.path.abspath(SCRIPT) if os.path.exists(SCRIPT) else "<solution>"


def _compiled(job: dict[str, Any]) -> list[types.CodeType]:
    """The candidate's code, after the prompt's unless it defines the entry point itself."""
    source = job["source"]
    prompt = job.get("prompt", "")
    entry = job.get("entry", "")
    if not (prompt and entry):
        return [compile(source, _file_name(), "exec")]
    try:
        is_whole = entry in _names_defined(ast.parse(source))
    except SyntaxError:
        is_whole = False
    if not is_whole:
        return [compile(prompt + source, "<solution>", "exec")]
    return [
        compile(_without(prompt, entry), "<prompt>", "exec"),
        compile(source, "<solution>", "exec"),
    ]


def _main_module() -> dict[str, Any]:
    """The namespace that ``python solution.py`` gives a program."""
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    space = module.__dict__
    space |= {"__builtins__": builtins, "__annotations__": {}, "__cached__": None}
    space["__file__"] = os.path.abspath(SCRIPT)
    return space


def _one_line(error: BaseException) -> str:
    where = (
        f" at line {error.lineno}: {(error.text or '').strip()}"
        if isinstance(error, SyntaxError)
        else ""
    )
    return f"{type(error).__name__}: {error}{where}"


_COMPILED = pack_frame({"compiled": True})


def _announce_compiled(job: dict[str, Any]) -> list[types.CodeType] | None:
    """Compile, and report how that went before any of the candidate's code runs."""
    sys.setrecursionlimit(1000)
    try:
        codes = _compiled(job)
    except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError) as error:
        text = _one_line(error)
        write_frame(CHANNEL, {"compiled": False, "detail": text[-2000:]})
        return None
    write_bytes(CHANNEL, _COMPILED)
    return codes


def _write_files(job: dict[str, Any]) -> None:
    for name, data in job.get("files", {}).items():
        with open(name, "wb") as file:
            file.write(binascii.a2b_base64(data))


def _write_script(job: dict[str, Any]) -> None:
    """Put the program where ``__file__`` says it is, if it may look there and files may be written here at all."""
    source = job["source"]
    if os.path.exists(SCRIPT) or not any(name in source for name in NAMES_OF_SCRIPT):
        return
    try:
        with open(SCRIPT, "w", encoding="utf-8", errors="surrogatepass") as file:
            file.write(source)
    except OSError:
        pass


def _add_site_builtins() -> None:
    """What the module site adds to the built-in names, as interpreters started without -S have it."""
    site.setquit()
    site.setcopyright()
    site.sethelper()


def _prepare(job: dict[str, Any]) -> None:
    _write_files(job)
    _write_script(job)
    _add_site_builtins()
    sys.argv = job.get("argv") or [SCRIPT]
    sys.path = [path for path in sys.path if path] + list(job.get("paths", ()))
    for module in OUR_MODULES:
        sys.modules.pop(module, None)


# ---------------------------------------------------------------------------------- a program to its end


def _program(job: dict[str, Any]) -> int:
    _prepare(job)
    codes = _announce_compiled(job)
    os.close(CHANNEL)
    if codes is None:
        return SYNTAX_EXIT
    if os.access(".", os.W_OK):
        sys.path.insert(0, os.getcwd())
    try:
        code = _executed(codes, _main_module())
    finally:
        _leave_like_an_interpreter()
    return code


def text_streams() -> None:
    """Make Python's streams from descriptors 0, 1 and 2, whatever these will point to."""
    sys.stdin = io.TextIOWrapper(
        io.BufferedReader(io.FileIO(0, closefd=False)), "utf-8", "surrogateescape"
    )
    sys.stdout = io.TextIOWrapper(
        io.BufferedWriter(io.FileIO(1, "w", closefd=False)), "utf-8", "surrogateescape"
    )
    sys.stderr = io.TextIOWrapper(
        io.BufferedWriter(io.FileIO(2, "w", closefd=False)),
        "utf-8",
        "backslashreplace",
        line_buffering=True,
    )
    for name in ("stdin", "stdout", "stderr"):
        setattr(sys, f"__{name}__", getattr(sys, name))


def _executed(codes: list[types.CodeType], space: dict[str, Any]) -> int:
    try:
        for code in codes:
            exec(code, space)
    except SystemExit as leaving:
        return _exit_code(leaving.code)
    except BaseException as error:  # noqa: BLE001  the program's own exception, shown as an interpreter would
        _RAISED.append(type(error).__name__ + _text_of(error))
        _show_exception()
        return 1
    return 0


_RAISED: list[str] = []
"""What ended the program."""


def _text_of(error: BaseException) -> str:
    """Its message, which may be the program's own code."""
    try:
        return f": {error}"
    except BaseException:  # noqa: BLE001  so it has none
        return ""


def _exit_code(status: Any) -> int:
    """The exit code that an interpreter makes of what ``sys.exit`` got; a message is printed and means 1."""
    if status is None:
        return 0
    if isinstance(status, int):
        fits = -LARGEST_EXIT_CODE <= status <= LARGEST_EXIT_CODE
        return int(status) & 0xFF if fits else 0xFF
    sys.stdout.flush()
    print(status, file=sys.stderr)
    return 1


def _show_exception() -> None:
    """By the program's own ``sys.excepthook``, if it has set one that works."""
    try:
        sys.excepthook(*sys.exc_info())
    except BaseException:  # noqa: BLE001  then the interpreter's
        sys.__excepthook__(*sys.exc_info())


def _leave_like_an_interpreter() -> None:
    """Wait for threads, run exit handlers, flush, let go of the program's objects, and flush again."""
    for step in (threading._shutdown, atexit._run_exitfuncs, _flush, _forget_program, _flush):  # type: ignore
        try:
            step()
        except BaseException:  # noqa: BLE001  an interpreter at its end ignores them too
            pass


def _flush(*others: Any) -> None:
    for stream in (*others, sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BaseException:  # noqa: BLE001  it may be closed, or anything
            pass


def _forget_program() -> None:
    """Files that are still open write what they hold, and objects that say good-bye do."""
    program = vars(sys.modules.pop("__main__"))
    streams = [value for value in program.values() if isinstance(value, io.IOBase)]
    _flush(*streams)
    del program, streams
    gc.collect()


# -------------------------------------------------------------------------------------- a server for calls


class _Server:
    """Answers requests to call the candidate's functions. Objects that cannot travel stay here under a number."""

    def __init__(self, space: dict[str, Any], link: int) -> None:
        self._space = space
        self._objects: list[Any] = []
        self._peer = Peer(link, self._serve)

    def run(self) -> int:
        self._peer.serve_forever()
        return 0

    def _serve(self, request: dict[str, Any]) -> dict[str, Any]:
        try:
            if request["op"] == "get":
                return {
                    "value": self._encode(
                        getattr(self._objects[request["handle"]], request["name"])
                    )
                }
            if request["op"] == "name":
                return {"value": self._encode(self._named(request["name"]))}
            return self._call(request)
        except Exception as error:  # noqa: BLE001  the candidate's own, sent to the caller
            return {
                "error": [kind.__name__ for kind in type(error).__mro__],
                "detail": str(error)[:500],
            }

    def _call(self, request: dict[str, Any]) -> dict[str, Any]:
        function = (
            self._objects[request["handle"]]
            if "handle" in request
            else self._named(request["name"])
        )
        args = [decode(arg, self._special) for arg in request["args"]]
        keywords = {
            name: decode(arg, self._special) for name, arg in request.get("kwargs", {}).items()
        }
        reply = {"value": self._encode(function(*args, **keywords))}
        if request.get("back"):
            after = [self._changed(arg, before) for arg, before in zip(args, request["args"])]
            reply |= {"args": after} if any(part is not None for part in after) else {}
        return reply

    def _changed(self, arg: Any, before: Any) -> Any:
        """The argument's new content if the function changed it."""
        if type(arg) not in (list, dict, set, bytearray) and not is_array(arg):
            return None
        after = self._encode(arg)
        return after if after != before else None

    def _named(self, name: str) -> Any:
        if name in self._space:
            return self._space[name]
        if "Solution" in self._space and hasattr(self._space["Solution"], name):
            return getattr(self._space["Solution"](), name)
        raise NameError(f"name {name!r} is not defined")

    def _encode(self, value: Any) -> Any:
        return encode(value, self._handle)

    def _handle(self, value: Any) -> Any:
        self._objects.append(value)
        return {"h": len(self._objects) - 1}

    def _special(self, tag: str, body: Any) -> Any:
        if tag == "h":
            return self._objects[body]
        if tag == "n":
            return self._named(body)
        if tag == "np":
            return numpy_value(body)
        if tag != "fn":
            raise Untravelable(tag)

        def callback(*args: Any) -> Any:
            reply = self._peer.ask(
                {"op": "callback", "id": body, "args": [self._encode(arg) for arg in args]}
            )
            if "error" in reply:
                raise RuntimeError(reply["error"])
            return decode(reply["value"], self._special)

        return callback


def _loaded(job: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """Run the program as a module to be called later; returns (exit code, module) and reports to the supervisor."""
    _prepare(job)
    codes = _announce_compiled(job)
    if codes is None:
        return SYNTAX_EXIT, {}
    space = _main_module()
    space["__name__"] = "solution"
    code = _executed(codes, space)
    raised = _RAISED[-1] if _RAISED else ""
    write_frame(CHANNEL, {"loaded": code == 0, "detail": raised[:2000]})
    return code, space


def _serve(job: dict[str, Any]) -> int:
    link = LINK if job.get("linked") else CHANNEL
    code, space = _loaded(job)
    if link == LINK:
        os.close(CHANNEL)
    return _Server(space, link).run() if code == 0 else code


# ----------------------------------------------------------------------------------- other languages, tests


def _execute(job: dict[str, Any]) -> int:
    _write_files(job)
    if "executable" in job:
        os.chmod(job["executable"], 0o700)
    os.close(CHANNEL)
    os.execve(job["argv"][0], job["argv"], job["environment"])


def _test(job: dict[str, Any]) -> int:
    from assertion_process import test  # type: ignore[import-not-found]  # noqa: PLC0415  only for tests

    return test(job)


def _weak(job: dict[str, Any]) -> int:
    from assertion_process import test  # noqa: PLC0415  only for tests

    code, space = _loaded(job)
    return code or test(read_frame(CHANNEL), space)


_MODES = {"program": _program, "serve": _serve, "exec": _execute, "test": _test, "weak": _weak}
