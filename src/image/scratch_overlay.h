#pragma once

#include <filesystem>

#include "image/frozen_changes.h"

namespace isr {

class JournalOverlay;

/// The overlay of guest memory while the VM runs. Writes go in place to a file without a name, encrypted under a key
/// that only this process has. It is lost when the process ends, on purpose, because guest memory is worthless after a
/// crash.
///
/// freeze() keeps everything written so far unchanged for a checkpoint; new writes go to a file of their own. The
/// changes of the frozen layer include the replaced chunks in the frozen part of the overlay below.
///
/// Call lie_over(), freeze(), thaw() and drop_frozen() one after the other. Granularity 4096. Errors: kIo (no space).
/// flush() does nothing.
class ScratchOverlay : public Overlay, public FrozenChanges {
 public:
  /// Of both layers.
  virtual std::set<std::uint64_t> dirty_chunks() const = 0;
  /// Puts the overlay `below`, which must be empty, under this one.
  virtual void lie_over(std::shared_ptr<JournalOverlay> below) = 0;
  virtual void freeze() = 0;
  /// Makes the frozen layer active again, below later writes. Reads and writes may go on meanwhile, but no caller may
  /// ask for the frozen layer any more. After Error{kIo} nothing is lost, and the next freeze() or thaw() continues it.
  /// Does nothing when nothing is frozen.
  virtual void thaw() = 0;
  /// Forgets the frozen layer, once the base of the image has its changes.
  virtual void drop_frozen() = 0;
};
/// `below` (may be null) has the changes from before the VM started. It answers replaced(), and reads of bytes that
/// were not written since.
std::shared_ptr<ScratchOverlay> make_scratch_overlay(const std::filesystem::path& directory, std::uint64_t size,
                                                     std::shared_ptr<JournalOverlay> below);

}  // namespace isr
