// embed MODEL DATA.json OUTPUT: your own training loop over the public API, with LibTorch's optimizer. Every tensor
// here is an at::Tensor with gradients, so any optimizer and any schedule of LibTorch will do.
#include <rankfold/rankfold.h>

#include <torch/optim/adamw.h>

#include <iostream>

int main(int argc, char** argv) {
  if (argc != 4) {
    std::cerr << "usage: embed MODEL DATA.json OUTPUT\n";
    return 2;
  }
  try {
    const auto model = rankfold::CausalLM::load(argv[1], {.device = "cpu", .dtype = "auto"});
    const auto adapter = rankfold::Adapter::create(
        model, {.r = 16, .lora_alpha = 32, .lora_dropout = 0.05, .target_modules = "all-linear"});
    const auto data =
        rankfold::Dataset::open(argv[2], &model.tokenizer(), {.max_length = 512}, model.config().vocab_size);

    torch::optim::AdamW optimizer(adapter.parameters(), torch::optim::AdamWOptions(2e-3));
    for (const rankfold::Batch& batch : data.batches({.rows = 16, .seed = 42})) {
      const at::Tensor loss = model.loss(batch) / static_cast<double>(batch.label_count());
      optimizer.zero_grad();
      loss.backward();
      optimizer.step();
      if (batch.step % 10 == 0) std::cout << "step " << batch.step << "  loss " << loss.item<double>() << "\n";
    }
    adapter.save(argv[3]);  // in PEFT's format
    return 0;
  } catch (const rankfold::Error& error) {
    std::cerr << "embed: " << error.what() << "\n";
    return static_cast<int>(error.code());
  }
}
