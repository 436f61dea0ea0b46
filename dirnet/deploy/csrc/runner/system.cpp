#include "system.h"

#include <dirent.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <memory>

#include "mistake.h"

namespace dirnet::runner {

namespace {

std::string first_line(const std::string& path) {
  std::ifstream stream(path);
  std::string line;
  std::getline(stream, line);
  return line;
}

double number_in(const std::string& path, double otherwise) {
  std::ifstream stream(path);
  double value;
  return stream >> value ? value : otherwise;
}

double seconds(clockid_t clock) {
  timespec now{};
  clock_gettime(clock, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

bool is_processor(std::string type) {
  std::transform(type.begin(), type.end(), type.begin(), [](unsigned char c) { return std::tolower(c); });
  for (const char* word : {"cpu", "soc", "core", "big", "little", "mid", "x86_pkg"})
    if (type.find(word) != std::string::npos) return true;
  return false;
}

int kept_stderr = 2;
char crash_line[600];

void crashed(int) {
  if (write(kept_stderr, crash_line, std::strlen(crash_line)) < 0) {
  }
  _exit(2);
}

}  // namespace

std::vector<int> parse_cores(const std::string& text) {
  const Mistake wrong("--cores is '" + text + "', expected numbers such as 4-7 or 0,2 below " +
                      std::to_string(CPU_SETSIZE) + ", or a mask such as 0xf0");
  std::vector<int> cores;
  try {
    if (text.rfind("0x", 0) == 0) {
      size_t used = 0;
      const unsigned long long mask = std::stoull(text, &used, 16);
      if (used != text.size()) throw wrong;
      for (int core = 0; core < 64; ++core)
        if (mask >> core & 1) cores.push_back(core);
    } else {
      for (size_t at = 0; at < text.size();) {
        size_t used = 0;
        auto number = [&] {
          if (at >= text.size() || !std::isdigit(static_cast<unsigned char>(text[at]))) throw wrong;
          const int value = std::stoi(text.substr(at), &used);
          at += used;
          return value;
        };
        const int first = number();
        int last = first;
        if (at < text.size() && text[at] == '-') ++at, last = number();
        if (last < first || last >= CPU_SETSIZE) throw wrong;
        for (int core = first; core <= last; ++core) cores.push_back(core);
        if (at < text.size() && (text[at] != ',' || ++at == text.size())) throw wrong;
      }
    }
  } catch (const std::logic_error&) {  // of stoi and stoull
    throw wrong;
  }
  if (cores.empty()) throw wrong;
  return cores;
}

std::vector<int> pin(std::vector<int> cores, int threads) {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (cores.empty()) {
    if (sched_getaffinity(0, sizeof set, &set) != 0) return {};
    for (int core = 0; core < CPU_SETSIZE; ++core)
      if (CPU_ISSET(core, &set)) cores.push_back(core);
    if (static_cast<int>(cores.size()) > threads) cores.erase(cores.begin(), cores.end() - threads);
    CPU_ZERO(&set);
  }
  if (static_cast<int>(cores.size()) < threads)
    throw Mistake("--threads is " + std::to_string(threads) + ", expected at most " + std::to_string(cores.size()) +
                  ", the cores to run on");
  for (int core : cores) CPU_SET(core, &set);
  if (sched_setaffinity(0, sizeof set, &set) != 0)
    throw Mistake("cannot run on the wanted cores (" + std::string(std::strerror(errno)) + "); give others in --cores");
  return cores;
}

double cpu_seconds() { return seconds(CLOCK_THREAD_CPUTIME_ID); }
double wall_seconds() { return seconds(CLOCK_MONOTONIC); }

long resident_bytes(bool peak) {
  const std::string wanted = peak ? "VmHWM:" : "VmRSS:";
  std::ifstream stream("/proc/self/status");
  for (std::string line; std::getline(stream, line);)
    if (line.rfind(wanted, 0) == 0) return std::stol(line.substr(wanted.size())) * 1024;
  return 0;
}

Climate climate(const std::string& sys, int core) {
  Climate now;
  now.khz = number_in(sys + "/devices/system/cpu/cpu" + std::to_string(core) + "/cpufreq/scaling_cur_freq", -1);
  const std::string zones = sys + "/class/thermal/";
  const std::unique_ptr<DIR, int (*)(DIR*)> folder(opendir(zones.c_str()), closedir);
  while (const dirent* zone = folder ? readdir(folder.get()) : nullptr) {
    if (std::strncmp(zone->d_name, "thermal_zone", 12) != 0 || !is_processor(first_line(zones + zone->d_name + "/type")))
      continue;
    double celsius = number_in(zones + zone->d_name + "/temp", -1e9);
    if (std::abs(celsius) >= 1000) celsius /= 1000;  // thousandths of a degree, on some phones degrees
    if (celsius > -50 && celsius < 150) now.celsius = std::max(now.celsius, celsius);
  }
  return now;
}

Quiet::Quiet() : kept_(dup(2)) {
  kept_stderr = kept_;
  const int nowhere = open("/dev/null", O_WRONLY | O_CLOEXEC);
  dup2(nowhere, 2);
  close(nowhere);
}

Quiet::~Quiet() {
  dup2(kept_, 2);
  close(kept_);
  kept_stderr = 2;
}

void tell_crashes(const std::string& message) {
  std::snprintf(crash_line, sizeof crash_line, "%s\n", message.c_str());
  struct sigaction action {};
  action.sa_handler = crashed;
  for (int signal : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT}) sigaction(signal, &action, nullptr);
}

}  // namespace dirnet::runner
