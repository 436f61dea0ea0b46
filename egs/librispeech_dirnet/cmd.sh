# Where jobs run: cmd_backend=local (default) starts them on this machine, slurm and queue (Grid Engine) submit them:
#   cmd_backend=slurm ./run.sh --nj 32
# Options of a site (partition, account, GPU queue) go into conf/slurm.conf or conf/queue.conf, Kaldi's rules, never into
# this file. An empty command means here, one after the other, in the foreground.
cmd_backend=${cmd_backend:-local}
case ${cmd_backend} in
    local) runner_pl=; train_cmd="utils/run.pl"; decode_cmd="utils/run.pl --max-jobs-run 1" ;;   # a job has nj processes
    slurm) runner_pl=utils/slurm.pl ;;
    queue) runner_pl=utils/queue.pl ;;
    *) echo "cmd.sh: error: cmd_backend '${cmd_backend}', expected local, slurm or queue" >&2; exit 2 ;;
esac
if [ -n "${runner_pl}" ]; then
    job_nj=4                                                      # processes of a job, instead of --nj
    train_cmd="${runner_pl} --mem 2G"                             # features
    solve_cmd="${runner_pl} --mem 8G --num-threads ${job_nj}"     # compression: one job a model
    decode_cmd="${runner_pl} --mem 4G --num-threads ${job_nj}"    # one job a model and set
    cuda_cmd="${runner_pl} --mem 16G --num-threads ${job_nj}"     # training; run.sh adds --gpu N
    rtf_cmd="${runner_pl} --exclusive true"                       # timing: a node to itself
fi
export train_cmd solve_cmd=${solve_cmd:-} decode_cmd cuda_cmd=${cuda_cmd:-} rtf_cmd=${rtf_cmd:-}
