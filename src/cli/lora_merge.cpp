// lora-merge: base + adapter as one model folder.
#include "adapter/merge.h"
#include "adapter/merge_form.h"
#include "cli/app.h"
#include "cli/inference.h"
#include "cli/signals.h"
#include "core/check.h"
#include "core/device.h"
#include "core/memory.h"
#include "io/model_folder.h"
#include "ops/open_cuda.h"
#include "rankfold/adapter.h"

#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <iostream>
#include <optional>

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
    v("adapter_name_or_path", adapter_name_or_path,
      "adapter folder; may be left out where quantization_bit or merge_into says what becomes of the base", allow::text,
      "a path", {"adapter_path", "adapter"});
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
  for (const std::string& name : merged.names()) {  // 16 bits stay so, and are decoded where they are multiplied
    const TensorInfo& info = merged.info(name);
    bytes += std::min<int64_t>(4, c10::elementSize(info.dtype)) * c10::multiply_integers(info.shape);
  }
  return bytes < available_bytes();
}

at::Tensor logits_of(const MergeCommand& command, const BasePlace& place, const std::string& adapter_folder,
                     at::ScalarType* stored = nullptr) {
  LoadConfig config = load_config(place);
  config.device = command.device;
  config.dtype = "float32";
  const CausalLM model = CausalLM::load(place.folder, config);
  if (stored) *stored = model.config().stored_dtype;
  leave_if(stop_requested);
  if (adapter_folder.empty()) return probe(model);
  const Adapter adapter = Adapter::load(model, adapter_folder);
  return probe(model);
}

// The largest difference, as a share of the largest logit expected.
double distance(const at::Tensor& expected, const at::Tensor& found) {
  return expected.sub(found).abs().max().item<double>() / expected.abs().max().item<double>();
}

// Thrown by the check of a merge whose folder is of no further use.
struct Compared {};

// How far the logits of the merge into the base's other form are from these. Its folder lies in `merged` meanwhile;
// nullopt: there was no room for it.
std::optional<double> distance_of_other(const MergeCommand& command, const MergeForm& form, const fs::path& merged,
                                        const at::Tensor& expected) {
  MergeOptions options{.dtype = command.options.dtype, .stop = stop_requested};
  options.merge_into = form.is_decoded ? "original" : "dequantized";
  std::optional<double> found;
  options.check = [&](const fs::path& folder) {
    found = distance(expected, logits_of(command, {folder}, ""));
    throw Compared();
  };
  try {
    merge(form.other->folder, command.adapter_name_or_path, merged / "compared", options);
  } catch (const Compared&) {
  } catch (const StorageError& error) {
    std::cout << "verify: the other base was not compared: " << error.what() << "\n";
  } catch (const UserError& error) {
    std::cout << "verify: the other base was not compared: " << error.what() << "\n";
  }
  return found;
}

// Compares the logits of base + adapter with the merged model's, both computed in float32. Where float32 is stored, little
// lies between them. In 16 bits every layer magnifies what rounding has done to the weights, by how much depends on the
// model: check_merged() has told rounding from a wrong merge, and this tells whether it is the same model at all, as the
// logits of another one differ by as much as they are large. Where the base is at hand in 16 bits and in fewer, both
// merges are compared with what was trained besides.
void compare_logits(const MergeCommand& command, const MergeForm& form, const fs::path& merged_folder) {
  if (!fits_in_float32(command, merged_folder)) {
    std::cout << "verify: the logits were not compared: in float32 the model does not fit into memory\n";
    return;
  }
  at::ScalarType stored = at::kFloat;
  const at::Tensor expected = logits_of(command, form.base, command.adapter_name_or_path);
  const at::Tensor merged = logits_of(command, {merged_folder}, "", &stored);
  const double difference = distance(expected, merged);
  if (form.result) {
    std::cout << "verify: largest difference " << difference << " x the largest logit, as the result is in "
              << text_of(*form.result) << "\n";
    return;
  }
  const double limit = stored == at::kFloat ? 2e-5 : 0.5;
  std::cout << "verify: largest difference " << difference << " x the largest logit (limit " << limit << ")\n";
  if (!(difference <= limit))  // NaN fails too
    throw Error(ExitCode::kDefect,
                join("verify: the merged model's logits differ from base + adapter by ", difference,
                     " x the largest logit, expected at most ", limit, ": ", command.output_dir, " was not written"));
  if (!form.other || command.adapter_name_or_path.empty()) return;
  const at::Tensor trained =
      form.is_decoded ? expected : logits_of(command, form.trained(), command.adapter_name_or_path);
  const double own = distance(trained, merged);
  if (const auto other = distance_of_other(command, form, merged_folder, trained))
    std::cout << "verify: against what was trained: merged into the original weights "
              << (form.is_decoded ? *other : own) << ", into the dequantized ones " << (form.is_decoded ? own : *other)
              << " x the largest logit\n";
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

// What becomes of the rest.
const char* lost_text(const MergeForm& form) {
  return form.result ? "fewer bits take the rest; 8 bits keep more, and without quantization_bit all is kept"
                     : "rounding takes the rest; --dtype float32 keeps it";
}

// Every tensor against base + adapter, then whether rounding has left enough, then the whole model.
void verify(const MergeCommand& command, const MergeForm& form, const MergeReport& report, const fs::path& merged) {
  check_merged(command.model_name_or_path, command.adapter_name_or_path, merged, command.options, stop_requested);
  const bool has_adapter = !command.adapter_name_or_path.empty();
  std::cout << "verify: every tensor is base" << (has_adapter ? " + adapter" : "") << ", rounded once"
            << (form.result ? ", in " + text_of(*form.result) : "") << (has_adapter ? "; " + share_text(report) : "")
            << "\n";
  // Below a half the merged model is nearer to the base than to base + adapter: no comparison could tell them apart.
  if (report.share < 0.5)
    fail("verify: ", share_text(report), ", expected at least half; ", lost_text(form), ": ", command.output_dir,
         " was not written");
  compare_logits(command, form, merged);
}

// What quantisation does to the layers beside what the adapter does, of the worst ones.
void print_errors(const MergeReport& report, const MergeForm& form) {
  if (report.errors.empty()) return;
  constexpr size_t kShown = 5;
  const auto is_larger = [](const QuantizationError& layer) { return layer.error > layer.update; };
  const auto larger = std::count_if(report.errors.begin(), report.errors.end(), is_larger);
  const size_t shown = std::min(kShown, report.errors.size());
  std::cout << "quantisation (" << report.quantization << ") beside the adapter, Frobenius norms, the worst " << shown
            << " of " << report.errors.size() << " layers:\n";
  for (size_t i = 0; i < shown; ++i) {
    const QuantizationError& layer = report.errors[i];
    char text[96];
    std::snprintf(text, sizeof text, "  ||W - Q(W)|| %-10.4g ||s B A|| %-10.4g %6.3g x  ", layer.error, layer.update,
                  layer.error / layer.update);
    std::cout << text << layer.module << "\n";
  }
  if (larger == 0) return;
  std::cout << "warning: in " << larger << " of " << report.errors.size()
            << " layers quantisation changes more than the adapter does; lora-eval tells what it does to the model";
  if (form.other) std::cout << ", beside a merge with --merge_into " << (form.is_decoded ? "original" : "dequantized");
  std::cout << "\n";
}

void run(MergeCommand& command, const Given& given) {
  check_quantization(load_config(command.options), given);
  MergeReport report;
  const MergeForm form = merge_form(command.model_name_or_path, command.adapter_name_or_path, command.options);
  command.options.stop = stop_requested;
  command.options.report = [&](const MergeReport& finished) {
    report = finished;
    for (const std::string& note : report.notes) std::cout << note << "\n";
    print_errors(report, form);
  };
  if (command.verify) {
    ops::open_device(command.device);
    command.options.check = [&](const fs::path& merged) { verify(command, form, report, merged); };
  } else {
    resolve_device(command.device);  // merging itself is the CPU's
  }
  merge(command.model_name_or_path, command.adapter_name_or_path, command.output_dir, command.options);
  if (command.adapter_name_or_path.empty())
    std::cout << "wrote " << command.model_name_or_path << " as " << command.output_dir << "\n";
  else
    std::cout << "merged " << command.model_name_or_path << " + " << command.adapter_name_or_path << " into "
              << command.output_dir << "\n";
  if (report.share < 0.9) std::cout << share_text(report) << ": " << lost_text(form) << "\n";
}

}  // namespace
}  // namespace rankfold

// Each asks for another form of the base, which needs no adapter.
static const std::map<std::string, std::vector<std::string>> kSpares = {{"merge_into", {"adapter_name_or_path"}},
                                                                        {"quantization_bit", {"adapter_name_or_path"}},
                                                                        {"quantization_type", {"adapter_name_or_path"}},
                                                                        {"load_in_4bit", {"adapter_name_or_path"}},
                                                                        {"load_in_8bit", {"adapter_name_or_path"}}};

int main(int argc, char** argv) {
  return rankfold::run_app({.name = "lora-merge",
                            .description = "Folds an adapter into its base and writes the model folder.",
                            .required = {"model_name_or_path", "adapter_name_or_path", "output_dir"},
                            .spares = kSpares,
                            .keeps_pages = false,  // streams tensor by tensor to keep the peak low
                            .stops_in_order = true,
                            .prints_result = false},
                           argc, argv, rankfold::run);
}
