"""Write trained weights as the repository ships them: fp16, readable by everybody.

    python ship.py --model WORK/lm --sae WORK/sae

Half precision halves the files and changes nothing that `evaluate.py` shows; everything computes in fp32.
"""

import argparse
import json
import shutil
from pathlib import Path

from safetensors.torch import load_file, save_file

HERE = Path(__file__).parent
MODEL_FILES = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json")
READABLE = 0o644


def ship_weights(source: Path, target: Path, metadata: dict[str, str] | None = None) -> None:
    """Copy one safetensors file as fp16."""
    halves = {name: tensor.half().contiguous() for name, tensor in load_file(source).items()}
    save_file(halves, target, metadata=metadata)


def ship_model(source: Path, target: Path) -> None:
    """A HuggingFace directory; transformers wants to read `format` in its metadata."""
    target.mkdir(parents=True, exist_ok=True)
    for name in MODEL_FILES:
        if (source / name).resolve() != (target / name).resolve():
            shutil.copyfile(source / name, target / name)
    config = json.loads((target / "config.json").read_text())
    # TransformerLens 3 reads n_ctx, which transformers 5 may leave out; the dtype is that of the computation.
    config |= {"n_ctx": config["n_positions"], "dtype": "float32"}
    (target / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    ship_weights(source / "model.safetensors", target / "model.safetensors", {"format": "pt"})


def ship_sae(source: Path, target: Path) -> None:
    """A SAELens directory."""
    target.mkdir(parents=True, exist_ok=True)
    config = json.loads((source / "cfg.json").read_text())
    (target / "cfg.json").write_text(json.dumps(config, indent=1) + "\n")
    ship_weights(source / "sae_weights.safetensors", target / "sae_weights.safetensors")


def main() -> None:
    """Write both, and open them to all readers: safetensors makes files that only their owner can read."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, help="folder written by train_lm.py")
    parser.add_argument("--sae", type=Path, help="folder written by train_sae.py")
    parser.add_argument("--out", type=Path, default=HERE)
    arguments = parser.parse_args()
    if arguments.model:
        ship_model(arguments.model, arguments.out / "model")
    if arguments.sae:
        ship_sae(arguments.sae, arguments.out / "sae")
    for folder in ("model", "sae"):
        for path in (arguments.out / folder).glob("*"):
            path.chmod(READABLE)


if __name__ == "__main__":
    main()
