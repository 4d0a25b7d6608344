#include "session/memory_check.h"

#include <fmt/format.h>

#include "base/error.h"

namespace isr {

MemoryCheck::MemoryCheck(const MemoryWitness& witness, std::vector<bool> touched)
    : witness_(witness), may_differ_(std::move(touched)) {
  for (const MemoryRange& run : witness.own) {
    for (std::uint64_t at = run.begin; at < run.end; at += kPageSize) may_differ_.at(at / kChunkSize) = true;
  }
}

void MemoryCheck::require_change(std::uint64_t chunk) const {
  if (may_differ_.at(chunk)) return;
  throw Error(ErrorKind::kBug, fmt::format("memory is not kept: its chunk at {:#x} would change, but the guest has "
                                           "neither written it nor given it back",
                                           chunk * kChunkSize));
}

void MemoryCheck::compare(const Replacements& before, const Replacements& after) const {
  const auto require_in = [this](const Replacements& those, const Replacements& others) {
    for (const auto& [chunk, ref] : those) {
      const auto other = others.find(chunk);
      if (other == others.end() || other->second != ref) require_change(chunk);
    }
  };
  require_in(after, before);
  require_in(before, after);
}

void MemoryCheck::compare(Image& kept) const {
  Bytes bytes(kPageSize);
  for (const SampledPage& page : witness_.sample) {
    try {
      kept.read(page.offset, bytes);
    } catch (const Error& error) {
      if (error.kind() == ErrorKind::kOffline || error.kind() == ErrorKind::kTransient) continue;
      throw;
    }
    if (bytes == page.bytes) continue;
    throw Error(ErrorKind::kBug,
                fmt::format("memory is not kept: its page at {:#x} would differ from the guest's page (sample {})",
                            page.offset, witness_.seed));
  }
}

}  // namespace isr
