#!/usr/bin/env bash
# rank.sh COMMAND...: one rank under srun, with the numbers that torch.distributed reads (env://). MASTER_ADDR, MASTER_PORT
# and TORCHELASTIC_RUN_ID come from the job; the last keeps Lightning from handling Slurm's signals its own way.
# A rank that does not end with 0 writes why into $NEMO_FORKING_ENDS: failed, hung or stopped.
export RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_STEP_NUM_TASKS GROUP_RANK=$SLURM_NODEID
export LOCAL_WORLD_SIZE=$((SLURM_STEP_NUM_TASKS / SLURM_STEP_NUM_NODES))
heard=
trap 'heard=SIGUSR1' USR1 # for the command; this shell waits for what it makes of them
trap 'heard=SIGTERM' TERM
"$@"
status=$?
[ "$status" -eq 0 ] && exit 0
if [ -n "$heard" ]; then # saved, or not yet listening; srun ends the ranks beside a failed one in this way too
    echo "stopped $heard" >>"$NEMO_FORKING_ENDS" && exit 0 # no bad exit: srun would kill ranks that are still ending
fi
if [ "$status" -eq 75 ]; then
    echo "hung 75" >>"$NEMO_FORKING_ENDS"
else
    echo "failed $status" >>"$NEMO_FORKING_ENDS"
fi
exit "$status" # srun ends the other ranks
