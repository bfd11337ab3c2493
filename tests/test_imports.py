"""Which way imports go, read from the import statements of both packages; the direction is written out below."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("saeinterp_mcp", "pipeline")

ALLOWED = {
    # the ground: no reading, no numbers
    "saeinterp_mcp.errors": (),
    "saeinterp_mcp.fingerprint": (),
    "saeinterp_mcp.frozen": ("saeinterp_mcp.errors",),
    "saeinterp_mcp.config": ("saeinterp_mcp.errors", "saeinterp_mcp.frozen"),
    # what is asked of other processes and services; the worker is started, never imported
    "saeinterp_mcp.clients": (
        "saeinterp_mcp.config",
        "saeinterp_mcp.errors",
        "saeinterp_mcp.fingerprint",
        "saeinterp_mcp.frozen",
    ),
    # never pay twice: what was asked of language models, and what it may cost
    "saeinterp_mcp.asking": (
        "saeinterp_mcp.clients",
        "saeinterp_mcp.config",
        "saeinterp_mcp.errors",
        "saeinterp_mcp.fingerprint",
        "saeinterp_mcp.frozen",
        "saeinterp_mcp.labels.database",
        "saeinterp_mcp.labels.sqlite_file",
    ),
    # stretches of samples for explainers to see and scorers to ask about
    "saeinterp_mcp.excerpts": (
        "saeinterp_mcp.analysis",
        "saeinterp_mcp.config",
        "saeinterp_mcp.errors",
        "saeinterp_mcp.frozen",
        "saeinterp_mcp.store",
    ),
    "saeinterp_mcp.scorers": (
        "saeinterp_mcp.analysis",
        "saeinterp_mcp.clients",
        "saeinterp_mcp.config",
        "saeinterp_mcp.errors",
        "saeinterp_mcp.excerpts",
        "saeinterp_mcp.fingerprint",
        "saeinterp_mcp.frozen",
        "saeinterp_mcp.store",
    ),
    # arithmetic on arrays; of the store it knows the names and sizes of the layout
    "saeinterp_mcp.analysis": ("saeinterp_mcp.store.layout",),
    # comparing texts: explanations against what activates a feature; opens nothing
    "saeinterp_mcp.patterns": ("saeinterp_mcp.analysis.sampling", "saeinterp_mcp.analysis.text"),
    # labels, notes, queue, held-out tests and evidence, in one file beside a store
    "saeinterp_mcp.labels": (
        "saeinterp_mcp.analysis.text",
        "saeinterp_mcp.errors",
        "saeinterp_mcp.fingerprint",
        "saeinterp_mcp.frozen",
    ),
    "saeinterp_mcp.labels.similarity": (
        "saeinterp_mcp.analysis.ranges",
        "saeinterp_mcp.analysis.sampling",
        "saeinterp_mcp.clients",
        "saeinterp_mcp.errors",
        "saeinterp_mcp.frozen",
        "saeinterp_mcp.labels.database",
    ),
    # the tables beside a store that set explanations against activations: schemas, readers, metrics
    "saeinterp_mcp.validation": (
        "saeinterp_mcp.analysis",
        "saeinterp_mcp.errors",
        "saeinterp_mcp.fingerprint",
        "saeinterp_mcp.frozen",
        "saeinterp_mcp.patterns",
    ),
    "saeinterp_mcp.rules": ("saeinterp_mcp.errors",),
    # memory_store works everything out by the definitions, so it reads the analysis of splits, draws and examples
    "saeinterp_mcp.store": (
        "saeinterp_mcp.analysis.effects",
        "saeinterp_mcp.analysis.examples",
        "saeinterp_mcp.analysis.intervals",
        "saeinterp_mcp.analysis.moments",
        "saeinterp_mcp.analysis.ranges",
        "saeinterp_mcp.analysis.sampling",
        "saeinterp_mcp.analysis.splits",
        "saeinterp_mcp.analysis.text",
        "saeinterp_mcp.errors",
        "saeinterp_mcp.fingerprint",
        "saeinterp_mcp.frozen",
        "saeinterp_mcp.labels.database",
        "saeinterp_mcp.validation.folder",
    ),
    # a store without activations of its own: they are loaded and summarised when asked for
    "saeinterp_mcp.store.straight_store": (
        "saeinterp_mcp.analysis.summaries",
        "saeinterp_mcp.errors",
        "saeinterp_mcp.fingerprint",
        "saeinterp_mcp.loaders",
        "saeinterp_mcp.store",
    ),
    # other people's files, one feature at a time
    "saeinterp_mcp.loaders": ("saeinterp_mcp.config", "saeinterp_mcp.errors", "saeinterp_mcp.frozen"),
    "saeinterp_mcp.operations": (
        "saeinterp_mcp.analysis",
        "saeinterp_mcp.asking",
        "saeinterp_mcp.clients",
        "saeinterp_mcp.config",
        "saeinterp_mcp.errors",
        "saeinterp_mcp.fingerprint",
        "saeinterp_mcp.frozen",
        "saeinterp_mcp.excerpts",
        "saeinterp_mcp.labels",
        "saeinterp_mcp.patterns",
        "saeinterp_mcp.rules",
        "saeinterp_mcp.scorers",
        "saeinterp_mcp.store",
        "saeinterp_mcp.validation",
    ),
    "saeinterp_mcp.faces": (
        "saeinterp_mcp.analysis.text",
        "saeinterp_mcp.config",
        "saeinterp_mcp.demo",
        "saeinterp_mcp.errors",
        "saeinterp_mcp.fingerprint",
        "saeinterp_mcp.frozen",
        "saeinterp_mcp.labels",
        "saeinterp_mcp.operations",
        "saeinterp_mcp.store",
    ),
    # a face of its own: a recorded conversation with the MCP face, started from the command line
    "saeinterp_mcp.demo": (
        "saeinterp_mcp.config",
        "saeinterp_mcp.errors",
        "saeinterp_mcp.faces",
        "saeinterp_mcp.operations",
        "saeinterp_mcp.store",
    ),
    "saeinterp_mcp.__main__": ("saeinterp_mcp.faces",),
    # making a store; what of saeinterp_mcp each part may use is in FROM_THE_SERVER
    "pipeline.source_config": ("pipeline.training.config",),
    "pipeline.config": ("pipeline.source_config",),
    # what a run over sets is told, and the views it draws
    "pipeline.set_config": ("pipeline.config", "pipeline.source_config", "pipeline.training.config"),
    "pipeline.set_views": (),
    "pipeline.stage": ("pipeline.config",),
    "pipeline.checks": (),
    "pipeline.linking": (),
    "pipeline.sorting": ("pipeline.parallel",),
    "pipeline.tokenisation": (),
    "pipeline.fingerprint": ("pipeline.source_config",),
    "pipeline.families": ("pipeline.config",),
    "pipeline.batches": ("pipeline.tokenisation",),
    "pipeline.parallel": (),
    "pipeline.progress": ("pipeline.stage",),
    "pipeline.artifact": ("pipeline.fingerprint", "pipeline.stage"),
    # the child process of a server
    "pipeline.worker": ("pipeline.sources.text_embedding", "pipeline.sources.text_model"),
    # other people's formats; nothing of stages
    "pipeline.sources": (
        "pipeline.config",
        "pipeline.fingerprint",
        "pipeline.set_config",
        "pipeline.source_config",
    ),
    "pipeline.outputs": ("pipeline.sources",),
    "pipeline.evaluation": (
        "pipeline.batches",
        "pipeline.outputs",
        "pipeline.sources",
        "pipeline.tokenisation",
    ),
    "pipeline.ablation": (
        "pipeline.batches",
        "pipeline.config",
        "pipeline.outputs",
        "pipeline.sources",
        "pipeline.stage",
        "pipeline.tokenisation",
    ),
    # other people's formats of activations become bundles
    "pipeline.importers": (
        "pipeline.checks",
        "pipeline.config",
        "pipeline.fingerprint",
        "pipeline.parallel",
        "pipeline.stage",
    ),
    "pipeline.importers.bundle": (),
    # a delphi run: token strings by its tokenizer, and what goes beside the store it became
    "pipeline.importers.delphi_source": (
        "pipeline.importers",
        "pipeline.source_config",
        "pipeline.sources.tokenizer",
        "pipeline.sources.tokenizer_folder",
        "pipeline.validation.config",
    ),
    "pipeline.importers.results": (),
    # sources of JSON: tokens decoded as tokenizers spell them, figures published beside the store
    "pipeline.importers.prompt_spool": ("pipeline.importers", "pipeline.sources.tokenizer"),
    "pipeline.importers.dashboard_source": (
        "pipeline.importers",
        "pipeline.source_config",
        "pipeline.sources.tokenizer",
        "pipeline.sources.tokenizer_folder",
    ),
    "pipeline.importers.published": ("pipeline.importers", "pipeline.validation.publish"),
    "pipeline.importers.attach": (
        "pipeline.importers",
        "pipeline.validation.config",
        "pipeline.validation.publish",
        "pipeline.validation.sources",
    ),
    "pipeline.importers.attach_tables": (
        "pipeline.importers.results",
        "pipeline.validation.config",
        "pipeline.validation.publish",
        "pipeline.validation.score_statistics",
        "pipeline.validation.sources",
    ),
    # a draft's importance is that of the finished store, as label_save gives it
    "pipeline.importers.drafts": ("pipeline.importers", "saeinterp_mcp.operations.features_search"),
    "pipeline.importers.bundle_activations": ("pipeline.importers.bundle",),
    # how an SAE is trained is told by any run; the training itself knows nothing of runs
    "pipeline.training.config": (),
    "pipeline.training": (
        "pipeline.checks",
        "pipeline.config",
        "pipeline.fingerprint",
        "pipeline.source_config",
        "pipeline.sources",
        "pipeline.stage",
    ),
    # vectors of text to train on, and what the model loses by reading the SAE
    "pipeline.training.text_run": (
        "pipeline.config",
        "pipeline.fingerprint",
        "pipeline.sources",
        "pipeline.training.config",
    ),
    "pipeline.training.text_vectors": (
        "pipeline.batches",
        "pipeline.config",
        "pipeline.fingerprint",
        "pipeline.source_config",
        "pipeline.sources",
        "pipeline.stage",
        "pipeline.tokenisation",
        "pipeline.training.text_run",
    ),
    "pipeline.training.held_out_loss": (
        "pipeline.checks",
        "pipeline.config",
        "pipeline.evaluation",
        "pipeline.fingerprint",
        "pipeline.set_config",
        "pipeline.source_config",
        "pipeline.sources",
        "pipeline.stage",
        "pipeline.stages",
        "pipeline.tokenisation",
        "pipeline.training",
    ),
    "pipeline.training.options": ("pipeline.config", "pipeline.set_config", "pipeline.training.config"),
    "pipeline.training.run": (
        "pipeline.config",
        "pipeline.fingerprint",
        "pipeline.progress",
        "pipeline.runner",
        "pipeline.set_config",
        "pipeline.stage",
        "pipeline.stages",
        "pipeline.training",
    ),
    "pipeline.training.command": ("pipeline.training",),
    "pipeline.stages": (
        "pipeline.ablation",
        "pipeline.artifact",
        "pipeline.batches",
        "pipeline.checks",
        "pipeline.config",
        "pipeline.evaluation",
        "pipeline.families",
        "pipeline.fingerprint",
        "pipeline.importers.bundle",
        "pipeline.importers.bundle_activations",
        "pipeline.importers.token_families",
        "pipeline.linking",
        "pipeline.outputs",
        "pipeline.parallel",
        "pipeline.set_config",
        "pipeline.set_views",
        "pipeline.sorting",
        "pipeline.source_config",
        "pipeline.sources",
        "pipeline.stage",
        "pipeline.tokenisation",
        "pipeline.training",
    ),
    "pipeline.runner": (
        "pipeline.artifact",
        "pipeline.config",
        "pipeline.fingerprint",
        "pipeline.progress",
        "pipeline.stage",
        "pipeline.stages",
    ),
    "pipeline.importers.run_import": (
        "pipeline.artifact",
        "pipeline.config",
        "pipeline.fingerprint",
        "pipeline.importers",
        "pipeline.progress",
        "pipeline.runner",
        "pipeline.stage",
        "pipeline.stages",
    ),
    "pipeline.importers.run_straight": (
        "pipeline.config",
        "pipeline.importers",
        "pipeline.stage",
        "pipeline.stages",
    ),
    "pipeline.importers.run_compact": (
        "pipeline.config",
        "pipeline.importers",
        "pipeline.progress",
        "pipeline.stage",
        "pipeline.stages",
    ),
    "pipeline.exporters": ("pipeline.parallel", "pipeline.progress"),
    "pipeline.build": (
        "pipeline.config",
        "pipeline.progress",
        "pipeline.runner",
        "pipeline.set_config",
        "pipeline.stage",
        "pipeline.stages",
    ),
    # ways of asking what a feature means, and the runs that ask; a run asks a finished store, as an agent does
    "pipeline.explainers": ("saeinterp_mcp.operations",),
    "pipeline.autointerp": (
        "pipeline.explainers",
        "pipeline.progress",
        "saeinterp_mcp.operations",
    ),
    # the seed's run_labeling: a small store by our own stages, examples and labels out of it
    "pipeline.labeling": (
        "pipeline.build",
        "pipeline.config",
        "pipeline.explainers",
        "pipeline.fingerprint",
        "pipeline.progress",
        "pipeline.source_config",
        "pipeline.sources",
    ),
    "pipeline.labeling.command": ("pipeline.run_labeling",),
    "pipeline.run_labeling": ("pipeline.fingerprint", "pipeline.labeling", "pipeline.progress"),
    # tables that set explanations against activations, by stages of their own
    "pipeline.validation": (
        "pipeline.artifact",
        "pipeline.config",
        "pipeline.fingerprint",
        "pipeline.importers.json_lines",
        "pipeline.importers.results",
        "pipeline.linking",
        "pipeline.parallel",
        "pipeline.progress",
        "pipeline.runner",
        "pipeline.sources.embedder_folder",
        "pipeline.sources.text_embedding",
        "pipeline.stage",
    ),
    "pipeline.verify": ("pipeline.stages.sum_labels",),
    "pipeline.__main__": (
        "pipeline.autointerp.command",
        "pipeline.build",
        "pipeline.config",
        "pipeline.exporters",
        "pipeline.importers",
        "pipeline.labeling.command",
        "pipeline.progress",
        "pipeline.training.command",
        "pipeline.validation.command",
        "pipeline.verify",
    ),
}
"""Part of ours to the parts it may import; a part may always import itself."""

FROM_THE_SERVER = (
    "saeinterp_mcp.analysis",
    "saeinterp_mcp.asking",
    "saeinterp_mcp.clients",
    "saeinterp_mcp.config",
    "saeinterp_mcp.errors",
    "saeinterp_mcp.excerpts",
    "saeinterp_mcp.fingerprint",
    "saeinterp_mcp.frozen",
    "saeinterp_mcp.labels",
    "saeinterp_mcp.loaders",
    "saeinterp_mcp.patterns",
    "saeinterp_mcp.rules",
    "saeinterp_mcp.scorers",
    "saeinterp_mcp.store",
    "saeinterp_mcp.validation",
)
"""What any part of the pipeline may import of saeinterp_mcp: not operations, not faces."""

HEAVY = ("torch", "transformers", "sae_lens", "transformer_lens", "sentence_transformers", "datasets")

ONLY_IN = {
    "anthropic": ("saeinterp_mcp.clients.anthropic",),
    "openai": ("saeinterp_mcp.clients.openai",),
    "mcp": ("saeinterp_mcp.faces",),
    "uvicorn": ("saeinterp_mcp.faces",),
    "typer": (
        "saeinterp_mcp.faces",
        "pipeline.__main__",
        "pipeline.autointerp.command",
        "pipeline.importers.attach_command",
        "pipeline.labeling.command",
        "pipeline.training.command",
        "pipeline.validation.command",
    ),
    "zarr": ("pipeline.exporters", "saeinterp_mcp.loaders", "saeinterp_mcp.store"),
    "h5py": ("pipeline.importers.hdf5_source",),
    "matplotlib": ("saeinterp_mcp.operations",),
    "umap": ("pipeline.validation.umap_points",),
    "sklearn": ("pipeline.validation.clusters",),
    "threadpoolctl": ("pipeline.validation",),
    "lark": ("saeinterp_mcp.rules",),
    "datasets": ("pipeline.sources",),
    "sae_lens": ("pipeline.sources", "pipeline.training.saelens"),
    "sentence_transformers": ("pipeline.sources",),
    "huggingface_hub": ("pipeline.sources",),
    "safetensors": (
        "pipeline.importers.delphi_cache",
        "pipeline.sources",
        "pipeline.training.checkpoint",
    ),
    "transformer_lens": ("pipeline.sources",),
    "transformers": ("pipeline.sources",),
    # these compute on the model's own tensors; everything that opens a file of torch's lies in sources
    "torch": (
        "pipeline.ablation",
        "pipeline.evaluation",
        "pipeline.outputs",
        "pipeline.sources",
        "pipeline.stages.check_vectors",
        "pipeline.stages.collect_activations",
        "pipeline.stages.encode_vectors",
        "pipeline.stages.measure_read_out",
        "pipeline.training",
    ),
    "pickle": (),
    "cPickle": (),
    "dill": (),
    "cloudpickle": (),
    "joblib": (),
    "shelve": (),
    "marshal": (),
}
"""Library to the only parts of ours that may import it."""

ANALYSIS_LIBRARIES = {
    "__future__", "collections", "dataclasses", "functools", "hashlib", "itertools", "math", "numpy", "re", "scipy",
    "typing", "unicodedata",
}  # fmt: skip
"""Arithmetic and text: nothing here opens a file or a connection."""


class Import(NamedTuple):
    """One import statement."""

    module: str
    """Which module of ours it stands in."""
    line: int
    name: str
    """The module it imports."""
    at_start: bool
    """Whether importing the module runs it: not in a function, not for type checkers only."""


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def sources() -> dict[str, ast.Module]:
    paths = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    return {module_name(path): ast.parse(path.read_text(encoding="utf-8")) for path in paths}


SOURCES = sources()


def within(module: str, part: str) -> bool:
    return module == part or module.startswith(part + ".")


def imports_of(module: str) -> Iterator[Import]:
    def walk(node: ast.AST, at_start: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            inside = at_start and not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                inside = False
            if isinstance(child, ast.Import):
                for alias in child.names:
                    yield Import(module, child.lineno, alias.name, inside)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{module}, line {child.lineno}: imports are written in full here"
                assert child.module is not None
                for alias in child.names:
                    full = f"{child.module}.{alias.name}"
                    yield Import(module, child.lineno, full if full in SOURCES else child.module, inside)
            else:
                yield from walk(child, inside)

    return walk(SOURCES[module], True)


IMPORTS = [found for module in SOURCES for found in imports_of(module)]
OURS = [found for found in IMPORTS if found.name.split(".")[0] in PACKAGES]


def part_of(module: str) -> str | None:
    """The entry of ALLOWED that a module belongs to; None for a package's own empty `__init__`."""
    return max((part for part in ALLOWED if within(module, part)), key=len, default=None)


def say(found: Import) -> str:
    return f"{found.module}, line {found.line}: {found.name}"


def test_every_module_has_its_place_in_the_table() -> None:
    homeless = [
        m for m, tree in SOURCES.items() if part_of(m) is None and not (m in PACKAGES or not tree.body)
    ]
    assert homeless == [], "write down what these may import, in ALLOWED"


def test_imports_go_the_way_the_table_says() -> None:
    wrong = []
    for found in OURS:
        part = part_of(found.module)
        assert part is not None, say(found)
        allowed = (part, *ALLOWED[part], *(FROM_THE_SERVER if part.startswith("pipeline.") else ()))
        if not any(within(found.name, name) for name in allowed):
            wrong.append(say(found))
    assert wrong == []


def test_the_table_allows_nothing_that_is_not_there() -> None:
    existing = set(SOURCES)
    named = {name for part, names in ALLOWED.items() for name in (part, *names)} | set(FROM_THE_SERVER)
    assert sorted(name for name in named if name not in existing) == []


def test_the_server_knows_neither_the_pipeline_nor_torch() -> None:
    banned = ("pipeline", *HEAVY)
    wrong = [
        f
        for f in IMPORTS
        if within(f.module, "saeinterp_mcp") and any(within(f.name, name) for name in banned)
    ]
    assert list(map(say, wrong)) == []


def test_libraries_stay_where_they_belong() -> None:
    wrong = []
    for found in IMPORTS:
        library = found.name.split(".")[0]
        if library in ONLY_IN and not any(within(found.module, part) for part in ONLY_IN[library]):
            wrong.append(say(found))
    assert wrong == []


def test_analysis_opens_nothing() -> None:
    mine = [f for f in IMPORTS if within(f.module, "saeinterp_mcp.analysis") and f not in OURS]
    assert [say(f) for f in mine if f.name.split(".")[0] not in ANALYSIS_LIBRARIES] == []
    files = {
        "open",
        "np.load",
        "np.save",
        "np.savez",
        "np.fromfile",
        "np.memmap",
        "np.loadtxt",
        "np.genfromtxt",
    }
    opened = [
        f"{module}, line {node.lineno}: {name}"
        for module, node, name in calls()
        if within(module, "saeinterp_mcp.analysis") and name in files
    ]
    assert opened == []


def test_no_module_imports_itself_through_others_when_it_starts() -> None:
    edges: dict[str, set[str]] = {module: set() for module in SOURCES}
    for found in OURS:
        if found.at_start and found.name != found.module:
            edges[found.module].add(found.name)
    done: set[str] = set()

    def follow(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, "a circle: " + " -> ".join([*path[path.index(module) :], module])
        if module not in done:
            for name in sorted(edges.get(module, ())):
                follow(name, (*path, module))
            done.add(module)

    for module in SOURCES:
        follow(module, ())


def calls() -> Iterator[tuple[str, ast.Call, str]]:
    for module, tree in SOURCES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                yield module, node, ast.unparse(node.func)


def test_nothing_runs_code_that_it_has_read() -> None:
    banned = {"eval", "exec", "compile", "__import__", "builtins.eval", "builtins.exec"}
    wrong = [f"{module}, line {node.lineno}: {name}" for module, node, name in calls() if name in banned]
    assert wrong == []


def test_nothing_is_unpickled() -> None:
    """Neither by torch, which is asked for weights alone, nor by NumPy and pandas, which can too."""
    for module, node, name in calls():
        given = {k.arg: ast.unparse(k.value) for k in node.keywords}
        where = f"{module}, line {node.lineno}"
        assert not name.endswith(("read_pickle", "to_pickle", "from_pickle")), where
        assert given.get("allow_pickle", "False") == "False", where
        if name == "torch.load" or (name.endswith(".load") and name.startswith("torch.")):
            assert within(module, "pipeline.sources"), f"{where}: torch.load outside pipeline/sources"
            assert given.get("weights_only") == "True", f"{where}: torch.load without weights_only=True"
        if name in ("np.load", "numpy.load"):
            assert given.get("allow_pickle") == "False", f"{where}: np.load without allow_pickle=False"


def test_torch_load_has_no_second_name() -> None:
    wrong = [
        f"{module}, line {node.lineno}"
        for module, tree in SOURCES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        and node.module in ("torch", "numpy")
        and any(alias.name == "load" for alias in node.names)
    ]
    assert wrong == []


@pytest.mark.parametrize(
    "module",
    [
        "saeinterp_mcp.operations",
        "pipeline.importers.run_import",
        "pipeline.verify",
        "pipeline.__main__",
    ],
)
def test_a_plain_install_is_enough_to_import(module: str) -> None:
    code = f"import sys, {module}\nprint(*sorted(set({HEAVY!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []
