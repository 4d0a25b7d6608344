#pragma once

#include "session/session_objects.h"
#include "session/state_file.h"

namespace isr {

/// An image of a session with the overlay that its changes stand in.
struct SessionPart {
  std::uint16_t number = 0;  ///< in the journal
  std::string name;
  std::shared_ptr<JournalOverlay> overlay;
  std::shared_ptr<Image> image;
};

/// The images of a session, and the journal that their changes stand in.
///
/// Threads: const functions and part() may run at once while no begin_anew(), discard() or open() runs; the others one
///          at a time. What image() and disks() gave may be read and written meanwhile.
class SessionImages {
 public:
  /// All of these must outlive this.
  SessionImages(const HostState& host, const ParcelEntry& parcel, StateFile& state, SessionObjects& objects);

  /// Replays the journal; to be called once, before the rest. What the state says to be void by then is left out.
  void open();

  /// The images to mount. Memory's is the suspended one: a VM has MemoryImage::image().
  std::shared_ptr<Image> image(std::string_view name) const { return part(name).image; }
  std::vector<std::shared_ptr<Image>> disks() const;
  /// Error{kBug} when there is none of this name.
  SessionPart& part(std::string_view name);
  const SessionPart& part(std::string_view name) const;
  const std::vector<SessionPart>& parts() const { return parts_; }
  Journal& journal() { return *journal_; }

  bool is_dirty() const;
  std::uint64_t journal_bytes() const { return journal_->size_bytes(); }
  /// A counter to compare: it differs when something was written to a disk meanwhile.
  std::uint64_t disk_writes() const;
  /// The sealed objects that records of the journal name.
  std::set<Cid> needed_objects() const;

  /// Changes the phase in `next` as the table says, and says there that memory and devices are void where the table
  /// does: begin_anew() forgets them then. Error{kVm}: the table refuses the event.
  void take(SessionEvent event, SessionState& next);
  /// Says in `next` that what the image's records say so far is void; begin_anew() then forgets it here.
  void void_image(SessionState& next, const SessionPart& part, const TreeRoot& base);
  void begin_anew(SessionPart& part);
  /// Everything since the base is dropped; stays checked out. After a failure nothing has changed.
  void discard();

 private:
  void void_memory(SessionState& next);

  const HostState& host_;
  const ParcelEntry& parcel_;
  StateFile& state_;
  SessionObjects& objects_;
  std::shared_ptr<Journal> journal_;
  std::vector<SessionPart> parts_;  ///< as many as open() makes: references to them stay valid
};

}  // namespace isr
