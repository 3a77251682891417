// Rows that are checked and cleaned with all that lora-data can do switched on; what comes out is read again.
#include "clean/clean.h"
#include "clean/report.h"
#include "core/check.h"
#include "fuzz/fuzz.h"

#include <nlohmann/json.hpp>

#include <cstdlib>

namespace rankfold::fuzz {

const char* const kName = "clean";
const double kGrowthOfAByte = 400;  // a number for a row, which is reported with its reason, takes most

const std::vector<std::string>& file_names() {
  static const std::vector<std::string> names{"rows.jsonl"};
  return names;
}

std::vector<std::string> seeds() {
  return {
      input(0,
            R"([{"question":"tel 13912345678","answer":"a@b.com"},{"question":"a\nb\u00e9","answer":"\ud83d\ude00"}])"),
      input(0, "{\"input_ids\":[1,5,6,2],\"labels\":[-100,-100,6,2]}\n\n{\"input_ids\":[3,4]}\n"),
      input(0,
            "\xEF\xBB\xBF{\"version\":1,\"by\":\"x@y.cn\",\"data\":[{\"instruction\":\"a\",\"input\":\"b\",\"output\":"
            "\"c\"},\r\n"
            "{\"instruction\":\"a\",\"input\":null,\"output\":\"the\"}]}"),
      input(0,
            "{\"text\":\"11010519491231002X \xE7\xB3\x96\"}\n{\"query\":\"a\",\"response\":\"6222021234567890128\"}\n"
            "{\"prompt\":\"a\",\"completion\":\"b\"}\n"),
      input(
          0,
          R"({"messages":[{"role":"user","content":[{"type":"text","text":"+86 139-1234-5678"}]},{"role":"assistant",)"
          R"("content":"","tool_calls":[{"function":{"name":"f","arguments":"{\"n\": 13912345678}"}}]}],"tools":[]})"),
      input(0,
            "{\"question\":\"\xB8\xDF\xD1\xAA\xD1\xB9\",\"answer\":\"\xB3\xD4\xD2\xA9\"}\n{\"text\":\"\xFF\"}\n{"
            "\"text\":\"b\"}\n"),
  };
}

std::vector<Large> large_inputs(int count) {
  const auto same = [](const char* text) { return [text](int) { return std::string(text); }; };
  const auto numbered = [](int i) { return "{\"text\":\"the dose of drug number " + std::to_string(i) + " is one\"}"; };
  return {
      {"equal rows", input(0, repeated("[", count / 4, same(R"({"text":"the"})"), "]"))},
      {"rows that are alike", input(0, repeated("", count / 8, numbered, "", "\n"))},
      {"numbers for rows", input(0, repeated("[{\"text\":\"a\"},", count / 20, same("1"), "]"))},
      {"bad lines", input(0, repeated("{\"text\":\"a\"}\n", count / 50, same("{\"ask\":"), "", "\n"))},
      {"mobile numbers", input(0, repeated("{\"text\":\"", count / 10, same("13912345678"), "\"}", " "))},
      {"addresses", input(0, repeated("{\"text\":\"", count / 10, same("a@b.com"), "\"}", " "))},
      {"at signs", input(0, "{\"text\":\"" + std::string(static_cast<size_t>(count), '@') + "\"}")},
      {"digits", input(0, "{\"text\":\"" + std::string(static_cast<size_t>(count), '1') + "\"}")},
      {"escapes", input(0, repeated("{\"text\":\"", count / 4, same("\\u0031"), "\"}", ""))},
      {"JSON in a text", input(0, repeated("{\"text\":\"[", count / 4, same("1"), "]\"}"))},
      {"turns",
       input(0, repeated("{\"messages\":[", count / 10, same("{\"role\":\"assistant\",\"content\":\"x\"}"), "]}"))},
  };
}

namespace {

void parse(const std::filesystem::path& folder, const std::string& name) {
  const std::filesystem::path output = folder / "cleaned";
  CheckConfig config{.mask = PersonalKinds::all(), .decode_gbk = true};
  config.remove.add(RowFinding::kExactDuplicate);
  Cleaner cleaner(folder / name, {}, config);
  const CheckResult result = cleaner.write(output);
  const ReportOf report{cleaner.checker(), result, static_cast<uint32_t>(result.rows), "cleaned",
                        cleaner.masked_around()};
  for (const std::string& line : finding_lines(report)) judge_line(one_line(line));
  write_report(report, folder / "report.json");
  const RowFile cleaned = RowFile::open(output);
  if (cleaned.size() != result.rows - result.removed_rows()) std::abort();
  for (int64_t i = 0; i < cleaned.size(); ++i) (void)cleaned[i].size();
}

struct Sound : Folder {
  Sound() { write("rows.jsonl", "{\"text\":\"a\"}\n"); }
};

}  // namespace
}  // namespace rankfold::fuzz

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const rankfold::fuzz::Sound folder;
  return folder.with_input(data, size, [](const std::string& name) { rankfold::fuzz::parse(folder.path(), name); });
}
