// lora-merge: base + adapter as one model folder.
#include "adapter/merge.h"
#include "cli/app.h"
#include "cli/signals.h"
#include "core/check.h"
#include "core/device.h"
#include "core/memory.h"
#include "io/model_folder.h"
#include "ops/open_cuda.h"
#include "rankfold/adapter.h"

#include <ATen/core/grad_mode.h>

#include <cstdio>
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
    v("output_dir", output_dir, "folder for the merged model, new or empty", allow::text, "a path", {"output"});
    options.fields(v);
    section(v, "verification");
    v("verify", verify, "compare every tensor and the logits with those of base and adapter", allow::any,
      "true or false", {});
    v("device", device, "device for --verify: auto, cpu, cuda or cuda:N", allow::text, "auto, cpu, cuda or cuda:N", {});
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

// Whether both models, one after the other, fit into memory in float32.
bool fits_in_float32(const MergeCommand& command, const fs::path& merged_folder) {
  if (!ops::open_device(command.device).is_cpu() || available_bytes() == 0) return true;  // not known: try
  int64_t bytes = 0;
  const ModelFolder merged = ModelFolder::open(merged_folder);
  for (const std::string& name : merged.names()) bytes += 4 * c10::multiply_integers(merged.info(name).shape);
  return bytes < available_bytes();
}

// Compares the logits of base + adapter with the merged model's, both computed in float32. Where float32 is stored, little
// lies between them. In 16 bits every layer magnifies what rounding has done to the weights, by how much depends on the
// model: check_merged() has told rounding from a wrong merge, and this tells whether it is the same model at all, as the
// logits of another one differ by as much as they are large.
void compare_logits(const MergeCommand& command, const fs::path& merged_folder) {
  if (!fits_in_float32(command, merged_folder)) {
    std::cout << "verify: the logits were not compared: in float32 the model does not fit into memory\n";
    return;
  }
  double limit = 0;
  const auto logits = [&](const fs::path& folder, const std::string& adapter_folder) {
    const CausalLM model = CausalLM::load(folder, {.device = command.device, .dtype = "float32"});
    limit = model.config().stored_dtype == at::kFloat ? 2e-5 : 0.5;  // the merged model's, which comes last
    leave_if(stop_requested);
    if (adapter_folder.empty()) return probe(model);
    const Adapter adapter = Adapter::load(model, adapter_folder);
    return probe(model);
  };
  const at::Tensor expected = logits(command.model_name_or_path, command.adapter_name_or_path);
  const at::Tensor merged = logits(merged_folder, "");
  const double largest = expected.abs().max().item<double>();
  const double difference = expected.sub(merged).abs().max().item<double>() / largest;
  std::cout << "verify: largest difference " << difference << " x the largest logit (limit " << limit << ")\n";
  if (!(difference <= limit))  // NaN fails too
    throw Error(ExitCode::kDefect,
                join("verify: the merged model's logits differ from base + adapter by ", difference,
                     " x the largest logit, expected at most ", limit, ": ", command.output_dir, " was not written"));
}

std::string percent(double share) {
  char text[32];
  std::snprintf(text, sizeof text, "%.1f %%", 100 * share);
  return text;
}

// "97.1 % of the update is in the stored weights (least in model.layers.0.mlp.down_proj: 95.0 %)".
std::string share_text(const MergeReport& report) {
  const std::string least = report.worst_module.empty()
                                ? ""
                                : join(" (least in ", report.worst_module, ": ", percent(report.worst_share), ")");
  return join(percent(report.share), " of the update is in the stored weights", least);
}

constexpr const char* kWiderDtype = "rounding takes the rest; --dtype float32 keeps it";

// Every tensor against base + adapter, then whether rounding has left enough, then the whole model.
void verify(const MergeCommand& command, const MergeReport& report, const fs::path& merged) {
  check_merged(command.model_name_or_path, command.adapter_name_or_path, merged, stop_requested);
  std::cout << "verify: every tensor is base + adapter, rounded once; " << share_text(report) << "\n";
  // Below a half the merged model is nearer to the base than to base + adapter: no comparison could tell them apart.
  if (report.share < 0.5)
    fail("verify: ", share_text(report), ", expected at least half; ", kWiderDtype, ": ", command.output_dir,
         " was not written");
  compare_logits(command, merged);
}

void run(MergeCommand& command, const Given&) {
  MergeReport report;
  command.options.stop = stop_requested;
  command.options.report = [&](const MergeReport& finished) {
    report = finished;
    for (const std::string& note : report.notes) std::cout << note << "\n";
  };
  if (command.verify) {
    ops::open_device(command.device);
    command.options.check = [&](const fs::path& merged) { verify(command, report, merged); };
  } else {
    resolve_device(command.device);  // merging itself is the CPU's
  }
  merge(command.model_name_or_path, command.adapter_name_or_path, command.output_dir, command.options);
  std::cout << "merged " << command.model_name_or_path << " + " << command.adapter_name_or_path << " into "
            << command.output_dir << "\n";
  if (report.share < 0.9) std::cout << share_text(report) << ": " << kWiderDtype << "\n";
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
