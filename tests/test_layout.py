"""The rooms of the project: imports point one way, nothing grows past what one sitting can read, no peer is imported.

The levels run from what knows nothing of the project (0) to what uses all of it (10).
"""
import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LEVELS = {
    0: ["allocator", "config", "frames", "files", "distributed", "log", "metrics", "svg"],
    1: ["audio", "charts", "document", "dropout", "kmeans", "lock", "masking", "mfcc", "optim", "overrides",
        "parameters", "segments", "stages", "stopping", "unpickle", "utterances", "voice"],
    2: ["card", "centroids", "formats", "huggingface", "logbook", "packed", "synth", "timeline"],
    3: ["model", "corpus", "data", "checkpoint", "interop", "windows"],
    4: ["emotion", "prediction", "units"],
    5: ["pretrain", "finetune", "preflight"],
    6: ["session", "recognise", "portable"],
    7: ["alignment", "report"],
    8: ["benchmark", "demo", "commands", "verify", "hearing", "comparison", "learnt"],
    9: ["page"],
    10: ["experiment", "lesson"],
}
LEVEL = {module: level for level, modules in LEVELS.items() for module in modules}
WITHIN = {("log", "distributed")}                   # the one import inside a level: only rank 0 speaks
PEERS = {"transformers", "sklearn", "joblib", "matplotlib", "tqdm", "lightning", "pytorch_lightning", "accelerate",
         "fairseq", "omegaconf", "pandas", "scipy", "librosa"}
MODULES = sorted((ROOT / "framealign").glob("*.py"))
SCRIPTS = sorted((ROOT / "bin").glob("*.py"))
OURS = MODULES + SCRIPTS + sorted((ROOT / "tests").glob("*.py"))
MODULE_LINES, FUNCTION_LINES, LOOP_LINES, SCRIPT_LINES, COLUMNS = 350, 60, 100, 40, 120
WHY = re.compile(r"\b(stays?|kept) whole\b", re.IGNORECASE)     # what a docstring that gives the reason says


def imports(source: str) -> list[tuple[str, int]]:
    """Every imported name with its line: `framealign.x` for modules of the project, the package for others.

    Imports inside functions count too: they are the same dependency, made later.
    """
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(filter(None, ["framealign" if node.level else "", node.module or ""]))
            names = [f"{base}.{alias.name}" for alias in node.names] if base == "framealign" else [base]
            found += [(name, node.lineno) for name in names]
    return found


def wrong_imports(name: str, source: str) -> list[str]:
    """What is wrong with the imports of module `name`, a line each."""
    wrong = []
    for imported, line in imports(source):
        package, _, module = imported.partition(".")
        module = module.split(".")[0]
        if module.startswith("__"):                 # framealign.__version__: no module
            continue
        if package in PEERS:
            wrong.append(f"{name}.py:{line} imports {imported}: a peer, allowed in tests and bin/bench.py only")
        elif package == "framealign" and module not in LEVEL:
            wrong.append(f"{name}.py:{line} imports framealign.{module}, which has no level in {Path(__file__).name}")
        elif package == "framealign" and LEVEL[module] >= LEVEL[name] and (name, module) not in WITHIN:
            wrong.append(f"{name}.py:{line} (level {LEVEL[name]}) imports {module} (level {LEVEL[module]})")
    return wrong


def too_long(name: str, source: str) -> list[str]:
    """Functions and loops beyond their limits whose docstring (the function's) does not say why they stay whole."""
    wrong = []
    tree = ast.parse(source)
    for function in (n for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))):
        if WHY.search(ast.get_docstring(function) or ""):
            continue
        lines = function.end_lineno - function.lineno + 1
        if lines > FUNCTION_LINES:
            wrong.append(f"{name}:{function.lineno} {function.name} has {lines} lines, more than {FUNCTION_LINES}")
        for loop in (n for n in ast.walk(function) if isinstance(n, (ast.For, ast.While))):
            if loop.end_lineno - loop.lineno + 1 > LOOP_LINES:
                wrong.append(f"{name}:{loop.lineno} a loop of more than {LOOP_LINES} lines")
    return wrong


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_imports_point_down(path):
    if path.stem == "__init__":
        wrong = [x for x in wrong_imports("session", path.read_text(encoding="utf-8")) if "has no level" in x]
    else:
        assert path.stem in LEVEL, f"framealign/{path.name} has no level: give it one in {Path(__file__).name}"
        wrong = wrong_imports(path.stem, path.read_text(encoding="utf-8"))
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_modules_and_functions_are_short(path):
    source = path.read_text(encoding="utf-8")
    lines = source.count("\n")
    whole = WHY.search(ast.get_docstring(ast.parse(source)) or "")
    assert lines <= MODULE_LINES or whole, f"{path.name} has {lines} lines, more than {MODULE_LINES}: split it"
    assert not too_long(path.name, source), "\n".join(too_long(path.name, source))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_modules_say_what_they_are(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert path.stem == "__init__" and not tree.body or ast.get_docstring(tree), f"{path.name} has no docstring"


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_scripts_are_verbs(path):
    source = path.read_text(encoding="utf-8")
    # bench.py alone may be longer: what it calls are the peers, which no module may import.
    limit = MODULE_LINES if path.stem == "bench" else SCRIPT_LINES
    assert source.count("\n") <= limit, f"bin/{path.name} has over {limit} lines: the library computes"
    assert ast.get_docstring(ast.parse(source)), f"bin/{path.name} has no docstring"
    peers = {imported.split(".")[0] for imported, _ in imports(source)} & PEERS
    assert not peers or path.stem == "bench", f"bin/{path.name} imports {', '.join(sorted(peers))}"


@pytest.mark.parametrize("path", OURS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_lines_fit_and_nothing_is_left_for_later(path):
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        assert len(line) <= COLUMNS, f"{path}:{number} has {len(line)} columns"
        assert line == line.rstrip() and "\t" not in line, f"{path}:{number} has blanks at its end or a tab"
        assert "TO" "DO" not in line and "FIX" "ME" not in line, f"{path}:{number} leaves something for later"


def test_no_room_without_a_subject():
    assert not [path for path in ROOT.rglob("utils.py") if ".venv" not in path.parts]
    assert not [path.stem for path in MODULES if re.fullmatch(r"(utils?|helpers?|common|misc)", path.stem)]


def test_the_package_gives_five_names_at_most():
    tree = ast.parse((ROOT / "framealign" / "__init__.py").read_text(encoding="utf-8"))
    names = {alias.asname or alias.name for node in tree.body if isinstance(node, ast.ImportFrom)
             for alias in node.names}
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(getattr(target, "id", "") == "__all__" for target in node.targets):
            names |= set(ast.literal_eval(node.value))
    assert len({name for name in names if not name.startswith("_")}) <= 5


def test_these_checks_see_what_they_are_for():
    """Each rule on a module that breaks it."""
    breaking = {
        "from framealign import units": "imports units", "from framealign.units.kmeans import fit": "imports kmeans",
        "import framealign.recipe.recipe": "imports session", "from . import report": "imports report",
        "from .model import Hubert": "imports model", "def f():\n    from framealign import data": "imports data",
        "import sklearn.cluster": "a peer", "from transformers import HubertModel": "a peer",
        "from framealign import nowhere": "no level",
    }
    for source, message in breaking.items():
        assert [message in line for line in wrong_imports("mfcc", source)] == [True], source
    assert not wrong_imports("mfcc", "import torch\nfrom framealign import frames\nfrom framealign.runtime.log import say")
    assert not wrong_imports("log", "from framealign import distributed")
    assert wrong_imports("distributed", "from framealign import log")
    body = "    x = 1\n" * 60
    assert too_long("m.py", f"def f():\n{body}") and too_long("m.py", f"async def f():\n{body}")
    assert not too_long("m.py", f'def f():\n    """It stays whole: one idea."""\n{body}')
    assert not too_long("m.py", "def f():\n" + "    x = 1\n" * 59)
