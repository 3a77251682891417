// The page and the picture of a training run: what it came to so far, as HTML and SVG. Pure functions over plain values;
// time and size grow with the log only until its charts are full.
#pragma once

#include "report/chart.h"

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace rankfold {

struct RunReport {
  struct Curve {
    std::string metric;              // a name of the log: loss, grad_norm, learning_rate, eval_loss, one of a caller's
    std::vector<Point> points = {};  // by step
  };
  struct Evaluation {
    int64_t step = 0;
    double epoch = 0;
    std::vector<std::pair<std::string, double>> metrics = {};  // those that begin with eval_
  };
  struct ModuleNorm {
    std::string module;  // "model.layers.0.self_attn.W_pack"
    double norm = 0;     // Frobenius', of the update scale * B A
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
  std::vector<std::string> facts = {};  // about it, for the line below the title
  int64_t step = 0, total_steps = 0;
  double epoch = 0;
  int64_t tokens_seen = 0, skipped_steps = 0;
  std::vector<Curve> curves = {};  // all metrics of the log
  std::vector<Evaluation> evaluations = {};
  std::string best_metric = "eval_loss";  // by which an evaluation is the best
  int64_t best_step = 0;                  // of that evaluation; 0: none
  std::vector<ModuleNorm> norms = {};     // empty where no update of low rank trains
  std::vector<Sample> samples = {};
  std::vector<Setting> settings = {};
  std::vector<Message> messages = {};
  int64_t messages_left_out = 0;
};

std::string report_html(const RunReport& run);
std::string training_loss_svg(const RunReport& run);  // a file: loss, its moving average, and eval_loss

}  // namespace rankfold
