"""`saeinterp-pipeline train-sae`: from a model and its data to a directory that SAELens and `build` read."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.config import Execution, RunConfig
from pipeline.fingerprint import write_whole
from pipeline.progress import Reporter, default_reporter
from pipeline.runner import run_stages
from pipeline.set_config import SetRunConfig
from pipeline.stage import Stage
from pipeline.stages.capture_vectors import CAPTURE_VECTORS
from pipeline.stages.draw_samples import DRAW_SAMPLES
from pipeline.stages.tokenize_dataset import TOKENIZE_DATASET
from pipeline.stages.train_sae import TRAIN_SAE
from pipeline.training.held_out_loss import LOSS, SET_LOSS, TEXT_LOSS
from pipeline.training.report import TrainingReport
from pipeline.training.text_run import TextTrainingRun
from pipeline.training.text_vectors import CAPTURE_TEXT_VECTORS
from saeinterp_mcp.errors import BadInput
from saeinterp_mcp.fingerprint import canonical_json

FILES = ("cfg.json", "sae_weights.safetensors")

TEXT_STAGES: tuple[Stage[Any], ...] = (
    TOKENIZE_DATASET,
    CAPTURE_TEXT_VECTORS,
    replace(TRAIN_SAE, inputs=("capture_vectors",)),
    TEXT_LOSS,
)
SET_STAGES: tuple[Stage[Any], ...] = (DRAW_SAMPLES, CAPTURE_VECTORS, TRAIN_SAE, SET_LOSS)


def train_sae(
    run: RunConfig | SetRunConfig,
    save_dir: Path,
    execution: Execution,
    max_gb: float = 8.0,
    progress: Reporter | None = None,
) -> TrainingReport:
    """Train the SAE of a run and put it into `save_dir`, with `report.json` beside its weights.

    Works in `<save_dir>.work`, where the vectors stay: another training on the same ones begins at once. What is
    done is skipped, and a run that was killed goes on where it was.

    Raises:
        SaeInterpError: a config, an input or a folder that does not fit.
    """
    save_dir = save_dir.resolve()
    if save_dir.exists() and not is_ours(save_dir):
        raise BadInput(
            f"{save_dir} exists and was not made by train-sae; give another --save-dir, or remove it"
        )
    work = save_dir.with_name(save_dir.name + ".work")
    work.mkdir(parents=True, exist_ok=True)
    reporter = progress if progress is not None else default_reporter()
    if isinstance(run, SetRunConfig):
        sections: Any = run.model_copy(update={"work": work, "execution": execution})
        stages = SET_STAGES
    else:
        sections, stages = TextTrainingRun(run, max_gb, work, execution), TEXT_STAGES
    folders = run_stages(stages, sections, execution=execution, progress=reporter)
    report = whole_report(folders)
    deliver(folders["train_sae"] / "sae", report, save_dir)
    return report


def whole_report(folders: dict[str, Path]) -> TrainingReport:
    """The report of the training, with the loss of the model."""
    content = json.loads((folders["train_sae"] / "report.json").read_text(encoding="utf-8"))
    content |= json.loads((folders["measure_loss"] / LOSS).read_text(encoding="utf-8"))
    return TrainingReport.model_validate(content)


def is_ours(folder: Path) -> bool:
    """Whether a folder is empty, or holds an SAE that an earlier training put there and nothing else."""
    if not folder.is_dir():
        return False
    names = {path.name for path in folder.iterdir()}
    return not names or names == {*FILES, "report.json"}


def deliver(sae: Path, report: TrainingReport, save_dir: Path) -> None:
    """Put the SAE and its report in place, whole, and in place of an earlier one."""
    coming = save_dir.with_name(save_dir.name + ".coming")
    shutil.rmtree(coming, ignore_errors=True)
    coming.mkdir()
    for name in FILES:
        shutil.copyfile(sae / name, coming / name)
    write_whole(coming / "report.json", canonical_json(report.model_dump(mode="json")) + "\n")
    if save_dir.exists():
        shutil.rmtree(save_dir)
    coming.rename(save_dir)
