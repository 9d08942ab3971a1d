# Run a job's step, and let the job go on later when the step was stopped or lost and not finished; sourced by *.sbatch.
#   run_or_requeue srun … command
# Exit code 75 says "stopped, not finished"; more than 128, that a process was killed. What failed by an error of its own
# has left a message in $TRIVIUM_ERROR_FILE and would fail again: it is not requeued.

MAX_RESTARTS=${MAX_RESTARTS:-50}

run_or_requeue() {
    local restarts=${SLURM_RESTART_COUNT:-0} job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID} code
    job=${job:-$SLURM_JOB_ID}
    export TRIVIUM_ERROR_FILE=${RUN_DIR:-runs}/logs/error.$job.$restarts.txt
    # A port of its own for each start: what is left of the one before may still hold its own.
    export MASTER_PORT=$((15000 + (SLURM_JOB_ID + 97 * restarts) % 10000))
    # The step hears the signals; this shell waits for it.
    trap : TERM USR1
    "$@"
    code=$?
    # A job that was cancelled could be requeued, but that is not what who cancelled it wants.
    if ((code == 75 || code > 128)) && [[ ! -s $TRIVIUM_ERROR_FILE ]] && ((restarts < MAX_RESTARTS)) &&
        [[ $(scontrol show job "$job" 2>/dev/null) != *JobState=CANCELLED* ]]; then
        echo "start $restarts of job $job ended with code $code: it goes on in two minutes or more"
        scontrol requeue "$job"
    fi
    exit "$code"
}
