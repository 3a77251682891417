// trainer MODEL DATA.json OUTPUT: the training job of lora-train as a class: schedule, clipping, log, evaluation,
// checkpoints, resume. Ctrl-C ends it with the last finished step saved; started again, it goes on from there.
#include <rankfold/rankfold.h>

#include <csignal>

#include <atomic>
#include <iostream>
#include <thread>

// Signals go to a thread of their own: a handler on a thread that computes can break oneDNN's generated code.
std::atomic<bool> stop_requested = false;
void take_signals() {
  static sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);  // all threads that start later inherit it
  std::thread([] {
    int signal = 0;
    sigwait(&signals, &signal);
    stop_requested = true;
  }).detach();
}

int main(int argc, char** argv) {
  if (argc != 4) {
    std::cerr << "usage: trainer MODEL DATA.json OUTPUT\n";
    return 2;
  }
  take_signals();
  try {
    const auto model = rankfold::CausalLM::load(argv[1], {.device = "cpu"});
    const auto adapter = rankfold::Adapter::create(model, {.r = 8, .lora_alpha = 16, .target_modules = "all-linear"});
    const auto data =
        rankfold::Dataset::open(argv[2], &model.tokenizer(), {.max_length = 256}, model.config().vocab_size);
    const auto [rows, held_out] = data.hold_out(0.1, 42);

    rankfold::Trainer trainer(model, adapter, rows,
                              {.output_dir = argv[3],
                               .per_device_train_batch_size = 4,
                               .gradient_accumulation_steps = 2,
                               .num_train_epochs = 2,
                               .learning_rate = 1e-3,
                               .logging_steps = 5,
                               .save_total_limit = 2,
                               .resume_from_checkpoint = "auto",
                               .eval_strategy = "epoch",
                               .eval_samples = 0});
    trainer.evaluate_on(held_out);
    trainer.on_message([](const std::string& line) { std::cout << line << "\n"; });
    trainer.on_progress([](const rankfold::Progress& progress) {
      if (const rankfold::LogRow* row = progress.logged)
        std::cout << "step " << row->step << " of " << progress.total_steps << "  loss " << row->loss << "\n";
    });
    trainer.after_step([&](rankfold::StepView& step) {
      if (step.is_last()) step.log({{"adapter_norm", adapter.flat_values().norm().item<double>()}});
    });
    trainer.stop_when([] { return stop_requested.load(); });
    return trainer.run() ? 0 : static_cast<int>(rankfold::ExitCode::kInterrupted);
  } catch (const rankfold::Error& error) {
    std::cerr << "trainer: " << error.what() << "\n";
    return static_cast<int>(error.code());
  }
}
