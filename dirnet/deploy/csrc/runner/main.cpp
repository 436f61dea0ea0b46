#include <cstdio>

#include "runner.h"
#include "system.h"

int main(int count, char** arguments) {
  dirnet::runner::tell_crashes("dirnet_runner: error: crashed: the program is damaged or of another ExecuTorch; "
                               "copy or export it again");
  const char* problem = dirnet_runner(count, arguments);
  if (problem) std::fprintf(stderr, "dirnet_runner: error: %s\n", problem);
  return problem ? 2 : 0;
}
