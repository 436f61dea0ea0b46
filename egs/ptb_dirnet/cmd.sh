# Where jobs run. cmd_backend=local (default) starts them on this machine, slurm submits them:
#   cmd_backend=slurm ./run.sh --nj 32
# Options of a site (partition, account) go into conf/slurm.conf, never into this file.
cmd_backend=${cmd_backend:-local}
case ${cmd_backend} in
    local) train_cmd="utils/run.pl"; decode_cmd="utils/run.pl" ;;
    slurm) train_cmd="utils/slurm.pl"; decode_cmd="utils/slurm.pl --mem 4G --num-threads 4" ;;
    *) echo "cmd.sh: error: cmd_backend '${cmd_backend}', expected local or slurm" >&2; exit 2 ;;
esac
export train_cmd decode_cmd
