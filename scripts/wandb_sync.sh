#!/usr/bin/env bash
# Sends the offline runs of an experiment, or of all, to Weights & Biases, but for those sent before.
#
#   scripts/wandb_sync.sh [EXPERIMENT] [RESULTS_DIR]      ENTITY=team PROJECT=name DRY=1 if need be
#
# Only whole logs go: a run that was killed while it logged is left to the command that made it,
# which logs it again.
set -euo pipefail

experiment=${1:-*} root=${2:-results}
options=(--yes)
options+=(${ENTITY:+--entity "$ENTITY"} ${PROJECT:+--project "$PROJECT"})

shopt -s nullglob
sent=0
for whole in "$root"/{runs,plans}/$experiment/*/wandb/complete; do
  for run in "$(dirname "$whole")"/offline-run-*; do
    if compgen -G "$run/*.synced" >/dev/null; then continue; fi
    echo "$run"
    sent=$((sent + 1))
    if [ -z "${DRY:-}" ]; then wandb sync "${options[@]}" "$run"; fi
  done
done
if ! compgen -G "$root/*/$experiment" >/dev/null; then
  echo "wandb_sync: nothing named $experiment in $root" >&2
  exit 1
fi
echo "$sent offline runs ${DRY:+would be }sent"
