#include "cli/app.h"

#include "cli/help.h"
#include "cli/signals.h"
#include "core/check.h"
#include "core/guard.h"
#include "core/json.h"
#include "core/process.h"
#include "core/utf8.h"

#include <poll.h>
#include <unistd.h>

#include <CLI/App.hpp>
#include <CLI/Config.hpp>
#include <CLI/Formatter.hpp>
#include <cerrno>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <csignal>
#include <exception>
#include <filesystem>
#include <iostream>
#include <set>

namespace rankfold {
namespace {

// Whether what follows a flag that needs no value is one, though perhaps a wrong one, and no flag or configuration
// file.
bool is_meant_for_bool(const std::string& text, const AppSpec& spec) {
  const bool takes_config = spec.takes_config;
  if (takes_config && (text.empty() || text.ends_with(".json"))) return false;
  if (parse_bool(text)) return true;
  if (!spec.files.empty()) return false;
  std::error_code ignored;
  return !text.starts_with('-') && !(takes_config && std::filesystem::exists(text, ignored));
}

bool is_list(const Field& field) {
  nlohmann::ordered_json value;
  field.get(value);  // nothing is set yet
  return value.is_array();
}

// The values of a list, from `i`, which moves to the last argument before the next flag: "a b", "a, b" and "a,b" are the
// same.
std::string list_argument(const std::vector<std::string>& arguments, size_t& i) {
  std::string list = arguments[i];
  while (i + 1 < arguments.size() && !arguments[i + 1].starts_with('-')) {
    if (!list.ends_with(',')) list += ',';
    list += arguments[++i];
  }
  return list;
}

// The command line as pairs (canonical flag, value) and a positional, which leaves CLI11 nothing to guess: 2.1 takes the
// argument after an empty "--key=" for its value.
std::vector<std::string> plain_arguments(const Fields& fields, const AppSpec& spec, int argc, char** argv) {
  const bool takes_config = spec.takes_config;
  std::vector<std::string> plain, positional;
  const std::vector<std::string> arguments(argv + (spec.command.empty() ? 1 : 2), argv + argc);
  for (size_t i = 0; i < arguments.size(); ++i) {
    const std::string& argument = arguments[i];
    if (!argument.starts_with('-') || argument == "-") {
      if (takes_config && argument.empty()) fail("CONFIG.json: expected a path, got an empty text");
      positional.push_back(argument);
      continue;
    }
    if (argument == "-h" || argument == "--help" || argument == "--version") return {argument};
    const size_t equals = argument.find('=');
    const std::string flag = argument.substr(0, equals);
    const Field* field = flag.starts_with("--") ? find_field(fields, flag.substr(2)) : nullptr;
    if (!field) {
      const size_t begin = flag.find_first_not_of('-') == 2 ? 2 : 1;
      fail("unknown flag ", flag, advice_on_unknown(flag.substr(begin), fields, "--"));
    }
    plain.push_back("--" + field->name);
    const bool last = i + 1 == arguments.size();
    if (equals != std::string::npos)
      plain.push_back(argument.substr(equals + 1));
    else if (field->is_bool)
      plain.push_back(!last && is_meant_for_bool(arguments[i + 1], spec) ? arguments[++i] : "true");
    else if (last || arguments[i + 1].starts_with("--"))
      fail(flag, ": expected ", field->expected, ", got ", last ? "nothing" : "the flag " + arguments[i + 1]);
    else if (is_list(*field) && !takes_config && (spec.files.empty() || field->is_files))  // where no file may follow
      plain.push_back(list_argument(arguments, ++i));
    else
      plain.push_back(arguments[++i]);
  }
  if (!spec.files.empty() && !positional.empty()) {
    if (std::find(plain.begin(), plain.end(), "--" + spec.files) != plain.end())
      fail("--", spec.files, ": expected this or ", spec.usage, ", got both");
    for (const std::string& file : positional)
      if (!is_utf8(file)) fail(spec.usage, ": expected UTF-8, got bytes that are none");
    plain.push_back("--" + spec.files);
    plain.push_back(nlohmann::json(positional).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
    return plain;
  }
  if (!spec.commands.empty()) {
    std::string words;
    for (const auto& [name, what] : spec.commands) words += (words.empty() ? "" : " or ") + name;
    fail("expected a command, ", words, ", got ", positional.empty() ? "none" : "\"" + positional.front() + "\"");
  }
  if (positional.size() > (takes_config ? 1 : 0))
    fail("unexpected argument \"", positional.back(), "\"", takes_config ? ": one configuration file at most" : "");
  plain.insert(plain.end(), positional.begin(), positional.end());
  return plain;
}

nlohmann::ordered_json read_config_json(const std::string& path) {
  try {
    return read_ordered_json(path);
  } catch (const UserError& error) {
    if (path.ends_with(".json")) throw;
    fail(error.what(), "; a configuration file is JSON, such as {\"learning_rate\": 2e-5, \"r\": 16}");
  }
}

void read_config(const std::string& path, const Fields& fields, Given& given) {
  const nlohmann::ordered_json object = read_config_json(path);
  read_fields(object, path, fields, /*unknown_is_error=*/true);
  for (const auto& [key, value] : object.items()) given[find_field(fields, key)->name] = path + ": " + key;
}

// Fills the fields. CLI11 runs callbacks in the order of registration: the file's before any flag's, which wins.
// A file that a run has written names every setting, also those that ask for nothing.
bool is_set(const Field& field) {
  nlohmann::ordered_json value;
  field.get(value);
  return value != "" && value != false && value != 0;
}

Given parse(CLI::App& app, const AppSpec& spec, int argc, char** argv, const Fields& fields) {
  Given given;
  app.set_version_flag("--version", spec.name + " " + RANKFOLD_VERSION);
  app.formatter_fn([&](const CLI::App*, std::string, CLI::AppFormatMode) { return help_text(spec, fields); });
  if (spec.takes_config)
    app.add_option_function<std::string>("CONFIG.json",
                                         [&](const std::string& path) { read_config(path, fields, given); });
  for (const Field& field : fields)
    app.add_option_function<std::string>("--" + field.name,
                                         [&given, &field](const std::string& text) {
                                           set_from_text(field, text, "--" + field.name);
                                           given[field.name] = "--" + field.name;
                                         })
        ->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
  std::vector<std::string> arguments = plain_arguments(fields, spec, argc, argv);
  std::reverse(arguments.begin(), arguments.end());  // as CLI11 wants them
  app.parse(std::move(arguments));
  std::set<std::string> spared;
  for (const auto& [key, others] : spec.spares)
    if (given.contains(key) && is_set(*find_field(fields, key))) spared.insert(others.begin(), others.end());
  for (const auto& key : spec.required)
    if (!given.contains(key) && !spared.contains(key))
      fail(key == spec.files ? spec.usage : "--" + key, " is missing: ", find_field(fields, key)->help);
  return given;
}

// Whoever does not read what is written to a pipe must not keep the program from ending.
int report(const std::string& program, ExitCode code, const std::string& line) {
  std::cout.flush();
  pollfd error = {.fd = STDERR_FILENO, .events = POLLOUT, .revents = 0};
  constexpr int kPatience = 2000;  // ms
  if (::poll(&error, 1, kPatience) == 1 && (error.revents & POLLOUT))
    std::cerr << program << ": " << one_line(line) << std::endl;
  return static_cast<int>(code);
}

// The exit code for the exception in flight.
int report_exception(const AppSpec& spec) {
  try {
    rethrow_as_error();
  } catch (const Stopped&) {
    const Error error = stopped_by_signal();
    return report(spec.name, error.code(), error.what());
  } catch (const Error& error) {
    const bool wants_less = error.code() == ExitCode::kOutOfMemory && !spec.needs_less_memory.empty();
    return report(spec.name, error.code(),
                  join(error.what(), wants_less ? "; " + spec.needs_less_memory + " needs less" : ""));
  } catch (const std::exception& misuse) {  // of the library, by a program of ours
    return report(spec.name, ExitCode::kDefect, join("this is a defect of Rankfold: ", misuse.what()));
  }
}

}  // namespace

int run_app(const AppSpec& spec, int argc, char** argv, const Fields& fields,
            const std::function<void(const Given&)>& job) {
  std::signal(SIGPIPE, SIG_IGN);  // a reader that went away must not kill a training run
  std::signal(SIGXFSZ, SIG_IGN);  // nor a limit on the size of files, which is an error of the write
  if (spec.stops_in_order) hold_signals();
  if (spec.name == program_invocation_short_name) set_up_libraries(argv);  // not inside a test
  set_up_memory(spec.keeps_pages);
  report_lost_mappings(spec.name.c_str());
  CLI::App app(spec.description, spec.name);
  try {
    if (spec.stops_in_order) note_signals();
    const Given given = parse(app, spec, argc, argv, fields);
    job(given);
    std::cout.flush();
    if (spec.prints_result && !std::cout) throw StorageError("standard output could not be written");
    return static_cast<int>(ExitCode::kDone);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // --help, --version
    return report(spec.name, ExitCode::kBadInput, error.what());
  } catch (...) {
    return report_exception(spec);
  }
}

}  // namespace rankfold
