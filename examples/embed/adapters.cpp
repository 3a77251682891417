// adapters MODEL ADAPTER_A ADAPTER_B DATA.json OUTPUT: several adapters on one base in memory. Compares them, adds them
// up, and merges the first into a model folder.
#include <rankfold/rankfold.h>

#include <iostream>

int main(int argc, char** argv) {
  if (argc != 6) {
    std::cerr << "usage: adapters MODEL ADAPTER_A ADAPTER_B DATA.json OUTPUT\n";
    return 2;
  }
  try {
    const auto model = rankfold::CausalLM::load(argv[1], {.device = "cpu"});
    const auto a = rankfold::Adapter::load(model, argv[2], /*seed=*/42, "a");
    const auto b = rankfold::Adapter::load(model, argv[3], /*seed=*/42, "b");
    const auto data = rankfold::Dataset::open(argv[4], &model.tokenizer(), {}, model.config().vocab_size);

    const std::vector<std::vector<std::string>> choices = {{}, {"a"}, {"b"}, {"a", "b"}};
    for (const std::vector<std::string>& active : choices) {
      model.set_active_adapters(active);
      std::cout << (active.empty() ? "base" : "adapters");
      for (const std::string& name : active) std::cout << " " << name;
      std::cout << ": loss " << rankfold::evaluate(model, data).loss << "\n";
    }

    // In memory, for this process alone: both are part of the weights, and off the model.
    model.merge_adapters();
    std::cout << model.adapter_names().size() << " adapters are left; loss " << rankfold::evaluate(model, data).loss
              << "\n";
    // As a folder, which any Hugging Face loader opens.
    rankfold::merge(argv[1], argv[2], argv[5], {.report = [](const rankfold::MergeReport& report) {
                      std::cout << 100 * report.share << " % of the update is in the stored weights\n";
                    }});
    return 0;
  } catch (const rankfold::Error& error) {
    std::cerr << "adapters: " << error.what() << "\n";
    return static_cast<int>(error.code());
  }
}
