#pragma once

#include "session/boot_prefetch.h"
#include "session/memory_image.h"
#include "session/session_lock.h"

/// The faces of three of a Session's parts. A face is the part itself, with only the functions public that callers of
/// Session may use. Session alone sees the whole part, and passes it to the other parts.
namespace isr {

/// The memory of the machine, without the steps that Publisher takes for a version of the running machine.
class MemoryFace : private MemoryImage {
 public:
  using MemoryImage::abandon;
  using MemoryImage::begin;
  using MemoryImage::begin_run;
  using MemoryImage::device_state;
  using MemoryImage::drop;
  using MemoryImage::image;
  using MemoryImage::keep;
  using MemoryImage::live;
  using MemoryImage::MemoryImage;
  using MemoryImage::require_room;
  using MemoryImage::undo_run;

 private:
  friend class Session;
};

/// The fetching for the machine, without attaching it to images, which MemoryImage does.
class PrefetchFace : private BootPrefetch {
 public:
  using BootPrefetch::begin_fill;
  using BootPrefetch::BootPrefetch;
  using BootPrefetch::end_fill;
  using BootPrefetch::is_fetching_working_set;
  using BootPrefetch::pages;
  using BootPrefetch::prepare;
  using BootPrefetch::wait_for_pack;

 private:
  friend class Session;
};

/// The lock, without what HeadPublisher does before a head and Session at its end.
class LockFace : private SessionLock {
 public:
  using SessionLock::keep_lease;
  using SessionLock::secure;
  using SessionLock::SessionLock;

 private:
  friend class Session;
};

}  // namespace isr
