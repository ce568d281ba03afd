#!/usr/bin/env bash
#SBATCH --job-name=openarctic
#SBATCH --nodes=8
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
# Train a hybrid on several nodes: one torchrun a node, one process a GPU. Experts are shared by the GPUs of a node, so that their
# all-to-all stays on its fast links, and everything else is in shards over all GPUs. SLURM itself requeues a job only after a node
# has failed or was preempted. So five minutes before the time is over it sends this script USR1, which stops the run (it saves and
# ends) and requeues the job, which goes on where it stopped. --out must be on a shared file system.
#
#   sbatch examples/train_slurm.sh data/web /shared/runs/web arctic-nano
set -euo pipefail
data=$1 out=$2 tokenizer=$3

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export OMP_NUM_THREADS=8
# Else torchrun keeps addresses of processes that are gone when it starts them again.
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
srun --kill-on-bad-exit=0 torchrun \
  --nnodes "$SLURM_NNODES" --nproc-per-node 8 --max-restarts 3 \
  --rdzv-backend c10d --rdzv-endpoint "$head:29500" --rdzv-id "$SLURM_JOB_ID" --no-python \
  openarctic train pretrain --data "$data" --tokenizer "$tokenizer" --out "$out" \
  --set parallel.expert=8 --set parallel.shard=true --set train.precision=bf16 --set train.checkpoint_minutes=10 &
step=$!

go_on_later() {
  kill -TERM "$step" || true # srun passes it on to all processes
  wait "$step" || true
  scontrol requeue "$SLURM_JOB_ID"
}
trap go_on_later USR1
wait "$step"
