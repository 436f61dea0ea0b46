#!/usr/bin/env perl
# Run a command, or an array of jobs, through Slurm; called as run.pl is:
#
#   slurm.pl [options] [JOB=1:8] LOG COMMAND...
#
# Options: --mem 4G, --num-threads N, --gpu N (--gres=gpu:N), --time 10:00:00, --max-jobs-run N (array throttle),
# --config FILE: sbatch options of the site, one a line, such as --partition=long (default conf/slurm.conf where it
# exists; Slurm's own variables SBATCH_PARTITION, SBATCH_ACCOUNT ... work too). The folder must be visible on the nodes.
# Waits for the end of all jobs. Exit status: as run.pl's; Ctrl-C cancels the jobs.

use strict;
use warnings;
use FindBin;
use lib $FindBin::RealBin;
use Cwd qw(getcwd);
require 'jobs.pm';

my %option = ('max-jobs-run' => 0, config => '');
my ($first, $last, $name, $log, $command) = jobs::arguments(\%option, \@ARGV);
my @site = site_options($option{config});

# One script for all jobs: it writes the log as run.pl does and ends it with the exit code.
my $script = jobs::named($log, $name, 'all') . '.sbatch';
my $number = '${SLURM_ARRAY_TASK_ID}';
my ($job_log, $job_command) = (jobs::named($log, $name, $number), jobs::named($command, $name, $number));
for my $id ($first .. $last) {
    jobs::header(jobs::named($log, $name, $id), jobs::named($command, $name, $id), $id);
}
jobs::write_to('>', $script, <<"END");
#!/usr/bin/env bash
cd '@{[getcwd()]}' || exit 1
{
    echo "# Started on \$(uname -n) at \$(date)"
    since=\$SECONDS
    ( $job_command )
    code=\$?
    echo "# Ended (code \${code}) at \$(date), elapsed time \$((SECONDS - since)) seconds"
} >> "$job_log" 2>&1 < /dev/null
exit \${code}
END

my @sbatch = ('sbatch', '--wait', '--parsable', '--output=/dev/null', '--export=ALL');
push @sbatch, "--array=$first-$last" . ($option{'max-jobs-run'} ? "%$option{'max-jobs-run'}" : '');
push @sbatch, "--mem=$option{mem}" if $option{mem};
push @sbatch, "--cpus-per-task=$option{'num-threads'}" if $option{'num-threads'};
push @sbatch, "--gres=gpu:$option{gpu}" if $option{gpu};
push @sbatch, "--time=$option{time}" if $option{time};

my ($job, $stopped);
for my $signal (qw(INT TERM HUP)) {
    $SIG{$signal} = sub { $stopped = 1; system('scancel', $job) if defined $job; };
}
my $pid = open(my $submission, '-|', @sbatch, @site, $script);
if (not $pid) {
    print STDERR "slurm.pl: error: sbatch cannot be started ($!); install Slurm or use cmd_backend=local\n";
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

# The sbatch options in the file $path, comments and empty lines left out.
sub site_options {
    my ($path) = @_;
    my $given = $path ne '';
    $path = 'conf/slurm.conf' unless $given;
    open my $stream, '<', $path or ($given ? jobs::mistake('slurm.pl', "cannot read --config $path ($!)") : return ());
    my @options;
    while (<$stream>) {
        s/#.*//;
        push @options, $1 if /^\s*(-\S.*?)\s*$/;
    }
    return @options;
}

# Whether the log ends with exit code 0; a job killed by Slurm leaves no such line. File systems of clusters may show
# the line some seconds late.
sub ended_well {
    my ($path) = @_;
    for my $try (1 .. 10) {
        open my $stream, '<', $path or return 0;
        my @lines = <$stream>;
        return $1 == 0 if @lines and $lines[-1] =~ /^# Ended \(code (\d+)\)/;
        return 0 if $status != 0;
        sleep 1;
    }
    return 0;
}
