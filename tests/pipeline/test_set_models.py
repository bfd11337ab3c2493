from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.config import Execution
from pipeline.set_config import SetModelConfig
from pipeline.sources.checkpoint import load_checkpoint
from pipeline.sources.set_model import SetModel, load_set_model
from saeinterp_mcp.errors import BadInput, BadStore
from tests.pipeline.set_world import SetRun, make_world, write_set_run

GUIDE = "docs/own-model.md has one that works"
SHAPE = "it must return a tensor of shape (2, 2): one row a sample, d_model = 2 wide"
THREE = "it must return (weight (2, n_outputs), bias (n_outputs,), n_outputs names)"
GOOD = """
import torch

class Model:
    d_model = 2
    hooks = ("pooled",)
    def __init__(self, files, device):
        pass
    def capture(self, tokens, groups, hook):
        return torch.tensor([[len(held), 1.0] for held in tokens])
    def read_out(self):
        return torch.ones(2, 3), torch.zeros(3), ["a", "b", "c"]
"""


def load(folder: Path, text: str, **section: Any) -> SetModel:
    path = folder / "adapter.py"
    path.write_text(text, encoding="utf-8")
    config = SetModelConfig.model_validate({"adapter": path} | section)
    return load_set_model(config, Execution(device="cpu"))


def capture(model: SetModel) -> list[list[float]]:
    found: list[list[float]] = model.capture([["a"], []], {}, "pooled").tolist()
    return found


def test_an_adapter_gives_one_vector_a_sample(tmp_path: Path) -> None:
    model = load(tmp_path, GOOD)
    assert capture(model) == [[1.0, 1.0], [0.0, 1.0]]
    read_out = model.read_out()
    assert read_out is not None
    assert read_out.tokens == ["a", "b", "c"]
    assert read_out.logits(torch.tensor([[2.0, 1.0]])).tolist() == [[3.0, 3.0, 3.0]]


def test_a_read_out_may_be_missing(tmp_path: Path) -> None:
    assert load(tmp_path, GOOD[: GOOD.index("    def read_out")]).read_out() is None


def use(folder: Path, text: str) -> None:
    """All that a build asks of an adapter."""
    model = load(folder, text)
    capture(model)
    model.read_out()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("class Model", "clas Model",
         f", line 4: the file raised SyntaxError: invalid syntax (adapter.py, line 4); {GUIDE}"),
        ("import torch", "import torsh",
         f", line 2: the file raised ModuleNotFoundError: No module named 'torsh'; {GUIDE}"),
        ("capture", "catch", f" must have one class with `capture`, found none; {GUIDE}"),
        ("class Model", "class Other:\n    capture = len\nclass Model",
         " must have one class with `capture`, found Other, Model; name it as model.class"),
        ("        pass", "        files['weights']", f", line 8: __init__ raised KeyError: 'weights'; {GUIDE}"),
        ("d_model = 2", "d_model = None", ": d_model is None; set self.d_model to the width of the hook's vector"),
        ('("pooled",)', '"pooled"', ": hooks is 'pooled'; set hooks to a tuple of names, such as ('masked_mean',)"),
        ("len(held), 1.0]", "1.0]", f": capture returned (2, 1) for 2 samples; {SHAPE}"),
        ("torch.tensor(", "(", f": capture returned list for 2 samples; {SHAPE}"),
        ("len(held), 1.0", "1.0, 1 / len(held)",
         f", line 10: capture raised ZeroDivisionError: division by zero; {GUIDE}"),
        ("len(held), 1.0", "1.0, len(held) or float('nan')",
         ": capture returned numbers that are not finite for the sample []; look for a mean over no token, or a "
         "division by a norm of 0"),
        ("torch.ones(2, 3)", "torch.ones(3, 2)",
         f": read_out returned (3, 2), (3,) and 3 names; {THREE}; a Linear layer's weight must be turned: "
         "layer.weight.T"),
        ('"c"]', '"a"]', f": read_out names two outputs alike, or one by something else than a string; {THREE}"),
        ("torch.zeros(3), ", "", f": read_out returned tuple; {THREE}"),
        ("torch.zeros(3)", "torch.zeros(3) / 0",
         ": read_out returned numbers that are not finite; look at the checkpoint"),
    ],
)  # fmt: skip
def test_an_adapter_that_does_not_fit_is_refused_with_file_and_advice(
    old: str, new: str, message: str, tmp_path: Path
) -> None:
    assert old in GOOD
    with pytest.raises(BadInput) as error:
        use(tmp_path, GOOD.replace(old, new))
    assert str(error.value) == f"adapter {tmp_path / 'adapter.py'}{message}"


def test_the_class_can_be_named(tmp_path: Path) -> None:
    two = GOOD + "\n\nclass Second(Model):\n    d_model = 2\n"
    assert capture(load(tmp_path, two, **{"class": "Second"}))
    with pytest.raises(BadInput) as error:
        load(tmp_path, two, **{"class": "Sekond"})
    assert str(error.value).endswith("has no class 'Sekond' with `capture`; nearest: 'Second'")


def test_an_imported_class_is_not_the_adapters_own(tmp_path: Path) -> None:
    (tmp_path / "other.py").write_text("class Base:\n    def capture(self): ...\n", encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        assert capture(load(tmp_path, "from other import Base\n" + GOOD))


def test_a_missing_file_and_a_missing_adapter_are_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput) as error:
        load(tmp_path, GOOD, files={"weights": tmp_path / "no.pth"})
    assert str(error.value) == f"model: files names weights, but there is no {tmp_path / 'no.pth'}"
    with pytest.raises(BadInput) as error:
        load_set_model(SetModelConfig(adapter=tmp_path / "no.py"), Execution())
    assert str(error.value) == f"model: there is no adapter {tmp_path / 'no.py'}; {GUIDE}"


def test_checkpoints_are_read_bare_or_wrapped(tmp_path: Path) -> None:
    state = {"a.weight": torch.ones(2, 3)}
    torch.save(state, tmp_path / "bare.pth")
    torch.save({"model_state_dict": state, "epoch": 3}, tmp_path / "wrapped.pth")
    for name in ("bare.pth", "wrapped.pth"):
        (found,) = load_checkpoint(tmp_path / name).items()
        assert found[0] == "a.weight"
        assert found[1].tolist() == [[1.0] * 3] * 2


class Trap:
    """Unpickled, it would leave a file behind."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self.path, "w")


def test_a_pickled_object_is_refused_and_not_run(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(1), "trap": Trap(str(tmp_path / "ran"))}, tmp_path / "model.pth")
    with pytest.raises(BadStore) as error:
        load_checkpoint(tmp_path / "model.pth")
    assert not (tmp_path / "ran").exists()
    assert str(error.value).startswith(
        f"{tmp_path / 'model.pth'}: expected weights alone, as torch.save(model.state_dict(), PATH) writes them; found"
    )
    assert str(error.value).endswith(
        "Objects are never unpickled here; where the model is defined, save its state dict."
    )


@pytest.mark.parametrize(
    ("content", "found"),
    [([torch.ones(1)], "list"), ({"epoch": 3}, "other things under epoch"), ({}, "dict")],
)
def test_a_checkpoint_without_a_state_dict_is_refused(content: object, found: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "model.pth")
    with pytest.raises(BadStore, match=f"found {found}"):
        load_checkpoint(tmp_path / "model.pth")


@pytest.mark.parametrize("name", ["model.pth", "model.safetensors"])
def test_a_damaged_checkpoint_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"PK\x03\x04 no")
    with pytest.raises(BadStore):
        load_checkpoint(tmp_path / name)
    with pytest.raises(BadInput):
        load_checkpoint(tmp_path / f"no-{name}")


def test_the_adapter_and_its_files_are_in_the_fingerprint(tmp_path: Path) -> None:
    run = write_set_run(tmp_path, make_world(n_builds=10))
    run.build(until="capture_vectors")
    adapter = tmp_path / "adapter.py"
    adapter.write_text(adapter.read_text(encoding="utf-8") + "# changed\n", encoding="utf-8")
    run.build(until="capture_vectors")
    assert run.said.first("capture_vectors") == "capture_vectors: runs, file changed: adapter"
    names = tmp_path / "names.json"
    names.write_text(names.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    run.build(until="capture_vectors")
    assert run.said.first("capture_vectors") == "capture_vectors: runs, file changed: model/names"
    run.build(until="capture_vectors")
    assert run.said.first("capture_vectors").startswith("capture_vectors: skipped")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"hook": "masked_men"},
            "has no hook 'masked_men'; nearest: 'masked_mean'; change `hook`, or add it to `hooks`",
        ),
        (
            {"dataset": {"format": "parquet", "path": "builds.parquet", "groups": []}},
            f"capture raised KeyError: 'weapon'; {GUIDE}",
        ),
    ],
)
def test_a_run_that_the_adapter_cannot_serve_is_refused(
    changed: dict[str, Any], message: str, tmp_path: Path
) -> None:
    run: SetRun = write_set_run(tmp_path, make_world(n_builds=10))
    with pytest.raises(BadInput) as error:
        run.build(**changed)
    assert str(error.value).endswith(message)


def test_an_adapter_that_looks_at_nothing_is_refused(tmp_path: Path) -> None:
    blind = GOOD.replace("len(held), 1.0", "1.0, 1.0")
    run = write_set_run(tmp_path, make_world(n_builds=10), adapter=blind)
    with pytest.raises(BadInput) as error:
        run.build(hook="pooled")
    assert str(error.value) == (
        "the adapter returned the same vector for every sample; does `capture` read its tokens?"
    )
