#include "runner.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <sstream>

#include "features.h"
#include "mistake.h"
#include "program.h"
#include "system.h"

// Defined by ExecuTorch where its verification of programs is built in.
extern "C" [[gnu::weak]] void dirnet_verifier() asm("_ZNK21executorch_flatbuffer7Program6VerifyERN11flatbuffers8VerifierE");

namespace dirnet::runner {

namespace {

constexpr char kUsage[] =
    "usage: dirnet_runner --program MODEL.pte --features FEATURES.npy [OPTIONS]\n"
    "\n"
    "Times a program that `dirnet export` wrote, chunk by chunk, and prints one JSON.\n"
    "  --chunk N        output frames per call (default: the program's own)\n"
    "  --calls N        timed calls (default 1000)\n"
    "  --warm-up N      calls before them, beside one pass over the features (default 5)\n"
    "  --threads N      size of the thread pool (default 1)\n"
    "  --cores LIST     cores to run on: 4-7 or 0,2 or 0xf0 (default: the last N allowed)\n"
    "  --out FILE       write the JSON there\n"
    "  --logits FILE    write the logits of the first pass, raw float32\n"
    "  --sys DIR        where the clock and the temperature are read (default /sys)\n";

struct Options {
  std::string program, features, out, logits, cores, sys = "/sys";
  int chunk = 0, calls = 1000, warm_up = 5, threads = 1;
  bool help = false;
};

Options parse(int count, const char* const* arguments) {
  Options options;
  const std::map<std::string, std::string*> texts = {
      {"--program", &options.program}, {"--features", &options.features}, {"--out", &options.out},
      {"--logits", &options.logits},   {"--cores", &options.cores},       {"--sys", &options.sys}};
  const std::map<std::string, std::pair<int*, int>> numbers = {{"--chunk", {&options.chunk, 1}},
                                                               {"--calls", {&options.calls, 1}},
                                                               {"--warm-up", {&options.warm_up, 0}},
                                                               {"--threads", {&options.threads, 1}}};
  for (int i = 1; i < count; i += 2) {
    const std::string name = arguments[i];
    if (name == "--help" || name == "-h") options.help = true;
    if (options.help) return options;
    const auto text = texts.find(name);
    const auto number = numbers.find(name);
    if (text == texts.end() && number == numbers.end())
      throw Mistake("unknown option '" + name + "'; dirnet_runner --help lists them");
    if (i + 1 == count) throw Mistake("option " + name + " lacks its value");
    const std::string value = arguments[i + 1];
    if (text != texts.end()) {
      *text->second = value;
    } else {
      char* end = nullptr;
      const long given = std::strtol(value.c_str(), &end, 10);
      if (value.empty() || *end || given < number->second.second || given > 100000000)
        throw Mistake(name + " is '" + value + "', expected a number from " + std::to_string(number->second.second) +
                      " on");
      *number->second.first = static_cast<int>(given);
    }
  }
  if (options.program.empty() || options.features.empty())
    throw Mistake("--program and --features are needed; dirnet_runner --help tells more");
  return options;
}

// Between the values next to it, as numpy.percentile.
double percentile(const std::vector<double>& sorted, double percent) {
  const double at = percent / 100 * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<size_t>(at);
  const double above = sorted[std::min(below + 1, sorted.size() - 1)];
  return sorted[below] + (at - static_cast<double>(below)) * (above - sorted[below]);
}

std::string number(double value) {
  char text[40];
  std::snprintf(text, sizeof text, "%.9g", value);
  return std::isfinite(value) ? text : "null";
}

std::string quoted(const std::string& text) {
  std::string json = "\"";
  for (char c : text) {
    if (c == '"' || c == '\\') json += '\\';
    if (static_cast<unsigned char>(c) >= ' ') json += c;
  }
  return json + '"';
}

template <class Values>
std::string list(const Values& values) {
  std::string json;
  for (const auto& value : values) json += (json.empty() ? "" : ", ") + number(static_cast<double>(value));
  return "[" + json + "]";
}

std::string object(const Climate& now) {
  return "{\"khz\": " + (now.khz < 0 ? "null" : number(now.khz)) +
         ", \"celsius\": " + (now.celsius < -100 ? "null" : number(now.celsius)) + "}";
}

std::string percentiles(const std::vector<double>& sorted, double scale) {
  return "{\"min\": " + number(sorted[0] * scale) + ", \"p50\": " + number(percentile(sorted, 50) * scale) +
         ", \"p95\": " + number(percentile(sorted, 95) * scale) + "}";
}

void write(const std::string& path, const void* data, size_t bytes) {
  std::ofstream stream(path, std::ios::binary);
  stream.write(static_cast<const char*>(data), static_cast<std::streamsize>(bytes));
  stream.close();
  if (!stream) throw Mistake("cannot write " + path + "; is the folder there, and is there space?");
}

// Times the program as `options` tell; returns the JSON.
std::string measure(const Options& options) {
  const Quiet quiet;
  const long start_bytes = resident_bytes(false);
  const auto cores = pin(options.cores.empty() ? std::vector<int>{} : parse_cores(options.cores), options.threads);
  const int core = cores.empty() ? 0 : cores.back();
  if (auto* pool = executorch::extension::threadpool::get_threadpool())
    pool->_unsafe_reset_threadpool(static_cast<uint32_t>(options.threads));

  const double began = wall_seconds();
  Program program(options.program);
  const double load_s = wall_seconds() - began;

  const int own = static_cast<int>(program.number("chunk")), most = static_cast<int>(program.number("max_chunk"));
  const int chunk = options.chunk ? options.chunk : own;
  if (chunk > most || (chunk != own && most == own))
    throw Mistake("--chunk is " + std::to_string(chunk) + ", expected " +
                  (most == own ? std::to_string(own) : "1.." + std::to_string(most)) + " for this program");
  const int size = static_cast<int>(program.cmvn_mean().size());
  const int context = static_cast<int>(program.number("context")), stride = static_cast<int>(program.number("stride"));
  const double frame_ms = program.number("frame_shift_ms") * stride;
  const Features features = read_features(options.features, size);
  const auto frames = padded(features, program.cmvn_mean(), context, chunk * stride);
  const int window = chunk * stride + 2 * context;
  const int windows = (static_cast<int>(frames.size()) / size - 2 * context) / (chunk * stride);
  const auto input = [&](int call) {
    return frames.data() + static_cast<size_t>(call % windows) * static_cast<size_t>(chunk * stride * size);
  };

  int rows = 0, columns = 0;
  std::vector<float> logits;
  const int outputs = (features.frames + stride - 1) / stride;
  program.reset();
  for (int call = 0; call < windows; ++call) {
    program.prepare(input(call), window);
    program.execute();
    const float* values = program.finish(&rows, &columns);
    if (rows != chunk) throw Mistake("the program gave " + std::to_string(rows) + " outputs for " +
                                     std::to_string(chunk) + "; export it again");
    logits.insert(logits.end(), values, values + static_cast<size_t>(rows) * columns);
  }
  logits.resize(static_cast<size_t>(outputs) * columns);
  if (!options.logits.empty()) write(options.logits, logits.data(), logits.size() * sizeof(float));

  // One thread is timed by its processor time: what waits for a busy core is not the program's.
  const auto clock = options.threads == 1 ? cpu_seconds : wall_seconds;
  std::vector<double> calls;
  calls.reserve(static_cast<size_t>(options.calls));
  double wall_s = 0;
  program.reset();
  Climate before;
  for (int call = -options.warm_up; call < options.calls; ++call) {
    if (call == 0) before = climate(options.sys, core);
    const float* at = input(call + options.warm_up);
    const double wall = wall_seconds(), from = clock();
    program.prepare(at, window);
    program.execute();
    const double elapsed = clock() - from;
    const double wall_elapsed = wall_seconds() - wall;
    program.finish(&rows, &columns);
    if (call < 0) continue;
    calls.push_back(elapsed);
    wall_s += wall_elapsed;
  }
  const Climate after = climate(options.sys, core);

  std::vector<double> sorted(calls), us(calls);
  std::sort(sorted.begin(), sorted.end());
  for (double& value : us) value *= 1e6;
  double elapsed_s = 0;
  for (double value : calls) elapsed_s += value;
  const double audio_s = options.calls * chunk * frame_ms / 1000;
  std::ostringstream json;
  json << "{\n \"program\": " << quoted(options.program) << ",\n \"name\": " << quoted(program.text("name"))
       << ",\n \"backend\": " << quoted(program.text("backend")) << ",\n \"bytes\": " << program.bytes()
       << ",\n \"verification\": " << quoted(&dirnet_verifier ? "InternalConsistency" : "header only: not built in")
       << ",\n \"load_ms\": " << number(load_s * 1000) << ",\n \"chunk\": " << chunk
       << ",\n \"frame_ms\": " << number(frame_ms) << ",\n \"features\": [" << features.frames << ", " << size
       << "],\n \"logits\": [" << outputs << ", " << columns << "],\n \"threads\": " << options.threads
       << ",\n \"cores\": " << list(cores) << ",\n \"clock\": " << quoted(options.threads == 1 ? "cpu" : "wall")
       << ",\n \"calls\": " << options.calls << ",\n \"warm_up\": " << options.warm_up
       << ",\n \"audio_s\": " << number(audio_s) << ",\n \"elapsed_s\": " << number(elapsed_s)
       << ",\n \"wall_s\": " << number(wall_s) << ",\n \"rtf\": " << number(elapsed_s / audio_s)
       << ",\n \"us_per_call\": " << percentiles(sorted, 1e6)
       << ",\n \"us_per_frame\": " << percentiles(sorted, 1e6 / chunk)
       << ",\n \"start_rss_bytes\": " << start_bytes << ",\n \"peak_rss_bytes\": " << resident_bytes(true)
       << ",\n \"before\": " << object(before) << ",\n \"after\": " << object(after)
       << ",\n \"call_us\": " << list(us) << "\n}\n";
  return json.str();
}

}  // namespace

}  // namespace dirnet::runner

const char* dirnet_runner(int count, const char* const* arguments) {
  using namespace dirnet::runner;
  static thread_local std::string problem;
  try {
    const Options options = parse(count, arguments);
    if (options.help) {
      std::fputs(kUsage, stdout);
      return nullptr;
    }
    const std::string json = measure(options);
    if (options.out.empty())
      std::fputs(json.c_str(), stdout);
    else
      write(options.out, json.data(), json.size());
    std::fflush(stdout);
    return nullptr;
  } catch (const Mistake& mistake) {
    problem = mistake.what();
  } catch (const std::bad_alloc&) {
    problem = "out of memory; is the program damaged?";
  }
  return problem.c_str();
}
