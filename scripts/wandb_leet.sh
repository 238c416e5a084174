#!/usr/bin/env bash
# Shows the offline runs of an experiment, or of all, in `wandb leet`, W&B's terminal dashboard.
#
#   scripts/wandb_leet.sh [EXPERIMENT] [RESULTS_DIR]
set -euo pipefail

experiment=${1:-*} root=$(realpath "${2:-results}")
all=$(mktemp -d)
trap 'rm -rf "$all"' EXIT
shopt -s nullglob
for run in "$root"/runs/$experiment/*/wandb/*run-*/; do
  ln -s "$run" "$all/$(basename "$run")"
done
if ! compgen -G "$all/*" >/dev/null; then
  echo "wandb_leet: no runs of W&B in $root/runs/$experiment" >&2
  exit 1
fi
wandb leet "$all"
