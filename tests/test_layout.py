"""The house: wings in the order of the method, imports that point one way, names that say what things are.

`WINGS` is the one list of wings. A module imports from its own wing and from those above it in the list; inside a wing
imports make no circle. The rules below read the source, so that an import inside a function counts like any other.
"""
import ast
import functools
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
WINGS = ("runtime", "sound", "corpus", "hubert", "exchange", "units", "emotion", "training", "recipe", "report",
         "commands")

DEPENDENCIES = {"torch", "numpy", "soundfile", "safetensors", "torchaudio"}
LATE = {"torchaudio"}                               # imported inside functions only: the rest works without it
PUBLIC_NAMES, PARAMETERS, COLUMNS, SCRIPT_LINES = 5, 8, 120, 40
WITH_PEERS = "bench"                                # the one script that runs other libraries, and is longer for it
# What these words mean depends on where one stands: a name says what the thing is.
NOT_NAMES = {"found", "told", "said", "heard", "learnt", "kept", "made", "seen", "hidden", "visible", "hearing"}
NO_SUBJECT = re.compile(r"utils?|helpers?|common|misc|tools?")

MODULES = sorted((ROOT / "framealign").rglob("*.py"))
SCRIPTS = sorted((ROOT / "bin").glob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))


def dotted(path: Path) -> str:
    """A module's name: framealign.units.kmeans; framealign.units for the wing's `__init__.py`."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


NAMES = {dotted(path): path for path in MODULES}
PACKAGES = {name for name, path in NAMES.items() if path.stem == "__init__"}


@functools.cache
def source_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def wing_of(module: str) -> str:
    """`units` of framealign.units.kmeans; "" of the package itself."""
    return module.split(".")[1] if "." in module else ""


def in_functions(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node inside a function."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            yield from (inner for inner in ast.walk(node) if inner is not node)


def imports(module: str, source: str) -> list[tuple[str, int]]:
    """What a module imports, with the line: modules of this project in full, other packages as they are written.

    A module that is named in a string (`importlib`, `python -m`) counts too.
    """
    targets = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            targets += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:                          # relative: from the folder of the module, or so many above it
                parents = module.split(".") if module in PACKAGES else module.split(".")[:-1]
                parents = parents[:len(parents) - node.level + 1]
                base = ".".join([*parents, base] if base else parents)
            targets += [(f"{base}.{alias.name}", node.lineno) for alias in node.names]
        elif isinstance(node, ast.Constant) and node.value in NAMES and node.value != "framealign":
            targets.append((node.value, node.lineno))
    return [(module_of(target), line) for target, line in targets]


def module_of(target: str) -> str:
    """The module that has an imported name: framealign.units.kmeans of framealign.units.kmeans.fit."""
    module = target
    while module not in NAMES and module.startswith("framealign."):
        parent = module.rpartition(".")[0]
        if parent == "framealign":                  # `from framealign import nowhere`: neither a wing nor a module
            return target
        module = parent
    return module


# The rules: each gives a line for everything in a module that breaks it.

def wrong_imports(module: str, source: str) -> list[str]:
    """Imports of a wing below, of the package's public names, and of what is no dependency."""
    wrong = []
    wing = wing_of(module)
    late = {getattr(node, "lineno", 0) for node in in_functions(ast.parse(source))}
    for target, line in imports(module, source):
        package = target.split(".")[0]
        there = wing_of(target)
        if package in sys.stdlib_module_names:
            continue
        if package != "framealign":
            if package not in DEPENDENCIES:
                wrong.append(f"{module}:{line} imports {package}: a peer, not a dependency")
            elif package in LATE and line not in late:
                wrong.append(f"{module}:{line} imports {package} outside a function")
        elif there == "__version__":
            continue
        elif there not in WINGS:
            wrong.append(f"{module}:{line} imports {target}, which is in no wing of {Path(__file__).name}")
        elif wing in WINGS and WINGS.index(there) > WINGS.index(wing):
            wrong.append(f"{module}:{line} imports {target}: the wing {there} comes after {wing}")
    return wrong


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Circles among modules that import each other, one for each import that closes one: a, b, ..., a."""
    closed, done, way = [], set(), []

    def visit(module: str) -> None:
        if module in way:
            closed.append([*way[way.index(module):], module])
        elif module not in done:
            way.append(module)
            for target in sorted(graph.get(module, ())):
                visit(target)
            way.pop()
            done.add(module)

    for module in sorted(graph):
        visit(module)
    return closed


def wings_named(docstring: str) -> set[str] | None:
    """The wings of a docstring's last sentence, "Uses: runtime, sound." or "Uses: no other wing."; None without one."""
    last = re.search(r"Uses: ([a-z, \n]+)\.\s*\Z", docstring)
    if not last:
        return None
    words = " ".join(last[1].split())
    return set() if words == "no other wing" else set(words.split(", "))


def names_of_things(source: str) -> Iterator[tuple[str, int]]:
    """Every name that a module gives to something: a variable, function, class, parameter, attribute or module."""
    for node in ast.walk(ast.parse(source)):
        line = getattr(node, "lineno", 0)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, line
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr, line
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name, line
        elif isinstance(node, ast.arg):
            yield node.arg, line
        elif isinstance(node, ast.alias) and node.asname:
            yield node.asname, line
        elif isinstance(node, ast.ExceptHandler) and node.name:
            yield node.name, line


def wrong_names(source: str) -> list[str]:
    return [f"line {line}: {name}" for name, line in sorted(names_of_things(source), key=lambda pair: pair[1])
            if name in NOT_NAMES]


def named_lambdas(source: str) -> list[str]:
    """Lambdas that are given a name: a function with a docstring is one too, and can be read."""
    wrong = []
    for node in ast.walk(ast.parse(source)):
        value = getattr(node, "value", None)
        if isinstance(node, (ast.Assign, ast.AnnAssign, ast.NamedExpr)) and isinstance(value, (ast.Lambda, ast.IfExp)):
            branches = [value.body, value.orelse] if isinstance(value, ast.IfExp) else [value]
            if any(isinstance(branch, ast.Lambda) for branch in branches):
                wrong.append(f"line {node.lineno}: a lambda with a name")
    return wrong


def without_docstring(source: str) -> list[str]:
    return [] if ast.get_docstring(ast.parse(source)) else ["has no docstring"]


def too_many_parameters(source: str) -> list[str]:
    wrong = []
    for function in ast.walk(ast.parse(source)):
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)):
            arguments = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
            number = len([argument for argument in arguments if argument.arg not in ("self", "cls")])
            if number > PARAMETERS:
                wrong.append(f"line {function.lineno}: {function.name} has {number} parameters, more than {PARAMETERS}")
    return wrong


def untidy(source: str) -> list[str]:
    wrong = []
    for number, line in enumerate(source.splitlines(), 1):
        if len(line) > COLUMNS:
            wrong.append(f"line {number} has {len(line)} columns")
        if line != line.rstrip() or "\t" in line:
            wrong.append(f"line {number} has blanks at its end or a tab")
        if "TO" "DO" in line or "FIX" "ME" in line:
            wrong.append(f"line {number} leaves something for later")
    return wrong


def public_names(source: str) -> set[str]:
    """The names that the package gives away."""
    names = set()
    for node in ast.parse(source).body:
        if isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Assign) and any(getattr(target, "id", "") == "__all__" for target in node.targets):
            names |= set(ast.literal_eval(node.value))
    return {name for name in names if not name.startswith("_")}


def repeated(names: Iterable[str]) -> set[str]:
    names = list(names)
    return {name for name in names if names.count(name) > 1}


# The rules on this project.

def offenders(rule: Callable[[str], list[str]], paths: Iterable[Path]) -> str:
    """What breaks a rule in these files, a line each with the file's name; "" where nothing does."""
    return "\n".join(f"{path.relative_to(ROOT)}: {line}" for path in paths for line in rule(source_of(path)))


def test_the_list_has_every_wing():
    folders = {path.parent.name for path in (ROOT / "framealign").glob("*/__init__.py")}
    assert folders == set(WINGS) and len(WINGS) == len(set(WINGS))
    tested = {path.name for path in (ROOT / "tests").iterdir() if list(path.glob("test_*.py"))}
    assert tested == folders, "the tests mirror the wings"
    outside = [path.name for path in (ROOT / "framealign").glob("*.py") if path.stem not in ("__init__", "__main__")]
    assert not outside, "every module is in a wing"


def test_imports_point_one_way():
    wrong = [line for module, path in NAMES.items() for line in wrong_imports(module, source_of(path))]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("wing", WINGS)
def test_a_wing_has_no_circle(wing):
    graph = {module: {target for target, _ in imports(module, source_of(path)) if wing_of(target) == wing}
             for module, path in NAMES.items() if wing_of(module) == wing}
    assert not circles(graph), "\n".join(" -> ".join(circle) for circle in circles(graph))


@pytest.mark.parametrize("wing", WINGS)
def test_a_wing_says_what_it_holds_and_which_wings_it_uses(wing):
    """Its `__init__.py` is a docstring and nothing else, whose last sentence names the wings that it imports."""
    tree = ast.parse(source_of(ROOT / "framealign" / wing / "__init__.py"))
    docstring = ast.get_docstring(tree)
    assert docstring and len(docstring.split()) >= 15, f"framealign/{wing}/__init__.py needs a paragraph"
    assert len(tree.body) == 1, f"framealign/{wing}/__init__.py holds more than its docstring"
    targets = [target for module, path in NAMES.items() if wing_of(module) == wing
               for target, _ in imports(module, source_of(path))]
    used = {wing_of(target) for target in targets if target.startswith("framealign.")} & set(WINGS) - {wing}
    in_order = ", ".join(other for other in WINGS if other in used) or "no other wing"
    assert wings_named(docstring) == used, f"framealign/{wing}/__init__.py must end with: Uses: {in_order}."


def test_modules_and_scripts_say_what_they_are():
    wrong = offenders(without_docstring, MODULES + SCRIPTS)
    assert not wrong, wrong


def test_names_say_what_things_are():
    wrong = offenders(wrong_names, MODULES + SCRIPTS)
    assert not wrong, f"these words are not names of things:\n{wrong}"


def test_a_function_with_a_name_is_no_lambda():
    wrong = offenders(named_lambdas, MODULES + SCRIPTS)
    assert not wrong, wrong


def test_functions_have_few_parameters():
    wrong = offenders(too_many_parameters, MODULES + SCRIPTS)
    assert not wrong, f"an object is missing:\n{wrong}"


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_scripts_are_short_verbs(path):
    assert re.fullmatch(r"[a-z]+", path.stem)
    packages = {target.split(".")[0] for target, _ in imports(path.stem, source_of(path))}
    peers = packages - set(sys.stdlib_module_names) - DEPENDENCIES - {"framealign"}
    if path.stem != WITH_PEERS:
        assert not peers, f"bin/{path.name} imports {', '.join(sorted(peers))}"
        assert source_of(path).count("\n") <= SCRIPT_LINES, f"bin/{path.name} is long: the library computes"


def test_lines_fit_and_nothing_is_left_for_later():
    wrong = offenders(untidy, MODULES + SCRIPTS + TESTS)
    assert not wrong, wrong


def test_file_names_are_unique_and_have_a_subject():
    stems = [path.stem for path in MODULES if path.stem != "__init__"]
    assert not repeated(stems)
    assert not [stem for stem in stems if NO_SUBJECT.fullmatch(stem)]
    assert not [path for path in (*TESTS, *SCRIPTS) if NO_SUBJECT.fullmatch(path.stem)]


def test_the_package_gives_five_names_at_most():
    assert 0 < len(public_names(source_of(ROOT / "framealign" / "__init__.py"))) <= PUBLIC_NAMES


# The rules on modules that break them.

@pytest.mark.parametrize("source, message", [
    ("from framealign import units", "the wing units comes after sound"),
    ("from framealign.units.kmeans import fit", "imports framealign.units.kmeans:"),
    ("from framealign.units import kmeans", "imports framealign.units.kmeans:"),
    ("import framealign.recipe.recipe", "the wing recipe comes after sound"),
    ("from .. import report", "the wing report comes after sound"),
    ("from ..hubert.model import Hubert", "imports framealign.hubert.model:"),
    ("def f():\n    from framealign import corpus", "mfcc:2 imports framealign.corpus:"),
    ("import importlib\nimportlib.import_module('framealign.units.kmeans')", "imports framealign.units.kmeans:"),
    ("from framealign import nowhere", "no wing"), ("from framealign.nowhere import x", "no wing"),
    ("from framealign import Hubert", "no wing"), ("import framealign", "no wing"),
    ("import sklearn.cluster", "a peer"), ("from transformers import HubertModel", "a peer"),
    ("def f():\n    import tqdm", "a peer"), ("import torchaudio", "outside a function")])
def test_a_wrong_import_is_noticed(source, message):
    assert [message in line for line in wrong_imports("framealign.sound.mfcc", source)] == [True]


@pytest.mark.parametrize("source", [
    "import os.path\nimport torch\nfrom numpy import array", "from framealign.runtime import log",
    "from framealign.sound.frames import HOP", "from . import frames", "from .frames import HOP",
    "from ..runtime.log import say", "from framealign import __version__",
    "def f():\n    import torchaudio.functional"])
def test_a_right_import_is_none(source):
    assert not wrong_imports("framealign.sound.mfcc", source)


def test_relative_imports_are_resolved():
    """From the folder of the module; a package's own `__init__.py` is in its folder."""
    source = "from . import manifest\nfrom .manifest import read\nfrom ..runtime.log import say\nfrom ... import x"
    assert [target for target, _ in imports("framealign.corpus.protocols", source)][:3] == [
        "framealign.corpus.manifest", "framealign.corpus.manifest", "framealign.runtime.log"]
    assert imports("framealign.corpus", "from .manifest import read") == [("framealign.corpus.manifest", 1)]
    assert imports("framealign.corpus.importers.scp", "from ..manifest import read") == [
        ("framealign.corpus.manifest", 1)]


def test_a_circle_is_noticed():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c", "a"]]
    assert circles({"a": {"a"}}) == [["a", "a"]]
    assert circles({"a": {"b", "c"}, "b": {"a", "c"}, "c": {"b"}})
    assert not circles({"a": {"b", "c"}, "b": {"d"}, "c": {"d"}, "d": set()})


def test_the_wings_of_a_docstring():
    assert wings_named("What it holds.\nUses: runtime, sound.") == {"runtime", "sound"}
    assert wings_named("What it holds. Uses: runtime,\nsound.\n") == {"runtime", "sound"}
    assert wings_named("What it holds. Uses: no other wing.") == set()
    assert wings_named("What it holds.") is None and wings_named("Uses: sound. And more.") is None


@pytest.mark.parametrize("source", [
    "found = 1", "x, found = 1, 2", "self.found = 1", "def found(): pass", "class found: pass", "def f(found): pass",
    "def f(*, found=1): pass", "def f(**found): pass", "import x as found", "[found for found in x]",
    "for found in x: pass", "with x as found: pass", "(found := 1)", "class A:\n    found: int = 1",
    "try: pass\nexcept OSError as found: pass"])
def test_a_word_that_is_no_name_is_noticed(source):
    assert len(wrong_names(source)) >= 1
    assert not wrong_names(source.replace("found", "predictions"))


def test_a_name_of_another_library_is_none():
    assert not wrong_names("x = other.hidden + f(found=1)\nhidden_size = x['seen']")


@pytest.mark.parametrize("source", ["f = lambda: 1", "f: object = lambda: 1", "f = (lambda: 1) if x else None",
                                    "def g():\n    f = lambda x: x\n    return f"])
def test_a_lambda_with_a_name_is_noticed(source):
    assert named_lambdas(source)


def test_a_lambda_without_a_name_is_none():
    assert not named_lambdas("x = sorted(y, key=lambda z: z.a)\nf = {1: lambda: 2}")


def test_a_module_without_docstring_is_noticed():
    assert without_docstring("") and without_docstring("import os") and without_docstring("# A comment.\n")
    assert not without_docstring('"""What it holds."""\nimport os')


def test_too_many_parameters_are_noticed():
    eight = "a, b, c, d, e, f, g=1, *, h=2"
    assert not too_many_parameters(f"def f({eight}): pass\nclass A:\n    def f(self, {eight}): pass")
    assert too_many_parameters(f"async def f({eight}, i=3): pass") and too_many_parameters(f"def f(x, {eight}): pass")
    assert too_many_parameters(f"class A:\n    def f(self, x, {eight}): pass")


def test_untidy_lines_are_noticed():
    assert not untidy("x" * 120 + "\n\n    y = 1\n")
    for source in ("x" * 121, "x = 1 ", "\tx = 1", "# TO" "DO", "# FIX" "ME"):
        assert untidy(source), source


def test_public_and_repeated_names():
    assert public_names("from a import B, c as D, _e\n__all__ = ['B', 'F']\n__version__ = ''") == {"B", "D", "F"}
    assert repeated("abcb") == {"b"} and not repeated("abc")
    assert all(NO_SUBJECT.fullmatch(name) for name in ("utils", "util", "helpers", "common"))
    assert not NO_SUBJECT.fullmatch("kmeans") and not NO_SUBJECT.fullmatch("common_voice")
