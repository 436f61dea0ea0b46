#!/usr/bin/env perl
# Run a command here, or an array of jobs in parallel, each with a log:
#
#   run.pl [options] LOG COMMAND...
#   run.pl [options] JOB=1:8 exp/x/log/decode.JOB.log COMMAND with JOB in its arguments
#
# Options: --max-jobs-run N (default: all at once); --mem, --num-threads, --gpu, --time and --exclusive VALUE are for
# queue systems and change nothing here. The log receives the command, the host, both outputs, the times and the exit code. An
# argument without blanks reaches the shell as it is (`\|`, `>` and `&&` work), others are quoted. Exit status:
# 0, or 1 when any job failed, with a line that names the logs, what they said last, and the line `PROGRAM: error: ...`
# of the first that has one; 2 where that job ended with 2, as programs do on a user's mistake; 130 on Ctrl-C, which ends every job.

use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use POSIX qw(:sys_wait_h setpgid);
require 'jobs.pm';

my %option = map { $_ => undef } qw(max-jobs-run mem num-threads gpu time exclusive);
my ($first, $last, $name, $log, $command) = jobs::arguments(\%option, \@ARGV);
my $most = $option{'max-jobs-run'} || $last - $first + 1;

my (%running, @failed, $stopped);
for my $signal (qw(INT TERM HUP)) {
    $SIG{$signal} = sub { $stopped ||= $signal; kill 'INT', map { -$_ } keys %running; };
}

my $next = $first;
while (%running or ($next <= $last and not $stopped)) {
    if ($next <= $last and keys %running < $most and not $stopped) {
        my $pid = start($next);
        $running{$pid} = $next++;
        kill 'INT', -$pid if $stopped;
        next;
    }
    my $pid = $stopped ? patient_wait() : waitpid(-1, 0);
    next unless $pid > 0 and exists $running{$pid};
    jobs::footer(jobs::named($log, $name, $running{$pid}), $?, $running{$pid}, $option{'num-threads'} || 1);
    push @failed, $running{$pid} if $? != 0;
    delete $running{$pid};
}
if ($stopped) {
    print STDERR "run.pl: interrupted; every job was ended\n";
    exit 130;
}
exit jobs::verdict('run.pl', $log, $name, $last - $first + 1, @failed);

# Start job $id in a process group of its own, so that a signal reaches what the shell starts.
sub start {
    my ($id) = @_;
    my $path = jobs::named($log, $name, $id);
    jobs::header($path, jobs::named($command, $name, $id), $id);
    my $pid = fork();
    die "run.pl: error: cannot start a process ($!)\n" unless defined $pid;
    if ($pid == 0) {
        setpgid(0, 0);
        $SIG{$_} = 'DEFAULT' for qw(INT TERM HUP);
        open STDIN, '<', '/dev/null';
        open STDOUT, '>>', $path or die "run.pl: error: cannot write $path ($!)\n";
        open STDERR, '>&', \*STDOUT;
        exec 'bash', '-c', jobs::named($command, $name, $id) or exit 127;
    }
    setpgid($pid, $pid);
    return $pid;
}

# Interrupted jobs have ten seconds to clean up, then they are killed.
sub patient_wait {
    for (1 .. 100) {
        my $pid = waitpid(-1, WNOHANG);
        return $pid if $pid != 0;
        select undef, undef, undef, 0.1;
    }
    kill 'KILL', map { -$_ } keys %running;
    return waitpid(-1, 0);
}
