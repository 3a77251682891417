// Merging into bases in fewer bits, and results in fewer bits.
#include "adapter/merge.h"
#include "adapter/merge_base.h"
#include "adapter/peft_format.h"
#include "io/model_folder.h"
#include "quant/quantized_folder.h"
#include "rankfold/adapter.h"
#include "rankfold/error.h"
#include "support/contains.h"
#include "support/temp_folder.h"
#include "support/tiny_family.h"

#include <ATen/ATen.h>
#include <nlohmann/json.hpp>

#include <functional>
#include <limits>

#pragma GCC diagnostic ignored "-Wmissing-field-initializers"

namespace rankfold {
namespace {

using nlohmann::json;
using testing::contains;
using testing::expect_error;
using testing::read_bytes;
using testing::TempFolder;
namespace fs = std::filesystem;
using NamedTensors = std::vector<std::pair<std::string, at::Tensor>>;

const std::string kQueryProj = "model.layers.0.self_attn.q_proj", kDownProj = "model.layers.1.mlp.down_proj";
constexpr double kScale = 1.5;

struct Kind {
  const char* name;
  BaseStorage storage;
  int64_t bits;
};
const Kind kKinds[] = {{"nf4", {Quantization::nf4, false}, 4},
                       {"nf4", {Quantization::nf4, true}, 4},
                       {"fp4", {Quantization::fp4, false}, 4},
                       {"fp4", {Quantization::fp4, true}, 4},
                       {"int8", {Quantization::int8, false}, 8}};

at::Tensor decoded(const PackedWeight& weight) {
  at::Tensor values = at::empty({weight.rows, weight.columns}, at::kFloat);
  ops::decode(weight, 0, weight.rows, 0, weight.columns, values);
  return values;
}

class MergeQuantised : public ::testing::Test {
 protected:
  MergeQuantised() {
    testing::write_tiny_family(folder_ / "base", {"LlamaForCausalLM", json::object()});
    rewrite("base", [](const std::string&, at::Tensor& tensor) { tensor = tensor.to(at::kBFloat16); });
    set("base", "torch_dtype", "bfloat16");
    folder_.write("base/tokenizer_config.json", "{}");
    at::manual_seed(2);
    write_adapter(0.05);
  }

  void write_adapter(double size) {
    NamedTensors tensors;
    for (const auto& [module, out, in] :
         {std::tuple{kQueryProj, int64_t{40}, int64_t{40}}, std::tuple{kDownProj, int64_t{40}, int64_t{56}}}) {
      tensors.emplace_back("base_model.model." + module + ".lora_A.weight", at::randn({2, in}));
      tensors.emplace_back("base_model.model." + module + ".lora_B.weight", at::randn({out, 2}) * size);
    }
    const LoraConfig config{
        .r = 2, .lora_alpha = 3, .target_modules = std::string(R"(.*layers\.(0\..*q_proj|1\..*down_proj))")};
    fs::remove_all(folder_ / "adapter");
    fs::create_directories(folder_ / "adapter");
    write_adapter_folder(folder_ / "adapter", config, folder_ / "base", tensors);
    adapter_ = read_adapter_folder(folder_ / "adapter");
  }

  void rewrite(const std::string& name, const std::function<void(const std::string&, at::Tensor&)>& change) {
    const fs::path path = folder_ / (name + "/model.safetensors");
    NamedTensors tensors;
    {
      const TensorFile file = TensorFile::open(path);
      for (const TensorInfo& info : file.tensors()) {
        tensors.emplace_back(info.name, file.tensor(info.name).clone());
        change(info.name, tensors.back().second);
      }
    }
    write_tensor_file(path, tensors);
  }
  void set(const std::string& name, const char* key, const json& value) {
    json config = json::parse(read_bytes(folder_ / (name + "/config.json")));
    config[key] = value;
    folder_.write(name + "/config.json", config.dump());
  }
  json config_of(const std::string& name) { return json::parse(read_bytes(folder_ / (name + "/config.json"))); }

  static MergeOptions options_of(const Kind& kind, const std::string& into = "auto") {
    return {.merge_into = into,
            .quantization_bit = kind.bits,
            .quantization_type = kind.name,
            .double_quantization = kind.storage.is_nested};
  }
  // "" for the adapter: the base alone.
  MergeReport run(const std::string& model, const std::string& adapter, const std::string& out,
                  MergeOptions options = {}) {
    MergeReport report;
    options.report = [&](const MergeReport& made) { report = made; };
    fs::remove_all(folder_ / out);
    merge(folder_ / model, path_of(adapter), folder_ / out, options);
    return report;
  }
  void refuse(const std::string& model, const std::string& adapter, const MergeOptions& options,
              const std::string& text) {
    fs::remove_all(folder_ / "out");
    expect_error<UserError>([&] { merge(folder_ / model, path_of(adapter), folder_ / "out", options); }, text);
    EXPECT_FALSE(fs::exists(folder_ / "out"));
  }
  fs::path path_of(const std::string& name) const { return name.empty() ? fs::path() : folder_ / name; }
  std::string complaint(const std::string& model, const std::string& adapter, const MergeOptions& options = {}) {
    return testing::error_of<Error>([&] { check_merged(folder_ / model, path_of(adapter), folder_ / "out", options); });
  }

  // base + scale B A in fp32; of another module the base's.
  at::Tensor sum(const std::string& module, const at::Tensor& base) const {
    const auto found = adapter_.tensors.find(module);
    if (found == adapter_.tensors.end()) return base.to(at::kFloat);
    const auto& [a, b] = found->second;
    return base.to(at::kFloat).add(b.mm(a), kScale);
  }
  at::Tensor update(const std::string& module) const {
    const auto& [a, b] = adapter_.tensors.at(module);
    return b.mm(a) * kScale;
  }
  // A layer's weight as reading a folder gives it that was quantised from `weight`.
  static at::Tensor stored(const at::Tensor& weight, const Kind& kind) {
    PackedWeight packed = ops::quantize(weight, kind.storage.type);
    if (kind.storage.is_nested) ops::nest_scales(packed);
    if (kind.bits == 4) packed.rounded = at::kBFloat16;
    return decoded(packed);
  }

  TempFolder folder_;
  AdapterFolder adapter_;
};

TEST_F(MergeQuantised, AFolderInFewerBits) {
  const ModelFolder base = ModelFolder::open(folder_ / "base");
  for (const Kind& kind : kKinds)
    for (const std::string adapter : {"", "adapter"}) {
      SCOPED_TRACE(text_of(kind.storage) + " " + adapter);
      const MergeReport report = run("base", adapter, "out", options_of(kind));
      const ModelFolder out = ModelFolder::open(folder_ / "out");
      const auto quantized = QuantizedFolder::open(out);
      ASSERT_TRUE(quantized);
      EXPECT_EQ(quantized->source_dtype(), at::kBFloat16);
      size_t layers = 0;
      for (const std::string& name : base.names()) {
        const std::string module = name.substr(0, name.size() - 7);
        if (!quantized->holds(module)) {
          EXPECT_TRUE(out.tensor(name).equal(base.tensor(name))) << name;
          continue;
        }
        ++layers;
        const at::Tensor weight = base.tensor(name);
        const bool is_changed = !adapter.empty() && adapter_.tensors.contains(module);
        const at::Tensor expected = stored(is_changed ? sum(module, weight) : weight, kind);
        EXPECT_TRUE(decoded(quantized->weight(module, weight.size(0), weight.size(1))).equal(expected)) << name;
      }
      EXPECT_EQ(layers, 14u);
      EXPECT_TRUE(contains(report.notes.back(), "14 linear layers are stored in " + text_of(kind.storage)));
      const json config = config_of("out").at("quantization_config");
      EXPECT_EQ(config.at("bnb_4bit_compute_dtype"), "bfloat16");
      EXPECT_EQ(config.at("llm_int8_skip_modules"), json{"lm_head"});
      EXPECT_EQ(config_of("out").at("torch_dtype"), "bfloat16");
      EXPECT_EQ(complaint("base", adapter, options_of(kind)), "");
      EXPECT_EQ(fs::exists(folder_ / "out/rankfold_merge.json"), !adapter.empty());
      EXPECT_EQ(report.errors.size(), adapter.empty() ? 0u : 2u);
    }
}

TEST_F(MergeQuantised, IntoTheDecodedWeightsOfAFolder) {
  for (const Kind& kind : kKinds) {
    SCOPED_TRACE(text_of(kind.storage));
    run("base", "", "small", options_of(kind));
    for (const char* file : {"quantize_config.json", "quant_config.json"})
      folder_.write(std::string("small/") + file, "{}");
    const MergeReport report = run("small", "adapter", "out");
    EXPECT_TRUE(contains(report.notes.back(), ", decoded"));
    EXPECT_FALSE(config_of("out").contains("quantization_config"));
    EXPECT_EQ(config_of("out").at("torch_dtype"), "bfloat16");
    EXPECT_FALSE(fs::exists(folder_ / "out/quantize_config.json"));
    EXPECT_TRUE(fs::exists(folder_ / "out/tokenizer_config.json"));
    const ModelFolder base = ModelFolder::open(folder_ / "base"), out = ModelFolder::open(folder_ / "out");
    EXPECT_EQ(out.names().size(), base.names().size());
    const auto quantized = QuantizedFolder::open(ModelFolder::open(folder_ / "small"));
    for (const std::string& name : base.names()) {
      const std::string module = name.substr(0, name.size() - 7);
      const at::Tensor weight = base.tensor(name);
      if (!quantized->holds(module)) {
        EXPECT_TRUE(out.tensor(name).equal(weight)) << name;
        continue;
      }
      const at::Tensor values = decoded(quantized->weight(module, weight.size(0), weight.size(1)));
      EXPECT_TRUE(out.tensor(name).equal(sum(module, values).to(at::kBFloat16))) << name;
    }
    EXPECT_EQ(complaint("small", "adapter"), "");

    // A 16-bit folder and how it was quantised for training: the same.
    const std::string same = read_bytes(folder_ / "out/model.safetensors");
    run("base", "adapter", "out", options_of(kind, "dequantized"));
    EXPECT_TRUE(read_bytes(folder_ / "out/model.safetensors") == same);
    EXPECT_EQ(complaint("base", "adapter", options_of(kind, "dequantized")), "");
    // As the run's own record says it.
    folder_.write("adapter/rankfold_config.json", json{{"quantization_bit", kind.bits},
                                                       {"quantization_type", kind.name},
                                                       {"double_quantization", kind.storage.is_nested},
                                                       {"learning_rate", 1e-4}}
                                                      .dump());
    run("base", "adapter", "out", {.merge_into = "dequantized"});
    EXPECT_TRUE(read_bytes(folder_ / "out/model.safetensors") == same);
    fs::remove(folder_ / "adapter/rankfold_config.json");

    run("small", "", "out", {.dtype = "float32", .merge_into = "dequantized"});
    const ModelFolder alone = ModelFolder::open(folder_ / "out");
    EXPECT_TRUE(alone.tensor(kQueryProj + ".weight").equal(decoded(quantized->weight(kQueryProj, 40, 40))));
    EXPECT_EQ(config_of("out").at("torch_dtype"), "float32");
    EXPECT_EQ(complaint("small", "", {.dtype = "float32", .merge_into = "dequantized"}), "");
  }
}

TEST_F(MergeQuantised, TellsTheErrorBesideTheUpdate) {
  const ModelFolder base = ModelFolder::open(folder_ / "base");
  const Kind& kind = kKinds[1];
  const auto expect_errors = [&](const MergeReport& report, const auto& error_of) {
    ASSERT_EQ(report.errors.size(), 2u);
    EXPECT_TRUE(contains(report.quantization, "nf4"));
    for (const QuantizationError& layer : report.errors) {
      EXPECT_NEAR(layer.error / error_of(layer.module), 1, 1e-5) << layer.module;
      EXPECT_NEAR(layer.update / update(layer.module).norm().item<double>(), 1, 1e-5);
    }
    EXPECT_GE(report.errors[0].error / report.errors[0].update, report.errors[1].error / report.errors[1].update);
  };
  const auto of_base = [&](const std::string& module) {
    const at::Tensor weight = base.tensor(module + ".weight");
    return (stored(weight, kind) - weight.to(at::kFloat)).norm().item<double>();
  };
  expect_errors(run("base", "adapter", "out", options_of(kind, "dequantized")), of_base);
  expect_errors(run("base", "adapter", "out", options_of(kind)), [&](const std::string& module) {
    const at::Tensor merged = sum(module, base.tensor(module + ".weight"));
    return (stored(merged, kind) - merged).norm().item<double>();
  });
  EXPECT_TRUE(run("base", "adapter", "out").errors.empty());

  // The original folder, and what lies beside the adapter.
  const std::string plain = read_bytes(folder_ / "out/model.safetensors");
  folder_.write("adapter/rankfold_config.json", R"({"load_in_4bit": true, "double_quantization": true})");
  expect_errors(run("base", "adapter", "out"), of_base);
  EXPECT_TRUE(read_bytes(folder_ / "out/model.safetensors") == plain);
  fs::remove(folder_ / "adapter/rankfold_config.json");
  run("base", "", "small", options_of(kind));
  json config = json::parse(read_bytes(folder_ / "adapter/adapter_config.json"));
  config["base_model_name_or_path"] = (folder_ / "small").string();
  folder_.write("adapter/adapter_config.json", config.dump());
  const MergeReport report = run("base", "adapter", "out");
  expect_errors(report, of_base);
  EXPECT_TRUE(contains(report.notes.back(), "was trained on " + (folder_ / "small").string()));
  EXPECT_TRUE(read_bytes(folder_ / "out/model.safetensors") == plain);
  refuse("base", "adapter", {.merge_into = "dequantized"}, "give that as model_name_or_path");
  folder_.write("small/config.json", "{");  // no matter of this merge
  EXPECT_TRUE(
      contains(run("base", "adapter", "out").notes.back(), "base_model_name_or_path: the folder is not compared"));
}

// A value in the middle of nf4's or fp4's widest gap, then rounded to bf16; in int8, what is small among fp16's numbers.
TEST_F(MergeQuantised, TheCheckAllowsForRounding) {
  for (const double largest : {1.03, 1.11, 1.23, 1.37, 1.61, 1.93}) {
    rewrite("base", [largest](const std::string& name, at::Tensor& tensor) {
      if (tensor.dim() != 2 || name.find("proj") == std::string::npos) return;
      const at::Tensor flat = tensor.view(-1);
      for (int64_t i = 0; i < flat.numel(); ++i)
        flat[i] = i % 16 == 0 ? largest : -largest * (0.82 + 0.0005 * static_cast<double>(i % 113));
      tensor[5] *= 1e-6, tensor[6] *= 1e-32;
    });
    write_adapter(0.002);  // sums in fp32 lie between numbers of bf16
    for (const Kind& kind : kKinds) {
      run("base", "adapter", "out", options_of(kind));
      EXPECT_EQ(complaint("base", "adapter", options_of(kind)), "") << kind.name << " " << largest;
    }
  }
}

// A scale far above the others of its group leaves few codes for them.
TEST_F(MergeQuantised, TheCheckAllowsForScalesOfAllSizes) {
  for (const double outlier : {1., 3., 5., 8., 12., 20.}) {
    rewrite("base", [outlier](const std::string& name, at::Tensor& tensor) {
      if (name != kDownProj + ".weight") return;
      const at::Tensor blocks = tensor.view(-1).narrow(0, 0, tensor.numel() / 64 * 64).view({-1, 64});
      for (int64_t b = 0; b < blocks.size(0); ++b) blocks[b] *= 0.3 / (1 + static_cast<double>(b % 17));
      blocks[3][5] = outlier;
    });
    const Kind& nested = kKinds[1];
    run("base", "adapter", "out", options_of(nested));
    EXPECT_EQ(complaint("base", "adapter", options_of(nested)), "") << outlier;
  }
}

TEST_F(MergeQuantised, DoublesAreQuantisedAsFloats) {
  rewrite("base", [](const std::string&, at::Tensor& tensor) { tensor = tensor.to(at::kDouble); });
  for (const Kind& kind : {kKinds[0], kKinds[4]}) {
    run("base", "", "out", options_of(kind));
    EXPECT_EQ(complaint("base", "", options_of(kind)), "") << kind.name;
    EXPECT_EQ(config_of("out")["quantization_config"]["bnb_4bit_compute_dtype"], "float32");
  }
}

// As lora-train writes one: beside the update the head's own weight lies.
TEST_F(MergeQuantised, AnAdapterOnAQuantisedHead) {
  const Kind& kind = kKinds[0];
  MergeOptions with_head = options_of(kind), into_decoded = options_of(kind, "dequantized");
  with_head.quantize_lm_head = into_decoded.quantize_lm_head = true;
  const auto save_adapter = [this](const CausalLM& model, const std::string& name) {
    const Adapter adapter = Adapter::create(model, {.r = 2, .target_modules = StringList{"lm_head", "q_proj"}});
    for (at::Tensor leaf : adapter.parameters()) leaf.detach().add_(0.01);
    adapter.save(folder_ / name);
    return read_adapter_folder(folder_ / name);
  };
  LoadConfig load{.device = "cpu", .dtype = "float32", .quantization_bit = 4};
  load.quantize_lm_head = true;
  adapter_ = save_adapter(CausalLM::load(folder_ / "base", load), "on_head");
  EXPECT_EQ(adapter_.whole.size(), 1u);
  run("base", "on_head", "out", into_decoded);
  EXPECT_EQ(complaint("base", "on_head", into_decoded), "");
  const auto& [a, b] = adapter_.tensors.at("lm_head");
  const at::Tensor head = ModelFolder::open(folder_ / "base").tensor("lm_head.weight");
  const at::Tensor wanted = stored(head, kind).add(b.mm(a), adapter_.config.lora_alpha / 2);
  EXPECT_TRUE(ModelFolder::open(folder_ / "out").tensor("lm_head.weight").equal(wanted.to(at::kBFloat16)));

  run("base", "", "small", with_head);
  const AdapterFolder of_small = save_adapter(CausalLM::load(folder_ / "small", {.device = "cpu"}), "on_small");
  EXPECT_TRUE(of_small.whole.empty()) << "codes are no weight of an adapter";
  EXPECT_NO_THROW(Adapter::load(CausalLM::load(folder_ / "small", {.device = "cpu"}), folder_ / "on_small"));
  run("small", "on_small", "out");
  EXPECT_EQ(complaint("small", "on_small"), "");

  set("base", "tie_word_embeddings", true);  // though the two differ
  run("base", "", "out", with_head);
  EXPECT_EQ(complaint("base", "", with_head), "");
  EXPECT_EQ(config_of("out")["tie_word_embeddings"], false);
}

TEST_F(MergeQuantised, SaysWhatElseTheAdapterWasTrainedOn) {
  run("base", "", "small", options_of(kKinds[1]));
  const auto notes = [this] {
    std::string text;
    for (const std::string& note : run("small", "adapter", "out").notes) text += note + "\n";
    return text;
  };
  EXPECT_FALSE(contains(notes(), "was trained on"));
  folder_.write("adapter/rankfold_config.json", R"({"load_in_4bit": true, "double_quantization": true})");
  EXPECT_FALSE(contains(notes(), "was trained on"));
  folder_.write("adapter/rankfold_config.json", R"({"load_in_8bit": true})");
  EXPECT_TRUE(contains(notes(), "was trained on int8")) << notes();
}

TEST_F(MergeQuantised, Refusals) {
  run("base", "", "small", options_of(kKinds[1]));
  for (const std::string adapter : {"", "adapter"})
    refuse("small", adapter, options_of(kKinds[0]),
           "quantization_bit: expected none, as " + (folder_ / "small").string() + " is in fewer bits already");
  refuse("small", "adapter", {.merge_into = "original"}, "merge_into: expected dequantized, as ");
  refuse("small", "", {}, "adapter_name_or_path: expected a folder, got nothing: for ");
  refuse("base", "", {}, "adapter_name_or_path: expected a folder, got nothing: for ");
  refuse("base", "", {.merge_into = "original"}, "adapter_name_or_path: expected a folder, got nothing: for ");
  refuse("base", "adapter", {.merge_into = "dequantized"}, "merge_into: expected original, as ");
  refuse("base", "adapter", {.merge_into = "base"}, "merge_into: expected auto, original or dequantized, got \"base\"");
  refuse("base", "adapter", {.quantization_bit = 8, .quantization_type = "fp8"},
         "quantization_type: expected nf4, fp4 or int8 for a folder, got \"fp8\"");
  refuse("base", "adapter", {.quantization_bit = 5}, "quantization_bit: expected 0, 4 or 8, got 5");
  refuse("base", "adapter", {.double_quantization = true}, "double_quantization: expected ");
  write_adapter(0);
  refuse("base", "adapter", options_of(kKinds[0]), "expected an adapter that changes the model");
  refuse("small", "adapter", {}, "expected an adapter that changes the model");
  write_adapter(1e-9);
  refuse("base", "adapter", options_of(kKinds[0]), "expected an adapter that changes the model");
  rewrite("base", [](const std::string& name, at::Tensor& tensor) {
    if (name == kQueryProj + ".weight") tensor[3][7] = std::numeric_limits<float>::infinity();
  });
  refuse("base", "", options_of(kKinds[0]),
         "model.safetensors: tensor '" + kQueryProj + ".weight': expected finite numbers");
}

TEST_F(MergeQuantised, Shards) {
  const MergeOptions whole = options_of(kKinds[1]);
  MergeOptions parts = whole;
  parts.max_shard_size = "8KB";
  run("base", "adapter", "small", whole);
  run("base", "adapter", "out", parts);
  const ModelFolder small = ModelFolder::open(folder_ / "small"), out = ModelFolder::open(folder_ / "out");
  EXPECT_TRUE(out.is_sharded());
  EXPECT_GT(out.files().size(), 3u);
  EXPECT_EQ(out.names().size(), small.names().size());
  for (const std::string& name : small.names()) EXPECT_TRUE(out.tensor(name).equal(small.tensor(name))) << name;
  EXPECT_EQ(complaint("base", "adapter", parts), "");
  // The base's own shards.
  run("base", "", "sharded", {.dtype = "auto", .max_shard_size = "20KB", .quantization_bit = 4});
  fs::remove_all(folder_ / "small");
  run("sharded", "adapter", "small", {.max_shard_size = "9KB"});
  EXPECT_TRUE(ModelFolder::open(folder_ / "small").is_sharded());
  run("sharded", "adapter", "small");
  EXPECT_FALSE(ModelFolder::open(folder_ / "small").is_sharded());
}

TEST_F(MergeQuantised, AnAdapterIsMergedOnce) {
  run("base", "adapter", "small", options_of(kKinds[0]));
  refuse("small", "adapter", {}, "is merged into already");
  run("small", "", "out", {.merge_into = "dequantized"});
  EXPECT_TRUE(fs::exists(folder_ / "out/rankfold_merge.json"));
}

TEST_F(MergeQuantised, TheCheckFindsWhatIsWrong) {
  for (const Kind& kind : kKinds) {
    SCOPED_TRACE(text_of(kind.storage));
    const MergeOptions options = options_of(kind);
    const auto expect = [&](const std::string& text, const auto& change) {
      run("base", "adapter", "out", options);
      rewrite("out", change);
      EXPECT_TRUE(contains(complaint("base", "adapter", options), text));
    };
    expect("tensor '" + kDownProj + ".weight': row ", [&](const std::string& name, at::Tensor& tensor) {
      if (name != kDownProj + ".weight") return;
      tensor.view({-1}).narrow(0, 0, 32).zero_();  // also the largest of its block or row
    });
    const std::string scales = kind.bits == 8           ? kQueryProj + ".SCB"
                               : kind.storage.is_nested ? kQueryProj + ".weight.nested_absmax"
                                                        : kQueryProj + ".weight.absmax";
    expect("tensor '" + kQueryProj + ".weight': row ", [&](const std::string& name, at::Tensor& tensor) {
      if (name == scales) tensor.view({-1})[0] *= kind.storage.is_nested ? 5 : 1.5;
    });
    expect("tensor 'model.norm.weight': expected the base's own values",
           [&](const std::string& name, at::Tensor& tensor) {
             if (name == "model.norm.weight") tensor[0] += 1;
           });
    // The update left out.
    write_adapter(1);
    run("base", "", "out", options);
    EXPECT_TRUE(contains(complaint("base", "adapter", options), ".weight': row "));
    write_adapter(0.05);
  }
  run("base", "", "out", {.merge_into = "dequantized", .quantization_bit = 4});
  EXPECT_TRUE(contains(complaint("base", "", {.quantization_bit = 4}), "expected quantization_config"));
}

}  // namespace
}  // namespace rankfold
