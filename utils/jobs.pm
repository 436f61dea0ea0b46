# What run.pl, slurm.pl and queue.pl share: the form of their command line, of the logs and of a site's configuration.

package jobs;

use strict;
use warnings;
use Cwd qw(getcwd);
use File::Basename qw(basename dirname);
use POSIX qw(strftime);

my %started;

# Parse [options] [JOB=1:8] LOG COMMAND...; the options go into %$option, which holds those that are known, or nothing
# where a site's configuration tells. Returns (first job, last job, the word that stands for the number, log, command).
sub arguments {
    my ($option, $argv) = @_;
    my $program = basename($0);
    my ($first, $last, $name) = (1, 1, undef);
    my %known = map { $_ => 1 } keys %$option;
    delete @$option{grep { not defined $option->{$_} } keys %$option};
    while (@$argv and $argv->[0] =~ /^-/) {
        (my $key = shift @$argv) =~ s/^--//;
        $key =~ tr/_/-/;
        mistake($program, "unknown option --$key") if %known and not $known{$key};
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
        if defined $name and $first < $last and $log !~ /\b\Q$name\E\b/;
    return ($first, $last, $name, $log, join(' ', map { quoted($_) } @$argv));
}

# The command that submits a job, with the options of %$option as a site wants them: Kaldi's rules in $text, then those in
# the file $option->{config} or, where it exists, $path. A later rule of the same name and value counts.
#     command qsub -V            option mem=* -l mem_free=$0            option mem=0            default gpu=0
# A line that begins with a dash is added as it is.
sub site {
    my ($option, $text, $path) = @_;
    my $program = basename($0);
    my $given = delete $option->{config};
    $path = $given if defined $given;
    if (open my $stream, '<', $path) {
        $text .= join '', "\n", <$stream>;
    } elsif (defined $given) {
        mistake($program, "cannot read --config $path ($!)");
    }
    my (@command, %rule, %value, @plain);
    for (split /\n/, $text) {
        s/(^|\s)#.*//;
        next unless /\S/;
        if (/^\s*command\s+(.+)/) { @command = split ' ', $1 }
        elsif (/^\s*option\s+([\w-]+)=(\S+)\s*(.*)/) { $rule{$1 =~ tr/_/-/r}{$2} = [split ' ', $3] }
        elsif (/^\s*default\s+([\w-]+)=(\S+)/) { $value{$1 =~ tr/_/-/r} = $2 }
        elsif (/^\s*(-\S.*)/) { push @plain, split ' ', $1 }
        else { mistake($program, "'$_' in $path is no rule, expected command, option, default or an option with a dash") }
    }
    %value = (%value, %$option);
    for my $key (sort keys %value) {
        my $words = $rule{$key}{$value{$key}} || $rule{$key}{'*'} || mistake($program, "unknown option --$key");
        push @command, map { s/\$0/$value{$key}/gr } @$words;
    }
    return (@command, @plain);
}

# Write the script of all jobs and begin their logs; on its node a job ends its log as run.pl does. $variable holds the
# job's number there. Returns the script's path.
sub script {
    my ($first, $last, $name, $log, $command, $variable, $threads) = @_;
    my $path = named($log, $name, 'all') . '.sh';
    my ($job_log, $job_command) = (named($log, $name, "\${$variable}"), named($command, $name, "\${$variable}"));
    for my $id ($first .. $last) {
        my $host = `uname -n`;
        begin(named($log, $name, $id), named($command, $name, $id), "# Submitted from ${host}");
    }
    write_to('>', $path, <<"END");
#!/usr/bin/env bash
cd '@{[getcwd()]}' || exit 1
[ ! -f path.sh ] || . ./path.sh
{
    echo "# Running on \$(uname -n)"
    echo "# Started at \$(date)"
    echo "#"
    since=\$SECONDS
    ( $job_command )
    code=\$?
    echo "# Accounting: time=\$((SECONDS - since)) threads=$threads"
    echo "# Ended (code \${code}) at \$(date), elapsed time \$((SECONDS - since)) seconds"
} >> "$job_log" 2>&1 < /dev/null
exit \${code}
END
    return $path;
}

# The exit code at the end of the log $path, undef where there is none.
sub code {
    my ($path) = @_;
    open my $stream, '<', $path or return undef;
    my $last = '';
    while (my $line = <$stream>) { $last = $line }
    return $last =~ /^# Ended \(code (\d+)\)/ ? $1 : undef;
}

# An argument as the shell should see it. Double quotes, so that slurm.pl can put a variable where JOB stood.
sub quoted {
    my ($argument) = @_;
    return $argument if $argument =~ /^\S+$/ and $argument !~ /['"]/;
    $argument =~ s/([\\"\$`])/\\$1/g;
    return "\"$argument\"";
}

# $text with every $name that is a word of its own, as in x.JOB.log and not in /data/JOBS, replaced by the job's number.
sub named {
    my ($text, $name, $id) = @_;
    $text =~ s/\b\Q$name\E\b/$id/g if defined $name;
    return $text;
}

# Begin the log $path of a job that starts here.
sub header {
    my ($path, $command, $id) = @_;
    $started{$id} = time;
    my $host = `uname -n`;
    begin($path, $command, "# Running on ${host}# Started at " . now() . "\n#\n");
}

sub begin {
    my ($path, $command, $text) = @_;
    system('mkdir', '-p', dirname($path)) == 0 or exit 2;
    write_to('>', $path, "# $command\n$text");
}

# End the log $path of job $id with the exit code in the wait status $status.
sub footer {
    my ($path, $status, $id, $threads) = @_;
    my $code = $status & 127 ? 128 + ($status & 127) : $status >> 8;
    my $seconds = time - $started{$id};
    my $end = "# Ended (code $code) at " . now() . ", elapsed time $seconds seconds\n";
    write_to('>>', $path, "# Accounting: time=$seconds threads=$threads\n$end");
}

# Report the failed jobs, what three of them said last, and the first cause; returns the exit status of the program.
sub verdict {
    my ($program, $log, $name, $jobs, @failed) = @_;
    return 0 unless @failed;
    @failed = map { named($log, $name, $_) } sort { $a <=> $b } @failed;
    my $logs = join ' ', @failed > 3 ? (@failed[0 .. 2], '...') : @failed;
    print STDERR "$program: " . @failed . " / $jobs failed, log is in $logs\n";
    my ($cause, $status) = (undef, 1);
    my $shown = 0;
    for my $path (@failed) {
        open my $stream, '<', $path or next;
        my @lines = <$stream>;
        my ($mistake) = grep { /^[\w.\/-]+: error: / } reverse @lines;
        if (defined $mistake and not defined $cause) {   # alone on its line, as the program itself would have said it
            ($cause, $status) = ($mistake, $lines[-1] =~ /^# Ended \(code 2\)/ ? 2 : 1);
            next;
        }
        my ($last) = defined $mistake ? $mistake : grep { /\S/ and not /^#/ } reverse @lines;
        print STDERR "  $path: $last" if defined $last and $shown++ < 3;
    }
    print STDERR $cause if defined $cause;
    return $status;
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
