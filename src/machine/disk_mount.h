#pragma once

#include "machine/vm_host.h"
#include "session/session.h"

namespace isr {

/// The place of a session on this host, and its services there.
struct DiskMountParts {
  Session& session;
  const Paths& paths;
  std::string name;  ///< the parcel's
  std::string parcel_id;
  std::function<std::string()> stats_json;          ///< the contents of the file of that name; from any thread
  std::function<std::optional<pid_t>()> guest_pid;  ///< the process of the guest, if one runs: it has the files open
  std::shared_ptr<VmHost> host;
};

/// The mount of a session's disks and, for a guest, its memory. Knows the other processes that use its files.
///
/// Errors:  of VmHost::make_mount().
/// Threads: one at a time.
class DiskMount {
 public:
  explicit DiskMount(DiskMountParts parts);

  /// Mounts the disks anew; read-only while suspended memory relies on them.
  void mount();
  /// As above, but logs a failure.
  void try_to_mount() noexcept;
  /// For Machine: mounts the disks anew, writable, and memory beside them.
  void mount_for_guest(MountedFile memory);
  void unmount();
  /// Error{kVm}, naming the user: a process other than the guest has a file of the mount open, or a loop device stands
  /// on it. Waits some seconds for one that is about to close it.
  void require_unused() const;
  /// As require_unused(). From then on writing to the disks fails with EROFS until open().
  void close();
  /// Admits writers again; mounts the disks where they are not mounted.
  void open();
  /// Waits until the kernel has written to the mount what it still holds of the disks.
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
