#!/bin/sh
# All devices of this machine, each in a process of its own: sh recipes/launch/one-machine.sh RECIPE [PROCESSES]
# It is the same as: ft finetune RECIPE --processes PROCESSES
set -eu
exec accelerate launch --num_machines 1 --num_processes "${2:-2}" --mixed_precision no --dynamo_backend no \
  -m ft_toolkit finetune "$1"
