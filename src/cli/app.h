// What the programs share: flags and configuration file, errors as one line, exit codes.
#pragma once

#include "core/config.h"

#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace rankfold {

struct AppSpec {
  std::string name = {};
  std::string description = {};
  std::vector<std::string> required = {};  // keys that must not be empty
  std::map<std::string, std::vector<std::string>> spares =
      {};                              // a key -> the keys of `required` that may be empty if it is given
  std::string needs_less_memory = {};  // for the error line: what the user can reduce
  std::string command = {};            // that follows the program's name: lora-data check
  std::string files = {};              // the key of files that are given without it, before or after the flags
  std::string usage = {};              // how these are written: FILE...
  std::vector<std::pair<std::string, std::string>> commands = {};  // with what they do, if the program has commands
  bool takes_config = false;    // a CONFIG.json may stand anywhere among the flags, which win over it
  bool keeps_pages = true;      // see core/process.h
  bool stops_in_order = false;  // the job handles SIGINT and SIGTERM: cli/signals.h
  bool prints_result = true;    // standard output is the result; false: the result is in files
};

// The keys that were set: canonical name -> as the user wrote it ("run.json: lora_rank", "--r").
using Given = std::map<std::string, std::string>;

// Reads the command line into `fields`, runs `job` and returns the exit code. Results go to standard output,
// everything else to standard error, each error as one line "lora-train: ...".
int run_app(const AppSpec& spec, int argc, char** argv, const Fields& fields,
            const std::function<void(const Given&)>& job);

template <class Options>
int run_app(const AppSpec& spec, int argc, char** argv, void (*job)(Options&, const Given&)) {
  Options options;
  return run_app(spec, argc, argv, fields_of(options), [&](const Given& given) { job(options, given); });
}

}  // namespace rankfold
