#!/usr/bin/env bash
# rank.sh COMMAND...: one rank under srun, with the numbers that torch.distributed reads (env://). MASTER_ADDR, MASTER_PORT
# and TORCHELASTIC_RUN_ID come from the job; the last keeps Lightning from handling Slurm's signals its own way.
export RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_STEP_NUM_TASKS GROUP_RANK=$SLURM_NODEID
export LOCAL_WORLD_SIZE=$((SLURM_STEP_NUM_TASKS / SLURM_STEP_NUM_NODES))
heard=
trap 'heard=SIGUSR1' USR1 # for the command; this shell waits for what it makes of them
trap 'heard=SIGTERM' TERM
"$@"
status=$?
if [ -n "$heard" ] && { [ "$status" -eq 75 ] || [ "$status" -gt 128 ]; }; then # saved, or not yet listening
    echo "$heard" >>"$NEMO_FORKING_STOPPED"
    exit 0 # no bad exit, for which srun would kill ranks that are still ending
fi
[ "$status" -eq 75 ] && echo >>"$NEMO_FORKING_STOPPED" # a hang: the ranks that hang are to be killed
exit "$status"
