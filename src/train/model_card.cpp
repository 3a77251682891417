#include "train/model_card.h"

#include "core/card_file.h"
#include "core/check.h"
#include "core/config.h"
#include "core/number_text.h"
#include "io/dtype.h"
#include "model/architecture.h"
#include "model/model.h"

#include <torch/headeronly/version.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <sstream>
#include <variant>

namespace rankfold {
namespace {

using Json = nlohmann::ordered_json;

// A JSON string is a YAML string.
std::string quoted(const std::string& text) { return Json(text).dump(-1, ' ', false, Json::error_handler_t::replace); }

// As code within a line of Markdown.
std::string code(const std::string& text) {
  std::string plain = one_line(text);
  std::replace(plain.begin(), plain.end(), '`', '\'');
  return "`" + plain + "`";
}

std::string number(double x) { return std::isfinite(x) ? printed("%.6g", x) : "not finite"; }

// A table that all but a few values would make unreadable shows some rows, the first and the last among them.
std::vector<const LogRow*> some_rows(const std::vector<LogRow>& rows, const char* metric) {
  constexpr size_t kMost = 20;
  std::vector<const LogRow*> all, some;
  for (const LogRow& row : rows)
    if (row.metric(metric)) all.push_back(&row);
  if (all.size() <= kMost) return all;
  for (size_t i = 0; i < kMost; ++i) some.push_back(all[i * (all.size() - 1) / (kMost - 1)]);
  return some;
}

const LogRow* last_with(const std::vector<LogRow>& rows, const char* metric) {
  const auto at = std::find_if(rows.rbegin(), rows.rend(), [&](const LogRow& row) { return row.metric(metric); });
  return at == rows.rend() ? nullptr : &*at;
}

const LogRow* least(const std::vector<LogRow>& rows, const char* metric) {
  const LogRow* best = nullptr;
  for (const LogRow& row : rows)
    if (const auto value = row.metric(metric); value && (!best || *value < *best->metric(metric))) best = &row;
  return best;
}

class Card {
 public:
  explicit Card(const CardFacts& facts)
      : facts_(facts),
        adapter_(facts.steps.adapter()),
        model_(*facts.steps.model().shared_model()),
        base_(model_.folder.path().string()) {}

  std::string text() {
    front_matter();
    summary();
    details();
    usage();
    data();
    settings();
    results();
    repetition();
    out_ << "### Framework versions\n\n- Rankfold " << RANKFOLD_VERSION << "\n- LibTorch " << TORCH_VERSION << "\n";
    return sign_card(out_.str());
  }

 private:
  bool is_full() const { return adapter_.is_full(); }

  void front_matter() {
    out_ << "---\nbase_model: " << quoted(base_) << "\nlibrary_name: " << (is_full() ? "transformers" : "peft")
         << "\npipeline_tag: text-generation\ntags:\n- "
         << quoted((is_full() ? "base_model:finetune:" : "base_model:adapter:") + base_) << "\n"
         << (is_full() ? "" : "- lora\n") << "- rankfold\n- transformers\n---\n\n";
  }

  void summary() {
    out_ << "# " << (is_full() ? "A model tuned from " : "LoRA adapter for ") << code(base_) << "\n\n";
    const int64_t step = facts_.steps.state.step, total = facts_.steps.plan().total_steps;
    if (is_full())
      out_ << "Every parameter of " << model_.config.architecture << " was trained";
    else
      out_ << "A low-rank update (r " << adapter_.config().r << ", lora_alpha " << number(adapter_.config().lora_alpha)
           << ") of " << adapter_.modules().size() << " modules of " << model_.config.architecture << " was trained";
    out_ << " with Rankfold, for " << step << " of " << total << " steps";
    if (const LogRow* last = last_with(facts_.rows, "loss"))
      out_ << ", down to a training loss of " << number(last->loss);
    if (const Best& best = facts_.best; best.step > 0)
      out_ << "; the best " << best.metric << " on held-out rows was " << number(*best.value) << ", at step "
           << best.step;
    else if (const LogRow* row = least(facts_.rows, "eval_loss"))
      out_ << "; the least loss on held-out rows was " << number(*row->metric("eval_loss")) << ", at step "
           << row->step;
    out_ << ".";
    if (facts_.step_of_values != step) out_ << " The values here are those of step " << facts_.step_of_values << ".";
    out_ << "\n\n";
  }

  void details() {
    const auto fact = [&](const char* name) {
      return facts_.identity.contains(name) ? facts_.identity[name].get<std::string>() : std::string("not known");
    };
    out_ << "## Model Details\n\n- **Model type:** " << model_.config.architecture << ", causal language model\n"
         << "- **Finetuned from model:** " << code(base_) << ", whose weights have the checksum "
         << code(fact("base_model")) << "\n- **Trained parameters:** " << adapter_.parameter_count() << "\n"
         << "- **Computed in:** " << model_dtype_name(model_.dtype) << "\n";
    if (model_.storage) out_ << "- **Base quantised to:** " << text_of(*model_.storage) << "\n";
    if (const auto& base = facts_.lineage.base) out_ << "- **Base made by:** " << run_of(*base) << "\n";
    if (facts_.lineage.parents.empty()) {
      out_ << "- **Parent:** none; the run began with " << (is_full() ? "the base's values" : "a new adapter")
           << "\n\n";
      return;
    }
    out_ << "- **Parents:** the run began with the first of these adapters, which began with the next:\n";
    int place = 0;
    for (const Ancestor& parent : facts_.lineage.parents)
      out_ << "  " << ++place << ". " << code(parent.path) << ", " << run_of(parent) << ", checksum "
           << code(parent.checksum) << "\n";
    out_ << "\n";
  }

  static std::string run_of(const Ancestor& ancestor) {
    if (ancestor.run_id.empty()) return "of another tool";
    const std::string run = "run " + code(ancestor.run_id);
    return ancestor.step ? join(run, " at step ", *ancestor.step) : run;
  }

  void usage() {
    out_ << "## How to Get Started with the Model\n\n    lora-generate --model_name_or_path "
         << (is_full() ? "THIS_FOLDER" : shell_word(base_));
    if (!is_full()) {
      if (model_.storage) out_ << " " << flags_of(*model_.storage);
      out_ << " --adapter_name_or_path THIS_FOLDER";
    }
    out_ << " --prompt \"...\"\n\n";
    in_python();
    out_ << "Prompts are to be written as the rows were: lora-generate and lora-eval follow prompt_template.json where "
            "that lies beside.\n\n";
  }

  void in_python() {
    const std::string folder = is_full() ? "\"THIS_FOLDER\"" : quoted(base_);
    const bool own_code = find_architecture(model_.config.architecture).has_own_code;
    const std::string from = ".from_pretrained(" + folder + (own_code ? ", trust_remote_code=True)\n" : ")\n");
    out_ << "In Python, with " << (is_full() ? "transformers" : "PEFT") << ":\n\n```python\n"
         << (is_full() ? "" : "from peft import PeftModel\n")
         << "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
         << (is_full() ? "model" : "base") << " = AutoModelForCausalLM" << from
         << (is_full() ? "" : "model = PeftModel.from_pretrained(base, \"THIS_FOLDER\")\n")
         << "tokenizer = AutoTokenizer" << from << "```\n\n";
    if (!own_code) return;
    out_ << "transformers has no class for " << model_.config.architecture << ". "
         << (is_full() ? "This folder" : "The base's folder")
         << " needs the model's own .py files, such as modeling_*.py: those that `auto_map` in its config.json and "
            "tokenizer_config.json names. `trust_remote_code=True` runs them: read them first.\n\n";
  }

  void data() {
    const Dataset& rows = facts_.steps.dataset();
    out_ << "## Training Details\n\n### Training Data\n\n";
    if (!facts_.run.data.empty()) out_ << "- **Files:** " << code(facts_.run.data) << "\n";
    out_ << "- **Rows:** " << rows.size() << "; the longest of the files had " << rows.report().longest << " tokens\n"
         << "- **Fingerprint of all ids and labels:** " << code(facts_.identity.value("dataset", "")) << "\n\n";
  }

  void settings() {
    out_ << "### Training Hyperparameters\n\n```yaml\n";
    const auto add = [&](const Json& values) {
      for (const auto& [key, value] : values.items())
        out_ << key << ": " << value.dump(-1, ' ', false, Json::error_handler_t::replace) << "\n";
    };
    out_ << "finetuning_type: " << facts_.identity.value("finetuning_type", "") << "\n";
    add(values_of(facts_.config, Resume::kSame));
    add(values_of(facts_.config, Resume::kMayChange));
    if (!is_full()) {
      LoraConfig lora = adapter_.config();
      if (auto* names = std::get_if<StringList>(&lora.target_modules)) std::sort(names->begin(), names->end());
      add(to_json(lora));
    }
    out_ << "```\n\n";
  }

  void results() {
    out_ << "### Results\n\n";
    const bool is_evaluated = last_with(facts_.rows, "eval_loss") != nullptr;
    if (is_evaluated) evaluations();
    const auto losses = some_rows(facts_.rows, "loss");
    if (losses.empty()) {
      out_ << "No loss was logged.\n\n";
      return;
    }
    out_ << "| step | epoch | training loss | learning rate |\n| --- | --- | --- | --- |\n";
    for (const LogRow* row : losses)
      out_ << "| " << row->step << " | " << number(row->epoch) << " | " << number(row->loss) << " | "
           << number(row->learning_rate) << " |\n";
    out_ << "\n" << (is_evaluated ? "" : "No held-out rows were evaluated while it trained.\n\n");
  }

  // Every metric of held-out rows that the rows have.
  void evaluations() {
    std::vector<std::string> names;
    for (const LogRow* row : some_rows(facts_.rows, "eval_loss"))
      for (const Metric& metric : row->metrics)
        if (metric.name.starts_with("eval_") && !metric.name.ends_with("_per_second") &&
            !metric.name.ends_with("runtime") && std::find(names.begin(), names.end(), metric.name) == names.end())
          names.push_back(metric.name);
    out_ << "| step | epoch |";
    for (const std::string& name : names) out_ << " " << name << " |";
    out_ << "\n| --- | --- |";
    for (size_t i = 0; i < names.size(); ++i) out_ << " --- |";
    for (const LogRow* row : some_rows(facts_.rows, "eval_loss")) {
      out_ << "\n| " << row->step << " | " << number(row->epoch) << " |";
      for (const std::string& name : names) {
        const auto value = row->metric(name);
        out_ << " " << (value ? number(*value) : "") << " |";
      }
    }
    out_ << "\n\n";
  }

  void repetition() {
    if (facts_.run.command.empty()) return;
    out_ << "### To repeat it\n\n```bash\n" << facts_.run.command << "\n```\n\n";
  }

  const CardFacts& facts_;
  const Adapter& adapter_;
  const Model& model_;
  const std::string base_;
  std::ostringstream out_;
};

}  // namespace

std::string model_card(const CardFacts& facts) { return Card(facts).text(); }

}  // namespace rankfold
