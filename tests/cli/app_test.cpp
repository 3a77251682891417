#include "cli/app.h"

#include "cli/run_program.h"
#include "core/check.h"

#include <ATen/ops/empty.h>
#include <c10/util/Exception.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iostream>
#include <new>

namespace rankfold {
namespace {

struct Options {
  std::string prompt;
  int64_t steps = 5;
  bool raw = false;
  ModuleNames targets = StringList{};
  StringList names;
  DataFiles files, more;

  template <class V>
  void fields(V&& v) {
    v("prompt", prompt, "a text", allow::any, "a text", {});
    v("max_steps", steps, "a number", allow::any, "an integer", {"steps"});
    v("raw", raw, "no template", allow::any, "true or false", {});
    v("target_modules", targets, "modules", allow::any, "a list of names or a string", {});
    v("names", names, "names", allow::any, "names", {});
    v("files", files, "files", allow::any, "a path", {});
    v("more", more, "files", allow::any, "a path", {});
  }
};

struct Parsed : testing::Outcome {
  Options options;
  Given given;
};

Parsed run(
    std::vector<std::string> arguments, AppSpec spec = {}, const std::function<void()>& job = [] {}) {
  spec.name = "app";
  spec.keeps_pages = false;
  arguments.insert(arguments.begin(), "app");
  std::vector<char*> argv;
  for (auto& argument : arguments) argv.push_back(argument.data());
  Parsed outcome;
  ::testing::internal::CaptureStdout();
  ::testing::internal::CaptureStderr();
  outcome.code =
      run_app(spec, static_cast<int>(argv.size()), argv.data(), fields_of(outcome.options), [&](const Given& given) {
        outcome.given = given;
        job();
      });
  outcome.out = ::testing::internal::GetCapturedStdout();
  outcome.err = ::testing::internal::GetCapturedStderr();
  return outcome;
}

TEST(App, EmptyValueDoesNotSwallowTheNextFlag) {
  const Parsed outcome = run({"--prompt=", "--raw"});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(outcome.options.prompt, "");
  EXPECT_TRUE(outcome.options.raw);
  EXPECT_TRUE(run({"--prompt", "", "--raw"}).options.raw);
}

TEST(App, ValuesThatLookLikeFlags) {
  EXPECT_EQ(run({"--max_steps", "-1"}).options.steps, -1);
  EXPECT_EQ(run({"--max-steps=-1"}).options.steps, -1);
  EXPECT_EQ(run({"--prompt=--raw"}).options.prompt, "--raw");
  EXPECT_EQ(run({"--prompt", "-x"}).options.prompt, "-x");
  EXPECT_EQ(run({"--prompt=a=b"}).options.prompt, "a=b");
  EXPECT_EQ(run({"--prompt", "[a,b]"}).options.prompt, "[a,b]");
  EXPECT_EQ(run({"--prompt=\"q\""}).options.prompt, "\"q\"");
  EXPECT_EQ(run({"--target_modules", "[\"a\",\"b\"]"}).options.targets, ModuleNames(StringList{"a", "b"}));
  EXPECT_EQ(run({"--prompt", "--raw"}).err, "app: --prompt: expected a text, got the flag --raw\n");
  EXPECT_EQ(run({"--prompt"}).err, "app: --prompt: expected a text, got nothing\n");
}

TEST(App, ListsMayBeSeveralArguments) {
  const StringList expected{"a", "b", "c"};
  for (const std::vector<std::string>& arguments : {std::vector<std::string>{"--names", "a", "b", "c"},
                                                    {"--names", "a,b,c"},
                                                    {"--names", "a,", "b,", "c"},
                                                    {"--names", "a", "b,c", "--raw"},
                                                    {"--names=a,b,c"},
                                                    {"--names", "[\"a\", \"b\", \"c\"]"}}) {
    const Parsed outcome = run(arguments);
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    EXPECT_EQ(outcome.options.names, expected);
    EXPECT_EQ(outcome.options.raw, arguments.back() == "--raw");
  }
  // A configuration file may follow, and --key= has one value.
  EXPECT_NE(run({"--names", "a", "b"}, {.takes_config = true}).code, 0);
  EXPECT_EQ(run({"--names=a", "b"}).err, "app: unexpected argument \"b\"\n");
  EXPECT_EQ(run({"--prompt", "a", "b"}).err, "app: unexpected argument \"b\"\n");
}

TEST(App, FilesNeedNoName) {
  const AppSpec spec{.required = {"files"}, .files = "files", .usage = "FILE..."};
  for (const std::vector<std::string>& arguments : {std::vector<std::string>{"a,b", "c"},
                                                    {"--raw", "a,b", "c"},
                                                    {"a,b", "--max_steps", "3", "c"},
                                                    {"--names", "x,y", "a,b", "c"},
                                                    {"a,b", "c", "--more", "d", "e"}}) {
    const Parsed outcome = run(arguments, spec);
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    EXPECT_EQ(outcome.options.files.paths, (StringList{"a,b", "c"})) << arguments[0];
    EXPECT_EQ(outcome.options.more.paths, arguments.back() == "e" ? (StringList{"d", "e"}) : StringList{});
  }
  EXPECT_EQ(run({"--files", "a", "b"}, spec).options.files.paths, (StringList{"a", "b"}));
  EXPECT_EQ(run({}, spec).err, "app: FILE... is missing: files\n");
  EXPECT_EQ(run({"a", "--files", "b"}, spec).err, "app: --files: expected this or FILE..., got both\n");
  EXPECT_EQ(run({"\xFF"}, spec).err, "app: FILE...: expected UTF-8, got bytes that are none\n");
  EXPECT_NE(run({"--help"}, spec).out.find("usage: app FILE... [--KEY VALUE ...]"), std::string::npos);
}

TEST(App, Commands) {
  const AppSpec overview{.commands = {{"check", "looks"}, {"clean", "writes"}}};
  EXPECT_EQ(run({}, overview).err, "app: expected a command, check or clean, got none\n");
  EXPECT_EQ(run({"x"}, overview).err, "app: expected a command, check or clean, got \"x\"\n");
  EXPECT_NE(run({"--help"}, overview).out.find("usage: app COMMAND ..."), std::string::npos);
  const AppSpec command{.command = "check"};
  EXPECT_EQ(run({"check", "--max_steps", "3"}, command).options.steps, 3);
  EXPECT_EQ(run({"check", "x"}, command).err, "app: unexpected argument \"x\"\n");
  EXPECT_NE(run({"check", "--help"}, command).out.find("usage: app check [--KEY VALUE ...]"), std::string::npos);
}

TEST(App, BooleansAndAliases) {
  EXPECT_FALSE(run({"--raw", "false"}).options.raw);
  EXPECT_FALSE(run({"--raw", "--raw=no"}).options.raw);  // the last counts
  EXPECT_TRUE(run({"--raw=1"}).options.raw);
  EXPECT_EQ(run({"--raw", "maybe"}).err, "app: --raw: expected true or false, got \"maybe\"\n");
  EXPECT_EQ(run({"--raw", "maybe"}, {.takes_config = true}).err, "app: --raw: expected true or false, got \"maybe\"\n");
  EXPECT_EQ(run({"--steps", "7"}).options.steps, 7);
  EXPECT_EQ(run({"--steps", "7"}).given.count("max_steps"), 1u);
}

TEST(App, FileThenFlags) {
  const std::string path = ::testing::TempDir() + "app_test.json";
  std::ofstream(path) << R"({"steps": 3, "prompt": "file"})";
  AppSpec spec;
  spec.takes_config = true;
  for (const auto& arguments : {std::vector<std::string>{"--max_steps", "9", path},
                                {path, "--max_steps", "9"},
                                {"--raw", path, "--max_steps=9"}}) {
    const Parsed outcome = run(arguments, spec);
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    EXPECT_EQ(outcome.options.steps, 9);
    EXPECT_EQ(outcome.options.prompt, "file");
    EXPECT_EQ(outcome.given.at("prompt"), path + ": prompt");
    EXPECT_EQ(outcome.given.at("max_steps"), "--max_steps");
  }
  EXPECT_EQ(run({path}).err, "app: unexpected argument \"" + path + "\"\n");
  EXPECT_EQ(run({path, path}, spec).code, 2);
  EXPECT_EQ(run({""}, spec).err, "app: CONFIG.json: expected a path, got an empty text\n");
  EXPECT_EQ(run({"nowhere.json"}, spec).code, 2);
  std::filesystem::remove(path);
}

TEST(App, BadFlagsAreOneLineAndExit2) {
  const Parsed unknown = run({"--max_step", "1"});
  EXPECT_EQ(unknown.code, 2);
  EXPECT_EQ(unknown.err, "app: unknown flag --max_step (did you mean '--max_steps'?)\n");
  EXPECT_EQ(run({"--"}).code, 2);
  EXPECT_EQ(run({"-x"}).code, 2);
  EXPECT_EQ(run({"--="}).code, 2);
  EXPECT_EQ(run({"--max_steps=x"}).err, "app: --max_steps: expected an integer, got \"x\"\n");
  AppSpec spec;
  spec.required = {"prompt"};
  EXPECT_EQ(run({}, spec).err, "app: --prompt is missing: a text\n");
  EXPECT_EQ(run({}, spec).code, 2);
}

TEST(App, HelpAndVersion) {
  const Parsed help = run({"--help"});
  EXPECT_EQ(help.code, 0);
  EXPECT_NE(help.out.find("--max_steps"), std::string::npos) << help.out;
  EXPECT_EQ(run({"--version"}).out.substr(0, 4), "app ");
  EXPECT_EQ(run({"--version"}).code, 0);
}

TEST(App, ExitCodes) {
  EXPECT_EQ(run({}, {}, [] { throw Error(ExitCode::kDiverged, "no longer finite"); }).code, 6);
  EXPECT_EQ(run({}, {}, [] { fail("two\nlines\x1b[31m"); }).err, "app: two\\x0alines\\x1b[31m\n");
  EXPECT_EQ(run({}, {}, [] { throw std::bad_alloc(); }).code, 4);
  EXPECT_EQ(run({}, {}, [] { throw std::bad_alloc(); }).err, "app: out of memory\n");
  EXPECT_EQ(run({}, {.needs_less_memory = "a smaller batch"}, [] { throw std::bad_alloc(); }).err,
            "app: out of memory; a smaller batch needs less\n");
  const auto too_large = [] { TORCH_CHECK_WITH(OutOfMemoryError, false, "tried to allocate 99 bytes\nmore"); };
  EXPECT_EQ(run({}, {}, too_large).err, "app: out of memory: tried to allocate 99 bytes\n");
  EXPECT_EQ(run({}, {}, [] { at::empty({int64_t{1} << 45}); }).code, 4);
  const Parsed defect = run({}, {}, [] { TORCH_CHECK(false, "shapes\nmore"); });
  EXPECT_EQ(defect.code, 1);
  EXPECT_EQ(defect.err, "app: this is a defect of Rankfold: shapes\n");
  EXPECT_EQ(run({}, {}, [] { std::cout << "result"; }).out, "result");
}

}  // namespace
}  // namespace rankfold
