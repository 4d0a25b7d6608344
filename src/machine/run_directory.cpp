#include "machine/run_directory.h"

#include <fmt/format.h>

#include "base/file.h"
#include "base/log.h"
#include "vm/swap.h"

namespace isr {
namespace {

/// A private mapping is QEMU's own memory, which the kernel may swap out unencrypted. So "auto" allows one only if no
/// swap is in plaintext.
bool private_memory_allowed(const std::string& setting) {
  if (setting != "auto") return setting == "private";
  const auto swap = plaintext_swap();
  if (swap.empty()) return true;
  log::info("guest memory is mapped shared: swap on {} is not encrypted", fmt::join(swap, ", "));
  return false;
}

}  // namespace

QemuOptions make_run_directory(const fs::path& directory, const std::string& memory) {
  QemuOptions options;
  make_private_directory(directory);
  options.run_directory = directory;
  options.private_memory = private_memory_allowed(memory);
  return options;
}

}  // namespace isr
