#pragma once

#include "session/boot_prefetch.h"
#include "session/memory_image.h"
#include "session/session_lock.h"

/// Faces of three parts of a Session. A face is the part itself, but only the functions that callers of Session may use
/// are public. Only Session sees the whole part, and passes it to the other parts.
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

/// The prefetch for the machine, without attach() and detach(), which MemoryImage calls.
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

/// The lock, without the functions that HeadPublisher calls before it puts a head and Session calls at its end.
class LockFace : private SessionLock {
 public:
  using SessionLock::keep_lease;
  using SessionLock::secure;
  using SessionLock::SessionLock;

 private:
  friend class Session;
};

}  // namespace isr
