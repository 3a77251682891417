// rankfold-probe: shows the tests in this folder what the library computes. Tensors come and go as safetensors files.
//
//   forward  MODEL ADAPTER ROWS OUT   logits [T, V], loss (a sum), labels (how many count), grad.KEY of what is trained
//   masks    MODEL ADAPTER ROWS OUT   mask.N.MODULE [length, in]: dropout of row N at its step
//   generate MODEL ADAPTER ROWS OUT   ids, lengths and log_probabilities of each row's greedy continuation
//   sample   LOGITS OUT               shares [N, V] of the tokens that a sampler draws from; logits [N, V], ids [N, L]
//   tokenize MODEL TEXTS.json OUT     {"ids": [[...]], "text": [...], "bos": id or null, "eos": id}
//   match    CASES.json OUT           of each [pattern, name]: [does target_modules, does rank_pattern match], or why not
//   rewrite  FILE OUT                 the same tensors and metadata through write_tensor_file
//   quantize FILE OUT                 of each tensor in each type, nested too: TYPE[.nested].NAME.codes, scale, values ...
//   dequantize MODEL SHAPES.json OUT  of each {module: [rows, columns]} of a quantised folder: its values in fp32
//   save_quantized FILE OUT           model.safetensors, its projections as bitsandbytes has them, quantization_config.json
//   answers  CASES.json OUT           of each [answer, reference]: {"words", "exact_match", "char_f1", "rouge_l"}
//   signs    CASES.json OUT           of each [wins, losses]: the sign test's p
//
// ADAPTER: a folder, "-" (none) or "full" (every parameter). ROWS: ids [T], lengths [B] and, as the command needs,
// labels [T] (Hugging Face's convention), row [B] and step [B] (int64).
// Options: those of loading (--dtype T, --quantization_bit N ...), --seed N, --step N, --first_row N, and those of decoding.
#include "rankfold/rankfold.h"

#include "core/config.h"
#include "core/regex.h"
#include "eval/answer_metrics.h"
#include "eval/sampler.h"
#include "eval/sign_test.h"
#include "ops/dropout.h"
#include "ops/packed_weight.h"
#include "quant/bitsandbytes_format.h"
#include "quant/quantized_folder.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <nlohmann/json.hpp>

#include <cstdio>
#include <fstream>
#include <iterator>
#include <map>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

using namespace rankfold;

namespace {

struct Options {
  std::vector<std::string> words;
  std::map<std::string, std::string> flags;

  const std::string& word(size_t i) const {
    if (i >= words.size()) throw UserError("too few arguments");
    return words[i];
  }
  int64_t number(const std::string& key, int64_t otherwise) const {
    const auto it = flags.find(key);
    return it == flags.end() ? otherwise : std::stoll(it->second);
  }
};

Options parse(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    if (word.rfind("--", 0) != 0) {
      options.words.push_back(word);
    } else if (i + 1 < argc) {
      options.flags[word.substr(2)] = argv[++i];
    } else {
      throw UserError(word + " needs a value");
    }
  }
  return options;
}

using NamedTensors = std::vector<std::pair<std::string, at::Tensor>>;

struct Rows {
  std::vector<std::vector<int32_t>> ids, labels;
  std::vector<int64_t> row, step;

  Batch batch() const {
    std::vector<Sequence> sequences;
    for (size_t i = 0; i < ids.size(); ++i) sequences.push_back({&ids[i], labels.empty() ? nullptr : &labels[i]});
    return make_batch(sequences);
  }
};

std::vector<int64_t> numbers(const TensorFile& file, const std::string& name) {
  if (!file.contains(name)) return {};
  const at::Tensor t = file.tensor(name).to(at::kLong).contiguous();
  return {t.const_data_ptr<int64_t>(), t.const_data_ptr<int64_t>() + t.numel()};
}

std::vector<std::vector<int32_t>> split(const std::vector<int64_t>& flat, const std::vector<int64_t>& lengths) {
  std::vector<std::vector<int32_t>> rows;
  if (flat.empty()) return rows;
  auto at = flat.begin();
  for (const int64_t length : lengths) {
    rows.emplace_back(at, at + length);
    at += length;
  }
  return rows;
}

Rows read_rows(const std::string& path) {
  const TensorFile file = TensorFile::open(path);
  const std::vector<int64_t> lengths = numbers(file, "lengths");
  return {split(numbers(file, "ids"), lengths), split(numbers(file, "labels"), lengths), numbers(file, "row"),
          numbers(file, "step")};
}

template <class Config>
void set_from_flags(const Options& options, Config& config) {
  for (const Field& field : fields_of(config))
    if (const auto it = options.flags.find(field.name); it != options.flags.end())
      set_from_text(field, it->second, field.name);
}

CausalLM open_model(const Options& options) {
  LoadConfig load{.device = "cpu"};
  set_from_flags(options, load);
  return CausalLM::load(options.word(1), load);
}

std::optional<Adapter> open_adapter(const CausalLM& model, const Options& options) {
  const std::string& name = options.word(2);
  if (name == "-") return std::nullopt;
  if (name == "full") return Adapter::full(model);
  return Adapter::load(model, name, options.number("seed", 42));
}

void forward(const Options& options) {
  const CausalLM model = open_model(options);
  std::optional<Adapter> adapter = open_adapter(model, options);
  Batch batch = read_rows(options.word(3)).batch();
  batch.step = options.number("step", 0);
  batch.first_row = options.number("first_row", 0);
  NamedTensors out;
  {
    const c10::NoGradGuard no_grad;
    out.emplace_back("logits", model.logits(batch).to(at::kFloat));
    out.emplace_back("eval_loss", model.loss(batch).to(at::kDouble).reshape({1}));
  }
  out.emplace_back("labels", at::full({1}, batch.label_count(), at::kLong));
  if (adapter) {
    const at::Tensor loss = model.loss(batch);
    loss.backward();
    out.emplace_back("loss", loss.detach().to(at::kDouble).reshape({1}));
    for (const Parameter& p : adapter->named_parameters()) out.emplace_back("grad." + p.name, p.value.grad().clone());
  }
  write_tensor_file(options.word(4), out);
}

void masks(const Options& options) {
  const CausalLM model = open_model(options);
  const std::optional<Adapter> adapter = open_adapter(model, options);
  if (!adapter || adapter->is_full()) throw UserError("masks: an adapter folder is needed");
  const Rows rows = read_rows(options.word(3));
  std::map<std::string, int64_t> in_features;
  for (const LinearModule& m : model.linear_modules()) in_features[m.name] = m.in_features;
  NamedTensors out;
  for (size_t i = 0; i < rows.ids.size(); ++i) {
    const auto length = static_cast<int64_t>(rows.ids[i].size());
    const at::Tensor positions = at::arange(length, at::kLong);
    const at::Tensor row = at::full({length}, rows.row.at(i), at::kLong);
    for (size_t m = 0; m < adapter->modules().size(); ++m) {
      const std::string& name = adapter->modules()[m];
      out.emplace_back(
          "mask." + std::to_string(i) + "." + name,
          dropout_mask(static_cast<uint64_t>(options.number("seed", 42)), rows.step.at(i), static_cast<int64_t>(m), row,
                       positions, in_features.at(name), adapter->config().lora_dropout));
    }
  }
  write_tensor_file(options.word(4), out);
}

GenerateConfig decoding(const Options& options) {
  GenerateConfig config;
  config.max_new_tokens = 16;
  set_from_flags(options, config);
  return config;
}

void generate_rows(const Options& options) {
  const CausalLM model = open_model(options);
  const std::optional<Adapter> adapter = open_adapter(model, options);
  GenerateConfig config = decoding(options);
  config.log_probabilities = true;
  std::vector<int64_t> ids, lengths;
  std::vector<double> log_probabilities;
  for (const Completion& row : complete(model, read_rows(options.word(3)).ids, config)) {
    ids.insert(ids.end(), row.ids.begin(), row.ids.end());
    lengths.push_back(static_cast<int64_t>(row.ids.size()));
    log_probabilities.insert(log_probabilities.end(), row.log_probabilities.begin(), row.log_probabilities.end());
  }
  write_tensor_file(options.word(4), {{"ids", at::tensor(ids, at::kLong)},
                                      {"lengths", at::tensor(lengths, at::kLong)},
                                      {"log_probabilities", at::tensor(log_probabilities, at::kDouble)}});
}

void sample(const Options& options) {
  const TensorFile file = TensorFile::open(options.word(1));
  const at::Tensor logits = file.tensor("logits").to(at::kFloat).clone(), ids = file.tensor("ids").to(at::kInt);
  const at::Tensor shares = at::zeros_like(logits, at::kDouble);
  const GenerateConfig config = decoding(options);
  for (int64_t row = 0; row < logits.size(0); ++row) {
    const int32_t* first = ids.const_data_ptr<int32_t>() + row * ids.size(1);
    Sampler sampler(config, 0, {first, first + ids.size(1)});
    const Sampler::Kept kept = sampler.keep({logits[row].data_ptr<float>(), static_cast<size_t>(logits.size(1))});
    for (size_t i = 0; i < kept.ids.size(); ++i)
      shares[row][kept.ids[i]] = static_cast<double>(kept.weights[i]) / kept.sum;
  }
  write_tensor_file(options.word(2), {{"shares", shares}});
}

void tokenize(const Options& options) {
  const Tokenizer tokenizer = open_model(options).tokenizer();
  std::ifstream in(options.word(2));
  nlohmann::json out = {{"ids", nlohmann::json::array()}, {"text", nlohmann::json::array()}};
  for (const auto& text : nlohmann::json::parse(in)) {
    const std::vector<int32_t> ids = tokenizer.encode(text.get<std::string>());
    out["ids"].push_back(ids);
    out["text"].push_back(tokenizer.decode(ids));
  }
  out["bos"] = tokenizer.bos() ? nlohmann::json(*tokenizer.bos()) : nlohmann::json();
  out["eos"] = tokenizer.eos();
  std::ofstream(options.word(3)) << out.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

void match(const Options& options) {
  std::ifstream in(options.word(1));
  nlohmann::json out = nlohmann::json::array();
  for (const auto& one : nlohmann::json::parse(in)) {
    try {
      const Regex regex("pattern", one[0].get<std::string>());
      out.push_back({regex.match(one[1].get<std::string>()), regex.match_after_dot(one[1].get<std::string>())});
    } catch (const UserError& error) {
      out.push_back(error.what());
    }
  }
  std::ofstream(options.word(2)) << out.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

void answers(const Options& options) {
  std::ifstream in(options.word(1));
  nlohmann::json out = nlohmann::json::array();
  for (const auto& one : nlohmann::json::parse(in)) {
    const std::string answer = one[0], expected = one[1];
    nlohmann::json words = nlohmann::json::array();
    for (const TextWord& word : words_of(answer)) words.push_back(word.text);
    out.push_back({{"words", words},
                   {"exact_match", exact_match(answer, expected)},
                   {"char_f1", char_f1(answer, expected)},
                   {"rouge_l", rouge_l(answer, expected)}});
  }
  std::ofstream(options.word(2)) << out.dump();
}

void signs(const Options& options) {
  std::ifstream in(options.word(1));
  nlohmann::json out = nlohmann::json::array();
  for (const auto& one : nlohmann::json::parse(in)) out.push_back(sign_test(one[0], one[1]));
  std::ofstream(options.word(2)) << out.dump();
}

void rewrite(const Options& options) {
  const TensorFile file = TensorFile::open(options.word(1));
  NamedTensors tensors;
  for (const TensorInfo& info : file.tensors()) tensors.emplace_back(info.name, file.tensor(info.name));
  write_tensor_file(options.word(2), tensors, file.metadata());
}

// Everything that a weight in fewer bits is made of, and its values in fp32 and bf16.
void add_packed(NamedTensors& out, const std::string& name, const PackedWeight& weight) {
  const auto add = [&](const char* part, const at::Tensor& t) {
    if (t.defined()) out.emplace_back(name + "." + part, t);
  };
  add("codes", weight.codes.view(at::kByte));
  add("scale", weight.scale);
  add("nested_codes", weight.nested_codes);
  add("nested_table", weight.nested_table);
  add("offset", at::full({1}, weight.offset, at::kFloat));
  for (const auto& [part, dtype] : {std::pair{"values", at::kFloat}, std::pair{"values_bf16", at::kBFloat16}}) {
    const at::Tensor values = at::empty({weight.rows, weight.columns}, dtype);
    ops::decode(weight, 0, weight.rows, 0, weight.columns, values);
    add(part, values);
  }
}

void quantize(const Options& options) {
  const TensorFile file = TensorFile::open(options.word(1));
  NamedTensors out;
  for (const Word<std::optional<Quantization>>& type : kQuantizationTypes) {
    if (!type.meaning) continue;
    for (const TensorInfo& info : file.tensors()) {
      PackedWeight weight = ops::quantize(file.tensor(info.name), *type.meaning);
      add_packed(out, std::string(type.text) + "." + info.name, weight);
      if (weight.packing != kernels::Packing::table) continue;
      ops::nest_scales(weight);
      add_packed(out, std::string(type.text) + ".nested." + info.name, weight);
    }
  }
  write_tensor_file(options.word(2), out);
}

void dequantize(const Options& options) {
  const auto folder = QuantizedFolder::open(ModelFolder::open(options.word(1)));
  if (!folder) throw UserError("no quantization_config");
  std::ifstream in(options.word(2));
  const nlohmann::json shapes = nlohmann::json::parse(in);
  NamedTensors out;
  for (const auto& [module, shape] : shapes.items()) {
    const int64_t rows = shape[0], columns = shape[1];
    const at::Tensor values = at::empty({rows, columns});
    ops::decode(folder->weight(module, rows, columns), 0, rows, 0, columns, values);
    out.emplace_back(module, values);
  }
  write_tensor_file(options.word(3), out);
}

void save_quantized(const Options& options) {
  LoadConfig load;
  set_from_flags(options, load);
  const BaseStorage storage = storage_of(load).value();
  const TensorFile file = TensorFile::open(options.word(1));
  at::ScalarType source = at::kFloat;
  NamedTensors out;
  for (const TensorInfo& info : file.tensors()) {
    const at::Tensor tensor = file.tensor(info.name);
    if (!info.name.ends_with("_proj.weight")) {
      out.emplace_back(info.name, tensor);
      continue;
    }
    source = tensor.scalar_type();
    PackedWeight weight = ops::quantize(tensor, storage.type);
    if (storage.is_nested) ops::nest_scales(weight);
    for (auto& each : bitsandbytes_tensors(info.name, weight, storage.type, source)) out.push_back(std::move(each));
  }
  write_tensor_file(options.word(2) + "/model.safetensors", out);
  std::ofstream(options.word(2) + "/quantization_config.json")
      << bitsandbytes_config(storage, source, {"lm_head"}).dump();
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const Options options = parse(argc, argv);
    const std::map<std::string, void (*)(const Options&)> commands = {
        {"forward", forward},   {"masks", masks},           {"generate", generate_rows},
        {"sample", sample},     {"tokenize", tokenize},     {"match", match},
        {"rewrite", rewrite},   {"answers", answers},       {"signs", signs},
        {"quantize", quantize}, {"dequantize", dequantize}, {"save_quantized", save_quantized}};
    const auto command = commands.find(options.word(0));
    if (command == commands.end()) throw UserError("no command " + options.word(0));
    command->second(options);
    return 0;
  } catch (const Error& error) {
    std::fprintf(stderr, "rankfold-probe: %s\n", error.what());
    return static_cast<int>(error.code());
  } catch (const std::exception& error) {
    std::fprintf(stderr, "rankfold-probe: %s\n", error.what());
    return 1;
  }
}
