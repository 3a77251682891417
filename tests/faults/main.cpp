// faults_tests [--instants=N] ...: see flags.h; the rest are GoogleTest's.
#include "faults/flags.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <iostream>
#include <map>
#include <string>

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  // Thousands of saves with some ten fsyncs each: in memory, where there is such a folder.
  if (::access("/dev/shm", W_OK | X_OK) == 0) ::setenv("TMPDIR", "/dev/shm", /*overwrite=*/0);
  auto& flags = rankfold::faults::flags;
  const std::map<std::string, int64_t*> names = {{"--instants", &flags.instants}, {"--signals", &flags.signals},
                                                 {"--steps", &flags.steps},       {"--flips", &flags.flips},
                                                 {"--states", &flags.states},     {"--pause", &flags.pause},
                                                 {"--rows", &flags.rows},         {"--mib", &flags.mib}};
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i], name = argument.substr(0, argument.find('='));
    const std::string value = argument.substr(std::min(argument.size(), name.size() + 1));
    if (const auto found = names.find(name); found != names.end()) {
      *found->second = std::atoll(value.c_str());
    } else if (name == "--seed") {
      flags.seed = std::strtoull(value.c_str(), nullptr, 10);
    } else if (name == "--device") {
      flags.device = value;
    } else if (name == "--programs") {
      flags.programs = value;
    } else {
      std::cerr << "unknown flag " << argument << "\n";
      return 2;
    }
  }
  return RUN_ALL_TESTS();
}
