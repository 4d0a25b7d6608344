#pragma once

#include "base/file.h"
#include "base/progress.h"
#include "chunkstore/pack_cache.h"
#include "chunkstore/stack.h"
#include "fusefs/mount.h"
#include "image/chunk_fill.h"
#include "image/live_memory.h"
#include "image/settle_policy.h"
#include "image/snapshot.h"
#include "image/uploader.h"
#include "session/held_lock.h"
#include "session/lease_keeper.h"
#include "session/memory_check.h"
#include "session/session_state.h"
#include "session/session_stats.h"

namespace isr {

/// The result of a publish.
struct PublishResult {
  std::uint64_t version = 0;  ///< the newest of ours: new, or unchanged
  bool unchanged = false;     ///< nothing differed: no new version
  std::string fork;           ///< "HOST-xxxx/N" when another host was first; the work is kept there
  bool is_lock_lost = false;  ///< it is a fork because another host has the lock; it has not published
  std::uint64_t uploaded_bytes = 0;
  std::uint64_t uploaded_objects = 0;
};

/// How much is fetched ahead of a guest that continues.
enum class Prefetch {
  kNone,        ///< nothing
  kWorkingSet,  ///< the boot pack before it runs, then the chunks that were read first the last time
  kAll,         ///< and then the rest of its memory
};
/// "none", "ws", "all".
std::string_view to_name(Prefetch prefetch) noexcept;
/// Error{kUsage} for a text that is no such name.
Prefetch parse_prefetch(std::string_view text);

/// Images over what a suspended session has kept, for a VM whose writes are thrown away. Data that is not on
/// this host cannot be read: Error{kOffline}. Must not outlive the session.
struct RehearsalImages {
  std::vector<std::shared_ptr<Image>> disks;
  std::shared_ptr<Image> memory;
  std::shared_ptr<FirstTouches> touches;  ///< of all of them
};

/// The state of a running machine at the moment of a checkpoint, beside its memory and disks.
struct MachineMoment {
  VmStamp stamp;
  Bytes device_state;
  MemoryWitness memory;
};

/// A parcel checked out on this host: its journal, its images, its base. Used by
/// the session daemon (which adds the mount and the VM) and by commands that
/// publish without one. One process at a time: it holds the directory's lock file.
///
/// Errors:  kVm "already in use here" when another process holds it, and does not end within 3 s.
/// Threads: one at a time, but what image() and disks() gave may be read and written meanwhile.
class Session {
 public:
  /// Checks out: takes the lock, reads the version, makes the directory.
  /// Error{kLocked}, {kNotFound}, {kHistory}; {kCancelled} on stop: then the lock is given back within seconds, or
  /// stays written down to be given back (held_lock.h).
  static void create(Account& account, const ParcelEntry& parcel, LockMode mode, const VersionChoice& choice,
                     const std::optional<std::string>& steal_reason, const std::stop_token& stop = {});
  /// Takes back what create() just made, when nothing could be started on it. Does nothing while
  /// another process has the session, or once something was written in it. The lock as in create().
  static void undo_create(const Account& account, const ParcelEntry& parcel, const std::stop_token& stop = {});
  /// Opens what create() made, or what a crash left: replays the journal. A
  /// running phase becomes checkedout: what a crash leaves of memory is worthless.
  Session(Account& account, const ParcelEntry& parcel);
  ~Session();

  const SessionState& state() const noexcept { return state_; }

  /// The images to mount: disks, and memory when there is a VM to run.
  std::shared_ptr<Image> image(std::string_view name) const;
  std::vector<std::shared_ptr<Image>> disks() const;

  /// Fetches what a resume needs before it begins: the device state, waiting for the repository if
  /// it must, and the boot pack when that can be had. Error{kCancelled} on stop.
  void prepare_resume(Prefetch prefetch, const ProgressFn& progress, const std::stop_token& stop);
  /// After begin_memory(): fetches ahead of the guest, until end_fill() or abandon_memory().
  void begin_fill(Prefetch prefetch);
  void end_fill();
  /// Before the guest runs: gives the boot pack some seconds to come. Error{kCancelled} on stop.
  void wait_for_boot_pack(const ProgressFn& progress, const std::stop_token& stop) const;
  /// Pages that the boot pack of this run had ready.
  std::uint64_t boot_pack_pages() const noexcept { return boot_pack_pages_; }
  /// True while the pages that the guest reads first are on their way.
  bool is_fetching_working_set() const;
  /// Of suspended memory that was never published: what a rehearsal runs on. nullopt when there is none.
  std::optional<RehearsalImages> rehearsal_images();

  /// Begins fresh memory (all zeros) of vm.memory_bytes, or opens the suspended one,
  /// under a scratch layer. Returns the image to mount as memory.raw. Drops nothing.
  std::shared_ptr<Image> begin_memory(bool fresh);
  /// The memory that this image writes to; nullptr before, and after abandon_memory().
  std::shared_ptr<LiveMemory> live_memory() const { return live_; }
  /// Error{kIo} when this host has not so much room for what a guest will write.
  void require_room(std::uint64_t bytes) const;
  /// The guest is about to run on it: what was suspended is void now unless it is what
  /// goes on, and the phase becomes running; durable. After a failure nothing has changed.
  void begin_run(bool fresh);
  /// Sets the network of the machine; the next version has it.
  void keep_network(NetworkMode mode);
  /// It did not come to run: the phase is again what it was, or checkedout after `fresh`. Where that cannot be
  /// written down, whoever opens the session next finds a crash.
  void undo_run(bool fresh) noexcept;
  /// The VM did not start, or is gone: the scratch layer is forgotten, the suspended memory below it is not.
  void abandon_memory();
  /// The VM has stopped for a suspend: memory's changes and the device state go
  /// to the journal, durable; the phase becomes suspended. After a failure it is running; Error{kBug} when what would
  /// be kept is not what the witness says.
  void keep_memory(const MachineMoment& moment);
  Bytes device_state();
  /// Memory and device state of a machine that ran are void from now on; durable.
  void drop_memory();

  /// Freezes, seals, uploads, publishes, read back; then what is published is no
  /// longer dirty. With `memory`, the version is suspended (phase suspended only).
  struct PublishOptions {
    bool memory = false;
    std::string message;
    std::string copy_of;  ///< of a rollback: published even when nothing differs
    /// Error{kCancelled}: nothing is published then, unless the head was on its way, which the next publish finds.
    std::stop_token stop{};
    /// Gives the order in which a resume will read; asked once the rest is uploaded. Without pages: from what this
    /// session noted.
    std::function<BootOrder()> boot_order;
    /// For a running machine: pauses it, calls freeze() once its memory has reached the image,
    /// and lets it go on. The version is suspended, the session goes on running.
    std::function<MachineMoment(const std::function<void()>& freeze)> checkpoint;
  };
  PublishResult publish(const PublishOptions& options, const ProgressFn& progress);

  /// After a publish: takes the directory away and releases the lock. Error{kVm} unless all that is here is in what was
  /// published last, or an error of the file system: the session is still there then. `before` is called just before
  /// the directory goes: from then on another session may begin.
  LockReturn end(const std::function<void()>& before = {});
  /// Everything since the base is dropped; stays checked out. After a failure nothing has changed.
  void discard();
  /// After a failure of the above the disk may say that it had succeeded: puts that right. To be called before a
  /// guest or anybody else goes on to write. Error{kIo}: not now.
  void make_state_certain();
  /// Makes sure that the lock is ours before a guest runs on what is here: takes it again where it is free and the
  /// newest version is the base, and in any case with a reason. False when the repository does not answer: nobody
  /// knows. Error{kLocked} another host has it, {kHistory} another host has published; with the ways out as hints.
  bool secure_lock(const std::optional<std::string>& steal_reason, const std::stop_token& stop);
  /// Renews the lease until the session ends; nothing of a lock without one.
  void keep_lease(LeaseKeeper::OnLost on_lost);

  /// Takes one step of settling when it is time for one, and evicts what is too much on the cache's disk. To be called
  /// a few times a second; a publish does so itself.
  void settle_if_due(const std::stop_token& stop = {});
  /// Makes an offline account online. Error{kOffline}, {kCancelled} on stop.
  void go_online(const std::stop_token& stop = {});
  /// Ends reads that wait for the network, because the VM is being killed.
  void interrupt_reads();
  /// As above, and later reads that would wait fail at once.
  void cancel();

  bool dirty() const;
  std::uint64_t journal_bytes() const;
  SessionStats stats() const;

 private:
  struct Part;         // an image of the session with its overlay
  struct Publication;  // a version on its way
  class Settling;      // beside a publish
  Part& part(std::string_view name) const;
  std::uint64_t make_room(std::uint64_t bytes);
  std::shared_ptr<Image> make_image(const std::string& name, const TreeRoot& base,
                                    std::shared_ptr<Overlay> overlay) const;
  void open_parts();
  static void rebase_on(const PendingPublish& pending, SessionState& state, const ParcelVersion& version);
  void resolve_pending();
  void resolve_pending(Chain& chain, const std::optional<StoredHead>& newest);
  std::optional<Error> try_to_resolve_pending(const std::stop_token& stop);
  const PendingPublish* find_pending(const StoredHead& head) const;
  void save_state();
  void try_to_save_state() noexcept;
  void change_state(const std::function<void(SessionState&)>& change);
  void void_image(SessionState& state, const Part& part, const TreeRoot& base) const;
  void void_memory(SessionState& state) const;
  void take(SessionEvent event, SessionState& state) const;
  void begin_anew(Part& part);
  void sweep_settled();
  SealContext seal_context();
  void freeze(const PublishOptions& options, Publication& publication);
  void seal(Publication& publication);
  void check_memory(const Publication& publication, const TreeRoot& before, const TreeRoot& after);
  void thaw(const Publication& publication);
  void write_device_state(ByteView device_state);
  Presence begin_upload();
  void upload(const std::map<Cid, std::uint32_t>& objects, Presence presence, std::string_view step,
              const ProgressFn& progress, const std::stop_token& stop);
  std::vector<std::string> boot_image_names() const;
  bool is_here(const Cid& cid) const;
  void fetch_device_state(const ProgressFn& progress, const std::stop_token& stop);
  void open_boot_pack(const std::stop_token& stop);
  void attach_boot_pack();
  void detach_boot_pack();
  std::shared_ptr<Image> boot_image(const std::string& name) const;
  void add_boot_pack(const PublishOptions& options, Publication& publication, const ProgressFn& progress);
  Bytes make_boot_pack(BootOrder order, const Publication& publication) const;
  TreeRoot seal_boot_pack(ByteView bytes, std::map<Cid, std::uint32_t>& objects);
  std::shared_ptr<ChunkReader> local_reader() const;
  void add_boot_stats(SessionStats& out) const;
  std::string keep_fork(std::uint64_t n, ByteView blob, const std::stop_token& stop);
  void require_base(const StoredHead& newest, const std::stop_token& stop);
  std::optional<StoredHead> commit(const Publication& publication, const std::stop_token& stop, PublishResult& result);
  void adopt(const Publication& publication, const StoredHead& head);
  void adopt_unchanged(const Publication& publication);
  static void set_bases(const Publication& publication, SessionState& state);
  void drop_published(const Publication& publication);
  void empty_settled(const std::map<Cid, std::uint32_t>& published);
  LockRequest lock_request() const;
  bool keep_lock(const std::stop_token& stop);
  void take_over_lock(const std::string& reason, const std::stop_token& stop);
  void resume_lease();
  std::string going_on() const;
  [[noreturn]] void refuse_lost_lock(const LockRuling& ruling) const;
  [[noreturn]] void refuse_moved(const LockRuling& ruling) const;
  [[noreturn]] void refuse_passed_by(std::uint64_t newest) const;
  /// A counter to compare: it differs when something was written to a disk meanwhile.
  std::uint64_t disk_writes() const;

  Account& account_;
  ParcelEntry parcel_;
  fs::path directory_;
  std::optional<FileLock> flock_;
  SessionState state_;
  bool is_state_uncertain_ = false;  ///< the file may say something else
  SourceStats source_stats_;
  UploadCounters upload_counters_;
  mutable SourceStats local_stats_;  ///< of readers that ask no repository
  std::shared_ptr<PackStore> settled_;
  std::shared_ptr<PackCache> cache_;
  MakeRoom make_room_;
  std::chrono::steady_clock::time_point tidied_;
  std::shared_ptr<ChunkReader> reader_;
  std::shared_ptr<Journal> journal_;
  /// The state that the last successful publish covers, also as a fork, or when nothing differed.
  struct Published {
    SessionPhase phase = SessionPhase::kCheckedOut;
    std::uint64_t disk_writes = 0;
  };
  std::optional<Published> published_;
  SettlePolicy settle_policy_;
  SettledSweep sweep_;
  std::uint64_t swept_ = 0;  ///< sealed chunks that were superseded before the last sweep
  std::chrono::steady_clock::time_point swept_at_{};
  std::vector<std::unique_ptr<Part>> parts_;
  std::shared_ptr<ScratchOverlay> scratch_;
  std::shared_ptr<LiveMemory> live_;  ///< above it
  std::shared_ptr<Image> memory_image_;
  bool waits_ = true;                      ///< for a repository that cannot be reached
  std::shared_ptr<HotPages> boot_pack_;    ///< of the resume that is going on
  std::shared_ptr<FirstTouches> touches_;  ///< since this session's last start or resume
  std::uint64_t boot_pack_pages_ = 0;
  LeaseKeeper::OnLost on_lease_lost_;
  std::optional<LeaseKeeper> lease_;
  mutable Sync<std::shared_ptr<ChunkFill>> fill_;  ///< last: it uses the rest
};

}  // namespace isr
