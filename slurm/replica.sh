#!/usr/bin/env bash
# replica.sh MODEL PORT TENSOR OPTIONS...: one vLLM server under srun, on the TENSOR GPUs of this task's place on the node,
# at PORT + the task's number. One that dies after it has served is started again; the engine then hands it its weights.
model=$1 port=$(($2 + SLURM_PROCID)) tensor=$3
shift 3
if [ -n "${CUDA_VISIBLE_DEVICES:-}" ]; then
    IFS=, read -ra gpus <<<"$CUDA_VISIBLE_DEVICES"
    own=("${gpus[@]:SLURM_LOCALID * tensor:tensor}")
    CUDA_VISIBLE_DEVICES=$(IFS=, && echo "${own[*]}")
fi
export VLLM_SERVER_DEV_MODE=1 # fresh weights before every batch of GFPO
trap 'kill "$child" 2>/dev/null; wait "$child"; exit 75' TERM USR1
while :; do
    began=$SECONDS
    "${NEMO_FORKING_VLLM:-vllm}" serve "$model" --port "$port" --tensor-parallel-size "$tensor" \
        --logprobs-mode processed_logprobs "$@" &
    child=$!
    wait "$child"
    status=$?
    echo "replica.sh: the server at port $port on $SLURMD_NODENAME ended with status $status"
    [ $((SECONDS - began)) -lt 120 ] && exit 1
done
