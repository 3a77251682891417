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
  for (Layer& layer : layers) all.insert(all.end(), {&layer.input_norm, &layer.post_norm});
  all.push_back(&norm);
  return all;
}

}  // namespace rankfold
