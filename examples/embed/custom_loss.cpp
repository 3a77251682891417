// custom_loss MODEL DATA.json OUTPUT: trains an adapter with a loss of your own: the usual one, and a penalty for
// moving away from what the base model says.
#include <rankfold/rankfold.h>

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <torch/optim/adamw.h>

#include <iostream>

// log p of every token of the vocabulary, at the given positions: [positions, V] fp32.
at::Tensor log_probabilities(const rankfold::CausalLM& model, const rankfold::Batch& batch, const at::Tensor& places) {
  return model.logits(batch).index_select(0, places).to(at::kFloat).log_softmax(1);
}

// The mean over the labels of: -log p(label) + weight * KL(base || adapted).
at::Tensor loss_of(const rankfold::CausalLM& model, const rankfold::Adapter& adapter, const rankfold::Batch& batch,
                   double weight) {
  const at::Tensor with_label = batch.labels.ne(rankfold::kIgnoreIndex).nonzero().squeeze(1);
  const at::Tensor labels = batch.labels.index_select(0, with_label).to(model.device());
  const at::Tensor places = with_label.to(model.device());
  at::Tensor of_base;
  {
    const at::NoGradGuard no_grad;  // no gradient, and no dropout
    model.set_active_adapters({});
    of_base = log_probabilities(model, batch, places);
    model.set_active_adapters({adapter.name()});
  }
  const at::Tensor ours = log_probabilities(model, batch, places);
  const at::Tensor drift = at::kl_div(ours, of_base, at::Reduction::Sum, /*log_target=*/true) / labels.size(0);
  return at::nll_loss(ours, labels) + weight * drift;
}

int main(int argc, char** argv) {
  if (argc != 4) {
    std::cerr << "usage: custom_loss MODEL DATA.json OUTPUT\n";
    return 2;
  }
  try {
    const auto model = rankfold::CausalLM::load(argv[1], {.device = "cpu"});
    const auto adapter = rankfold::Adapter::create(model, {.r = 8, .lora_alpha = 16, .target_modules = "all-linear"});
    const auto data =
        rankfold::Dataset::open(argv[2], &model.tokenizer(), {.max_length = 256}, model.config().vocab_size);

    torch::optim::AdamW optimizer(adapter.parameters(), torch::optim::AdamWOptions(1e-3));
    for (const rankfold::Batch& batch : data.batches({.rows = 8})) {
      const at::Tensor loss = loss_of(model, adapter, batch, 0.1);
      // Not optimizer.zero_grad(), which would put new tensors in place of the slices of the flat gradient.
      adapter.flat_gradient().zero_();
      loss.backward();
      const double norm = adapter.flat_gradient().norm().item<double>();
      if (norm > 1) adapter.flat_gradient().mul_(1 / norm);
      optimizer.step();
      std::cout << "step " << batch.step << "  loss " << loss.item<double>() << "  gradient norm " << norm << "\n";
    }
    adapter.save(argv[3]);
    return 0;
  } catch (const rankfold::Error& error) {
    std::cerr << "custom_loss: " << error.what() << "\n";
    return static_cast<int>(error.code());
  }
}
