#!/usr/bin/env bash
# Train a hybrid on the processes of one machine: expert parallel within pairs of processes, data parallel across them.
# A process that dies takes the others with it; all start again from the newest checkpoint, at most three times.
#
#   examples/train_torchrun.sh data/web runs/web arctic-nano 4
set -euo pipefail
data=$1 out=$2 tokenizer=$3 processes=$4

export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$(($(nproc) / processes > 0 ? $(nproc) / processes : 1))}
exec torchrun --standalone --nproc-per-node "$processes" --max-restarts 3 --no-python \
  openarctic train pretrain --data "$data" --tokenizer "$tokenizer" --out "$out" \
  --set parallel.expert=2 --set train.checkpoint_minutes=5
