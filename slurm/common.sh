# shellcheck shell=bash disable=SC2034 # variables are read by the scripts
# What the scripts of this folder share. A script sources it, calls `begin` with its own name and its arguments, runs its
# steps, and calls `finish` with the status of the last:
#   0                            done
#   75, or a signal of Slurm's   not finished: the job is requeued, the same command goes on (launcher.requeue)
#   anything else                failed: the last error is printed, with the rank and node it came from
# Environment: NEMO_FORKING_PYTHON (reads the configuration on the nodes; default python3), NEMO_FORKING_LOGS (default
# logs), NEMO_FORKING_VLLM and NEMO_FORKING_VLLM_CONTAINER (what serves models; default vllm on PATH, no container).
set -uo pipefail

attempt=${SLURM_RESTART_COUNT:-0}
logs=${NEMO_FORKING_LOGS:-logs}
log=$logs/$SLURM_JOB_NAME-$SLURM_JOB_ID.$attempt      # of this attempt: $log.rank0.log, $log.server0.log, ...
export NEMO_FORKING_ENDS=$log.ends                    # why ranks ended; see slurm/rank.sh
[[ $log = /* ]] || NEMO_FORKING_ENDS=$PWD/$log.ends
tool=${NEMO_FORKING_PYTHON:-python3}
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1 OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

# What nemo_forking.cluster.job says of the configuration; arrays: mounts, models, systems, serving.
nodes='' devices='' accelerator='' python='' container='' requeue='' resubmitted=''
serving_nodes='' replicas='' tensor=''
mounts=() models=() systems=() serving=()

notice='' # the signal of Slurm's that was heard
step=''   # process of the srun that is waited for
server='' # process of the srun whose replicas serve
urls=()   # engine.server.urls of these, as an override

say() { echo "$(date '+%F %T') $SLURM_JOB_NAME-$SLURM_JOB_ID attempt $attempt: $*"; }

# begin SCRIPT ARGUMENTS...: reads the configuration; in an allocation of another size the job submits itself again.
begin() {
    mkdir -p "$logs"
    rm -f "$NEMO_FORKING_ENDS"
    trap 'hear SIGUSR1' USR1 # before the time limit
    trap 'hear SIGTERM' TERM # the job is being ended: cancelled, or its nodes are wanted
    local found
    if ! found=$("$tool" -m nemo_forking.cluster.job "$@"); then
        say "not started (the error above)"
        exit 2
    fi
    eval "$found"
    if [ -n "$resubmitted" ]; then
        say "this allocation does not fit layout and engine: submitted again as job $resubmitted, of the right size"
        exit 0
    fi
    mapfile -t hosts < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
    MASTER_ADDR=$(address "${hosts[0]}")
    MASTER_PORT=$((20000 + (SLURM_JOB_ID + 1000 * attempt) % 10000))
    NEMO_FORKING_HOSTS=$(listed "${hosts[@]}")
    export NEMO_FORKING_HOSTS MASTER_ADDR MASTER_PORT TORCHELASTIC_RUN_ID=$SLURM_JOB_ID.$attempt
    [ "$accelerator" = cpu ] && export CUDA_VISIBLE_DEVICES=
    say "on ${hosts[*]}, logs in $log.*"
}

# address HOST: what other nodes reach it by.
address() {
    local shown
    shown=$(scontrol show node "$1" --oneliner)
    [[ $shown =~ NodeAddr=([^ ]+) ]] && echo "${BASH_REMATCH[1]}" || echo "$1"
}

# listed HOSTS...: joined by commas.
listed() { local IFS=,; echo "$*"; }

# hear SIGNAL: the ranks are told to save and stop; what they answer is in the step's status.
hear() {
    notice=$1
    say "$1: asking the ranks to save and stop"
    [ -n "$step" ] && kill -USR1 "$step" 2>/dev/null
}

# run LABEL HOSTS TASKS COMMAND...: one step over some nodes (joined by commas), so many tasks on each; its status.
run() {
    local label=$1 on=$2 tasks=$3 count status
    shift 3
    [ -n "$notice" ] && return 75
    count=$(tr , '\n' <<<"$on" | wc -l)
    srun "${options[@]}" --kill-on-bad-exit=1 --wait=1800 --nodes="$count" --nodelist="$on" \
        --ntasks="$((count * tasks))" --ntasks-per-node="$tasks" --output="$log.$label%t.log" "$@" 2>>"$log.srun.log" &
    step=$!
    while wait "$step"; status=$?; [ "$status" -gt 128 ] && kill -0 "$step" 2>/dev/null; do
        : # a signal ended the waiting, not the step
    done
    wait "$step" # the same again, or the end of a step that came while the signal was handled
    status=$?
    step=''
    return "$(verdict "$status")"
}

# ended WORD: the second words of the ranks that ended so.
ended() { sed -n "s/^$1 //p" "$NEMO_FORKING_ENDS" 2>/dev/null; }

# verdict STATUS: of a step for which srun has this status. The first failure counts: srun ends the other ranks with it.
verdict() {
    local failed
    failed=$(ended failed | head -n 1)
    if [ -n "$failed" ]; then
        echo "$failed"
    elif [ -n "$(ended hung)" ] || { [ "$1" -eq 0 ] && [ -n "$(ended stopped)" ]; }; then
        echo 75
    else
        echo "$1"
    fi
}
options=(--overlap --overcommit --cpu-bind=none --export=ALL)

# in_container IMAGE: srun's options for pyxis, nothing without an image; checkout and logs are seen at their own places.
in_container() {
    local ends=${NEMO_FORKING_ENDS%/*}
    [ -z "$1" ] || printf '%s\n' "--container-image=$1" "--container-workdir=$PWD" --container-writable \
        "--container-mounts=$(listed "$PWD:$PWD" "$ends:$ends" "${mounts[@]}")"
}

# ranks HOSTS TASKS RECIPE ARGUMENTS...: a recipe, one task a rank.
ranks() {
    local on=$1 tasks=$2 inside
    shift 2
    mapfile -t inside < <(in_container "$container")
    run rank "$on" "$tasks" "${inside[@]}" slurm/rank.sh "$python" "$@"
}

# check_nodes ARGUMENTS...: the node check on every node; ends the job where one is bad.
check_nodes() {
    local inside status
    mapfile -t inside < <(in_container "$container")
    run check "$(listed "${hosts[@]}")" "$devices" "${inside[@]}" \
        slurm/rank.sh "$python" -m nemo_forking.cluster.node_check "$@"
    status=$?
    cat "$log.check0.log"
    [ "$status" -eq 0 ] || finish "$status"
}

# serve MODEL HOSTS...: vLLM replicas, as many as fit on each node; sets `urls` once all are healthy.
serve() {
    local model=$1 inside count number host url
    shift
    mapfile -t inside < <(in_container "${NEMO_FORKING_VLLM_CONTAINER:-}")
    local first=$((10000 + SLURM_JOB_ID % 150 * 64)) addresses=()
    for ((number = 0; number < $# * replicas; number++)); do
        host=${*:number / replicas + 1:1}
        addresses+=("http://$(address "$host"):$((first + number))")
    done
    srun "${options[@]}" --job-name=serve --nodes=$# --nodelist="$(listed "$@")" --distribution=block \
        --ntasks=$(($# * replicas)) --ntasks-per-node="$replicas" --output="$log.server%t.log" "${inside[@]}" \
        slurm/replica.sh "$model" "$first" "$tensor" "${serving[@]}" 2>>"$log.srun.log" &
    server=$!
    say "${#addresses[@]} replicas of $model are starting"
    for url in "${addresses[@]}"; do
        for ((count = 0; ; count++)); do
            healthy "$url" && break
            [ -n "$notice" ] && finish 75
            if ! kill -0 "$server" 2>/dev/null; then
                wait "$server" # 75: they were told to end
                finish $?
            fi
            if [ "$count" -gt 360 ]; then
                say "the replica $url does not serve half an hour after its start: $log.server*.log"
                finish 1
            fi
            sleep 5
        done
    done
    urls=("engine.server.urls=[$(listed "${addresses[@]}")]")
}

# healthy URL: whether a vLLM server answers there.
healthy() {
    no_proxy='*' "$tool" -c 'import sys, urllib.request as u; u.urlopen(sys.argv[1] + "/health", timeout=5)' "$1" 2>/dev/null
}

# end_serving: the replicas are ended, so that others can have their GPUs; after a minute, by Slurm.
end_serving() {
    local second
    [ -z "$server" ] && return
    kill -TERM "$server" 2>/dev/null
    for ((second = 0; second < 60; second++)); do
        kill -0 "$server" 2>/dev/null || break
        sleep 1
    done
    squeue --noheader --steps --jobs="$SLURM_JOB_ID" --format='%i %j' | awk '$2 == "serve" { print $1 }' | xargs -r scancel
    wait "$server"
    server=''
}

# finish STATUS: ends the job as the head of this file says.
finish() {
    local status=$1 state
    end_serving
    if [ "$status" -eq 0 ]; then
        say "done"
        exit 0
    fi
    if [ "$status" -ne 75 ] && [ -z "$notice" ]; then
        say "failed with status $status"
        "$tool" -m nemo_forking.cluster.last_error "$log"
        exit "$status"
    fi
    [ -n "$notice" ] || notice=$(ended stopped | head -n 1) # pre-emption signals the ranks only
    state=$(scontrol show job "$SLURM_JOB_ID" --oneliner | grep -o 'JobState=[A-Z_]*')
    if [ "$state" != JobState=RUNNING ]; then # cancelled, or requeued by Slurm itself
        say "stopped; Slurm has it as ${state#*=}"
    elif [ "$requeue" != true ]; then
        say "stopped; launcher.requeue is false: submit the same command again"
    else
        say "stopped${notice:+ after $notice}; requeued, the next attempt goes on"
        scontrol requeue "$SLURM_JOB_ID" && sleep 60 # Slurm ends this script
    fi
    exit 75
}
