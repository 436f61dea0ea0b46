# What run.pl and slurm.pl share: the form of their command line and of the logs.

package jobs;

use strict;
use warnings;
use File::Basename qw(basename dirname);
use POSIX qw(strftime);

my %started;
my %ignored = map { $_ => 1 } qw(mem num-threads gpu time);

# Parse [options] [JOB=1:8] LOG COMMAND...; options that %$option lacks are errors, except those of queue systems.
# Returns (first job, last job, the word that stands for the job's number, log, shell command).
sub arguments {
    my ($option, $argv) = @_;
    my $program = basename($0);
    my ($first, $last, $name) = (1, 1, undef);
    while (@$argv and $argv->[0] =~ /^-/) {
        (my $key = shift @$argv) =~ s/^--//;
        $key =~ tr/_/-/;
        mistake($program, "unknown option --$key") unless exists $option->{$key} or $ignored{$key};
        mistake($program, "option --$key has no value") unless @$argv;
        my $value = shift @$argv;
        mistake($program, "option --$key is '$value', expected a number")
            if $key =~ /^(max-jobs-run|num-threads|gpu)$/ and $value !~ /^\d+$/;
        $option->{$key} = $value;
    }
    if (@$argv and $argv->[0] =~ /^([A-Za-z_]\w*)=(\d+)(?::(\d+))?$/) {
        ($name, $first, $last) = ($1, $2, defined $3 ? $3 : $2);
        mistake($program, "'$argv->[0]' is an empty range") if $first > $last;
        shift @$argv;
    }
    my $log = shift @$argv;
    mistake($program, "expected [options] [JOB=1:N] LOG COMMAND...") unless defined $log and @$argv;
    mistake($program, "log '$log' does not contain $name, so that jobs would share it")
        if defined $name and $first < $last and $log !~ /\Q$name\E/;
    return ($first, $last, $name, $log, join(' ', map { quoted($_) } @$argv));
}

# An argument as the shell should see it. Double quotes, so that slurm.pl can put a variable where JOB stood.
sub quoted {
    my ($argument) = @_;
    return $argument if $argument =~ /^\S+$/ and $argument !~ /['"]/;
    $argument =~ s/([\\"\$`])/\\$1/g;
    return "\"$argument\"";
}

# $text with every $name replaced by the job's number.
sub named {
    my ($text, $name, $id) = @_;
    $text =~ s/\Q$name\E/$id/g if defined $name;
    return $text;
}

# Begin the log $path.
sub header {
    my ($path, $command, $id) = @_;
    $started{$id} = time;
    system('mkdir', '-p', dirname($path)) == 0 or exit 2;
    my $host = `uname -n`;
    write_to('>', $path, "# $command\n# Running on ${host}# Started at " . now() . "\n#\n");
}

# End the log $path of job $id with the exit code in the wait status $status.
sub footer {
    my ($path, $status, $id) = @_;
    my $code = $status & 127 ? 128 + ($status & 127) : $status >> 8;
    my $seconds = time - $started{$id};
    write_to('>>', $path, "# Ended (code $code) at " . now() . ", elapsed time $seconds seconds\n");
}

# Report the failed jobs and the first cause found in their logs; returns the exit status of the program.
sub verdict {
    my ($program, $log, $name, $jobs, @failed) = @_;
    return 0 unless @failed;
    @failed = map { named($log, $name, $_) } sort { $a <=> $b } @failed;
    my $logs = join ' ', @failed > 3 ? (@failed[0 .. 2], '...') : @failed;
    print STDERR "$program: " . @failed . " / $jobs failed, log is in $logs\n";
    for my $path (@failed) {
        open my $stream, '<', $path or next;
        my @lines = <$stream>;
        my ($cause) = grep { /^[\w.\/-]+: error: / } reverse @lines;
        next unless defined $cause;
        print STDERR $cause;
        return (grep { /^# Ended \(code 2\)/ } $lines[-1]) ? 2 : 1;
    }
    return 1;
}

sub now { return strftime('%a %b %e %H:%M:%S %Z %Y', localtime) }

sub write_to {
    my ($mode, $path, $text) = @_;
    open my $stream, $mode, $path or mistake(basename($0), "cannot write $path ($!)");
    print $stream $text;
    close $stream or mistake(basename($0), "cannot write $path ($!)");
}

sub mistake {
    my ($program, $text) = @_;
    print STDERR "$program: error: $text; see the comment at the head of $0\n";
    exit 2;
}

1;
