#!/usr/bin/env perl
# Run a command, or an array of jobs, through Slurm; called as run.pl is:
#
#   slurm.pl [options] [JOB=1:8] LOG COMMAND...
#
# Options: --mem 4G, --num-threads N, --gpu N, --time 10:00:00, --exclusive true, --max-jobs-run N (array throttle), and
# what conf/slurm.conf, or --config FILE, adds: Kaldi's rules, such as `option gpu=* -p gpu --gres=gpu:$0`, and options of
# sbatch, such as --partition=long. Slurm's own variables SBATCH_PARTITION, SBATCH_ACCOUNT ... work too. The folder must
# be visible on the nodes. Waits for the end of all jobs. Exit status: as run.pl's; Ctrl-C cancels the jobs.

use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
require 'jobs.pm';

my $rules = <<'END';
command sbatch --export=ALL
option mem=* --mem=$0
option num_threads=* --cpus-per-task=$0
option gpu=0
option gpu=* --gres=gpu:$0
option time=* --time=$0
option exclusive=true --exclusive
option exclusive=false
END
my %option;
my ($first, $last, $name, $log, $command) = jobs::arguments(\%option, \@ARGV);
my $threads = $option{'num-threads'} || 1;
my $most = delete $option{'max-jobs-run'};
my @sbatch = jobs::site(\%option, $rules, 'conf/slurm.conf');
push @sbatch, '--wait', '--parsable', '--output=/dev/null', "--array=$first-$last" . ($most ? "%$most" : '');
my $script = jobs::script($first, $last, $name, $log, $command, 'SLURM_ARRAY_TASK_ID', $threads);

my ($job, $stopped);
for my $signal (qw(INT TERM HUP)) {
    $SIG{$signal} = sub { $stopped = 1; system('scancel', $job) if defined $job; };
}
my $pid = open(my $submission, '-|', @sbatch, $script);
if (not $pid) {
    print STDERR "slurm.pl: error: $sbatch[0] cannot be started ($!); install Slurm or use cmd_backend=local\n";
    exit 2;
}
my $reply = <$submission>;
$job = $1 if defined $reply and $reply =~ /^(\d+)/;
system('scancel', $job) if $stopped and defined $job;
1 while <$submission>;
close $submission;
my $status = $? >> 8;

if ($stopped) {
    print STDERR "slurm.pl: interrupted; the jobs were cancelled\n";
    exit 130;
}
my @failed = grep { not ended_well(jobs::named($log, $name, $_)) } $first .. $last;
print STDERR "slurm.pl: sbatch ended with $status, submitted was $script\n" if $status != 0 and not defined $job;
exit jobs::verdict('slurm.pl', $log, $name, $last - $first + 1, @failed);

# Whether the log ends with exit code 0; a job killed by Slurm leaves no such line. File systems of clusters may show
# the line some seconds late.
sub ended_well {
    my ($path) = @_;
    for my $try (1 .. 10) {
        my $code = jobs::code($path);
        return $code == 0 if defined $code;
        return 0 if $status != 0;
        sleep 1;
    }
    return 0;
}
