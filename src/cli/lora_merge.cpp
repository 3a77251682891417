// lora-merge: base + adapter as one model folder.
#include "cli/app.h"
#include "cli/signals.h"
#include "core/check.h"
#include "core/device.h"
#include "ops/open_cuda.h"
#include "rankfold/adapter.h"

#include <ATen/core/grad_mode.h>

#include <filesystem>
#include <iostream>

namespace rankfold {
namespace {

namespace fs = std::filesystem;

struct MergeCommand {
  std::string model_name_or_path, adapter_name_or_path, output_dir;
  bool verify = false;
  std::string device = "auto";
  MergeOptions options;

  template <class V>
  void fields(V&& v) {
    section(v, "model");
    v("model_name_or_path", model_name_or_path, "model folder (Hugging Face layout, safetensors)", allow::text,
      "a path", {"model", "base_model", "model_path"});
    v("adapter_name_or_path", adapter_name_or_path, "adapter folder", allow::text, "a path",
      {"adapter_path", "adapter"});
    section(v, "result");
    v("output_dir", output_dir, "folder for the merged model; new or empty", allow::text, "a path", {"output"});
    options.fields(v);
    section(v, "verification");
    v("verify", verify, "compare the logits of base + adapter with the merged model's", allow::any, "true or false",
      {});
    v("device", device, "where --verify computes: auto, cpu, cuda or cuda:N", allow::text, "auto, cpu, cuda or cuda:N",
      {});
  }
};

// Logits of three fixed sequences. The ids come from a counter, spread over the vocabulary.
at::Tensor probe(const CausalLM& model) {
  const at::NoGradGuard no_grad;
  std::vector<std::vector<int32_t>> ids;
  uint64_t counter = 0;
  for (const size_t length : {8, 20, 32}) {
    auto& sequence = ids.emplace_back(length);
    for (auto& id : sequence)
      id = static_cast<int32_t>(++counter * 2654435761u % static_cast<uint64_t>(model.config().vocab_size));
  }
  return model.logits(make_batch({{&ids[0]}, {&ids[1]}, {&ids[2]}})).to(at::kFloat).cpu();
}

// Compares the merged folder with what it was made of; throws where they differ.
void verify(const MergeCommand& command, const fs::path& merged_folder) {
  bool exact = true;  // both sides compute in float32
  const auto logits = [&](const fs::path& folder, const std::string& adapter_folder) {
    const CausalLM model = CausalLM::load(folder, {.device = command.device});
    exact = exact && model.dtype() == at::kFloat;
    leave_if(stop_requested);
    if (adapter_folder.empty()) return probe(model);
    const Adapter adapter = Adapter::load(model, adapter_folder);
    return probe(model);
  };
  const at::Tensor expected = logits(command.model_name_or_path, command.adapter_name_or_path);
  const at::Tensor merged = logits(merged_folder, "");
  const double largest = expected.abs().max().item<double>();
  const double difference = expected.sub(merged).abs().max().item<double>() / largest;
  const double limit = exact ? 2e-5 : 2e-2;
  std::cout << "verify: largest difference " << difference << " x the largest logit (limit " << limit << ")\n";
  if (!(difference <= limit))  // NaN fails too
    throw Error(ExitCode::kDefect,
                join("verify: the merged model's logits differ from base + adapter by ", difference,
                     " x the largest logit, expected at most ", limit, ": ", command.output_dir, " was not written"));
}

void run(MergeCommand& command, const Given&) {
  command.options.stop = stop_requested;
  if (command.verify) {
    ops::open_device(command.device);
    command.options.check = [&command](const fs::path& merged) { verify(command, merged); };
  } else {
    resolve_device(command.device);  // merging itself is the CPU's
  }
  merge(command.model_name_or_path, command.adapter_name_or_path, command.output_dir, command.options);
  std::cout << "merged " << command.model_name_or_path << " + " << command.adapter_name_or_path << " into "
            << command.output_dir << "\n";
}

}  // namespace
}  // namespace rankfold

int main(int argc, char** argv) {
  return rankfold::run_app({.name = "lora-merge",
                            .description = "Folds an adapter into its base and writes the model folder.",
                            .required = {"model_name_or_path", "adapter_name_or_path", "output_dir"},
                            .keeps_pages = false,  // streams tensor by tensor to keep the peak low
                            .stops_in_order = true,
                            .prints_result = false},
                           argc, argv, rankfold::run);
}
