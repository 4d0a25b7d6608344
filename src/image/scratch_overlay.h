#pragma once

#include <filesystem>
#include <set>

#include "image/overlay.h"

namespace isr {

/// The overlay of guest memory while the VM runs: written in place to a file that
/// has no name, under a key that lives in this process alone. Nothing of it
/// survives the process, on purpose: after a crash it is worthless.
///
/// Granularity 4096. Errors: kIo (no space). flush() does nothing.
class ScratchOverlay : public Overlay {
 public:
  virtual std::set<std::uint64_t> dirty_chunks() const = 0;
};
/// `below` (may be null) is what was changed before the VM started: it answers replaced(), and
/// reads of what was not written since.
std::shared_ptr<ScratchOverlay> make_scratch_overlay(const std::filesystem::path& directory, std::uint64_t size,
                                                     std::shared_ptr<Overlay> below);

}  // namespace isr
