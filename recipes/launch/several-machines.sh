#!/bin/sh
# The same command on every machine, with its own rank: sh recipes/launch/several-machines.sh RECIPE RANK
# Recipe, text and base must be at the same place on all of them; the machine of rank 0 keeps the run.
# Not tried on real machines; two processes of one machine were.
set -eu
: "${MACHINES:?how many machines}" "${MAIN:?address of the machine of rank 0}" "${DEVICES:?devices of a machine}"
exec accelerate launch --num_machines "$MACHINES" --machine_rank "$2" --main_process_ip "$MAIN" \
  --main_process_port "${PORT:-29500}" --num_processes "$((MACHINES * DEVICES))" --mixed_precision no \
  --dynamo_backend no -m ft_toolkit finetune "$1"
