// What the operating system tells and does: cores, clocks, memory, temperature; all of it Linux, also Android's.
#pragma once

#include <string>
#include <vector>

namespace dirnet::runner {

// "4-7,0" or "0xf0" as core numbers; throws `Mistake` on anything else.
std::vector<int> parse_cores(const std::string& text);

// Keeps this process on `cores`, or without any on the last `threads` of those it may use; returns them.
std::vector<int> pin(std::vector<int> cores, int threads);

// Seconds of this thread's processor time, and of the wall.
double cpu_seconds();
double wall_seconds();

// Bytes of memory this process has, or had at most; 0 where it is not told.
long resident_bytes(bool peak);

// Clock of a core in kHz and the hottest processor sensor in degrees Celsius; negative where it is not told.
struct Climate {
  double khz = -1, celsius = -1e9;
};
Climate climate(const std::string& sys, int core);

// While it lives, standard error goes nowhere: ExecuTorch's libraries talk about processors and threads.
class Quiet {
 public:
  Quiet();
  ~Quiet();

 private:
  int kept_;
};

// From here on a crash is one line, `message`, and exit status 2.
void tell_crashes(const std::string& message);

}  // namespace dirnet::runner
