#include "model/network.h"

namespace rankfold {

std::vector<Projection*> Network::projections() {
  std::vector<Projection*> all;
  for (Layer& layer : layers)
    for (Projection* p : layer.projections()) all.push_back(p);
  all.push_back(&head);
  return all;
}

std::vector<Norm*> Network::norms() {
  std::vector<Norm*> all;
  for (Layer& layer : layers) {
    all.push_back(&layer.input_norm);
    if (const QkNorms of_heads = layer.qk_norms(); of_heads.q) all.insert(all.end(), {of_heads.q, of_heads.k});
    if (layer.attention_out_norm.weight.defined()) all.push_back(&layer.attention_out_norm);
    all.push_back(&layer.mlp_norm);
    if (layer.mlp_out_norm.weight.defined()) all.push_back(&layer.mlp_out_norm);
  }
  all.push_back(&norm);
  return all;
}

}  // namespace rankfold
