# Run a job's step, and let the job go on later when the step was stopped or lost and not finished; sourced by *.sbatch.
#   run_or_requeue srun … command
# Exit code 75 says "stopped, not finished"; more than 128, that a process was killed. What failed by an error of its own
# has left a message in $TRIVIUM_ERROR_FILE and would fail again: it is not requeued.

MAX_RESTARTS=${MAX_RESTARTS:-50}

# Slurm says COMPLETING of a job that it has ended while this shell still runs: its time is up, or it was cancelled.
was_ended() {
    [[ $(scontrol show job "$SLURM_JOB_ID" 2>/dev/null) == *JobState=COMPLETING* ]]
}

# $1 is when the job's time is up, N/A for never.
time_is_up() {
    [[ $1 == *T* ]] && (($(date +%s) >= $(date -d "$1" +%s)))
}

# What was stopped or lost goes on; a cancelled job could too, but that is not what who cancelled it wants. A step that
# finished when its time was up is a TIMEOUT to Slurm, for which no other job may wait: it starts once more, finds
# nothing to do, and is COMPLETED. $1 is the step's exit code, $2 when the job's time is up.
goes_on() {
    case $1 in
        0) was_ended && time_is_up "$2" ;;
        *) (($1 == 75 || $1 > 128)) && [[ ! -s $TRIVIUM_ERROR_FILE ]] && { ! was_ended || time_is_up "$2"; } ;;
    esac
}

run_or_requeue() {
    local restarts=${SLURM_RESTART_COUNT:-0} job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID} ends code
    job=${job:-$SLURM_JOB_ID}
    export TRIVIUM_ERROR_FILE=${RUN_DIR:-runs}/logs/error.$job.$restarts.txt
    ends=$(squeue -h -j "$SLURM_JOB_ID" -o %e 2>/dev/null)
    # A port of its own for each start: what is left of the one before may still hold its own.
    export MASTER_PORT=$((15000 + (SLURM_JOB_ID + 97 * restarts) % 10000))
    # The step hears the signals; this shell waits for it.
    trap : TERM USR1
    "$@"
    code=$?
    if ((restarts < MAX_RESTARTS)) && goes_on "$code" "$ends"; then
        echo "start $restarts of job $job ended with code $code: it goes on in two minutes or more"
        scontrol requeue "$job"
    fi
    exit "$code"
}
