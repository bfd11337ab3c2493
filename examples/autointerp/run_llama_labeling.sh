#!/usr/bin/env bash
# The seed's runner: bash run_llama_labeling.sh FEATURES [SAE_PATH] [SAE_ID]
#
#   FEATURES  "11,313,251", or a JSON file with feature_indices and scores
#   SAE_PATH  a SAELens folder, a sparsify folder (layers.N), a SAELens release; or a finished store
#   SAE_ID    where it reads, such as blocks.19.hook_resid_post, if its own files do not say
#
# From the environment:
#   MODEL_PATH    Hugging Face directory or hub name; no default (not needed with a finished store)
#   DATASET_PATH  Parquet, JSON lines or CSV file, folder, or hub name; no default (as above)
#   OUTPUT_DIR    default results
#   N_SAMPLES     rows of the dataset, default 1000
#   MAX_EXAMPLES  of each feature, default 20
#   LABEL_MODEL   directory, anthropic:MODEL, openai:MODEL@URL, or none; default: the model itself
#
# Any further option of `saeinterp-pipeline label` may follow the three arguments.
set -euo pipefail

if [ "$#" -lt 1 ] || [ -z "$1" ]; then
    echo "Error: FEATURES has no default: bash $0 \"11,313,251\" [SAE_PATH] [SAE_ID]" >&2
    exit 2
fi

arguments=()
while [ "$#" -gt 0 ] && [ "${#arguments[@]}" -lt 3 ] && [[ "$1" != --* ]]; do
    arguments+=("$1")
    shift
done
if [ -n "${LABEL_MODEL:-}" ]; then
    set -- --label-model "$LABEL_MODEL" "$@"
fi
exec saeinterp-pipeline label "${arguments[@]}" "$@"
