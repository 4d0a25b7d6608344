#pragma once

#include <filesystem>

#include "image/frozen_changes.h"

namespace isr {

class JournalOverlay;

/// The overlay of guest memory while the VM runs: written in place to a file that
/// has no name, under a key that lives in this process alone. Nothing of it
/// survives the process, on purpose: after a crash it is worthless.
///
/// freeze() keeps all that was written until then as it is, for a checkpoint; new
/// writes go to a file of their own. What the frozen layer changes includes the
/// chunks that are replaced in what is frozen of the overlay below.
///
/// lie_over(), freeze(), thaw() and drop_frozen() are called one after the other.
/// Granularity 4096. Errors: kIo (no space). flush() does nothing.
class ScratchOverlay : public Overlay, public FrozenChanges {
 public:
  /// Of both layers.
  virtual std::set<std::uint64_t> dirty_chunks() const = 0;
  /// From now on `below`, in which nothing is yet, lies below.
  virtual void lie_over(std::shared_ptr<JournalOverlay> below) = 0;
  virtual void freeze() = 0;
  /// The frozen layer is active again, below what was written since; reads and writes go on beside it, though
  /// nothing may ask for what is frozen any more. After Error{kIo}
  /// nothing is lost, and freeze() or thaw() go on with it. Does nothing when nothing is frozen.
  virtual void thaw() = 0;
  /// Forgets the frozen layer, once the overlay below has absorbed what it says.
  virtual void drop_frozen() = 0;
};
/// `below` (may be null) is what was changed before the VM started: it answers replaced(), and
/// reads of what was not written since.
std::shared_ptr<ScratchOverlay> make_scratch_overlay(const std::filesystem::path& directory, std::uint64_t size,
                                                     std::shared_ptr<JournalOverlay> below);

}  // namespace isr
