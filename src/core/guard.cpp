#include "core/guard.h"

#include "core/check.h"
#include "core/memory.h"

#include <c10/util/Exception.h>

#include <filesystem>
#include <stdexcept>

namespace rankfold {
namespace {

[[noreturn]] void defect(const std::string& what) {
  std::throw_with_nested(Error(ExitCode::kDefect, "this is a defect of Rankfold: " + what.substr(0, what.find('\n'))));
}

}  // namespace

void rethrow_as_error() {
  try {
    throw;
  } catch (const Error&) {
    throw;
  } catch (const std::invalid_argument&) {
    throw;
  } catch (const CallersException& callers) {
    std::rethrow_exception(callers.exception);
  } catch (const std::filesystem::filesystem_error& error) {
    std::throw_with_nested(StorageError(one_line(error.what()), error.code().value()));
  } catch (const std::exception& error) {
    if (const auto wanted = out_of_memory(error))
      std::throw_with_nested(
          Error(ExitCode::kOutOfMemory, join("out of memory", wanted->empty() ? "" : ": ", *wanted)));
    const auto* raised = dynamic_cast<const c10::Error*>(&error);
    defect(raised ? raised->what_without_backtrace() : error.what());
  } catch (...) {
    defect("an exception of unknown type");
  }
}

}  // namespace rankfold
