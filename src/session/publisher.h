#pragma once

#include "image/uploader.h"
#include "session/boot_pack_maker.h"
#include "session/head_publisher.h"
#include "session/memory_image.h"
#include "session/settler.h"

namespace isr {

/// The result of a publish.
struct PublishResult {
  std::uint64_t version = 0;  ///< the new version; if there is none, the session's base
  bool unchanged = false;     ///< nothing differed: no new version
  std::string fork;           ///< name of the fork that keeps the work, "HOST-xxxx/N"; else empty
  bool is_lock_lost = false;  ///< a fork because another host has the lock, although it has not published
  std::uint64_t uploaded_bytes = 0;
  std::uint64_t uploaded_objects = 0;
};

struct PublishOptions {
  bool memory = false;  ///< publish a suspended version; only in phase suspended
  std::string message;
  std::string copy_of;  ///< as ParcelVersion::copy_of; if set, a version without changes is published, too
  /// Ends the publish with Error{kCancelled}. Nothing is published then, unless the head was just being sent; in that
  /// case the next publish finds it.
  std::stop_token stop{};
  /// Returns the order in which a resume will read. Called once the other objects are uploaded. If the order has no
  /// pages, the session's own record of first reads is used.
  std::function<BootOrder()> boot_order;
  /// Set to publish a checkpoint of a running machine. Pauses the machine, calls freeze() once the machine's memory has
  /// reached the image, and lets the machine go on. The version is a suspended one; the session goes on running.
  std::function<MachineMoment(const std::function<void()>& freeze)> checkpoint;
};

/// The parts that a publisher works with. All of them must outlive it.
struct PublisherParts {
  Account& account;
  const ParcelEntry& parcel;
  StateFile& state;
  SessionObjects& objects;
  SessionImages& images;
  Settler& settler;
  BootPrefetch& prefetch;
  MemoryImage& memory;
  HeadPublisher& heads;
};

/// Publishes the contents of a session: freezes, seals, absorbs, uploads, puts the head and reads it back. After that
/// the published changes are no longer dirty. A publish may be interrupted at any point and run again.
///
/// Errors:  as HeadPublisher, Uploader, MemoryImage::check_frozen(); {kVm} the phase refuses it; {kOffline};
///          {kUnsupported} the repository is read-only; {kIo} of journal, settled store and state file. After any of
///          them, no work is lost, and nothing was dropped that no version has.
/// Threads: one at a time.
class Publisher {
 public:
  explicit Publisher(const PublisherParts& parts);
  Publisher(const Publisher&) = delete;
  Publisher& operator=(const Publisher&) = delete;

  PublishResult publish(const PublishOptions& options, const ProgressFn& progress);
  /// Error{kVm} unless the last publish covers everything in the session; a publish that became a fork counts.
  void require_published() const;
  /// The bytes that were uploaded since the session was opened.
  std::uint64_t uploaded_bytes() const { return counters_.bytes.load(); }

 private:
  struct Publication;
  void freeze(const PublishOptions& options, Publication& publication);
  void seal(const PublishOptions& options, Publication& publication);
  void thaw(const Publication& publication, bool with_memory);
  Presence begin_upload();
  void upload(const std::map<Cid, std::uint32_t>& objects, Presence presence, std::string_view step,
              const ProgressFn& progress, const std::stop_token& stop);
  void add_boot_pack(const PublishOptions& options, Publication& publication, const ProgressFn& progress);
  void adopt(const Publication& publication, const StoredHead& head);
  void adopt_unchanged(const Publication& publication);
  static void set_bases(const Publication& publication, SessionState& state);
  void drop_published(const Publication& publication);
  void empty_settled(const std::map<Cid, std::uint32_t>& published);

  Account& account_;
  const ParcelEntry& parcel_;
  StateFile& state_;
  SessionObjects& objects_;
  SessionImages& images_;
  Settler& settler_;
  BootPrefetch& prefetch_;
  MemoryImage& memory_;
  HeadPublisher& heads_;
  BootPackMaker pack_maker_;
  UploadCounters counters_;
  /// The state that the last successful publish covers. A publish that became a fork or found no changes counts.
  struct Published {
    SessionPhase phase = SessionPhase::kCheckedOut;
    std::uint64_t disk_writes = 0;
  };
  std::optional<Published> published_;
};

}  // namespace isr
