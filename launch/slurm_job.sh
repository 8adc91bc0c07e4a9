# The body of every job's script: slurm_script.py puts the #SBATCH lines and the variables role, cpus,
# retries and command before it. The job is heterogeneous, with a component for each node: Slurm starts it again without
# waiting for the end of what runs on the nodes that are left when one is lost.
# The hosts meet at the first.
export DAT_REC_FIRST=${SLURM_JOB_NODELIST_HET_GROUP_0:-$SLURM_JOB_NODELIST}
logs=logs/slurm-$SLURM_JOB_ID-$role
# Each task adds to files of its own number in the whole job.
task='exec "${@:2}" >>"$1-$SLURM_PROCID.out" 2>>"$1-$SLURM_PROCID.err"'
restarts=${SLURM_RESTART_COUNT:-0}
for try in {1..20}; do
    begin=$SECONDS
    # srun does not take the CPUs of a task from sbatch. One rank's error ends all tasks at once,
    # the end of one without error after a minute.
    srun ${SLURM_HET_SIZE:+--het-group=0-$((SLURM_HET_SIZE - 1))} --cpus-per-task="$cpus" \
        --kill-on-bad-exit=1 --wait=60 bash -c "$task" task "$logs" "${command[@]}"
    code=$?
    # When Slurm starts a job again whose first node was lost, parts of it may run yet.
    [ $code -eq 1 ] && [ "$restarts" -gt 0 ] && [ $((SECONDS - begin)) -lt 5 ] || break
    sleep 3
done
echo "the job's exit code is $code"
case $code in
    # 2: the ranks refused what they were given, and would again.
    0 | 2) ;;
    # 75: they have saved a checkpoint, and can go on, as often as there is need.
    75) [ "$retries" -gt 0 ] && scontrol requeue "$SLURM_JOB_ID" ;;
    *) [ "$retries" -gt "$restarts" ] && scontrol requeue "$SLURM_JOB_ID" ;;
esac
exit $code
