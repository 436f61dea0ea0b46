// Times an exported program: what the executable does, for a host program that loads it as a library too.
#pragma once

// Runs the command line `arguments` (arguments[0] is the program's name). Returns null, or what the user did wrong:
// one line, valid until this thread's next call.
extern "C" __attribute__((visibility("default"))) const char* dirnet_runner(int count, const char* const* arguments);
