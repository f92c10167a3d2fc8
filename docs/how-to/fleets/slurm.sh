#!/bin/bash
# A fleet as an array job of Slurm: sbatch slurm.sh. The store is a folder that all nodes mount.
#SBATCH --job-name=landcover
#SBATCH --array=0-9
#SBATCH --cpus-per-task=8
#SBATCH --mem=16G
#SBATCH --time=12:00:00
#SBATCH --requeue
set -euo pipefail

STORE=/shared/landcover/country

srun landcover fleet run "$STORE" \
  --shard "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT" \
  --workers 2 --threads 4
