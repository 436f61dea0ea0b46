#!/usr/bin/env perl
# Run a command, or an array of jobs, through Grid Engine (SGE, UGE, OGS); called as run.pl is:
#
#   queue.pl [options] [JOB=1:8] LOG COMMAND...
#
# Options: --mem 4G, --num-threads N, --gpu N, --time 10:00:00, --exclusive true, --max-jobs-run N, and what
# conf/queue.conf, or --config FILE, adds: Kaldi's rules, such as `option gpu=* -q gpu.q -l gpu=$0`, and options of qsub,
# such as -q long.q. The folder must be visible on the nodes. Waits for the end of all jobs, asking qstat from time to
# time whether they are still there. Exit status: as run.pl's; Ctrl-C deletes the jobs.

use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use File::Basename qw(basename);
require 'jobs.pm';

my $rules = <<'END';
command qsub -V -cwd -S /bin/bash -j y
option mem=* -l mem_free=$0
option num_threads=1
option num_threads=* -pe smp $0
option max_jobs_run=* -tc $0
option gpu=0
option gpu=* -l gpu=$0
option time=* -l h_rt=$0
option exclusive=true -l exclusive=true
option exclusive=false
END
my $lag_s = $ENV{QUEUE_LAG_S} // 30;   # a file system may show the end of a log this late
my $slowest_s = 15;                    # between two looks at the logs

my %option;
my ($first, $last, $name, $log, $command) = jobs::arguments(\%option, \@ARGV);
jobs::mistake('queue.pl', "the range $name=$first:$last begins with 0, Grid Engine counts from 1") if $first < 1;
my $threads = $option{'num-threads'} || 1;
my @qsub = jobs::site(\%option, $rules, 'conf/queue.conf');
my $script = jobs::script($first, $last, $name, $log, $command, 'SGE_TASK_ID', $threads);
(my $title = basename($script, '.sh')) =~ s/[^\w.-]//g;
push @qsub, '-N', "j_$title", '-o', "$script.out", '-t', "$first-$last", $script;

my ($job, $stopped);
$SIG{$_} = sub { $stopped = 1 } for qw(INT TERM HUP);
my $pid = open(my $submission, '-|', @qsub);
if (not $pid) {
    print STDERR "queue.pl: error: $qsub[0] cannot be started ($!); install Grid Engine or use cmd_backend=local\n";
    exit 2;
}
my $reply = join '', <$submission>;
close $submission;
$job = $1 if $reply =~ /(?:job|array)\s+(\d+)/ or $reply =~ /^(\d+)/;
if (not defined $job) {
    print STDERR "queue.pl: error: $qsub[0] submitted nothing (it said '" . ($reply =~ s/\s+$//r) . "'): @qsub\n";
    exit 1;
}

my %waiting = map { $_ => jobs::named($log, $name, $_) } $first .. $last;
my @failed;
my ($pause_s, $gone_s) = (0.1, undef);
while (%waiting and not $stopped) {
    for my $id (keys %waiting) {
        my $code = jobs::code($waiting{$id});
        next unless defined $code;
        push @failed, $id if $code != 0;
        delete $waiting{$id};
    }
    last if not %waiting or defined $gone_s and time - $gone_s >= $lag_s;
    select undef, undef, undef, $pause_s;
    $pause_s = $pause_s * 1.5 > $slowest_s ? $slowest_s : $pause_s * 1.5;
    next if defined $gone_s;
    $gone_s = time if `qstat -j $job 2>&1` =~ /not exist/i;
}
if ($stopped) {
    system('qdel', $job);
    print STDERR "queue.pl: interrupted; the jobs were deleted\n";
    exit 130;
}
exit jobs::verdict('queue.pl', $log, $name, $last - $first + 1, @failed, keys %waiting);
