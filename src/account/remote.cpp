#include "account/remote.h"

#include <fmt/format.h>

#include "base/crypto.h"
#include "base/file.h"
#include "base/log.h"
#include "base/whole_file.h"

namespace isr {
namespace {

constexpr std::size_t kMaxSmallFile = 4096;

fs::path pin_file(const Paths& paths, const RepositoryEntry& entry) {
  const Sha256 digest = sha256(as_bytes(canonical_store_url(entry.url)));
  return paths.state / "pins" / to_hex(digest.view().first(16));
}

[[noreturn]] void refuse_other_repository(const RepositoryEntry& entry, const RepositoryInfo& pinned,
                                          const RepositoryInfo& found) {
  throw Error(
      ErrorKind::kHistory,
      fmt::format("{} is now another repository ({}) than the one that this host knows at this address ({})",
                  entry.name, found.id.substr(0, 12), pinned.id.substr(0, 12)),
      {"to use the new repository, and forget what this host has seen of the old one:",
       fmt::format("isr repo rm {} && isr repo add {} {} --user {}", entry.name, entry.name, entry.url, entry.user)});
}

Remote open_online(const Paths& paths, const RepositoryEntry& entry, const std::optional<RepositoryInfo>& pinned,
                   const StoreOptions& options) {
  if (pinned) return {entry, *pinned, open_pinned_store(entry, *pinned, options), options};
  BlobStorePtr store = open_store(entry.url, options);
  const RepositoryInfo info = read_repository_info(*store);
  pin_repository(paths, entry, info);
  return {entry, info, std::move(store), options};
}

}  // namespace

bool is_unreachable(const Error& error) {
  return error.kind() == ErrorKind::kTransient || error.kind() == ErrorKind::kOffline;
}

Remote open_remote(const Paths& paths, const RepositoryEntry& entry, const RemoteOptions& options) {
  const auto pinned = pinned_repository(paths, entry);
  if (options.offline) {
    if (pinned) return {entry, *pinned, nullptr, options.store};
    throw Error(ErrorKind::kOffline,
                fmt::format("{} was never used on this host, so it cannot be opened offline", entry.name),
                {"run the command without --offline once"});
  }
  try {
    return open_online(paths, entry, pinned, options.store);
  } catch (const Error& error) {
    // An absent directory is usually a disk that is not plugged in.
    const bool gone = is_unreachable(error) || error.kind() == ErrorKind::kNotFound;
    if (!gone || !pinned) throw;
    log::warn("{}: {}; working offline (isr --offline does that without trying)", entry.name, error.what());
    return {entry, *pinned, nullptr, options.store};
  }
}

void Remote::go_online(const std::stop_token& stop) {
  if (!offline()) return;
  try {
    store = open_pinned_store(entry, info, store_options, stop);
  } catch (const Error& error) {
    if (error.kind() == ErrorKind::kHistory || error.kind() == ErrorKind::kCancelled) throw;
    throw Error(ErrorKind::kOffline, error.what());
  }
}

BlobStore& Remote::online(const std::string& what) const {
  if (!store) {
    throw Error(ErrorKind::kOffline, fmt::format("{} needs {}, which cannot be reached now", what, entry.name));
  }
  return *store;
}

BlobStorePtr open_pinned_store(const RepositoryEntry& entry, const RepositoryInfo& pinned, const StoreOptions& options,
                               const std::stop_token& stop) {
  StoreOptions known = options;
  known.is_known = true;
  BlobStorePtr store = open_store(entry.url, known, stop);
  const RepositoryInfo found = read_repository_info(*make_stoppable(store, stop));
  if (pinned.id != found.id) refuse_other_repository(entry, pinned, found);
  return store;
}

void pin_repository(const Paths& paths, const RepositoryEntry& entry, const RepositoryInfo& info) {
  const fs::path file = pin_file(paths, entry);
  make_private_directory(paths.state);
  make_private_directory(file.parent_path());
  replace_file(file, encode_repository_info(info));
}

std::optional<RepositoryInfo> pinned_repository(const Paths& paths, const RepositoryEntry& entry) {
  const auto bytes = read_file_if_exists(pin_file(paths, entry), kMaxSmallFile);
  if (!bytes) return std::nullopt;
  return parse_repository_info(*bytes);
}

}  // namespace isr
