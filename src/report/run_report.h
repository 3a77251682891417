// The HTML page and the SVG loss chart of a training run so far. Pure functions over plain values. Time and output size
// stop growing with the log once the charts are full.
#pragma once

#include "report/chart.h"

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace rankfold {

struct RunReport {
  struct Curve {
    std::string metric;  // name in the log: loss, grad_norm, learning_rate, eval_loss, or a callback's metric
    std::vector<Point> points = {};  // x: step
  };
  struct Evaluation {
    int64_t step = 0;
    double epoch = 0;
    std::vector<std::pair<std::string, double>> metrics = {};  // those whose names begin with eval_
  };
  struct ModuleNorm {
    std::string module;  // "model.layers.0.self_attn.W_pack"
    double norm = 0;     // Frobenius norm of the update scale * B A
  };
  struct Sample {  // what the model answered in an evaluation to the prompt of a held-out row
    int64_t step = 0;
    std::string prompt, expected, answer;
  };
  struct Setting {
    std::string name, value, usual;  // usual: the default
    bool is_usual() const { return value == usual; }
  };
  struct Message {
    int64_t step = 0;
    std::string text;
  };

  std::string name;                     // of the run
  std::vector<std::string> facts = {};  // for the line below the title
  int64_t step = 0, total_steps = 0;
  double epoch = 0;
  int64_t tokens_seen = 0, skipped_steps = 0;
  std::vector<Curve> curves = {};  // all metrics of the log
  std::vector<Evaluation> evaluations = {};
  std::string best_metric = "eval_loss";  // selects the best evaluation
  int64_t best_step = 0;                  // of that evaluation; 0: none
  std::vector<ModuleNorm> norms = {};     // empty without a LoRA adapter
  std::vector<Sample> samples = {};
  std::vector<Setting> settings = {};
  std::vector<Message> messages = {};
  int64_t messages_left_out = 0;
};

std::string report_html(const RunReport& run);
std::string training_loss_svg(const RunReport& run);  // an SVG file: loss, its moving average, and eval_loss

}  // namespace rankfold
