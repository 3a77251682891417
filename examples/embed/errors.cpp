// errors MODEL: what the library throws for bad input, a bad setting, a folder that cannot be written, and misuse.
// Prints a line for each.
#include <rankfold/rankfold.h>

#include <functional>
#include <iostream>
#include <stdexcept>

void report(const char* what, const std::function<void()>& work) {
  std::cout << what << ": ";
  try {
    work();
    std::cout << "nothing was thrown\n";
  } catch (const rankfold::StorageError& error) {  // before Error, which it is too
    std::cout << "StorageError, errno " << error.error_number() << ": " << error.what() << "\n";
  } catch (const rankfold::Error& error) {  // UserError, Stopped, and what LibTorch or the kernels threw
    std::cout << "Error, exit code " << static_cast<int>(error.code()) << ": " << error.what() << "\n";
  } catch (const std::invalid_argument& error) {  // misuse that no input causes
    std::cout << "std::invalid_argument: " << error.what() << "\n";
  }
}

int main(int argc, char** argv) {
  if (argc != 2) {
    std::cerr << "usage: errors MODEL\n";
    return 2;
  }
  const std::string folder = argv[1];
  report("a folder that is missing", [&] { rankfold::CausalLM::load(folder + "/nothing"); });
  report("a setting that is out of range", [&] { rankfold::CausalLM::load(folder, {.dtype = "int4"}); });
  report("a device that is missing", [&] { rankfold::CausalLM::load(folder, {.device = "cuda:99"}); });
  try {
    const auto model = rankfold::CausalLM::load(folder, {.device = "cpu"});
    const rankfold::LoraConfig lora{.target_modules = "all-linear"};
    report("a target that is missing", [&] { rankfold::Adapter::create(model, {.target_modules = "nothing"}); });
    report("an adapter that is missing", [&] { model.set_active_adapters({"nothing"}); });
    const auto adapter = rankfold::Adapter::create(model, lora);
    report("a folder that cannot be written", [&] { adapter.save("/proc/nothing"); });
    report("a second adapter of one name", [&] { rankfold::Adapter::create(model, lora); });
    return 0;
  } catch (const rankfold::Error& error) {
    std::cerr << "errors: " << error.what() << "\n";
    return static_cast<int>(error.code());
  }
}
