// Times an exported program: the executable's `main`, and the same function for a host program that loads it.
#pragma once

// Runs the command line `arguments` (arguments[0] is the program's name). Returns 0, or 2 after one line on stderr.
extern "C" __attribute__((visibility("default"))) int dirnet_runner(int count, const char* const* arguments);
