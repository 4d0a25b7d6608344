// The libfuse operations. Each is a C function that answers exactly once and lets no exception out. They refuse these
// requests:
//
//   open for writing a read-only file      EROFS  (EACCES from the kernel unless root: mode 0400)
//   open for writing what is being closed  EROFS  (refuse_writers())
//   anything that writes, nothing writable EROFS  (from the kernel: the mount is read-only)
//   O_TRUNC, truncate to another size      EPERM  (to the same size: done)
//   chmod, chown                           EPERM  (times: accepted and forgotten)
//   create, mknod, mkdir, symlink, link,
//   unlink, rmdir, rename                  EPERM  (the directory is fixed)
//   extended attributes                    EOPNOTSUPP
//   fallocate beyond the end, other modes  EOPNOTSUPP
//   write at or beyond the end             ENOSPC, as a block device; across the end: short
//   SEEK_DATA, SEEK_HOLE beyond the end    ENXIO  (all is data up to the end)
//   an unknown inode                       ENOENT
//   a failure of the image                 to_errno(kind): damaged data is EIO; guest memory waits (Endurance)
//
// Locks (flock, POSIX, OFD) have no handler, so the kernel keeps them itself.

#define FUSE_USE_VERSION 314
#include <fcntl.h>
#include <fmt/format.h>
#include <fuse_lowlevel.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <charconv>
#include <csignal>

#include "base/file.h"
#include "base/log.h"
#include "fusefs/file_server.h"

namespace isr {
namespace {

constexpr double kForever = 86400;  // seconds; names, sizes and modes never change

FileServer& server_of(fuse_req_t req) { return *static_cast<FileServer*>(fuse_req_userdata(req)); }

/// The only place where exceptions end. `body` returns 0 after it has answered, or the errno to answer; it must not
/// throw after answering.
template <class Body>
void answer(fuse_req_t req, std::string_view what, const std::string& name, Body&& body) noexcept {
  int result = EIO;
  try {
    try {
      result = body();
    } catch (const Error& error) {
      result = to_errno(error.kind());
      log::error("{} of {}: {}", what, name, error.what());
    } catch (const std::exception& error) {
      log::error("{} of {}: {}", what, name, error.what());
    }
  } catch (...) {  // logging failed; the errno is still answered
  }
  if (result != 0) fuse_reply_err(req, result);
}

/// True when the requesting thread has been killed. A request for guest memory must outlive every other signal (the
/// fault would become a SIGBUS), but the kernel keeps a killed process until we answer. When no descriptor is free,
/// returns false, and the request goes on waiting.
bool was_killed(fuse_req_t req) noexcept try {
  if (fuse_req_interrupted(req) == 0) return false;
  const pid_t thread = fuse_req_ctx(req)->pid;
  const auto fd = open_if_exists(fmt::format("/proc/{}/status", thread), O_RDONLY);
  if (!fd) return true;
  std::array<char, 4096> text{};
  const ssize_t count = ::read(fd->get(), text.data(), text.size());
  if (count <= 0) return true;
  const std::string_view status(text.data(), static_cast<std::size_t>(count));
  for (const std::string_view field : {"SigPnd:\t", "ShdPnd:\t"}) {
    const auto at = status.find(field);
    if (at == std::string_view::npos) continue;
    std::uint64_t pending = 0;
    std::from_chars(status.data() + at + field.size(), status.data() + status.size(), pending, 16);
    if ((pending >> (SIGKILL - 1) & 1U) != 0) return true;
  }
  return false;
} catch (const std::exception&) {
  return false;
}

/// A buffer for each thread, kept and never cleared, because zeroing 1 MiB for each read costs as much as the read.
MutableBytes read_buffer(std::size_t size) {
  thread_local std::unique_ptr<std::uint8_t[]> buffer;
  thread_local std::size_t capacity = 0;
  if (capacity < size) {
    capacity = 0;
    const std::size_t wanted = std::max<std::size_t>(size, kChunkSize);
    buffer = std::make_unique_for_overwrite<std::uint8_t[]>(wanted);
    capacity = wanted;
  }
  return {buffer.get(), size};
}

}  // namespace

struct Operations {
  static void init(void* userdata, fuse_conn_info* connection) {
    static_cast<FileServer*>(userdata)->negotiate(*connection);
  }

  static double attribute_timeout(FileServer& server, fuse_ino_t inode) {
    return server.is_stats(inode) ? 0 : kForever;
  }

  static void lookup(fuse_req_t req, fuse_ino_t parent, const char* name) {
    auto& server = server_of(req);
    answer(req, "lookup", name, [&] {
      fuse_entry_param entry{};
      entry.ino = parent == FUSE_ROOT_ID ? server.find(name) : 0;
      if (entry.ino == 0) return ENOENT;
      if (!server.fill_attributes(entry.ino, entry.attr)) return ENOENT;
      entry.attr_timeout = attribute_timeout(server, entry.ino);
      entry.entry_timeout = kForever;
      fuse_reply_entry(req, &entry);
      return 0;
    });
  }

  static int reply_attributes(fuse_req_t req, fuse_ino_t inode) {
    struct stat attributes {};
    if (!server_of(req).fill_attributes(inode, attributes)) return ENOENT;
    fuse_reply_attr(req, &attributes, attribute_timeout(server_of(req), inode));
    return 0;
  }

  static void getattr(fuse_req_t req, fuse_ino_t inode, fuse_file_info*) {
    answer(req, "getattr", server_of(req).label(inode), [&] { return reply_attributes(req, inode); });
  }

  static void setattr(fuse_req_t req, fuse_ino_t inode, struct stat* wanted, int which, fuse_file_info*) {
    auto& server = server_of(req);
    answer(req, "setattr", server.label(inode), [&] {
      if ((which & (FUSE_SET_ATTR_MODE | FUSE_SET_ATTR_UID | FUSE_SET_ATTR_GID)) != 0) return EPERM;
      if ((which & FUSE_SET_ATTR_SIZE) != 0) {
        const auto* file = server.image_file(inode);
        if (file == nullptr || wanted->st_size < 0) return EPERM;
        if (static_cast<std::uint64_t>(wanted->st_size) != file->image->size()) return EPERM;
      }
      return reply_attributes(req, inode);
    });
  }

  static void open(fuse_req_t req, fuse_ino_t inode, fuse_file_info* info) {
    auto& server = server_of(req);
    answer(req, "open", server.label(inode), [&] {
      const bool wants_to_write = (info->flags & O_ACCMODE) != O_RDONLY;
      const auto* file = server.image_file(inode);
      if (file == nullptr && !server.is_stats(inode)) return ENOENT;
      if (wants_to_write && (file == nullptr || !server.writable(*file))) return EROFS;
      if ((info->flags & O_TRUNC) != 0) return EPERM;
      if (file == nullptr) {
        info->fh = server.open_stats();
        info->direct_io = 1;
      } else {
        if (!server.begin_open(info->flags)) return EROFS;
        info->keep_cache = 1;
      }
      // The kernel never releases an interrupted open.
      if (fuse_reply_open(req, info) == -ENOENT) forget_handle(server, inode, info->fh);
      return 0;
    });
  }

  static void forget_handle(FileServer& server, fuse_ino_t inode, std::uint64_t handle) {
    if (server.is_stats(inode)) {
      server.close_stats(handle);
    } else {
      server.end_open();
    }
  }

  static void release(fuse_req_t req, fuse_ino_t inode, fuse_file_info* info) {
    answer(req, "release", server_of(req).label(inode), [&] {
      forget_handle(server_of(req), inode, info->fh);
      fuse_reply_err(req, 0);
      return 0;
    });
  }

  static void read(fuse_req_t req, fuse_ino_t inode, std::size_t size, off_t offset, fuse_file_info* info) {
    auto& server = server_of(req);
    const auto* file = server.image_file(inode);
    if (file == nullptr) return read_stats(req, size, offset, info);
    answer(req, "read", file->name, [&] {
      const auto from = static_cast<std::uint64_t>(offset);
      MutableBytes out;
      const auto body = [&] {
        out = read_buffer(size);
        out = out.first(file->image->read(from, out));
      };
      server.read(
          *file, from, [req] { return was_killed(req); }, std::cref(body));
      fuse_reply_buf(req, reinterpret_cast<const char*>(out.data()), out.size());
      return 0;
    });
  }

  static void read_stats(fuse_req_t req, std::size_t size, off_t offset, fuse_file_info* info) {
    answer(req, "read", std::string(kStatsName), [&] {
      const auto text = server_of(req).stats_of(info->fh);
      const std::size_t from = std::min(text->size(), static_cast<std::size_t>(offset));
      fuse_reply_buf(req, text->data() + from, std::min(size, text->size() - from));
      return 0;
    });
  }

  static void write(fuse_req_t req, fuse_ino_t inode, const char* data, std::size_t size, off_t offset,
                    fuse_file_info*) {
    auto& server = server_of(req);
    const auto* file = server.image_file(inode);
    answer(req, "write", server.label(inode), [&] {
      if (file == nullptr || !server.writable(*file)) return EROFS;
      const auto from = static_cast<std::uint64_t>(offset);
      const std::uint64_t image_size = file->image->size();
      if (from >= image_size && size > 0) return ENOSPC;
      const auto count = static_cast<std::size_t>(std::min<std::uint64_t>(size, image_size - from));
      const ByteView bytes(reinterpret_cast<const std::uint8_t*>(data), count);
      const auto body = [&] { file->image->write(from, bytes); };
      server.change(
          *file, [req] { return was_killed(req); }, std::cref(body));
      fuse_reply_write(req, count);
      return 0;
    });
  }

  static void flush(fuse_req_t req, fuse_ino_t, fuse_file_info*) { fuse_reply_err(req, 0); }

  static void fsync(fuse_req_t req, fuse_ino_t inode, int, fuse_file_info*) {
    const auto* file = server_of(req).image_file(inode);
    answer(req, "fsync", server_of(req).label(inode), [&] {
      if (file != nullptr) file->image->flush();
      fuse_reply_err(req, 0);
      return 0;
    });
  }

  static void fsyncdir(fuse_req_t req, fuse_ino_t, int, fuse_file_info*) { fuse_reply_err(req, 0); }

  static void fallocate(fuse_req_t req, fuse_ino_t inode, int mode, off_t offset, off_t length, fuse_file_info*) {
    auto& server = server_of(req);
    const auto* file = server.image_file(inode);
    answer(req, "fallocate", server.label(inode), [&] {
      if (file == nullptr || !server.writable(*file)) return EROFS;
      if (offset < 0 || length <= 0) return EINVAL;
      const auto from = static_cast<std::uint64_t>(offset);
      const auto count = static_cast<std::uint64_t>(length);
      const std::uint64_t image_size = file->image->size();
      const bool inside = from <= image_size && count <= image_size - from;
      const bool keeps_size = (mode & FALLOC_FL_KEEP_SIZE) != 0;
      const auto discard = [&] { file->image->discard(from, count); };
      switch (mode & ~FALLOC_FL_KEEP_SIZE) {
        case FALLOC_FL_PUNCH_HOLE:
        case FALLOC_FL_ZERO_RANGE:
          if (!keeps_size && !inside) return EOPNOTSUPP;
          server.change(
              *file, [req] { return was_killed(req); }, std::cref(discard));
          break;
        case 0:  // does not reserve space, as on any sparse or deduplicated store
          if (!inside) return EOPNOTSUPP;
          break;
        default:
          return EOPNOTSUPP;
      }
      fuse_reply_err(req, 0);
      return 0;
    });
  }

  static void lseek(fuse_req_t req, fuse_ino_t inode, off_t offset, int whence, fuse_file_info*) {
    answer(req, "lseek", server_of(req).label(inode), [&] {
      const auto* file = server_of(req).image_file(inode);
      if (file == nullptr || (whence != SEEK_DATA && whence != SEEK_HOLE)) return EINVAL;
      const auto size = static_cast<off_t>(file->image->size());
      if (offset < 0 || offset >= size) return ENXIO;
      fuse_reply_lseek(req, whence == SEEK_DATA ? offset : size);
      return 0;
    });
  }

  static void opendir(fuse_req_t req, fuse_ino_t inode, fuse_file_info* info) {
    if (inode != FUSE_ROOT_ID) {
      fuse_reply_err(req, ENOTDIR);
      return;
    }
    info->cache_readdir = 1;
    info->keep_cache = 1;
    fuse_reply_open(req, info);
  }

  static void readdir(fuse_req_t req, fuse_ino_t, std::size_t size, off_t offset, fuse_file_info*) {
    auto& server = server_of(req);
    answer(req, "readdir", "the directory", [&] {
      std::vector<char> out(std::min<std::size_t>(size, 65536));
      std::size_t used = 0;
      const std::size_t count = server.files_.size() + 3;
      for (auto i = static_cast<std::size_t>(offset); i < count; ++i) {
        const std::uint64_t inode = i < 2 ? FUSE_ROOT_ID : i;
        const std::string name = i == 0 ? "." : i == 1 ? ".." : server.label(inode);
        struct stat attributes {};
        attributes.st_ino = inode;
        attributes.st_mode = i < 2 ? S_IFDIR : S_IFREG;
        const std::size_t needed = fuse_add_direntry(req, out.data() + used, out.size() - used, name.c_str(),
                                                     &attributes, static_cast<off_t>(i + 1));
        if (needed > out.size() - used) break;
        used += needed;
      }
      fuse_reply_buf(req, out.data(), used);
      return 0;
    });
  }

  static void statfs(fuse_req_t req, fuse_ino_t) {
    struct statvfs out {};
    out.f_bsize = out.f_frsize = 4096;
    for (const auto& file : server_of(req).files_) out.f_blocks += (file.image->size() + 4095) / 4096;
    out.f_files = server_of(req).files_.size() + 2;
    out.f_namemax = 255;
    fuse_reply_statfs(req, &out);
  }

  template <class... Rest>
  static void refuse(fuse_req_t req, Rest...) {
    fuse_reply_err(req, EPERM);
  }
};

fuse_lowlevel_ops FileServer::operations() {
  fuse_lowlevel_ops ops{};
  ops.init = Operations::init;
  ops.lookup = Operations::lookup;
  ops.getattr = Operations::getattr;
  ops.setattr = Operations::setattr;
  ops.open = Operations::open;
  ops.release = Operations::release;
  ops.read = Operations::read;
  ops.write = Operations::write;
  ops.flush = Operations::flush;
  ops.fsync = Operations::fsync;
  ops.fallocate = Operations::fallocate;
  ops.lseek = Operations::lseek;
  ops.opendir = Operations::opendir;
  ops.readdir = Operations::readdir;
  ops.fsyncdir = Operations::fsyncdir;
  ops.statfs = Operations::statfs;
  ops.create = Operations::refuse;
  ops.mknod = Operations::refuse;
  ops.mkdir = Operations::refuse;
  ops.symlink = Operations::refuse;
  ops.link = Operations::refuse;
  ops.unlink = Operations::refuse;
  ops.rmdir = Operations::refuse;
  ops.rename = Operations::refuse;
  return ops;
}

}  // namespace isr
