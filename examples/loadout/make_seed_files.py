"""Write what the storage guide starts from: a user's own model of this kind, its data, and an SAE for it.

    python -m examples.loadout.make_seed_files OUT [--sae SAELENS_FOLDER]

OUT then holds `model.pth`, `vocab.json`, `weapon_vocab.json`, `tokenized_data.csv`, `weapon_attributes.parquet`,
the adapter and `own_model.yaml`; with `--sae`, an SAE of architecture `standard` trained on our model, also
`sae_model_final.pth`.

The guide's SAE cuts activations off at 6, and its decoder's columns have unit length, so what activations are
depends on how long the model's vectors are. They are made shorter here, by multiplying weights; all but
the epsilon of the layer norms follows exactly.
"""

import argparse
import json
import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from examples.loadout import game
from examples.loadout.adapter import NULL, PAD, LoadoutModel
from pipeline.source_config import SaeConfig
from pipeline.sources.sae import SparseAutoencoder
from pipeline.sources.saelens_format import load_sae

MODEL_FILES = {name: game.HERE / "model" / file for name, file in (
    ("config", "config.json"), ("weights", "model.safetensors"),
)}  # fmt: skip
HIGHEST = 5.5
"""What the largest activation on the whole builds becomes; views of them may be a little above, and 6 is cut."""
RESIDUAL = ("ability.weight", "weapon.weight", "mix.weight", "mix.bias", "narrow.weight", "narrow.bias")
"""Weights whose output is added up to the pooled vector; everything else reads it through a layer norm."""


def shortened(state: dict[str, Tensor], factor: float) -> dict[str, Tensor]:
    """The same model with every pooled vector times `factor`, and the same logits."""
    changed = {n: t * factor for n, t in state.items() if n.endswith(RESIDUAL)}
    return state | changed | {"output.weight": state["output.weight"] / factor}


def unit_columns(sae: SparseAutoencoder) -> dict[str, Tensor]:
    """A standard SAE in the guide's arithmetic: relu(W_e (x - b_dec) + b_e), decoder columns of unit length."""
    if sae.header.architecture != "standard" or sae.header.normalisation != "none":
        raise SystemExit(
            f"the SAE is {sae.header.architecture}, and the guide's has a plain ReLU without a threshold; "
            "train one: saeinterp-pipeline train-sae examples/loadout/run.yaml --l1-coeff 0.004 --save-dir SAE"
        )
    size = sae.W_dec.norm(dim=1)
    bias = sae.b_enc if sae.header.apply_b_dec_to_input else sae.b_enc + sae.b_dec @ sae.W_enc
    return {
        "encoder.weight": (sae.W_enc * size).T.contiguous(),
        "encoder.bias": bias * size,
        "decoder.weight": (sae.W_dec / size[:, None]).T.contiguous(),
        "decoder_bias": sae.b_dec.clone(),
    }


def for_shortened(sae: dict[str, Tensor], factor: float) -> dict[str, Tensor]:
    """The SAE for vectors times `factor`: its activations are times `factor` too."""
    return sae | {name: sae[name] * factor for name in ("encoder.bias", "decoder_bias")}


def highest_activation(model: LoadoutModel, sae: dict[str, Tensor], builds: pa.Table, n: int) -> float:
    """The largest activation on the first `n` whole builds."""
    tokens, weapons = (builds[name].to_pylist()[:n] for name in ("tokens", "weapon"))
    x = model.capture(tokens, {"weapon": weapons}, "masked_mean")
    pre = (x - sae["decoder_bias"]) @ sae["encoder.weight"].T + sae["encoder.bias"]
    return float(pre.max())


def save(tensors: dict[str, Tensor], path: Path) -> None:
    """A checkpoint as the guide has it: tensors by name, nothing else, so `weights_only` reads it."""
    torch.save({name: tensor.contiguous() for name, tensor in tensors.items()}, path)


def weapon_name(kit: game.Weapon) -> str:
    """What the guide calls a weapon."""
    return f"weapon_id_{kit.id}"


def write_vocabularies(out: Path) -> None:
    """`vocab.json` (138 tokens, then `<NULL>` and `<PAD>`) and `weapon_vocab.json`."""
    vocabularies: dict[str, Iterable[str]] = {
        "vocab.json": (*game.TOKENS, NULL, PAD),
        "weapon_vocab.json": map(weapon_name, game.weapons()),
    }
    for file, names in vocabularies.items():
        content = {name: index for index, name in enumerate(names)}
        (out / file).write_text(json.dumps(content, indent=0) + "\n", encoding="utf-8")


def write_data(builds: pa.Table, out: Path) -> None:
    """`tokenized_data.csv`, tab between the columns, and the attributes of the weapons by the names it has."""
    token_index = {token: index for index, token in enumerate(game.TOKENS)}
    weapon_index = {kit.weapon: index for index, kit in enumerate(game.weapons())}
    lines = ["ability_tags\tweapon_id"]
    for tokens, weapon in zip(builds["tokens"].to_pylist(), builds["weapon"].to_pylist(), strict=True):
        lines.append(f"{json.dumps([token_index[token] for token in tokens])}\t{weapon_index[weapon]}")
    (out / "tokenized_data.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    kits = game.weapons()
    columns = {"weapon": [weapon_name(kit) for kit in kits], "name": [kit.weapon for kit in kits]}
    columns |= {name: [kit.attribute(name) for kit in kits] for name in ("class", "sub", "special")}
    pq.write_table(pa.table(columns), out / "weapon_attributes.parquet", compression="zstd")


def write_all(out: Path, sae_folder: Path | None) -> float:
    """Write everything; how much shorter the vectors are."""
    out.mkdir(parents=True, exist_ok=True)
    builds = pq.read_table(game.HERE / "builds.parquet")
    model = LoadoutModel(MODEL_FILES, torch.device("cpu"))
    factor = 1.0
    if sae_folder is not None:
        sae = unit_columns(load_sae(SaeConfig(path=sae_folder), torch.device("cpu")))
        factor = HIGHEST / highest_activation(model, sae, builds, 4096)
        save(for_shortened(sae, factor), out / "sae_model_final.pth")
    save(shortened(model.network.state_dict(), factor), out / "model.pth")
    write_vocabularies(out)
    write_data(builds, out)
    for file in ("adapter.py", "own_model.yaml"):
        shutil.copyfile(game.HERE / file, out / file)
    return factor


def main() -> None:
    """Write the files and say how."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--sae", type=Path, help="SAELens folder of a standard SAE trained on our model")
    arguments = parser.parse_args()
    factor = write_all(arguments.out, arguments.sae)
    sizes = {path.name: path.stat().st_size for path in sorted(arguments.out.iterdir()) if path.is_file()}
    print(json.dumps({"vectors_times": float(np.round(factor, 6)), "bytes": sizes}))


if __name__ == "__main__":
    main()
