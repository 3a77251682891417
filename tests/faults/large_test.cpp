// Files that are larger than the memory they may take: a data set of many rows, and a base of many shards.
#include "core/check.h"
#include "faults/flags.h"
#include "faults/program.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <fstream>
#include <iostream>

namespace rankfold::faults {
namespace {

using nlohmann::json;

double mib(int64_t bytes) { return static_cast<double>(bytes) / static_cast<double>(kMiB); }

// --rows questions and answers.
TEST(Large, RowsAreNotHeldInMemory) {
  const Job job;
  const fs::path file = job / "rows.jsonl";
  {
    std::ofstream rows(file);
    for (int64_t i = 0; i < flags.rows; ++i)
      rows << R"({"question": "What is )" << i * 7919
           << R"( for a patient with high blood pressure?", "answer": "Ask your doctor. 请先咨询医生 )" << i << "\"}\n";
  }
  // As a person runs it: tokenised by every core.
  const Setting all_cores = {.environment = {"OMP_NUM_THREADS"}};
  double seconds[2] = {};
  int64_t peak = 0, told = 0;
  for (const bool warm : {false, true}) {
    Program run("lora-train", job.arguments("out", {"--dataset=" + file.string(), "--max_steps=3"}), all_cores);
    while (run.runs() && steps_said(run.said()).empty() && run.seconds() < 600) sleep_for(0.01);
    seconds[warm] = run.seconds();
    const Outcome o = run.wait(600);
    EXPECT_EQ(o.code, 0) << "signal " << o.signal << ": " << o.err;
    EXPECT_EQ(last_step(o.out), 3);
    peak = std::max(peak, o.peak_bytes);
    told += o.out.find(warm ? "\ntokens read from " : "\ntokens kept in ") != std::string::npos;
  }
  EXPECT_EQ(told, 2) << "the second run is to find what the first has tokenised";
  EXPECT_GT(peak, 0);
  EXPECT_LT(peak, kGiB);
  EXPECT_LT(seconds[0], 600);
  std::cout << "large: " << flags.rows << " rows of " << mib(static_cast<int64_t>(fs::file_size(file)))
            << " MiB: first step after " << seconds[0] << " s, " << seconds[1] << " s with the tokens kept; peak "
            << mib(peak) << " MiB\n";
}

// A Llama of zeros in shards that take no room on a disk with holes, and an adapter on it.
class LargeMerge : public ::testing::Test {
 protected:
  static constexpr int64_t kHidden = 2048, kInner = 5632, kRank = 8;

  struct Base {
    int64_t shards = 0, bytes = 0, largest_shard = 0;
  };
  // One layer a shard: 98 MiB in bfloat16.
  Base write_base(const std::string& name, int64_t layers) const {
    const fs::path folder = folder_ / name;
    Base base;
    json map = json::object();
    std::vector<std::pair<std::string, at::Tensor>> updates;
    for (int64_t i = 0; i < layers; ++i) {
      const std::string layer = join("model.layers.", i, ".");
      std::vector<std::pair<std::string, std::vector<int64_t>>> shapes = {{"self_attn.W_pack", {3 * kHidden, kHidden}},
                                                                          {"self_attn.o_proj", {kHidden, kHidden}},
                                                                          {"mlp.gate_proj", {kInner, kHidden}},
                                                                          {"mlp.up_proj", {kInner, kHidden}},
                                                                          {"mlp.down_proj", {kHidden, kInner}}};
      json header = json::object();
      int64_t end = 0;
      const std::string shard = join("model-", 1000 + i, ".safetensors");
      for (const auto& [module, shape] : shapes) {
        const int64_t begin = end;
        end += shape[0] * shape[1] * 2;
        header[layer + module + ".weight"] = {{"dtype", "BF16"}, {"shape", shape}, {"data_offsets", {begin, end}}};
        map[layer + module + ".weight"] = shard;
      }
      std::string text = header.dump();
      text.resize((text.size() + 7) / 8 * 8, ' ');
      const auto size = static_cast<uint64_t>(text.size());
      const std::string head = std::string(reinterpret_cast<const char*>(&size), sizeof size) + text;
      folder_.write(name + "/" + shard, head);
      fs::resize_file(folder / shard, head.size() + static_cast<uint64_t>(end));
      base.largest_shard = std::max(base.largest_shard, static_cast<int64_t>(head.size()) + end);
      base.bytes += end, ++base.shards;
      const std::string key = "base_model.model." + layer + "self_attn.W_pack.lora_";
      updates.emplace_back(key + "A.weight", at::full({kRank, kHidden}, 0.5));
      updates.emplace_back(key + "B.weight", at::full({3 * kHidden, kRank}, static_cast<double>(i + 1)));
    }
    folder_.write(name + "/model.safetensors.index.json",
                  json{{"metadata", {{"total_size", base.bytes}}}, {"weight_map", map}}.dump());
    folder_.write(name + "/config.json", json{{"model_type", "baichuan"}, {"torch_dtype", "bfloat16"}}.dump());
    folder_.write(
        name + "-adapter/adapter_config.json",
        json{{"peft_type", "LORA"}, {"r", kRank}, {"lora_alpha", kRank}, {"target_modules", {"W_pack"}}}.dump());
    write_tensor_file(folder_ / (name + "-adapter") / "adapter_model.safetensors", updates);
    return base;
  }
  // Gives the peak.
  int64_t merged(const std::string& name, const Base& base) const {
    const fs::path out = folder_ / (name + "-merged");
    const Outcome o = Program("lora-merge", {"--model_name_or_path=" + (folder_ / name).string(),
                                             "--adapter_name_or_path=" + (folder_ / (name + "-adapter")).string(),
                                             "--output_dir=" + out.string()})
                          .wait(3600);
    EXPECT_EQ(o.code, 0) << "signal " << o.signal << ": " << o.err;
    int64_t shards = 0, values = 0;
    for (const auto& entry : fs::directory_iterator(out)) {
      if (entry.path().extension() != ".safetensors") continue;
      const TensorFile file = TensorFile::open(entry.path());
      for (const TensorInfo& info : file.tensors())
        if (info.name.find("W_pack") != std::string::npos) {  // 8 ranks of 0.5 x the layer's number
          const double layer = std::atof(info.name.c_str() + std::string("model.layers.").size());
          values += file.tensor(info.name)[3 * kHidden - 1][kHidden - 1].item<double>() == kRank * 0.5 * (layer + 1);
          file.forget(info.name);
        }
      ++shards;
    }
    EXPECT_EQ(shards, base.shards);
    EXPECT_EQ(values, base.shards) << "merged values";
    fs::remove_all(out);
    return o.peak_bytes;
  }
  const TempFolder folder_;
};

// --mib of base.
TEST_F(LargeMerge, GoesThroughItTensorByTensor) {
  const Base one = write_base("one", 1), all = write_base("all", std::max<int64_t>(2, flags.mib * kMiB / one.bytes));
  const int64_t peak_of_one = merged("one", one), peak = merged("all", all);
  std::cout << "large: merged " << mib(all.bytes) << " MiB in " << all.shards << " shards of at most "
            << mib(all.largest_shard) << " MiB: peak " << mib(peak) << " MiB, of one shard " << mib(peak_of_one)
            << " MiB\n";
  EXPECT_GT(peak_of_one, 0);
  EXPECT_LT(peak, all.largest_shard + kGiB);
  EXPECT_LT(peak - peak_of_one, all.bytes / 4) << "what was written stays in memory";
}

}  // namespace
}  // namespace rankfold::faults
