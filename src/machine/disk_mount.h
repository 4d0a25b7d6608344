#pragma once

#include "machine/vm_host.h"
#include "session/session.h"

namespace isr {

/// The session whose disks are mounted, its place on this host, and the services that the mount uses.
struct DiskMountParts {
  Session& session;
  const Paths& paths;
  std::string name;  ///< of the parcel
  std::string parcel_id;
  std::function<std::string()> stats_json;          ///< returns the mount's stats.json; called from any thread
  std::function<std::optional<pid_t>()> guest_pid;  ///< the guest's process, if one runs; it may have files open
  std::shared_ptr<VmHost> host;
};

/// The mount of a session's disks and, while a guest runs, of its memory. Finds other processes that use its files.
///
/// Errors:  as VmHost::make_mount().
/// Threads: one at a time.
class DiskMount {
 public:
  explicit DiskMount(DiskMountParts parts);

  /// Mounts the disks anew; read-only while there is suspended memory, which fits only the disks as they are.
  void mount();
  /// Like mount(), but logs a failure.
  void try_to_mount() noexcept;
  /// For Machine: mounts the disks anew, writable, and memory beside them.
  void mount_for_guest(MountedFile memory);
  void unmount();
  /// Throws Error{kVm}, naming the user, if a process other than the guest has a file of the mount open, or a loop
  /// device uses one. Waits some seconds for a user that is about to close it.
  void require_unused() const;
  /// Like require_unused(), and refuses writers: until open(), opening a disk for writing fails with EROFS. After an
  /// error writers are admitted.
  void close();
  /// Admits writers again; mounts the disks if they are not mounted.
  void open();
  /// Waits until the kernel has written its dirty pages of the disks to the mount.
  void write_back() const;

  const fs::path& directory() const { return directory_; }
  bool mounted() const { return mount_ != nullptr; }

 private:
  void replace_mount(std::optional<MountedFile> memory);

  DiskMountParts parts_;
  fs::path directory_;
  std::unique_ptr<Mount> mount_;
};

}  // namespace isr
