// Compiled once for the library: these take most of a file's compile time.
#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include <map>
#include <string>
#include <vector>
