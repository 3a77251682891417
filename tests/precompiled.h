// Compiled once for each test executable.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>
